//! The lower layers: indexed ones, whose metadata is mapped memory, and directories in overlayfs's format.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use fs_base::sys::mount::open_dir;
use fs_base::sys::xattr;
use fs_base::{IoContext, LayerId, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attr::{Answer, errno};
use crate::erofs::{Extent, FileKind, Index, Nid, Source};
use crate::ingest::{IngestOptions, OPAQUE_XATTR, index_member, ingest};
use crate::tar::Limits;

/// What starts the name of a whiteout that is a file. Source: the OCI image specification, "Whiteouts".
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The file that makes its directory opaque.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// One lower layer.
#[derive(Debug, Clone)]
pub enum Lower {
    /// A tar and its index.
    Indexed(Arc<Indexed>),
    /// A directory.
    Plain(Plain),
}

/// A layer that is a tar, wherever that lies, and an index of it.
#[derive(Debug)]
pub struct Indexed {
    /// The metadata.
    pub index: Index,
    /// What holds the tar.
    pub data: File,
    /// Where in it the tar begins.
    pub base: u64,
}

/// A directory as a layer.
#[derive(Debug, Clone)]
pub struct Plain {
    /// Its top.
    pub root: Arc<OwnedFd>,
    /// The file system that it is on: what is mounted below it is not part of the layer.
    pub device: u64,
}

/// A name in a directory of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// The file's number in the layer.
    pub number: u64,
    pub kind: FileKind,
    pub whiteout: bool,
}

/// What a directory of a plain layer holds, sorted by name; marks are resolved.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub entries: Vec<(Box<[u8]>, Listed)>,
    pub opaque: bool,
}

impl Listed {
    /// What a directory of a plain layer has under a name at this moment, its marks resolved.
    pub fn now(dir: BorrowedFd<'_>, name: &[u8]) -> Answer<Option<Listed>> {
        let stat = |name: &[u8]| match rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some),
        };
        if let Some(found) = stat(name)? {
            let kind = kind_of(FileType::from_raw_mode(found.st_mode));
            let whiteout = kind == FileKind::CharDevice && found.st_rdev == 0;
            return Ok(Some(Listed { number: found.st_ino, kind, whiteout }));
        }
        let marked = stat(&[WHITEOUT_PREFIX, name].concat())?.is_some();
        Ok(marked.then_some(Listed { number: 0, kind: FileKind::CharDevice, whiteout: true }))
    }
}

impl Indexed {
    /// The layer of a folder in the store, `data` and `index`.
    pub fn open(dir: &Path) -> Result<Indexed> {
        let data = dir.join("data");
        Ok(Indexed { index: Index::open(&dir.join("index"))?, data: File::open(&data).at("open", &data)?, base: 0 })
    }

    /// A layer that lies in a larger file, not compressed: `size` bytes from `start` on. Its index is made in the folder
    /// `scratch` and has no name any more when this returns. `id` is what the layer is said to be: it is not verified.
    pub fn of_member(file: &File, start: u64, size: u64, id: LayerId, scratch: &Path) -> Result<Indexed> {
        let path = scratch.join("index");
        let made = index_member(id, file, start, size, &path, Limits::default()).and_then(|_| Index::open(&path));
        let _ = std::fs::remove_file(&path);
        Ok(Indexed { index: made?, data: file.try_clone().at("duplicate", "image file")?, base: start })
    }

    /// A layer as it streams by, compressed or not, unpacked to a file in the empty folder `scratch` that has no name
    /// any more when this returns. Its bytes must be those of `id`.
    pub fn of_stream(input: &mut (dyn Read + Send), id: LayerId, scratch: &Path) -> Result<Indexed> {
        let options = IngestOptions { expected_diff_id: Some(id), ..IngestOptions::default() };
        let made = ingest(input, scratch, &options).and_then(|_| Indexed::open(scratch));
        for name in ["data", "index"] {
            let _ = std::fs::remove_file(scratch.join(name));
        }
        made
    }

    /// A name in a directory.
    pub(super) fn find(&self, dir: u64, name: &[u8]) -> Answer<Option<Listed>> {
        let Some(nid) = self.index.lookup(Nid(dir), name).map_err(|e| errno(&e))? else { return Ok(None) };
        self.listed(nid).map(Some)
    }

    pub(super) fn listed(&self, nid: Nid) -> Answer<Listed> {
        let inode = self.index.inode(nid).map_err(|e| errno(&e))?;
        Ok(Listed { number: nid.0, kind: inode.kind, whiteout: inode.is_whiteout() })
    }

    pub(super) fn is_opaque(&self, dir: u64) -> Answer<bool> {
        Ok(self.index.xattr(Nid(dir), OPAQUE_XATTR).map_err(|e| errno(&e))?.is_some())
    }

    /// Reads a piece of a file: what one extent, or several in a row, have of it.
    pub(super) fn read(&self, extents: &[Extent], buffer: &mut [u8], offset: u64) -> Answer<usize> {
        let mut done = 0;
        let mut next = extents.partition_point(|extent| extent.file_offset + extent.length <= offset);
        while let Some(extent) = extents.get(next).filter(|_| done < buffer.len()) {
            let within = offset + done as u64 - extent.file_offset;
            let length = (buffer.len() - done).min((extent.length - within) as usize);
            let piece = &mut buffer[done..done + length];
            match extent.source {
                Source::Hole => piece.fill(0),
                Source::Data(at) => self.data.read_exact_at(piece, self.base + at + within).map_err(|_| Errno::IO)?,
                Source::Index(at) => {
                    piece.copy_from_slice(self.index.raw(at + within, length as u64).map_err(|_| Errno::IO)?);
                }
            }
            done += length;
            next += 1;
        }
        Ok(done)
    }
}

impl Plain {
    /// The layer below a directory.
    pub fn open(path: &Path) -> Result<Plain> {
        let root = open_dir(path)?;
        let device = rustix::fs::fstat(&root).at("stat", path)?.st_dev;
        Ok(Plain { root: Arc::new(root), device })
    }
}

impl Listing {
    /// Reads a directory of a layer.
    pub fn read(dir: BorrowedFd<'_>) -> Answer<Listing> {
        let mut listing = Listing::default();
        let mut hides: Vec<Box<[u8]>> = Vec::new();
        for_each_name(dir, |name, number, kind| {
            if name == OPAQUE_NAME {
                listing.opaque = true;
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
                hides.push(hidden.into());
            } else {
                let whiteout = kind == FileKind::CharDevice && is_whiteout(dir, name)?;
                listing.entries.push((name.into(), Listed { number, kind, whiteout }));
            }
            Ok(())
        })?;
        listing.entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for name in hides {
            // A file that is there beside its mark wins: the mark hides what is below.
            if let Err(at) = listing.entries.binary_search_by(|(known, _)| known.cmp(&name)) {
                let mark = Listed { number: 0, kind: FileKind::CharDevice, whiteout: true };
                listing.entries.insert(at, (name, mark));
            }
        }
        listing.opaque |= marks(dir)?.opaque;
        Ok(listing)
    }

    pub fn find(&self, name: &[u8]) -> Option<Listed> {
        let at = self.entries.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(self.entries[at].1)
    }
}

/// What the attributes of a directory say of what is below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Nothing of it shows.
    pub opaque: bool,
    /// It has another name there, or its whiteouts are attributes: things of the kernel's overlayfs that are not followed.
    pub foreign: bool,
}

/// The marks of overlayfs, and of fuse-overlayfs. Source: Linux `Documentation/filesystems/overlayfs.rst`,
/// "Redirecting directories" and "Nesting overlayfs mounts".
pub(super) fn marks(dir: impl AsFd) -> Answer<Marks> {
    let mut marks = Marks::default();
    let mut space = [0; 4096];
    let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    let value_is = |name: &[u8], wanted: &[u8]| {
        let mut value = [0; 2];
        rustix::fs::getxattr(&*path, OsStr::from_bytes(name), &mut value[..]).is_ok_and(|length| value[..length] == *wanted)
    };
    let names = match rustix::fs::listxattr(&*path, &mut space[..]) {
        Ok(length) => space[..length].to_vec(),
        Err(Errno::NOTSUP) => return Ok(marks),
        Err(Errno::RANGE) => xattr::list(&dir).map_err(|e| errno(&e))?.iter().flat_map(|(name, _)| ended(name)).collect(),
        Err(error) => return Err(error),
    };
    for name in names.split(|&b| b == 0) {
        match name {
            b"trusted.overlay.opaque" | b"user.overlay.opaque" | b"user.fuseoverlayfs.opaque" => {
                marks.opaque |= value_is(name, b"y");
                marks.foreign |= value_is(name, b"x");
            }
            b"trusted.overlay.redirect" | b"user.overlay.redirect" => marks.foreign = true,
            _ => {}
        }
    }
    Ok(marks)
}

fn ended(name: &OsStr) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Refuses a regular file of which the kernel's overlayfs copied up all but the data (`metacopy`): its bytes are
/// elsewhere. EPERM is what the kernel answers without `metacopy`.
pub(super) fn must_have_data(file: BorrowedFd<'_>) -> Answer<()> {
    for name in ["trusted.overlay.metacopy", "user.overlay.metacopy"] {
        let found = match rustix::fs::fgetxattr(file, name, &mut [0; 64][..]) {
            // A path descriptor.
            Err(Errno::BADF) => rustix::fs::getxattr(format!("/proc/self/fd/{}", file.as_raw_fd()), name, &mut [0; 64][..]),
            other => other,
        };
        if found.is_ok() {
            return Err(Errno::PERM);
        }
    }
    Ok(())
}

fn is_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> Answer<bool> {
    let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(stat.st_rdev == 0)
}

/// Calls `visit` for every name in a directory but `.` and `..`, with the inode number and type.
pub(super) fn for_each_name(dir: BorrowedFd<'_>, mut visit: impl FnMut(&[u8], u64, FileKind) -> Answer<()>) -> Answer<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let mut space: Vec<u8> = Vec::with_capacity(32 << 10);
    let mut entries = rustix::fs::RawDir::new(open, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                kind_of(FileType::from_raw_mode(stat.st_mode))
            }
            known => kind_of(known),
        };
        visit(name, entry.ino(), kind)?;
    }
    Ok(())
}

fn kind_of(file_type: FileType) -> FileKind {
    match file_type {
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    }
}
