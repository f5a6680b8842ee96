//! SELinux labels of files, as the file systems keep them. They can be set whether the kernel has SELinux or not.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use crate::{IoContext, Result};

/// Where a file's label is.
pub const ATTRIBUTE: &str = "security.selinux";
/// Directories on the way down that are kept open. Deeper ones are found again through `..`.
const OPEN_DIRS: usize = 64;

/// Labels one file. On a file system that holds no labels it stays as it is.
pub fn file(path: &Path, label: &str) -> Result<()> {
    let fd = open(CWD, path, ResolveFlags::NO_MAGICLINKS).at("open", path)?;
    set(fd.as_fd(), label).map(drop).at("label", path)
}

/// Labels a tree that others may be changing, `path` itself last. It stays on the mount of `path`, in which there is no
/// symlink, and follows none. On a file system that holds no labels all stays as it is.
pub fn tree(path: &Path, label: &str) -> Result<()> {
    from(&open(CWD, path, ResolveFlags::NO_SYMLINKS).at("open", path)?, path, label)
}

/// The same for a `path` that is nobody else's to change, so that there may be symlinks on the way to it; unless it has the
/// label already, as it has when all of its tree was done.
pub fn tree_once(path: &Path, label: &str) -> Result<()> {
    let top = open(CWD, path, ResolveFlags::NO_MAGICLINKS).at("open", path)?;
    if has(top.as_fd(), label) { Ok(()) } else { from(&top, path, label) }
}

fn from(top: &OwnedFd, path: &Path, label: &str) -> Result<()> {
    if can_hold(top.as_fd()) && is_dir(top.as_fd()).at("stat", path)? {
        below(top.try_clone().at("open", path)?, label).at("label what is in", path)?;
    }
    set(top.as_fd(), label).map(drop).at("label", path)
}

/// A directory on the way from the top to where the walk is.
struct Frame {
    /// `None` if it is so far up that it was closed.
    fd: Option<OwnedFd>,
    /// Which it is.
    identity: (u64, u64),
    /// Those of its directories that are not done.
    dirs: Vec<CString>,
}

/// Neither the stack nor the number of open files grows with the depth.
fn below(top: OwnedFd, label: &str) -> rustix::io::Result<()> {
    let mut way = vec![enter(top, label)?];
    while let Some(here) = way.last_mut() {
        let Some(name) = here.dirs.pop() else {
            let done = way.pop().and_then(|frame| frame.fd);
            if let (Some(above), Some(done)) = (way.last_mut().filter(|above| above.fd.is_none()), done) {
                let parent = open(done.as_fd(), "..", ResolveFlags::NO_XDEV)?;
                if identity(parent.as_fd())? != above.identity {
                    // Somebody has moved it: there is no way back to what is left.
                    return Err(Errno::STALE);
                }
                above.fd = Some(parent);
            }
            continue;
        };
        let entered = match &here.fd {
            Some(fd) => open(fd.as_fd(), &*name, NEAR).and_then(|dir| enter(dir, label)),
            None => Err(Errno::STALE),
        };
        match entered {
            Ok(frame) => way.push(frame),
            Err(error) if is_gone(error) => {}
            Err(error) => return Err(error),
        }
        if let Some(far) = way.len().checked_sub(OPEN_DIRS + 1) {
            way[far].fd = None;
        }
    }
    Ok(())
}

/// Labels what is in a directory.
fn enter(dir: OwnedFd, label: &str) -> rustix::io::Result<Frame> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dirs = Vec::new();
    for entry in Dir::new(rustix::fs::openat(&dir, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match open(dir.as_fd(), name, NEAR) {
            Ok(fd) => {
                set(fd.as_fd(), label)?;
                if is_dir(fd.as_fd())? {
                    dirs.push(name.to_owned());
                }
            }
            Err(error) if is_gone(error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Frame { identity: identity(dir.as_fd())?, fd: Some(dir), dirs })
}

/// Neither on another mount nor behind a symlink.
const NEAR: ResolveFlags = ResolveFlags::NO_XDEV.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::BENEATH);

/// Was there a moment ago, or is on another mount.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::XDEV)
}

/// The file itself, whatever it is.
fn open(dir: BorrowedFd<'_>, name: impl rustix::path::Arg, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

/// Whether it has the label now; `false` if its file system holds none. What has it already is not written to.
fn set(fd: BorrowedFd<'_>, label: &str) -> rustix::io::Result<bool> {
    if has(fd, label) {
        return Ok(true);
    }
    match rustix::fs::setxattr(shown(fd), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error),
    }
}

fn has(fd: BorrowedFd<'_>, label: &str) -> bool {
    let mut now = vec![0u8; label.len() + 1];
    let length = rustix::fs::getxattr(shown(fd), ATTRIBUTE, &mut now[..]);
    // The kernel's own ones end with a zero byte.
    length.is_ok_and(|length| now[..length].strip_suffix(b"\0").unwrap_or(&now[..length]) == label.as_bytes())
}

fn can_hold(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::getxattr(shown(fd), ATTRIBUTE, &mut [0u8; 0][..]) != Err(Errno::NOTSUP)
}

/// Where the kernel shows a path descriptor: calls for attributes refuse the descriptor itself.
fn shown(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is_dir(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

fn identity(fd: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests;
