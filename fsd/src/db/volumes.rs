//! Volumes, and who uses them.

use fs_base::{Class, ContainerId, Error, Result, VolumeName};
use rusqlite::{OptionalExtension, Transaction, params};
use volumes::{Catalog, Volume};

use super::{Db, parsed};

const COLUMNS: &str = "name, driver, options, labels, created";
/// The column counts nanoseconds like all others here, a volume's date has seconds.
const NANOS: i64 = 1_000_000_000;

impl Catalog for Db {
    fn insert(&self, volume: &Volume) -> Result<()> {
        let new = self.write(|t| {
            let new = t
                .prepare_cached(
                    "INSERT INTO volume (name, driver, options, labels, anonymous, created) VALUES (?, ?, ?, ?, ?, ?)
                     ON CONFLICT (name) DO NOTHING",
                )?
                .execute(params![
                    volume.name.as_str(),
                    volume.driver,
                    to_json(&volume.options)?,
                    to_json(&volume.labels)?,
                    volume.is_anonymous(),
                    volume.created.saturating_mul(NANOS)
                ])?;
            if new == 1 && volume.is_anonymous() {
                // Until whom it is made for is there too.
                pass(t, &volume.name)?;
            }
            Ok(new)
        })?;
        if new == 1 { Ok(()) } else { Err(Error::conflict(format!("volume {} exists", volume.name))) }
    }

    fn get(&self, name: &VolumeName) -> Result<Option<Volume>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM volume WHERE name = ?"))?
                .query_row([name.as_str()], volume_row)
                .optional()
        })
    }

    fn list(&self) -> Result<Vec<Volume>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM volume ORDER BY name"))?.query_map([], volume_row)?.collect()
        })
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        let refused = self.write(|t| {
            let used = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM volume_use WHERE volume = ?)")?
                .query_row([name.as_str()], |row| row.get::<_, bool>(0))?;
            let mounted = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM mount WHERE kind = 'volume' AND object = ?)")?
                .query_row([name.as_str()], |row| row.get::<_, bool>(0))?;
            if used || mounted {
                return Ok(Some(Class::Busy));
            }
            let gone = t.prepare_cached("DELETE FROM volume WHERE name = ?")?.execute([name.as_str()])?;
            Ok((gone == 0).then_some(Class::NotFound))
        })?;
        match refused {
            None => Ok(()),
            Some(Class::Busy) => Err(Error::busy(format!("volume {name} is in use"))),
            Some(class) => Err(Error::new(class, format!("get {name}: no such volume"))),
        }
    }

    fn add_use(&self, name: &VolumeName, container: &ContainerId) -> Result<()> {
        let there = self.write(|t| {
            let there = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM volume WHERE name = ?)")?
                .query_row([name.as_str()], |row| row.get::<_, bool>(0))?;
            if there {
                t.prepare_cached("INSERT INTO volume_use (volume, container) VALUES (?, ?) ON CONFLICT DO NOTHING")?
                    .execute([name.as_str(), container.as_str()])?;
            }
            Ok(there)
        })?;
        if there { Ok(()) } else { Err(Error::not_found(format!("get {name}: no such volume"))) }
    }

    fn remove_uses(&self, container: &ContainerId) -> Result<Vec<VolumeName>> {
        self.write(|t| {
            t.prepare_cached("DELETE FROM volume_use WHERE container = ? RETURNING volume")?
                .query_map([container.as_str()], |row| parsed(row, 0))?
                .collect()
        })
    }

    fn uses(&self, name: &VolumeName) -> Result<Vec<ContainerId>> {
        self.read(|c| {
            c.prepare_cached("SELECT container FROM volume_use WHERE volume = ? ORDER BY container")?
                .query_map([name.as_str()], |row| parsed(row, 0))?
                .collect()
        })
    }

    fn all_uses(&self) -> Result<Vec<(VolumeName, ContainerId)>> {
        self.read(|c| {
            c.prepare_cached("SELECT volume, container FROM volume_use ORDER BY volume, container")?
                .query_map([], |row| Ok((parsed(row, 0)?, parsed(row, 1)?)))?
                .collect()
        })
    }
}

impl Db {
    /// The anonymous volumes that go with a container that was never made, or was removed with them.
    pub fn passing_volumes(&self) -> Result<Vec<VolumeName>> {
        self.read(|c| c.prepare_cached("SELECT volume FROM passing_volume")?.query_map([], |row| parsed(row, 0))?.collect())
    }

    /// A volume stays, whoever it was made for.
    pub fn keep_volume(&self, name: &VolumeName) -> Result<()> {
        self.write(|t| t.prepare_cached("DELETE FROM passing_volume WHERE volume = ?")?.execute([name.as_str()]).map(drop))
    }

    /// The containers that there are.
    pub fn container_ids(&self) -> Result<Vec<ContainerId>> {
        self.read(|c| c.prepare_cached("SELECT id FROM container")?.query_map([], |row| parsed(row, 0))?.collect())
    }
}

/// The volume goes, unless it is said again that it stays.
pub(super) fn pass(t: &Transaction<'_>, name: &VolumeName) -> rusqlite::Result<()> {
    t.prepare_cached("INSERT OR IGNORE INTO passing_volume SELECT name FROM volume WHERE name = ?")?
        .execute([name.as_str()])
        .map(drop)
}

/// The volumes of a container that is there now stay as long as it does.
pub(super) fn keep_those_of(t: &Transaction<'_>, container: &ContainerId) -> rusqlite::Result<()> {
    t.prepare_cached("DELETE FROM passing_volume WHERE volume IN (SELECT volume FROM volume_use WHERE container = ?)")?
        .execute([container.as_str()])
        .map(drop)
}

/// A column that holds JSON text.
pub(super) fn json<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error)))
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn volume_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Volume> {
    Ok(Volume {
        name: parsed(row, 0)?,
        driver: row.get(1)?,
        options: json(row, 2)?,
        labels: json(row, 3)?,
        created: row.get::<_, i64>(4)? / NANOS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_database_fulfils_the_catalogs_contract() {
        let root = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        volumes::conformance::catalog(&|| {
            count.set(count.get() + 1);
            Arc::new(Db::open(&root.path().join(format!("{}.db", count.get()))).unwrap())
        });
    }

    #[test]
    fn a_volume_without_a_name_passes_until_its_container_is_there_or_it_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let db = Db::open(&root.path().join("meta.db")).unwrap();
        let anonymous = |name: &str| {
            let mut volume = volumes::conformance::sample(name);
            volume.labels.get_or_insert_default().insert("com.docker.volume.anonymous".to_owned(), String::new());
            db.insert(&volume).unwrap();
            volume.name
        };
        db.insert(&volumes::conformance::sample("named")).unwrap();
        let (one, two, three) = (anonymous("one"), anonymous("two"), anonymous("three"));
        let passing = || {
            let mut names = db.passing_volumes().unwrap();
            names.sort();
            names
        };
        assert_eq!(passing(), [one.clone(), three.clone(), two.clone()]);
        let container = ContainerId::random().unwrap();
        db.add_use(&one, &container).unwrap();
        db.write(|t| keep_those_of(t, &container)).unwrap();
        db.keep_volume(&two).unwrap();
        assert_eq!(passing(), *std::slice::from_ref(&three));
        db.remove_container(&container, &[&one]).unwrap();
        assert_eq!(passing(), [one, three.clone()]);
        Catalog::remove(&db, &three).unwrap();
        assert_eq!(passing().len(), 1, "what is gone passes no more");
    }

    #[test]
    fn rows_outlive_the_process_that_wrote_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("meta.db");
        let (volume, container) = (volumes::conformance::sample("data"), ContainerId::random().unwrap());
        let first = Db::open(&path).unwrap();
        first.insert(&volume).unwrap();
        first.add_use(&volume.name, &container).unwrap();
        drop(first);
        let second = Db::open(&path).unwrap();
        assert_eq!(second.list().unwrap(), std::slice::from_ref(&volume));
        assert_eq!(second.uses(&volume.name).unwrap(), [container]);
    }
}
