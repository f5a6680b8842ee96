//! A container's writable directory, as one more source of a tree.
//!
//! A container wrote it and may still be writing, so nothing in it is trusted: everything is opened relative to the
//! descriptor of its parent, one name at a time, and no symlink is followed. What vanishes between two looks was
//! never there.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use fs_base::sys::{mount::open_dir, xattr};
use fs_base::{IoContext, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::metadata::Metadata;
use crate::overlayfs::Namespace;

/// An upper directory that a tree is made with.
#[derive(Debug, Clone)]
pub(super) struct Upper {
    pub root: Node,
    pub namespace: Namespace,
}

impl Upper {
    pub fn open(path: &Path) -> Result<Upper> {
        Ok(Upper {
            root: Node { parent: Arc::new(open_dir(path)?), name: b".".to_vec(), fd: OnceLock::new() },
            namespace: Namespace::of_process(),
        })
    }
}

/// A file in the upper directory: a name in an open directory. Opened itself only when it is used, so that a
/// listing of many files holds one descriptor.
#[derive(Debug, Clone)]
pub(super) struct Node {
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
    fd: OnceLock<Arc<OwnedFd>>,
}

impl Node {
    /// `None` if it is gone.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        match rustix::fs::statat(&self.parent, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Metadata::of_stat(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).at("stat", self.shown()),
        }
    }

    /// Device and inode number.
    pub fn number(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::statat(&self.parent, &*self.name, AtFlags::SYMLINK_NOFOLLOW).at("stat", self.shown())?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// A path descriptor of the file itself.
    fn path_fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.fd.get() {
            return Ok(Arc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.parent, &*self.name, flags, Mode::empty()).at("open", self.shown())?;
        let fd = Arc::new(fd);
        let _ = self.fd.set(Arc::clone(&fd));
        Ok(fd)
    }

    pub fn child(&self, name: &[u8]) -> Result<Node> {
        Ok(Node { parent: self.path_fd()?, name: name.to_vec(), fd: OnceLock::new() })
    }

    /// All names in a directory.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        names_of(self.path_fd()?.as_fd()).map_err(|error| error.context(self.shown()))
    }

    pub fn is_opaque(&self, namespace: Namespace) -> Result<bool> {
        namespace.is_opaque(self.path_fd()?.as_fd())
    }

    pub fn read_link(&self) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.parent, &*self.name, Vec::new()).at("read symlink", self.shown())?;
        Ok(target.into_bytes())
    }

    pub fn xattrs(&self, namespace: Namespace) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut attributes = xattr::list(self.path_fd()?.as_fd())?;
        // Every file of a host with SELinux has one, and it is the host's affair.
        attributes.retain(|(name, _)| name != "security.selinux");
        Ok(namespace.shown(attributes.into_iter().map(|(name, value)| (name.into_vec(), value)).collect()))
    }

    /// The file opened for reading: the very file that was looked at, whatever has its name by now.
    pub fn open(&self) -> Result<File> {
        reopen(self.path_fd()?.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).at("open", self.shown())
    }

    fn shown(&self) -> String {
        format!("{:?} in the writable layer", String::from_utf8_lossy(&self.name))
    }
}

/// Opens what a path descriptor names with other flags.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> rustix::io::Result<File> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

/// The names in a directory, in the order of their bytes, without `.` and `..`.
pub(crate) fn names_of(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, ".", flags, Mode::empty()).at("open", "directory")?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd).at("read", "directory")? {
        let name = entry.at("read", "directory")?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
