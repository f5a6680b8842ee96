//! What `HEAD …/archive` answers about one path.

use std::path::{Path, PathBuf};

use fs_base::sys::root::Root;
use fs_base::{Class, Error, Result};
use rustix::fs::{Mode, OFlags};

use super::names::{UserPath, join};
use crate::erofs::FileKind;
use crate::metadata::Metadata;
use crate::tree::{MOST_LINKS, Tree};

/// Docker's `ContainerPathStat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last name of the path that was asked for.
    pub name: Vec<u8>,
    /// Size in bytes.
    pub size: u64,
    /// Type and permissions as Go's `os.FileMode` numbers them.
    pub mode: u32,
    /// Modification time in seconds.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// For a symlink: where it leads in the end, as far as that exists. Empty for all else.
    pub link_target: Vec<u8>,
    /// All that is known of the file.
    pub metadata: Metadata,
}

impl PathStat {
    fn new(base: Vec<u8>, metadata: Metadata, link_target: Vec<u8>) -> PathStat {
        PathStat {
            name: base,
            size: metadata.size,
            mode: go_mode(metadata.mode, metadata.kind),
            mtime: metadata.mtime,
            mtime_nanos: metadata.mtime_nanos,
            link_target,
            metadata,
        }
    }
}

/// `st_mode` as Go's `os.FileMode`. Source: Go's package documentation of io/fs, `FileMode`.
pub fn go_mode(mode: u32, kind: FileKind) -> u32 {
    const SET_UID: u32 = 1 << 23;
    const SET_GID: u32 = 1 << 22;
    const STICKY: u32 = 1 << 20;
    let kind = match kind {
        FileKind::File => 0,
        FileKind::Dir => 1 << 31,
        FileKind::Symlink => 1 << 27,
        FileKind::BlockDevice => 1 << 26,
        FileKind::CharDevice => 1 << 26 | 1 << 21,
        FileKind::Fifo => 1 << 25,
        FileKind::Socket => 1 << 24,
    };
    let special = [(0o4000, SET_UID), (0o2000, SET_GID), (0o1000, STICKY)];
    special.iter().filter(|(unix, _)| mode & unix != 0).fold(mode & 0o777 | kind, |all, (_, go)| all | go)
}

/// A path in a tree. What is not there is [`Class::NotFound`].
pub fn stat_in_tree(tree: &Tree, path: &Path) -> Result<PathStat> {
    let user = UserPath::new(as_bytes(path))?;
    let entry = tree.lookup(&user.path, false)?.filter(|entry| entry.is_dir() || !user.follows());
    let entry = entry.ok_or_else(|| not_found(path))?;
    let target = match entry.metadata.kind {
        FileKind::Symlink => final_target(&user.path, |path| match tree.lookup(path, false)? {
            Some(entry) if entry.metadata.kind == FileKind::Symlink => tree.read_link(&entry).map(Some),
            _ => Ok(None),
        })?,
        _ => Vec::new(),
    };
    Ok(PathStat::new(user.base, entry.metadata, target))
}

/// A path below a root. What is not there is [`Class::NotFound`].
pub fn stat_in_root(root: &Root, path: &Path) -> Result<PathStat> {
    let user = UserPath::new(as_bytes(path))?;
    let fd = root.resolve_nofollow(as_path(&user.path)).map_err(|error| missing(error, path))?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| Error::io("stat", path, error))?;
    let metadata = Metadata::in_root(&stat, root);
    let target = match metadata.kind {
        FileKind::Symlink => final_target(&user.path, |path| read_link_in(root, path))?,
        _ => Vec::new(),
    };
    Ok(PathStat::new(user.base, metadata, target))
}

fn read_link_in(root: &Root, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let fd = match root.open_at(as_path(path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) if matches!(error.class(), Class::NotFound | Class::Invalid) => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::readlinkat(&fd, "", Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        // Not a symlink.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io("read symlink", as_path(path), error)),
    }
}

/// Follows a path by its text to where it leads in the end: what does not exist is taken as it is written.
fn final_target(path: &[u8], read_link: impl Fn(&[u8]) -> Result<Option<Vec<u8>>>) -> Result<Vec<u8>> {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")).rev().map(<[u8]>::to_vec).collect()
    };
    let mut done: Vec<u8> = Vec::new();
    let mut pending = names(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            done.truncate(done.iter().rposition(|&b| b == b'/').unwrap_or(0));
            continue;
        }
        let here = [&done[..], b"/", &name].concat();
        let Some(target) = read_link(&here)? else {
            done = here;
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::invalid(format!("{}: too many levels of symbolic links", String::from_utf8_lossy(path))));
        }
        if target.starts_with(b"/") {
            done.clear();
        }
        pending.extend(names(&target));
    }
    Ok(if done.is_empty() { b"/".to_vec() } else { done })
}

pub(super) fn not_found(path: &Path) -> Error {
    Error::not_found(format!("no such file or directory: {}", path.display()))
}

/// Docker answers 404 for a path that leads through a file, too.
pub(super) fn missing(error: Error, path: &Path) -> Error {
    let gone = [rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR].map(rustix::io::Errno::raw_os_error);
    if error.raw_os_error().is_some_and(|number| gone.contains(&number)) { not_found(path) } else { error }
}

pub(super) fn as_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// The absolute path below a root of something relative to a directory in it.
pub(super) fn below(directory: &[u8], path: &[u8]) -> PathBuf {
    as_path(&join(directory, path)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o041_777, FileKind::Dir), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o104_755, FileKind::File), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o020_666, FileKind::CharDevice), 1 << 26 | 1 << 21 | 0o666);
        assert_eq!(go_mode(0o120_777, FileKind::Symlink), 1 << 27 | 0o777);
    }
}
