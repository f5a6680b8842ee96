//! Where a mount is by now. What FUSE serves is known by a number of its own ([`mount_id`]), wherever it, or a directory
//! above it, is moved; before that was written down, and for the kernel's mounts, by its path. The numbers in the mount
//! table are others' as soon as a mount is gone: they tell where a session that lives is seen, and no more than that.
//! The kernel's that can be written to are asked for besides ([`super::scratch::is_in_use`]).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fs_base::sys::mount::{MountInfo, mount_table, open_dir};
use fs_base::sys::mount_id::{self, Found};
use fs_base::{Error, IoContext, Result};

use super::session::{self, FUSE};
use crate::app::App;
use crate::db::mounts::MountRow;

/// The type of all that is served by FUSE here.
const FUSE_TYPE: &str = "fuse.fsd-fuse";

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
    let known = known(app, row);
    match find(&row.target, known, table) {
        Some(mount) if mount.target == Path::new(&row.target) => Place::Target,
        Some(_) if matches!(known, Known::Own(_)) || session::lives(&app.config.run, &row.id) => Place::Elsewhere,
        None | Some(_) => Place::Nowhere,
    }
}

/// The path at which a row's mount is for certain, if it is at one.
pub fn path_of(app: &App, row: &MountRow, table: &[MountInfo]) -> Option<PathBuf> {
    let known = known(app, row);
    let mount = find(&row.target, known, table)?;
    let certain = matches!(known, Known::Own(_)) || mount.target == Path::new(&row.target);
    certain.then(|| mount.target.clone())
}

/// The root of a row's mount at the path that [`path_of`] told. Refused if that leads to another mount: one that covers it,
/// or that has come since.
pub fn open(app: &App, row: &MountRow, path: &Path) -> Result<OwnedFd> {
    let root = open_dir(path)?;
    let device = || {
        let device = rustix::fs::fstat(root.as_fd()).at("stat", path)?.st_dev;
        Ok::<_, Error>((rustix::fs::major(device), rustix::fs::minor(device)))
    };
    let own = Key::of(app, &row.id).and_then(|key| key.own).filter(|(_, namespace)| Some(*namespace) == mount_id::namespace());
    let is_it = match known(app, row) {
        Known::Own(_) => mount_id::of(&root) == own.map(|(unique, _)| unique),
        Known::Numbers(_, known) => device()? == known,
        Known::Path(_) => true,
    };
    if is_it { Ok(root) } else { Err(Error::conflict(format!("{} is covered by another mount", path.display()))) }
}

/// Whether nothing but a tree by FUSE is what a path leads to.
pub fn is_on_top(path: &Path, table: &[MountInfo]) -> bool {
    table.iter().rev().find(|mount| mount.target == path).is_some_and(|mount| mount.fs_type == FUSE_TYPE)
}

/// How a row's mount is told from others.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// By a number of its own, which the kernel says has this number in the table, or is no more.
    Own(Option<u64>),
    /// By its numbers in the table.
    Numbers(u64, (u32, u32)),
    /// By where it is, and whether FUSE serves it.
    Path(bool),
}

fn known(app: &App, row: &MountRow) -> Known {
    if row.driver != FUSE {
        return Known::Path(false);
    }
    let Some(key) = Key::of(app, &row.id) else { return Known::Path(true) };
    match key.own.filter(|(_, namespace)| Some(*namespace) == mount_id::namespace()).map(|(unique, _)| mount_id::find(unique)) {
        Some(Found::There(id)) => Known::Own(Some(id)),
        Some(Found::Gone) => Known::Own(None),
        Some(Found::Unknown) | None => Known::Numbers(key.id, key.device),
    }
}

fn find<'a>(target: &str, known: Known, table: &'a [MountInfo]) -> Option<&'a MountInfo> {
    let is_ours = |mount: &&MountInfo| mount.fs_type == FUSE_TYPE;
    let mut there = table.iter().rev().filter(|mount| mount.target == Path::new(target));
    match known {
        Known::Own(id) => table.iter().filter(is_ours).find(|mount| Some(mount.id) == id),
        // Another mount namespace gives a mount another number, its file system none.
        Known::Numbers(id, device) => there
            .find(|mount| is_ours(mount) && mount.device == device)
            .or_else(|| table.iter().filter(is_ours).find(|mount| (mount.id, mount.device) == (id, device))),
        Known::Path(is_fuse) => there.find(|mount| !is_fuse || is_ours(mount)),
    }
}

/// What was written down of a mount: [`MountInfo::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    id: u64,
    device: (u32, u32),
    /// The number of its own, and the mount namespace that has it.
    own: Option<(u64, u64)>,
}

impl Key {
    /// What a session wrote down, or [`note`].
    fn of(app: &App, id: &str) -> Option<Key> {
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        Key::parse(&read(session::lock_file(&app.config.run, id)).or_else(|| read(note_of(app, id)))?)
    }

    fn parse(text: &str) -> Option<Key> {
        let mut words = text.split_whitespace();
        let id = words.next()?.parse().ok()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let own = words.next().and_then(|word| word.parse().ok()).zip(words.next().and_then(|word| word.parse().ok()));
        Some(Key { id, device: (major.parse().ok()?, minor.parse().ok()?), own })
    }
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
    std::fs::write(&path, mount.key(mount_id::of_path(&mount.target))).at("write", &path)
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
            fs_type: if target == "/t" { "tmpfs" } else { FUSE_TYPE }.to_owned(),
            source: "x".to_owned(),
            shared: false,
            slave: false,
        };
        let table = [at(1, (0, 5), "/"), at(9, (0, 70), "/a"), at(8, (0, 60), "/moved"), at(7, (0, 80), "/t")];
        for (target, known, found) in [
            ("/a", Known::Path(false), Some("/a")),
            ("/b", Known::Path(false), None),
            ("/t", Known::Path(false), Some("/t")),
            ("/t", Known::Path(true), None),
            ("/a", Known::Numbers(9, (0, 70)), Some("/a")),
            ("/a", Known::Numbers(3, (0, 70)), Some("/a")),
            ("/a", Known::Numbers(8, (0, 60)), Some("/moved")),
            ("/a", Known::Numbers(7, (0, 50)), None),
            ("/b", Known::Numbers(8, (0, 61)), None),
            ("/t", Known::Numbers(7, (0, 80)), None),
            ("/a", Known::Own(Some(9)), Some("/a")),
            ("/a", Known::Own(Some(8)), Some("/moved")),
            ("/a", Known::Own(None), None),
            ("/a", Known::Own(Some(7)), None),
        ] {
            let path = find(target, known, &table).map(|mount| mount.target.to_str().unwrap());
            assert_eq!(path, found, "{target} {known:?}");
        }
    }

    #[test]
    fn what_was_written_down_is_read_of_older_versions_too() {
        let key = |own| Some(Key { id: 9, device: (0, 70), own });
        assert_eq!(Key::parse("9 0:70"), key(None));
        assert_eq!(Key::parse("9 0:70 4294967301 4026531841\n"), key(Some((4_294_967_301, 4_026_531_841))));
        assert_eq!((Key::parse(""), Key::parse("9"), Key::parse("9 70")), (None, None, None));
    }
}
