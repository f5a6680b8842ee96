//! Containers.

use fs_base::{ContainerId, Error, Result, VolumeName};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::networks::add_endpoint;
use super::volumes::{json, keep_those_of, pass, to_json};
use super::{Db, links, parsed};
use crate::container::{ContainerRow, State};
use crate::network::Endpoint;
use crate::network::linked::Asked;

const COLUMNS: &str = "id, name, image, image_name, created, spec, state";

impl Db {
    /// Records a new container, which networks it is to be in, and whom it knows. Its name must be free, and its image there.
    pub fn add_container(&self, row: &ContainerRow, endpoints: &[Endpoint], known: &[Asked]) -> Result<()> {
        let taken = self.write(|t| {
            // Removed since it was found. Clients that are told so pull it again.
            let image = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM image WHERE id = ?)")?
                .query_row([row.image.to_string()], |found| found.get::<_, bool>(0))?;
            if !image {
                return Ok(Err(Error::not_found(format!("No such image: {}", row.image_name))));
            }
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
                endpoints.iter().try_for_each(|endpoint| add_endpoint(t, endpoint))?;
                links::add(t, &row.id, known)?;
                keep_those_of(t, &row.id)?;
            }
            Ok(Ok(holder))
        })??;
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

    /// The container that a person means: by its id, its name, a name that another one knows it by, or the start of its id.
    pub fn find_container(&self, name: &str) -> Result<ContainerRow> {
        let missing = || Error::not_found(format!("No such container: {name}"));
        let bare = name.strip_prefix('/').unwrap_or(name);
        if bare.is_empty() {
            return Err(Error::invalid(format!("invalid name or ID supplied: {name:?}")));
        }
        let pattern = bare.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()).then(|| format!("{bare}*"));
        if let Some((own, alias)) = bare.split_once('/') {
            return self.linked_container(own, alias)?.ok_or_else(missing);
        }
        let mut found: Vec<ContainerRow> = self.read(|c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM container WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1"
            ))?
            .query_map([bare], container_row)?
            .collect()
        })?;
        if let (true, Some(pattern)) = (found.is_empty(), pattern) {
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

    fn linked_container(&self, own: &str, alias: &str) -> Result<Option<ContainerRow>> {
        self.read(|c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM container WHERE id = (SELECT linked FROM link
                 WHERE container = (SELECT id FROM container WHERE name = ?) AND alias = ?)"
            ))?
            .query_row([own, alias], container_row)
            .optional()
        })
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
        self.write(|t| set_state(t, id, state))
    }

    /// Like [`Db::set_container_state`], for one that goes when it ends: after a power cut it has ended, and goes, whatever
    /// its row says. Saves the wait for the disk.
    pub fn set_passing_state(&self, id: &ContainerId, state: &State) -> Result<()> {
        self.write_until_reboot(|t| set_state(t, id, state))
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

    /// Forgets a container, its places in networks and whom it knew; whether there was one. These volumes go with it.
    pub fn remove_container(&self, id: &ContainerId, volumes: &[&VolumeName]) -> Result<bool> {
        self.write(|t| {
            t.prepare_cached("DELETE FROM endpoint WHERE container = ?")?.execute([id.as_str()])?;
            t.prepare_cached("DELETE FROM published WHERE container = ?")?.execute([id.as_str()])?;
            links::forget(t, id)?;
            volumes.iter().try_for_each(|name| pass(t, name))?;
            Ok(t.prepare_cached("DELETE FROM container WHERE id = ?")?.execute([id.as_str()])? == 1)
        })
    }
}

fn set_state(t: &Transaction<'_>, id: &ContainerId, state: &State) -> rusqlite::Result<()> {
    let json = to_json(state)?;
    t.prepare_cached("UPDATE container SET state = ? WHERE id = ?")?.execute(params![json, id.as_str()]).map(drop)
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

#[cfg(test)]
mod tests {
    use fs_base::{Class, Digest};
    use serde_json::json;

    use super::*;
    use crate::container::{Definition, Status};

    fn image(db: &Db, digit: char) -> Digest {
        let id: Digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
        db.add_image(&id, b"{}", &[], None, &[]).unwrap();
        id
    }

    fn row(id: &str, name: &str, image: Digest) -> ContainerRow {
        let definition =
            Definition { config: json!({"Cmd": ["true"]}), host_config: json!({}), mounts: Vec::new(), labels: None };
        let id = format!("{id:0<64}").parse().unwrap();
        ContainerRow {
            id,
            name: name.to_owned(),
            image,
            image_name: "i".to_owned(),
            created: 7,
            definition,
            state: State::created(),
        }
    }

    fn with_db(test: impl FnOnce(&Db)) {
        let root = tempfile::tempdir().unwrap();
        test(&Db::open(&root.path().join("meta.db")).unwrap());
    }

    #[test]
    fn a_container_is_found_by_id_then_name_then_the_start_of_its_id() {
        with_db(|db| {
            let image = image(db, '1');
            for (id, name) in [("ab1", "web"), ("ab2", "ab1"), ("cd", "db")] {
                db.add_container(&row(id, name, image), &[], &[]).unwrap();
            }
            let found = |text: &str| db.find_container(text).map(|row| row.name);
            for (text, name) in [("web", "web"), ("/web", "web"), ("ab1", "ab1"), ("ab10", "web"), ("c", "db")] {
                assert_eq!(found(text).unwrap(), name, "{text}");
            }
            assert_eq!(found(&format!("{:0<64}", "ab1")).unwrap(), "web");
            let ambiguous = found("ab").unwrap_err();
            assert_eq!(
                (ambiguous.class(), ambiguous.to_string().as_str()),
                (Class::Invalid, "multiple IDs found with provided prefix: ab")
            );
            for text in ["", "/"] {
                let bad = found(text).unwrap_err();
                assert_eq!((bad.class(), bad.to_string()), (Class::Invalid, format!("invalid name or ID supplied: {text:?}")));
            }
            for text in ["e", "*", "AB", "we"] {
                let missing = found(text).unwrap_err();
                assert_eq!((missing.class(), missing.to_string()), (Class::NotFound, format!("No such container: {text}")));
            }
        });
    }

    #[test]
    fn a_name_belongs_to_one_container() {
        with_db(|db| {
            let image = image(db, '1');
            let first = row("aa", "web", image);
            db.add_container(&first, &[], &[]).unwrap();
            let second = row("bb", "db", image);
            db.add_container(&second, &[], &[]).unwrap();
            let text = format!(
                "Conflict. The container name \"/web\" is already in use by container \"{}\". You have to remove (or rename) \
                 that container to be able to reuse that name.",
                first.id
            );
            assert_eq!(db.add_container(&row("cc", "web", image), &[], &[]).unwrap_err().to_string(), text);
            assert_eq!(db.rename_container(&second.id, "web").unwrap_err().to_string(), text);
            assert!(db.remove_container(&first.id, &[]).unwrap());
            assert!(!db.remove_container(&first.id, &[]).unwrap());
            db.rename_container(&second.id, "web").unwrap();
            assert_eq!(db.find_container("web").unwrap().id, second.id);
        });
    }

    #[test]
    fn a_container_needs_its_image_and_keeps_it() {
        with_db(|db| {
            let gone: Digest = format!("sha256:{}", "2".repeat(64)).parse().unwrap();
            let missing = db.add_container(&row("aa", "web", gone), &[], &[]).unwrap_err();
            assert_eq!((missing.class(), missing.to_string().as_str()), (Class::NotFound, "No such image: i"));
            let image = image(db, '1');
            let row = row("aa", "web", image);
            db.add_container(&row, &[], &[]).unwrap();
            assert_eq!(db.remove_image(&image).unwrap_err().class(), Class::Conflict);
            db.remove_container(&row.id, &[]).unwrap();
            assert!(db.remove_image(&image).unwrap());
        });
    }

    #[test]
    fn what_is_recorded_of_a_container_is_read_again() {
        with_db(|db| {
            let row = row("aa", "web", image(db, '1'));
            db.add_container(&row, &[], &[]).unwrap();
            let exited = row.state.running(4, 10).exited(137, true, 20);
            db.set_container_state(&row.id, &exited).unwrap();
            let read = db.container(&row.id).unwrap().unwrap();
            assert_eq!((read.created, read.definition.config), (7, json!({"Cmd": ["true"]})));
            assert_eq!((read.state.status, read.state.pid, &read.state), (Status::Exited, 0, &exited));
        });
    }
}
