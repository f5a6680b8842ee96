//! Trees that a person asked to see on the host. A reboot takes them all, so their rows need not outlast a power cut.

use fs_base::Result;
use fsd_api::ObjectKind;
use rusqlite::{Row, params};

use super::{Db, now};

/// One such mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRow {
    /// Names it.
    pub id: String,
    /// What it shows.
    pub kind: ObjectKind,
    /// The image's or container's id, the volume's name.
    pub object: String,
    /// Its name as it was given.
    pub name: String,
    /// Absolute path.
    pub target: String,
    /// We made the folder, so we take it away.
    pub made_target: bool,
    /// What made it.
    pub driver: String,
    /// Whether it was made; else it was only meant to be.
    pub mounted: bool,
    /// Whose it is.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// It can be written to, and what is written goes with it.
    pub writable: bool,
    /// It is made again when what serves it dies.
    pub restart: bool,
    /// Nanoseconds since the epoch.
    pub created: i64,
}

const COLUMNS: &str =
    "id, kind, object, name, target, made_target, driver, state = 'mounted', uid, gid, writable, restart, created";

fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Image => "image",
        ObjectKind::Container => "container",
        ObjectKind::Volume => "volume",
    }
}

fn mount_row(row: &Row<'_>) -> rusqlite::Result<MountRow> {
    Ok(MountRow {
        id: row.get(0)?,
        kind: match row.get_ref(1)?.as_str()? {
            "container" => ObjectKind::Container,
            "volume" => ObjectKind::Volume,
            _ => ObjectKind::Image,
        },
        object: row.get(2)?,
        name: row.get(3)?,
        target: row.get(4)?,
        made_target: row.get(5)?,
        driver: row.get(6)?,
        mounted: row.get(7)?,
        uid: row.get(8)?,
        gid: row.get(9)?,
        writable: row.get(10)?,
        restart: row.get(11)?,
        created: row.get(12)?,
    })
}

impl Db {
    /// Records that a mount will be made, which keeps what it shows; whether that is still there.
    pub fn intend_mount(&self, mount: &MountRow) -> Result<bool> {
        let there = match mount.kind {
            ObjectKind::Image => "SELECT 1 FROM image WHERE id = ?3",
            ObjectKind::Container => "SELECT 1 FROM container WHERE id = ?3",
            ObjectKind::Volume => "SELECT 1 FROM volume WHERE name = ?3",
        };
        self.write_until_reboot(|t| {
            t.prepare_cached(&format!(
                "INSERT INTO mount
                     (id, kind, object, name, target, made_target, driver, state, uid, gid, writable, restart, created)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, 'intent', ?8, ?9, ?10, ?11, ?12 WHERE EXISTS ({there})"
            ))?
            .execute(params![
                mount.id,
                word(mount.kind),
                mount.object,
                mount.name,
                mount.target,
                mount.made_target,
                mount.driver,
                mount.uid,
                mount.gid,
                mount.writable,
                mount.restart,
                now()
            ])
            .map(|added| added == 1)
        })
    }

    /// Records that it was made.
    pub fn mark_mounted(&self, id: &str) -> Result<()> {
        self.write_until_reboot(|t| t.prepare_cached("UPDATE mount SET state = 'mounted' WHERE id = ?")?.execute([id]))?;
        Ok(())
    }

    /// Forgets a mount.
    pub fn remove_mount(&self, id: &str) -> Result<()> {
        self.write_until_reboot(|t| t.prepare_cached("DELETE FROM mount WHERE id = ?")?.execute([id]))?;
        Ok(())
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Result<Vec<MountRow>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM mount ORDER BY created"))?.query_map([], mount_row)?.collect()
        })
    }

    /// The mounts of one object, oldest first.
    pub fn mounts_of(&self, kind: ObjectKind, object: &str) -> Result<Vec<MountRow>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM mount WHERE kind = ? AND object = ? ORDER BY created"))?
                .query_map([word(kind), object], mount_row)?
                .collect()
        })
    }
}
