//! What is written to a mount: a directory under the root for each, which goes with the mount's row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fs_base::trash::Trash;
use fs_base::{Error, IoContext, Result, id};
use fsd_api::{MountState, UsedMount};
use layerfs::diff::Change;
use layerfs::driver::fuse::{Fs, FsOptions, LowerSpec};
use layerfs::driver::upper_in_use;

use super::session::{self, FUSE};
use super::subject::Subject;
use super::{clean_up, judging, listed, looked_at, mount_info};
use crate::app::App;
use crate::container::files;
use crate::db::Db;
use crate::db::mounts::MountRow;

/// Directories that a comparison may hold open.
const OPEN_DIRS: usize = 64;

/// Mounts that are being made: their directory may be there before their row.
static MAKING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A mount that is being made, for as long as this lives.
pub struct Making(String);

impl Making {
    /// Says so.
    pub fn of(id: &str) -> Making {
        MAKING.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        Making(id.to_owned())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        MAKING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Where the directories are.
pub fn all(root: &Path) -> PathBuf {
    root.join("scratch")
}

/// Bytes on the disk; one that goes meanwhile takes nothing.
pub fn bytes(dir: &Path) -> u64 {
    volumes::usage::of(dir).map_or(0, |usage| usage.bytes)
}

/// Takes away what was written to a mount; how much that was.
pub fn discard(app: &App, id: &str) -> u64 {
    let scratch = app.scratch_dir().join(id);
    if !scratch.exists() {
        return 0;
    }
    let bytes = bytes(&scratch);
    if let Err(error) = app.trash.discard(&scratch) {
        tracing::warn!(path = %scratch.display(), %error, "what was written to a mount can't be removed");
        return 0;
    }
    app.trash.sweep_soon(|error| tracing::warn!(%error, "the trash could not be emptied"));
    bytes
}

/// Whether a writable mount of the kernel's stands on what was written to it, under whatever name.
pub fn is_in_use(app: &App, row: &MountRow) -> bool {
    row.writable && is_upper(&app.scratch_dir().join(&row.id))
}

/// Whether a mount stands on this directory, one of the kernel's or a session's.
pub fn stands_on(run: &Path, scratch: &Path) -> bool {
    let id = scratch.file_name().unwrap_or_default().to_string_lossy();
    session::lives(run, &id) || is_upper(scratch)
}

/// Whether one of the kernel's does. It does where the kernel does not say: what is removed does not come back.
fn is_upper(scratch: &Path) -> bool {
    upper_in_use(&scratch.join(files::UPPER)).unwrap_or_else(|error| {
        tracing::warn!(%error, "taking a mount for one that is there");
        true
    })
}

/// Directories that belong to no mount, sorted.
pub fn orphans(root: &Path, db: &Db) -> Result<Vec<PathBuf>> {
    // Before the rows are read: a mount that is made meanwhile has its row by then, or is among those being made.
    let mut found: BTreeMap<String, PathBuf> = std::fs::read_dir(all(root))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for row in db.mounts()? {
        found.remove(&row.id);
    }
    found.retain(|id, path| !making.contains(id) && path.exists());
    Ok(found.into_values().collect())
}

/// Removes one of them.
pub fn remove_orphan(root: &Path, path: &Path) -> Result<()> {
    let trash = Trash::open(root.join("trash"))?;
    trash.discard(path)?;
    trash.sweep()
}

/// What is written to mounts, and what was left of some: each directory once.
pub fn usage(app: &App) -> Result<Vec<UsedMount>> {
    let rows = looked_at(app)?;
    let mut used = Vec::new();
    for (row, state) in rows.into_iter().filter(|(row, _)| row.writable) {
        let size = bytes(&app.scratch_dir().join(&row.id));
        used.push(UsedMount { in_use: state != MountState::Gone, size, mount: mount_info((row, state)) });
    }
    for path in orphans(&app.config.root, &app.db)? {
        used.push(UsedMount::orphan(&path.file_name().unwrap_or_default().to_string_lossy(), bytes(&path)));
    }
    Ok(used)
}

/// What was changed in a mount that the kernel makes writable. The library that serves trees by FUSE compares its upper
/// directory with what lies below; nothing is served.
pub fn changes(app: &App, row: &MountRow) -> Result<Vec<Change>> {
    if !row.writable {
        return Ok(Vec::new());
    }
    if row.driver == FUSE {
        let message =
            format!("only user {} can see what was changed in mount {}: FUSE serves it to nobody else", row.uid, row.target);
        return Err(Error::denied(message).with_hint("ask as that user"));
    }
    let upper = app.scratch_dir().join(&row.id).join(files::UPPER);
    let subject = Subject::of(app, row)?;
    let mut lowers = Vec::with_capacity(subject.layers.len() + 1);
    if let Some(dir) = subject.dir {
        lowers.push(LowerSpec::Plain(dir).open()?);
    }
    for layer in subject.layers.iter().rev() {
        lowers.push(LowerSpec::Indexed(app.store.layer_dir(layer)).open()?);
    }
    // The mount has the other one; this stays empty.
    let work = app.config.root.join("tmp").join(id::random_hex::<16>()?);
    std::fs::create_dir(&work).at("make directory", &work)?;
    let upper = Some((upper, work.clone()));
    let tree = Fs::new(FsOptions { lowers, upper, open_dirs: OPEN_DIRS, live: subject.lives, ..FsOptions::default() });
    let changes = tree.and_then(|tree| tree.changes().map_err(|error| Error::io("compare", &row.target, error)));
    let removed = std::fs::remove_dir_all(&work).at("remove", &work);
    let changes = changes?;
    removed.map(|()| changes)
}

/// Forgets mounts that are not there any more, with all that was written to them; which, and how many bytes that were.
pub fn prune(app: &App) -> Result<(Vec<String>, u64)> {
    let (mut gone, mut reclaimed) = (Vec::new(), 0);
    let alone = judging();
    for (row, state) in listed(app, &alone)? {
        if state == MountState::Gone {
            reclaimed += bytes(&app.scratch_dir().join(&row.id));
            clean_up(app, &row);
            gone.push(row.id);
        }
    }
    for path in orphans(&app.config.root, &app.db)?.into_iter().filter(|path| !stands_on(&app.config.run, path)) {
        let (id, size) = (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes(&path));
        remove_orphan(&app.config.root, &path).map_err(|e: Error| e.context(format!("remove what was written to mount {id}")))?;
        reclaimed += size;
        gone.push(id);
    }
    Ok((gone, reclaimed))
}
