//! Where a mount is by now. What FUSE serves is known by its numbers in the mount table, which stay its own when it, or
//! a directory above it, is moved; before they were written down, and for the kernel's mounts, by its path.
//! The kernel's that can be written to are asked for besides ([`super::scratch::is_in_use`]).

use std::path::{Path, PathBuf};

use fs_base::sys::mount::{MountInfo, mount_table};
use fs_base::{IoContext, Result};

use super::session;
use crate::app::App;
use crate::db::mounts::MountRow;

/// Where a row's mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the row says.
    Target,
    /// Somewhere else.
    Elsewhere,
    /// In no place of this mount namespace.
    Nowhere,
}

/// Where a row's mount is in the table.
pub fn of(app: &App, row: &MountRow, table: &[MountInfo]) -> Place {
    find(&row.target, key(app, &row.id).as_deref(), table)
}

/// The path at which a row's mount is, if it is at one.
pub fn path_of(app: &App, row: &MountRow, table: &[MountInfo]) -> Option<PathBuf> {
    let key = key(app, &row.id);
    match find(&row.target, key.as_deref(), table) {
        Place::Target => Some(PathBuf::from(&row.target)),
        Place::Elsewhere => table.iter().find(|mount| Some(mount.key()) == key).map(|mount| mount.target.clone()),
        Place::Nowhere => None,
    }
}

fn find(target: &str, key: Option<&str>, table: &[MountInfo]) -> Place {
    let file_system = |key: &str| key.split(' ').nth(1).map(str::to_owned);
    // Another mount namespace gives a mount another number, its file system none.
    let is_it = |mount: &MountInfo| key.is_none_or(|key| file_system(&mount.key()) == file_system(key));
    if table.iter().any(|mount| mount.target == Path::new(target) && is_it(mount)) {
        Place::Target
    } else if key.is_some_and(|key| table.iter().any(|mount| mount.key() == key)) {
        Place::Elsewhere
    } else {
        Place::Nowhere
    }
}

/// What a session wrote down, or [`note`].
fn key(app: &App, id: &str) -> Option<String> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let key = read(session::lock_file(&app.config.run, id)).or_else(|| read(note_of(app, id)));
    key.filter(|key| !key.is_empty())
}

fn note_of(app: &App, id: &str) -> PathBuf {
    app.config.run.join("mounted").join(id)
}

/// Writes down which mount is a row's, of those that no session of its own serves.
pub fn note(app: &App, row: &MountRow) -> Result<()> {
    let Some(mount) = mount_table()?.into_iter().rev().find(|mount| mount.target == Path::new(&row.target)) else {
        return Ok(());
    };
    let path = note_of(app, &row.id);
    let dir = app.config.run.join("mounted");
    std::fs::create_dir_all(&dir).at("make directory", &dir)?;
    std::fs::write(&path, mount.key()).at("write", &path)
}

/// The row goes.
pub fn forget(app: &App, id: &str) {
    let _ = std::fs::remove_file(note_of(app, id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_found_and_what_took_its_place_is_not_taken_for_it() {
        let at = |id, device, target: &str| MountInfo {
            id,
            device,
            target: target.into(),
            fs_type: "fuse.fsd-fuse".to_owned(),
            source: "x".to_owned(),
            shared: false,
            slave: false,
        };
        let table = [at(1, (0, 5), "/"), at(9, (0, 70), "/a"), at(8, (0, 60), "/moved")];
        for (target, key, place) in [
            ("/a", None, Place::Target),
            ("/b", None, Place::Nowhere),
            ("/a", Some("9 0:70"), Place::Target),
            ("/a", Some("3 0:70"), Place::Target),
            ("/a", Some("8 0:60"), Place::Elsewhere),
            ("/a", Some("7 0:50"), Place::Nowhere),
            ("/b", Some("8 0:61"), Place::Nowhere),
        ] {
            assert_eq!(find(target, key, &table), place, "{target} {key:?}");
        }
    }
}
