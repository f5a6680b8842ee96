//! Who knows whom by `--link` in the default network.

use fs_base::{ContainerId, Result};
use rusqlite::{Row, Transaction, params};

use super::{Db, parsed};
use crate::network::linked::{Asked, Link};

const LINK: &str = "SELECT l.container, own.name, l.alias, l.linked, coalesce(other.name, l.last_name)
    FROM link l JOIN container own ON own.id = l.container LEFT JOIN container other ON other.id = l.linked";

impl Db {
    /// All links of containers that are there, each container's in the order in which they were asked for.
    pub fn links(&self) -> Result<Vec<Link>> {
        self.read(|c| c.prepare_cached(&format!("{LINK} ORDER BY l.container, l.position"))?.query_map([], link_row)?.collect())
    }

    /// Those that a container asked for.
    pub fn links_of(&self, container: &ContainerId) -> Result<Vec<Link>> {
        self.links_where("l.container = ?", container)
    }

    /// Those by which others know it.
    pub fn links_to(&self, linked: &ContainerId) -> Result<Vec<Link>> {
        self.links_where("l.linked = ?", linked)
    }

    fn links_where(&self, which: &str, container: &ContainerId) -> Result<Vec<Link>> {
        self.read(|c| {
            c.prepare_cached(&format!("{LINK} WHERE {which} ORDER BY l.container, l.position"))?
                .query_map([container.as_str()], link_row)?
                .collect()
        })
    }

    /// Forgets one.
    pub fn remove_link(&self, link: &Link) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("DELETE FROM link WHERE container = ? AND alias = ?")?
                .execute([link.container.as_str(), &link.alias])
        })
        .map(drop)
    }
}

/// Notes what a new container asked for. Of two with one alias the first is had, as Docker has it.
pub(super) fn add(t: &Transaction<'_>, container: &ContainerId, links: &[Asked]) -> rusqlite::Result<()> {
    for (position, link) in links.iter().enumerate() {
        t.prepare_cached("INSERT OR IGNORE INTO link (container, alias, position, linked, last_name) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![container.as_str(), link.alias, position as i64, link.linked.as_str(), link.name])?;
    }
    Ok(())
}

/// A container is about to be forgotten. Who knows it keeps that, and is told of it at its next start.
pub(super) fn forget(t: &Transaction<'_>, container: &ContainerId) -> rusqlite::Result<()> {
    t.prepare_cached("DELETE FROM link WHERE container = ?")?.execute([container.as_str()])?;
    t.prepare_cached("UPDATE link SET last_name = (SELECT name FROM container WHERE id = ?1) WHERE linked = ?1")?
        .execute([container.as_str()])
        .map(drop)
}

fn link_row(row: &Row<'_>) -> rusqlite::Result<Link> {
    Ok(Link { container: parsed(row, 0)?, own_name: row.get(1)?, alias: row.get(2)?, linked: parsed(row, 3)?, name: row.get(4)? })
}
