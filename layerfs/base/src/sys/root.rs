//! Paths inside a tree that somebody else wrote: resolved from a descriptor, never joined and opened.
//!
//! Source: openat2(2), `RESOLVE_IN_ROOT`: absolute paths and symlinks, and `..`, stay below the root descriptor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::ids::IdMap;
use crate::{IoContext, Result};

/// A directory that stands for `/` when paths are resolved in it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    ids: Option<IdMap>,
}

impl Root {
    /// The tree below a directory that we own.
    pub fn open(path: &Path) -> Result<Root> {
        super::mount::open_dir(path).map(Root::from_fd)
    }

    /// The tree below a directory descriptor.
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd, ids: None }
    }

    /// The tree, whose files belong to a user namespace with these ids.
    #[must_use]
    pub fn with_ids(self, ids: Option<IdMap>) -> Root {
        Root { ids, ..self }
    }

    /// The ids that files in this tree have inside of their namespace, if it is not the caller's.
    pub fn ids(&self) -> Option<&IdMap> {
        self.ids.as_ref()
    }

    /// Opens `path` in this root. `O_CLOEXEC` is added. Symlinks are followed inside the root unless `flags` has
    /// `NOFOLLOW`; magic links of procfs are never followed.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel answers EAGAIN when a rename raced with the walk and it can't be sure about `..`.
        let mut last = Err(rustix::io::Errno::AGAIN);
        for _ in 0..128 {
            last = rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve);
            if !matches!(last, Err(rustix::io::Errno::AGAIN)) {
                break;
            }
        }
        last.at("open", path)
    }

    /// Opens `path` relative to `directory`, which lies in this root. What would leave the directory, by `..` or by a
    /// symlink, fails with EXDEV (`RESOLVE_BENEATH`).
    pub fn open_beneath(&self, directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut last = Err(rustix::io::Errno::AGAIN);
        for _ in 0..128 {
            last = rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
            if !matches!(last, Err(rustix::io::Errno::AGAIN)) {
                break;
            }
        }
        last.at("open", path)
    }

    /// The object at `path` as a path descriptor, symlinks followed inside the root.
    pub fn resolve(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(path, OFlags::PATH, Mode::empty())
    }

    /// The object at `path` as a path descriptor; a symlink at its end is itself the object.
    pub fn resolve_nofollow(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a file for reading. A FIFO does not block, a device is opened as any other: check its type first.
    pub fn read(&self, path: &Path) -> Result<File> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map(File::from)
    }

    /// The directory that holds the last component of `path`, and that component; `None` for the root itself
    /// and for paths that end in `..`.
    pub fn parent_of(&self, path: &Path) -> Result<Option<(OwnedFd, std::ffi::OsString)>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let fd = self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Some((fd, name.to_owned())))
    }

    /// Makes the directory `path` and what is missing above it, following symlinks inside the root, and returns
    /// it as a path descriptor. New directories get `mode` (less the umask).
    pub fn make_dirs(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        let mut done = PathBuf::from("/");
        let mut current = self.resolve(&done)?;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
                Component::ParentDir => {
                    done.push("..");
                }
                Component::Normal(name) => {
                    match rustix::fs::mkdirat(&current, name, mode) {
                        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                        Err(error) => return Err(error).at("make directory", done.join(name)),
                    }
                    done.push(name);
                }
            }
            current = self.open_at(&done, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        }
        Ok(current)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        std::fs::write(inside.join("secret"), "inside").unwrap();
        symlink("/secret", inside.join("etc/absolute")).unwrap();
        symlink("../../../secret", inside.join("etc/relative")).unwrap();
        let root = Root::open(&inside).unwrap();
        for path in ["/etc/absolute", "etc/relative", "../../secret", "/etc/../../secret"] {
            let mut text = String::new();
            root.read(Path::new(path)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
    }

    #[test]
    fn directories_are_made_behind_symlinks_but_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        symlink("/real", inside.join("link")).unwrap();
        let root = Root::open(&inside).unwrap();
        root.make_dirs(Path::new("/link/a/b"), Mode::from(0o755)).unwrap();
        assert!(inside.join("real/a/b").is_dir());
    }
}
