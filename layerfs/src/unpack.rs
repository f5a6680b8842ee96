//! One layer written out as a directory in overlayfs's format.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fs_base::sys::{mount::open_dir, xattr};
use fs_base::{Error, IoContext, Result};
use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use crate::erofs::{FileKind, Inode, Nid, Source};
use crate::store::Layer;

/// Writes `layer` into the empty directory `to`: whiteouts as devices 0:0, opaque directories by attribute.
pub fn unpack(layer: &Layer, to: &Path) -> Result<()> {
    let root = open_dir(to)?;
    let mut unpacker = Unpacker { layer, links: HashMap::new() };
    unpacker.fill(&root, layer.index.root()).map_err(|error| error.context(format!("unpack layer {}", layer.id)))
}

struct Unpacker<'a> {
    layer: &'a Layer,
    /// Inodes with several names that have been written, by a descriptor to link from.
    links: HashMap<Nid, OwnedFd>,
}

impl Unpacker<'_> {
    /// Everything in the directory, then its own metadata: writing into it would change its time.
    fn fill(&mut self, directory: &OwnedFd, nid: Nid) -> Result<()> {
        for entry in self.layer.index.read_dir(nid)? {
            let inode = self.layer.index.inode(entry.nid)?;
            if inode.kind == FileKind::Dir {
                rustix::fs::mkdirat(directory, entry.name, Mode::RWXU).at("make directory", shown(entry.name))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = rustix::fs::openat(directory, entry.name, flags, Mode::empty()).at("open", shown(entry.name))?;
                self.fill(&child, entry.nid)?;
            } else {
                self.file(directory, entry.name, &inode)?;
            }
        }
        self.metadata(directory, &self.layer.index.inode(nid)?)
    }

    fn file(&mut self, directory: &OwnedFd, name: &[u8], inode: &Inode) -> Result<()> {
        if let Some(first) = self.links.get(&inode.nid) {
            return rustix::fs::linkat(first, "", directory, name, AtFlags::EMPTY_PATH).at("link", shown(name));
        }
        let fd = match inode.kind {
            FileKind::File => self.content(directory, name, inode)?,
            FileKind::Symlink => {
                let target = self.layer.index.read_link(inode.nid)?;
                rustix::fs::symlinkat(&*target, directory, name).at("make symlink", shown(name))?;
                open_made(directory, name)?
            }
            FileKind::Dir => return Err(Error::internal("a directory is not a file")),
            kind => {
                let file_type = match kind {
                    FileKind::BlockDevice => FileType::BlockDevice,
                    FileKind::Fifo => FileType::Fifo,
                    FileKind::Socket => FileType::Socket,
                    _ => FileType::CharacterDevice,
                };
                let device: Dev = rustix::fs::makedev(inode.device.0, inode.device.1);
                rustix::fs::mknodat(directory, name, file_type, Mode::RUSR, device).at("make node", shown(name))?;
                open_made(directory, name)?
            }
        };
        self.metadata(&fd, inode)?;
        if inode.links > 1 {
            self.links.insert(inode.nid, fd);
        }
        Ok(())
    }

    fn content(&self, directory: &OwnedFd, name: &[u8], inode: &Inode) -> Result<OwnedFd> {
        use std::os::unix::fs::FileExt;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR).at("create", shown(name))?);
        let mut buffer = vec![0; 1 << 17];
        for extent in self.layer.index.extents(inode.nid)? {
            let mut done = 0;
            while done < extent.length && extent.source != Source::Hole {
                let part = &mut buffer[..(extent.length - done).min(1 << 17) as usize];
                match extent.source {
                    Source::Data(at) => self.layer.data.read_exact_at(part, at + done).at("read", "layer data")?,
                    Source::Index(at) => part.copy_from_slice(self.layer.index.raw(at + done, part.len() as u64)?),
                    Source::Hole => {}
                }
                file.write_all_at(part, extent.file_offset + done).at("write", shown(name))?;
                done += part.len() as u64;
            }
        }
        rustix::fs::ftruncate(&file, inode.size).at("set size of", shown(name))?;
        Ok(file.into())
    }

    /// Owner first: changing it clears set-user-id and file capabilities.
    fn metadata(&self, fd: &OwnedFd, inode: &Inode) -> Result<()> {
        let what = "metadata of an unpacked file";
        let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
        rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
            .at("set owner in", what)?;
        for (name, value) in self.layer.index.xattrs(inode.nid)? {
            xattr::set(fd, std::ffi::OsStr::new(&*String::from_utf8_lossy(&name)), &value)?;
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()));
        if inode.kind != FileKind::Symlink {
            rustix::fs::chmod(&path, Mode::from_raw_mode(inode.mode & 0o7777)).at("set mode in", what)?;
        }
        let time = Timespec { tv_sec: inode.mtime, tv_nsec: i64::from(inode.mtime_nanos) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW).at("set times in", what)
    }
}

fn open_made(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).at("open", shown(name))
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
