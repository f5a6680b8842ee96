//! The upper directory: where changes go, in overlayfs's own format.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_base::sys::mount::open_dir;
use fs_base::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attr::Answer;
use crate::overlayfs::Namespace;

/// The directory that takes changes, and the one where they are prepared.
#[derive(Debug)]
pub struct Upper {
    /// What is written.
    pub root: Arc<OwnedFd>,
    /// Files on their way to the upper, and directories on their way out.
    pub work: Arc<OwnedFd>,
    pub(super) namespace: Namespace,
    /// Who creates files without asking for another owner.
    pub owner: (u32, u32),
    next: AtomicU64,
}

impl Upper {
    /// The upper directory and its work directory, which must be on one file system. What an earlier session left in
    /// the work directory is removed.
    pub fn open(upper: &Path, work: &Path) -> Result<Upper> {
        let root = open_dir(upper)?;
        let device = rustix::fs::fstat(&root).at("stat", upper)?.st_dev;
        let (given, ours) = (open_dir(work)?, work.join("work"));
        match rustix::fs::mkdirat(&given, "work", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).at("make directory", &ours),
        }
        // What is in it is removed: it must be a directory, and stay the one that was looked at.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let work = rustix::fs::openat(&given, "work", flags, Mode::empty()).at("open", &ours)?;
        if rustix::fs::fstat(&work).at("stat", &ours)?.st_dev != device {
            return Err(Error::invalid(format!("{} and {} are not on one file system", upper.display(), ours.display())));
        }
        // The kernel's overlayfs leaves it without permissions.
        rustix::fs::chmod(format!("/proc/self/fd/{}", work.as_raw_fd()), Mode::RWXU).at("set mode of", &ours)?;
        remove_all_in(work.as_fd()).at("clear", &ours)?;
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Upper {
            root: Arc::new(root),
            work: Arc::new(work),
            namespace: Namespace::of_process(),
            owner,
            next: AtomicU64::new(0),
        })
    }

    /// Whether nothing was written yet, and the layers show as they are.
    pub fn is_empty(&self) -> bool {
        let mut empty = super::lower::marks(&self.root).is_ok_and(|marks| !marks.opaque);
        let listed = super::lower::for_each_name(self.root.as_fd(), |_, _, _| {
            empty = false;
            Ok(())
        });
        listed.is_ok() && empty
    }

    /// A name in the work directory that is free.
    pub fn temporary(&self) -> Vec<u8> {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Makes a whiteout: the character device 0:0, which needs no privilege since Linux 5.8, else an empty file `.wh.NAME`
    /// beside where the name was.
    pub fn make_whiteout(dir: impl AsFd, name: &[u8]) -> Answer<()> {
        match rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {
                let mark = [super::lower::WHITEOUT_PREFIX, name].concat();
                let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
                rustix::fs::openat(&dir, mark, flags, Mode::RUSR).map(drop)
            }
            other => other,
        }
    }

    /// Makes a directory hide what is below it.
    pub fn make_opaque(&self, dir: impl AsFd) -> Answer<()> {
        let name = format!("{}opaque", self.namespace.prefix());
        if fs_base::sys::xattr::set(&dir, name, b"y").is_ok() {
            return Ok(());
        }
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(&dir, super::lower::OPAQUE_NAME, flags, Mode::RUSR).map(drop)
    }
}

/// Removes all that is in a directory.
pub(super) fn remove_all_in(dir: impl AsFd) -> Answer<()> {
    super::lower::for_each_name(dir.as_fd(), |name, _, kind| {
        if kind != crate::erofs::FileKind::Dir {
            return rustix::fs::unlinkat(&dir, name, AtFlags::empty());
        }
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let inner = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
        remove_all_in(&inner)?;
        drop(inner);
        rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
    })
}
