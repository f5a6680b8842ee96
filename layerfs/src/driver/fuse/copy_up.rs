//! Copy-up: a lower file becomes one of the upper directory before it is changed.
//!
//! The copy is made in the work directory and gets its name by one step when it is complete, so that a session that is
//! killed leaves the lower file or the whole copy. Data is copied without a lock on names.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use fs_base::durable;
use fs_base::sys::copy::{copy_file, copy_range};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timestamps};
use rustix::io::Errno;

use super::attr::{Answer, Attr, Time, errno};
use super::attributes::{Attribute, shown_name};
use super::file::path_fd;
use super::fs::{Fs, UPPER};
use super::handle::Bytes;
use super::lower::{Indexed, Lower};
use super::node::{Key, Name, Node, ROOT};
use super::upper::Upper;
use crate::erofs::{Extent, FileKind, Nid, Source};

/// A mode that no file has.
const UNKNOWN_MODE: u32 = u32::MAX;

/// A copy that has no place yet.
enum Copy {
    /// A regular file without a name, and its inode number.
    Unnamed(File, u64),
    /// Anything else, by its name in the work directory.
    Named(Vec<u8>),
}

impl Fs {
    /// Brings a file that is no directory up, with its data unless `emptied`: the caller is about to truncate it. Nobody
    /// may hold a lock.
    pub(super) fn copy_up(&self, node: &Arc<Node>, emptied: bool) -> Answer<()> {
        if node.in_upper() {
            return Ok(());
        }
        let upper = self.upper()?;
        let _one = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if node.in_upper() {
            return Ok(());
        }
        let attr = self.raw_attr(node)?;
        let copy = self.copied(upper, node, &attr, emptied)?;
        let _names = self.exclusive();
        let result = self.publish(upper, node, &attr, &copy);
        if let (Err(_), Copy::Named(name)) = (&result, &copy) {
            let _ = rustix::fs::unlinkat(&upper.work, &**name, AtFlags::empty());
        }
        result
    }

    fn copied(&self, upper: &Upper, node: &Arc<Node>, attr: &Attr, emptied: bool) -> Answer<Copy> {
        let attributes = self.attributes(node)?;
        if node.kind == FileKind::File {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            // Nobody else can open it before it has its name, so it may have its permissions at once.
            let mode = Mode::from_raw_mode(attr.mode & 0o777);
            let file = File::from(rustix::fs::openat(&upper.work, ".", flags, mode)?);
            if !emptied && attr.size > 0 {
                self.copy_data(node, &file, attr.size)?;
            }
            let made = rustix::fs::fstat(&file)?;
            self.dress(file.as_fd(), attr, &attributes, made.st_mode & 0o7777)?;
            return Ok(Copy::Unnamed(file, made.st_ino));
        }
        let name = upper.temporary();
        let (mode, device) = (Mode::from_raw_mode(attr.mode & 0o7777), attr.device);
        let make = |kind| {
            let number = rustix::fs::makedev(device.0, device.1);
            rustix::fs::mknodat(&upper.work, &*name, kind, mode, number)
        };
        match node.kind {
            FileKind::Symlink => rustix::fs::symlinkat(&*self.link_target(node)?, &upper.work, &*name)?,
            FileKind::CharDevice => make(FileType::CharacterDevice)?,
            FileKind::BlockDevice => make(FileType::BlockDevice)?,
            FileKind::Fifo => make(FileType::Fifo)?,
            FileKind::Socket => make(FileType::Socket)?,
            FileKind::File | FileKind::Dir => return Err(Errno::ISDIR),
        }
        self.dress(path_fd(upper.work.as_fd(), &name)?.as_fd(), attr, &attributes, UNKNOWN_MODE)?;
        Ok(Copy::Named(name))
    }

    fn copy_data(&self, node: &Arc<Node>, to: &File, size: u64) -> Answer<()> {
        let path = Path::new("upper file");
        match self.bytes_of(node)? {
            Bytes::Unopened => Err(Errno::IO),
            Bytes::Plain(from) | Bytes::Upper(from) => copy_file(&from, to, size, path).map_err(|e| errno(&e)),
            Bytes::Indexed(layer, extents, _) => copy_extents(&layer, &extents, to, size),
        }
    }

    /// Gives a copy the owner, attributes, mode and times of what it is a copy of. `mode` is what it has.
    fn dress(&self, fd: BorrowedFd<'_>, attr: &Attr, attributes: &[Attribute], mode: u32) -> Answer<()> {
        if (attr.uid, attr.gid) != self.upper()?.owner {
            self.chown(fd, Some(attr.uid), Some(attr.gid))?;
        }
        for (name, value) in attributes.iter().filter(|(name, _)| shown_name(name).is_some()) {
            match set_attribute(fd, name, value, rustix::fs::XattrFlags::empty()) {
                // Those that only root may set, and those that the upper's file system does not have, stay behind.
                Err(Errno::PERM | Errno::OPNOTSUPP) if !name.starts_with(b"user.") => {}
                Err(Errno::OPNOTSUPP) => {}
                other => other?,
            }
        }
        // A change of owner takes set-id bits away, and an ACL may have come with others.
        let settled = attr.mode & 0o7000 == 0 && attributes.is_empty() && mode == attr.mode & 0o7777;
        if attr.kind != FileKind::Symlink && !settled {
            set_mode(fd, attr.mode)?;
        }
        set_times(fd, attr.kind, &times(Some(attr.atime), Some(attr.mtime)))
    }

    /// Gives a new upper directory the owner, mode, attributes and times of the root below it: the upper's are what shows.
    pub fn dress_root(&self) -> Answer<()> {
        let upper = self.upper()?;
        let root = self.nodes.get(ROOT)?;
        let Some(place) = root.spot().lowers.first().copied() else { return Ok(()) };
        let (attr, attributes) = match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => {
                let attributes = layer.index.xattrs(Nid(place.number)).map_err(|e| errno(&e))?;
                (self.lower_attr(place, &root, b"")?, attributes)
            }
            Lower::Plain(layer) => {
                let all = fs_base::sys::xattr::list(&layer.root).map_err(|e| errno(&e))?;
                let attributes = all.into_iter().map(|(name, value)| (name.into_vec(), value)).collect();
                (Attr::of_stat(&rustix::fs::fstat(&layer.root)?), attributes)
            }
        };
        self.dress(upper.root.as_fd(), &attr, &attributes, UNKNOWN_MODE)
    }

    /// Sets owner and group. Who may not is forgiven where nobody sees it.
    pub(super) fn chown(&self, fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        match set_owner(fd, uid, gid) {
            Err(Errno::PERM) if self.owners.squashes() => Ok(()),
            other => other,
        }
    }

    /// Gives the copy its place, and every other name of the file too, so that hard links stay.
    fn publish(&self, upper: &Upper, node: &Arc<Node>, attr: &Attr, copy: &Copy) -> Answer<()> {
        let place = node.spot().lowers.first().copied();
        let Ok(Name { parent, name }) = node.a_name() else {
            // It has lost its last name meanwhile, but somebody has it open.
            let Copy::Unnamed(file, _) = copy else { return Err(Errno::NOENT) };
            let held = Arc::new(file.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?);
            let mut spot = node.spot();
            (spot.upper, spot.held, spot.lowers) = (true, Some(held), Box::default());
            return Ok(());
        };
        let above = self.dir_up(&parent)?;
        let before = rustix::fs::fstat(&above)?;
        match copy {
            Copy::Unnamed(file, _) => durable::link_fd_at(file.as_fd(), above.as_fd(), &name)?,
            Copy::Named(from) => durable::rename_at(upper.work.as_fd(), from, above.as_fd(), &name, RenameFlags::NOREPLACE)?,
        }
        self.note_copy(&parent, &name);
        restore_times(above.as_fd(), &before)?;
        if attr.links > 1
            && let Some(place) = place
        {
            self.link_others(place, node, path_fd(above.as_fd(), &name)?.as_fd())?;
        }
        let number = match copy {
            Copy::Unnamed(_, number) => *number,
            Copy::Named(_) => rustix::fs::statat(&above, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino,
        };
        {
            let mut spot = node.spot();
            (spot.upper, spot.lowers) = (true, Box::default());
        }
        self.nodes.rekey(node, Some(Key::Upper(number)));
        Ok(())
    }

    /// A directory of the upper, brought up if it is only below. The caller has the exclusive lock on names.
    pub(super) fn dir_up(&self, dir: &Arc<Node>) -> Answer<Arc<OwnedFd>> {
        let upper = self.upper()?;
        if dir.in_upper() {
            return self.dir_fd(UPPER, dir);
        }
        let Name { parent, name } = dir.a_name()?;
        let above = self.dir_up(&parent)?;
        let attr = self.raw_attr(dir)?;
        let temporary = upper.temporary();
        rustix::fs::mkdirat(&upper.work, &*temporary, Mode::RWXU)?;
        let dressed = path_fd(upper.work.as_fd(), &temporary).and_then(|fd| {
            self.dress(fd.as_fd(), &attr, &self.attributes(dir)?, UNKNOWN_MODE)?;
            let before = rustix::fs::fstat(&above)?;
            durable::rename_at(upper.work.as_fd(), &temporary, above.as_fd(), &name, RenameFlags::NOREPLACE)?;
            restore_times(above.as_fd(), &before)
        });
        if let Err(error) = dressed {
            let _ = rustix::fs::unlinkat(&upper.work, &*temporary, AtFlags::REMOVEDIR);
            return Err(error);
        }
        dir.spot().upper = true;
        self.dir_fd(UPPER, dir)
    }
}

/// Copies what a layer has of a file; holes stay holes.
fn copy_extents(layer: &Indexed, extents: &[Extent], to: &File, size: u64) -> Answer<()> {
    use std::os::unix::fs::FileExt;
    let path = Path::new("upper file");
    for extent in extents {
        match extent.source {
            Source::Hole => {}
            Source::Data(at) => {
                let from = layer.base + at;
                copy_range(&layer.data, from, to, extent.file_offset, extent.length, path).map_err(|e| errno(&e))?;
            }
            Source::Index(at) => {
                let bytes = layer.index.raw(at, extent.length).map_err(|e| errno(&e))?;
                to.write_all_at(bytes, extent.file_offset).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            }
        }
    }
    rustix::fs::ftruncate(to, size)
}

/// The change of a directory's times that a copy-up makes is nobody's.
pub(super) fn restore_times(dir: BorrowedFd<'_>, before: &rustix::fs::Stat) -> Answer<()> {
    let attr = Attr::of_stat(before);
    set_times(dir, FileKind::Dir, &times(Some(attr.atime), Some(attr.mtime)))
}

/// Times to set; `None` leaves one as it is.
pub(super) fn times(access: Option<Time>, modification: Option<Time>) -> Timestamps {
    let one = |time: Option<Time>| match time {
        Some((seconds, nanos)) => rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    };
    Timestamps { last_access: one(access), last_modification: one(modification) }
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Sets times of what a descriptor names, a path descriptor too.
pub(super) fn set_times(fd: BorrowedFd<'_>, kind: FileKind, times: &Timestamps) -> Answer<()> {
    match rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH) {
        // Before Linux 5.8.
        Err(Errno::INVAL | Errno::BADF) if kind != FileKind::Symlink => {
            rustix::fs::utimensat(rustix::fs::CWD, proc_path(fd), times, AtFlags::empty())
        }
        other => other,
    }
}

/// Sets the permission bits of anything but a symlink.
pub(super) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Answer<()> {
    rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(mode & 0o7777))
}

/// Sets owner and group.
fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
    let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
    rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// Sets an extended attribute.
pub(super) fn set_attribute(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], how: rustix::fs::XattrFlags) -> Answer<()> {
    rustix::fs::setxattr(proc_path(fd), std::ffi::OsStr::from_bytes(name), value, how)
}

/// Removes an extended attribute.
pub(super) fn remove_attribute(fd: BorrowedFd<'_>, name: &[u8]) -> Answer<()> {
    rustix::fs::removexattr(proc_path(fd), std::ffi::OsStr::from_bytes(name))
}
