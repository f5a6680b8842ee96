//! The metadata database: `meta.db`, SQLite in WAL mode, every commit durable.
//!
//! One connection writes, behind a mutex, because one writer at a time is what SQLite allows anyway; another reads. A
//! commit waits for the disk, which takes long when a container floods it: what only looks must not wait for that.
//! Each table's statements are a file beside this one; each function is one transaction.

pub mod containers;
mod definitions;
pub mod images;
pub mod layers;
mod links;
pub mod mounts;
pub mod networks;
pub mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_base::{Class, Error, Result, durable};
use rusqlite::{Connection, Transaction};
use rusqlite_migration::{M, Migrations};

const STEPS: &[M<'static>] = &[
    M::up(include_str!("migrations/001_start.sql")),
    M::up(include_str!("migrations/002_networks.sql")),
    M::up(include_str!("migrations/003_mounts.sql")),
    M::up(include_str!("migrations/004_links.sql")),
    M::up(include_str!("migrations/005_passing_volumes.sql")),
];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(STEPS);

/// The log is written back to the database, and used again from its start, when it has so many pages (of 4 KiB).
const CHECKPOINT_PAGES: u32 = 200;

/// Kibibytes that the writing connection keeps of the database in memory.
const WRITER_CACHE: i32 = 2048;
/// The same for the reading one.
const READER_CACHE: i32 = 1024;

/// A handle on the database; clones share it.
#[derive(Clone, Debug)]
pub struct Db {
    writer: Arc<Mutex<Connection>>,
    reader: Arc<Mutex<Connection>>,
    path: Arc<PathBuf>,
}

impl Db {
    /// Opens the database, making or upgrading it.
    pub fn open(path: &Path) -> Result<Db> {
        let failed = |error| failure(error).context(format!("open {}", path.display()));
        let mut writer = connect(path, WRITER_CACHE).map_err(failed)?;
        MIGRATIONS.to_latest(&mut writer).map_err(|error| {
            Error::corrupt(format!("{}: {error}", path.display()))
                .with_hint("the store may have been written by a newer version: use that version, or another --root")
        })?;
        crate::reserve::for_log(path);
        let reader = connect(path, READER_CACHE).map_err(failed)?;
        reader.pragma_update(None, "query_only", true).map_err(failed)?;
        let [writer, reader] = [writer, reader].map(|connection| Arc::new(Mutex::new(connection)));
        Ok(Db { writer, reader, path: Arc::new(path.to_owned()) })
    }

    /// Runs `work` in one transaction: all of it is durable when this returns, or nothing happened.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let value = self.commit(&mut lock(&self.writer), work)?;
        // Where a test lets a sync fail that SQLite has made: the bytes may be there all the same.
        durable::synced_by_others(&self.path)?;
        Ok(value)
    }

    /// Like [`Db::write`], for what a reboot undoes, such as mounts: the death of this process loses nothing of it, a
    /// power cut may. Saves the wait for the disk.
    pub fn write_until_reboot<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let connection = lock(&self.writer);
        // In WAL mode this leaves out the sync at the commit, and keeps the order of all commits.
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failure)?;
        let mut unsynced = Unsynced(connection);
        self.commit(&mut unsynced.0, work)
    }

    fn commit<T>(&self, c: &mut Connection, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failure)?;
        let value = work(&transaction).map_err(failure)?;
        durable::step("commit", &self.path)?;
        transaction.commit().map_err(failure)?;
        Ok(value)
    }

    /// Runs `work`, which only looks, on what is committed.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&lock(&self.reader)).map_err(failure)
    }

    /// What SQLite finds wrong with the database itself, and rows that refer to rows that are not there. Layers without
    /// rows are [`Db::lost_layers`].
    pub fn damage(&self) -> Result<Vec<String>> {
        self.read(|c| {
            let mut found: Vec<String> = c
                .prepare("PRAGMA integrity_check(20)")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()?;
            found.retain(|line| line != "ok");
            let dangling = c
                .prepare("PRAGMA foreign_key_check")?
                .query_map([], |row| Ok((row.get(0)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
            let others = dangling.iter().filter(|(table, parent)| (table.as_str(), parent.as_str()) != ("image_layer", "layer"));
            found.extend(others.map(|(table, parent)| format!("a row of {table} refers to one of {parent} that is not there")));
            Ok(found)
        })
    }
}

/// The writing connection while it waits for no disk; afterwards it does again, whatever happened.
struct Unsynced<'a>(MutexGuard<'a, Connection>);

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.pragma_update(None, "synchronous", "FULL") {
            tracing::error!(%error, "the database's commits don't wait for the disk any more");
        }
    }
}

fn connect(path: &Path, cache: i32) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -cache)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // Who panicked while holding it has dropped its statements and transaction before the lock, which resets the ones and
    // rolls the other back: the connection is as good as before.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failure(error: rusqlite::Error) -> Error {
    use rusqlite::{ErrorCode, ffi};
    if let Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) = error.sqlite_error().map(|error| error.extended_code) {
        durable::poison();
    }
    let class = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Class::Unavailable,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Class::Corrupt,
        Some(ErrorCode::ConstraintViolation) => Class::Conflict,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Class::Busy,
        _ => Class::Internal,
    };
    let failure = Error::new(class, "metadata database").with_source(error);
    if class == Class::Unavailable {
        failure.with_hint("free some space on the store's filesystem and try again")
    } else {
        failure
    }
}

/// Now, in nanoseconds since the epoch.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

/// A column that holds the text form of a checked type.
fn parsed<T: std::str::FromStr<Err = Error>>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error: Error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error)))
}
