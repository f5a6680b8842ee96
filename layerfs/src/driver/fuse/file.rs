//! Reading: open files, symlinks, holes, the file system's own figures.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, StatVfs};
use rustix::io::Errno;

use super::attr::{Answer, errno};
use super::fs::{Fs, UPPER};
use super::handle::{Bytes, OpenFile};
use super::lower::{Lower, must_have_data};
use super::node::{Name, Node, Place};
use crate::erofs::{FileKind, Nid, Source};

/// Which way [`Fs::seek`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// For the next byte that is stored.
    Data,
    /// For the next hole; the end of the file counts as one.
    Hole,
}

impl Fs {
    /// A symlink's target.
    pub fn readlink(&self, node: u64) -> Answer<Vec<u8>> {
        let node = self.nodes.get(node)?;
        let _names = self.shared();
        self.link_target(&node)
    }

    pub(super) fn link_target(&self, node: &Arc<Node>) -> Answer<Vec<u8>> {
        if node.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        let (upper, place, held) = {
            let spot = node.spot();
            (spot.upper, spot.lowers.first().copied(), spot.held.clone())
        };
        if let Some(held) = held {
            return Ok(rustix::fs::readlinkat(&held, "", Vec::new())?.into_bytes());
        }
        let source = match place.filter(|_| !upper) {
            None => UPPER,
            Some(place) => match &self.lowers[usize::from(place.layer)] {
                Lower::Indexed(layer) => {
                    return Ok(layer.index.read_link(Nid(place.number)).map_err(|e| errno(&e))?.into_owned());
                }
                Lower::Plain(_) => place.layer + 1,
            },
        };
        let Name { parent, name } = node.a_name()?;
        Ok(rustix::fs::readlinkat(&*self.dir_fd(source, &parent)?, &*name, Vec::new())?.into_bytes())
    }

    /// Opens a regular file for reading.
    pub fn open(&self, node: u64) -> Answer<u64> {
        let node = self.nodes.get(node)?;
        let bytes = {
            let _names = self.shared();
            if self.opens_late(&node) { Bytes::Unopened } else { self.bytes_of(&node)? }
        };
        Ok(self.handles.add_file(node, bytes))
    }

    /// Whether a file need not be opened before it is read: it can't go away, and is not read by the kernel itself.
    fn opens_late(&self, node: &Arc<Node>) -> bool {
        let spot = node.spot();
        let plain = |place: &Place| matches!(self.lowers[usize::from(place.layer)], Lower::Plain(_));
        !self.is_read_only() && node.kind == FileKind::File && !spot.upper && spot.lowers.first().is_some_and(plain)
    }

    /// What a file can be read from now.
    pub(super) fn bytes_of(&self, node: &Arc<Node>) -> Answer<Bytes> {
        if node.kind != FileKind::File {
            return Err(if node.is_dir() { Errno::ISDIR } else { Errno::INVAL });
        }
        let (upper, place) = {
            let spot = node.spot();
            (spot.upper, spot.lowers.first().copied())
        };
        match place.filter(|_| !upper) {
            None => Ok(Bytes::Upper(Arc::new(self.open_upper(node, OFlags::RDONLY)?))),
            Some(place) => self.bytes_below(node, place),
        }
    }

    fn bytes_below(&self, node: &Arc<Node>, place: Place) -> Answer<Bytes> {
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => {
                let nid = Nid(place.number);
                let size = layer.index.inode(nid).map_err(|e| errno(&e))?.size;
                let extents = layer.index.extents(nid).map_err(|e| errno(&e))?;
                Ok(Bytes::Indexed(Arc::clone(layer), extents.into(), size))
            }
            Lower::Plain(_) => {
                if let Some(held) = node.spot().held.clone() {
                    return Ok(Bytes::Plain(Arc::new(reopen(held.as_fd(), OFlags::RDONLY)?)));
                }
                let Name { parent, name } = node.a_name()?;
                let dir = self.dir_fd(place.layer + 1, &parent)?;
                let file = open_file(dir.as_fd(), &name, OFlags::RDONLY)?;
                must_have_data(file.as_fd())?;
                Ok(Bytes::Plain(Arc::new(file)))
            }
        }
    }

    /// The file in the upper directory, with these flags.
    pub(super) fn open_upper(&self, node: &Arc<Node>, flags: OFlags) -> Answer<File> {
        if let Some(held) = node.spot().held.clone() {
            return reopen(held.as_fd(), flags);
        }
        let Name { parent, name } = node.a_name()?;
        let file = open_file(self.dir_fd(UPPER, &parent)?.as_fd(), &name, flags)?;
        must_have_data(file.as_fd())?;
        Ok(file)
    }

    /// An open file, with bytes that are the current ones: a file that was open for reading and is copied up meanwhile
    /// is read from the copy, because all who have it open share the kernel's cache.
    pub(super) fn opened(&self, handle: u64) -> Answer<(Arc<OpenFile>, Bytes)> {
        let file = self.handles.file(handle)?;
        let bytes = file.bytes();
        match bytes {
            Bytes::Upper(_) => return Ok((file, bytes)),
            Bytes::Plain(_) | Bytes::Indexed(..) if !file.node.in_upper() => return Ok((file, bytes)),
            _ => {}
        }
        let _names = self.shared();
        let fresh = self.bytes_of(&file.node)?;
        *file.bytes.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok((file, fresh))
    }

    /// An open file, for who serves it.
    pub fn open_file(&self, handle: u64) -> Answer<Arc<OpenFile>> {
        self.handles.file(handle)
    }

    /// Reads; fewer bytes than the buffer holds only at the end of the file. `handle` is 0 if it was never opened.
    pub fn read(&self, node: u64, handle: u64, buffer: &mut [u8], offset: u64) -> Answer<usize> {
        let bytes = if handle == 0 {
            let node = self.nodes.get(node)?;
            self.bytes_of(&node)?
        } else {
            let (file, bytes) = self.opened(handle)?;
            if offset == 0 {
                file.node.note_read();
            }
            bytes
        };
        match bytes {
            Bytes::Unopened => Err(Errno::IO),
            Bytes::Upper(file) | Bytes::Plain(file) => read_full(&file, buffer, offset),
            Bytes::Indexed(layer, extents, size) => {
                let length = (buffer.len() as u64).min(size.saturating_sub(offset)) as usize;
                layer.read(&extents, &mut buffer[..length], offset)
            }
        }
    }

    /// Closes a file.
    pub fn release(&self, handle: u64) {
        let closed = self.handles.close_file(handle);
        if let Some(file) = closed.filter(|file| matches!(file.bytes(), Bytes::Upper(_))) {
            self.note_file(&file.node);
        }
    }

    /// The next data or hole from `offset` on. Source: lseek(2).
    pub fn seek(&self, handle: u64, offset: u64, what: Seek) -> Answer<u64> {
        let (_, bytes) = self.opened(handle)?;
        match bytes {
            Bytes::Unopened => Err(Errno::IO),
            Bytes::Upper(file) | Bytes::Plain(file) => Ok(rustix::fs::seek(
                &*file,
                match what {
                    Seek::Data => SeekFrom::Data(offset),
                    Seek::Hole => SeekFrom::Hole(offset),
                },
            )?),
            Bytes::Indexed(_, extents, size) => {
                if offset >= size {
                    return Err(Errno::NXIO);
                }
                let wanted = |hole: bool| if what == Seek::Hole { hole } else { !hole };
                let next = extents
                    .iter()
                    .find(|extent| extent.file_offset + extent.length > offset && wanted(extent.source == Source::Hole));
                match (next, what) {
                    (Some(extent), _) => Ok(extent.file_offset.max(offset)),
                    (None, Seek::Hole) => Ok(size),
                    (None, Seek::Data) => Err(Errno::NXIO),
                }
            }
        }
    }

    /// The figures of the file system that holds the upper directory, or else the top layer.
    pub fn statfs(&self) -> Answer<StatVfs> {
        if let Some(upper) = &self.upper {
            return rustix::fs::fstatvfs(&upper.root);
        }
        match self.lowers.first() {
            Some(Lower::Plain(layer)) => rustix::fs::fstatvfs(&layer.root),
            Some(Lower::Indexed(layer)) => rustix::fs::fstatvfs(&layer.data),
            None => Err(Errno::IO),
        }
    }
}

/// A regular file gives less than was asked for only at its end.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> Answer<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// Opens a regular file by its name in a directory; no symlink is followed and nothing else is opened.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Answer<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(dir, name, flags, Mode::empty());
    // Who may read a file need not be its owner, which O_NOATIME asks for.
    let file = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags)?,
        other => other?,
    };
    Ok(File::from(file))
}

/// Opens what a path descriptor names.
pub(super) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Answer<File> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(File::from(rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?))
}

/// A file of any kind as a path descriptor, by its name in a directory.
pub(super) fn path_fd(dir: BorrowedFd<'_>, name: &[u8]) -> Answer<std::os::fd::OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a name is there, as what.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Answer<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
