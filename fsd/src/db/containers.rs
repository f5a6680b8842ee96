//! Containers.

use fs_base::{ContainerId, Error, Result};
use rusqlite::{OptionalExtension, Row, params};

use super::volumes::{json, to_json};
use super::{Db, parsed};
use crate::container::{ContainerRow, State};

const COLUMNS: &str = "id, name, image, image_name, created, spec, state";

impl Db {
    /// Records a new container. Its name must be free.
    pub fn add_container(&self, row: &ContainerRow) -> Result<()> {
        let taken = self.write(|t| {
            let holder: Option<String> = t
                .prepare_cached("SELECT id FROM container WHERE name = ?")?
                .query_row([&row.name], |found| found.get(0))
                .optional()?;
            if holder.is_none() {
                t.prepare_cached(&format!("INSERT INTO container ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"))?.execute(
                    params![
                        row.id.as_str(),
                        row.name,
                        row.image.to_string(),
                        row.image_name,
                        row.created,
                        to_json(&row.definition)?,
                        to_json(&row.state)?,
                    ],
                )?;
            }
            Ok(holder)
        })?;
        taken.map_or(Ok(()), |holder| Err(name_taken(&row.name, &holder)))
    }

    /// The container of this id.
    pub fn container(&self, id: &ContainerId) -> Result<Option<ContainerRow>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM container WHERE id = ?"))?
                .query_row([id.as_str()], container_row)
                .optional()
        })
    }

    /// The container that a person means: by its id, its name, or the start of its id.
    pub fn find_container(&self, name: &str) -> Result<ContainerRow> {
        let missing = || Error::not_found(format!("No such container: {name}"));
        let bare = name.strip_prefix('/').unwrap_or(name);
        let pattern = bare.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()).then(|| format!("{bare}*"));
        let mut found: Vec<ContainerRow> = self.read(|c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM container WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1"
            ))?
            .query_map([bare], container_row)?
            .collect()
        })?;
        if let (true, Some(pattern)) = (found.is_empty() && !bare.is_empty(), pattern) {
            found = self.read(|c| {
                c.prepare_cached(&format!("SELECT {COLUMNS} FROM container WHERE id GLOB ? LIMIT 2"))?
                    .query_map([pattern], container_row)?
                    .collect()
            })?;
        }
        match found.len() {
            0 => Err(missing()),
            1 => Ok(found.remove(0)),
            _ => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}"))
                    .with_hint("give more of its digits"))
            }
        }
    }

    /// All containers, newest first.
    pub fn containers(&self) -> Result<Vec<ContainerRow>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM container ORDER BY created DESC"))?
                .query_map([], container_row)?
                .collect()
        })
    }

    /// Records how a container is.
    pub fn set_container_state(&self, id: &ContainerId, state: &State) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("UPDATE container SET state = ? WHERE id = ?")?.execute(params![to_json(state)?, id.as_str()])
        })
        .map(drop)
    }

    /// Gives a container another name, which must be free.
    pub fn rename_container(&self, id: &ContainerId, name: &str) -> Result<()> {
        let taken = self.write(|t| {
            let holder: Option<String> = t
                .prepare_cached("SELECT id FROM container WHERE name = ?")?
                .query_row([name], |found| found.get(0))
                .optional()?;
            if holder.is_none() {
                t.prepare_cached("UPDATE container SET name = ? WHERE id = ?")?.execute(params![name, id.as_str()])?;
            }
            Ok(holder)
        })?;
        taken.map_or(Ok(()), |holder| Err(name_taken(name, &holder)))
    }

    /// Forgets a container; whether there was one.
    pub fn remove_container(&self, id: &ContainerId) -> Result<bool> {
        self.write(|t| Ok(t.prepare_cached("DELETE FROM container WHERE id = ?")?.execute([id.as_str()])? == 1))
    }
}

fn name_taken(name: &str, holder: &str) -> Error {
    Error::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) \
         that container to be able to reuse that name."
    ))
}

fn container_row(row: &Row<'_>) -> rusqlite::Result<ContainerRow> {
    Ok(ContainerRow {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        image: parsed(row, 2)?,
        image_name: row.get(3)?,
        created: row.get(4)?,
        definition: json(row, 5)?,
        state: json(row, 6)?,
    })
}
