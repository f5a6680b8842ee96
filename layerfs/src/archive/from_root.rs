//! Files below a root: a container's tree, a volume, any directory that somebody else may be writing in.
//!
//! A directory is opened once and everything in it relative to that descriptor; a file is opened once as a path
//! descriptor, looked at, and read through that same descriptor. So there is no moment at which a name that is
//! swapped for a symlink leads anywhere else.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use fs_base::sys::{root::Root, xattr};
use fs_base::{Error, IoContext, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::item::{Attributes, Body, Item, Seekable, Sink};
use super::mapped;
use super::names::join;
use super::stat::{as_path, missing};
use crate::erofs::FileKind;
use crate::metadata::Metadata;
use crate::tree::{Content, names_of, reopen};

/// Directories below each other that are followed: each holds a descriptor.
const MOST_DEPTH: usize = 1024;

/// File systems that show the kernel and not files. What is in them is left out when a walk comes upon one.
/// Source: `include/uapi/linux/magic.h`.
const PSEUDO: [u64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x4249_4e4d, // binfmt_misc
    0xf97c_ff8c, // selinuxfs
];

/// The number of overlayfs, from the same place.
const OVERLAY: u64 = 0x794c_7630;

/// What a walk of a root leaves out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Stay on the file system of the top: other mounts are empty directories.
    pub one_file_system: bool,
}

/// Brings `path` and all below it to a sink.
pub fn walk(root: &Root, path: &[u8], bounds: Bounds, sink: &mut dyn Sink) -> Result<()> {
    let shown = as_path(path);
    let fd = root.open_at(shown, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| missing(error, shown))?;
    let stat = rustix::fs::fstat(&fd).at("stat", shown)?;
    let mut walker = Walker { root, sink, bounds, links: HashMap::new(), device: stat.st_dev };
    walker.run(fd, &stat).map_err(|error| error.context(format!("copy {}", shown.display())))
}

/// A directory on the way to where the walk is: not a frame of the call stack, which is smaller than trees are deep.
struct Level {
    fd: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// The file system of the directory above.
    above: u64,
}

struct Walker<'a> {
    root: &'a Root,
    sink: &'a mut dyn Sink,
    bounds: Bounds,
    /// Files with several names, by device and inode, and the path that came first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The file system of the directory above.
    device: u64,
}

impl Walker<'_> {
    fn run(&mut self, fd: OwnedFd, stat: &rustix::fs::Stat) -> Result<()> {
        let mut levels: Vec<Level> = self.file(fd, stat, Vec::new(), 0)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.device = level.above;
                levels.pop();
                continue;
            };
            let path = join(&level.path, &name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = match rustix::fs::openat(&level.fd, &*name, flags, Mode::empty()) {
                Ok(child) => child,
                // Removed since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error).at("open", as_path(&path)),
            };
            let stat = rustix::fs::fstat(&child).at("stat", as_path(&path))?;
            let below = self.file(child, &stat, path, levels.len())?;
            levels.extend(below);
        }
        Ok(())
    }

    /// Brings one file to the sink; a directory is to be gone through then.
    fn file(&mut self, fd: OwnedFd, stat: &rustix::fs::Stat, path: Vec<u8>, depth: usize) -> Result<Option<Level>> {
        let shown = &path[..];
        let metadata = Metadata::in_root(stat, self.root);
        if stat.st_nlink > 1 && !metadata.is_dir() {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let attributes = Attributes::new();
                return self.sink.put(Item { path: shown, metadata, attributes, body: Body::HardLink(first) }).map(|()| None);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let attributes = self.attributes_of(&fd)?;
        match metadata.kind {
            FileKind::File => {
                let file = reopen(fd.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).at("open", as_path(shown))?;
                let mut data = Seekable::new(Content::of_file(file, metadata.size));
                self.sink.put(Item { path: shown, metadata, attributes, body: Body::File(&mut data) })
            }
            FileKind::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).at("read symlink", as_path(shown))?;
                self.sink.put(Item { path: shown, metadata, attributes, body: Body::Symlink(target.as_bytes()) })
            }
            FileKind::Dir => {
                self.sink.put(Item { path: shown, metadata, attributes, body: Body::None })?;
                return self.directory(fd, stat.st_dev, path, depth);
            }
            _ => self.sink.put(Item { path: shown, metadata, attributes, body: Body::None }),
        }?;
        Ok(None)
    }

    fn directory(&mut self, fd: OwnedFd, device: u64, path: Vec<u8>, depth: usize) -> Result<Option<Level>> {
        if depth > MOST_DEPTH {
            return Err(Error::unsupported(format!("directories are nested more than {MOST_DEPTH} deep")));
        }
        if device != self.device && (self.bounds.one_file_system || is_pseudo(&fd)?) {
            return Ok(None);
        }
        let names = names_of(fd.as_fd()).map_err(|error| error.context(as_path(&path).display().to_string()))?;
        let above = std::mem::replace(&mut self.device, device);
        Ok(Some(Level { fd, path, names: names.into_iter(), above }))
    }

    /// Attributes that mean something elsewhere: labels of a security module belong to the place, not the file.
    fn attributes_of(&self, fd: &OwnedFd) -> Result<Attributes> {
        let attributes = xattr::list(fd)?.into_iter().map(|(name, value)| (name.into_vec(), value));
        let kept = attributes.filter(|(name, _)| name != b"security.selinux" && !crate::overlayfs::is_private(name));
        let Some(ids) = self.root.ids() else { return Ok(kept.collect()) };
        Ok(kept
            .filter_map(|(name, value)| mapped::inside(ids, &name, value, || is_overlay(fd)).map(|value| (name, value)))
            .collect())
    }
}

fn is_pseudo(fd: &OwnedFd) -> Result<bool> {
    Ok(PSEUDO.contains(&magic(fd).at("stat file system of", "directory")?))
}

fn is_overlay(fd: &OwnedFd) -> bool {
    magic(fd).is_ok_and(|magic| magic == OVERLAY)
}

fn magic(fd: &OwnedFd) -> rustix::io::Result<u64> {
    rustix::fs::fstatfs(fd).map(|stat| stat.f_type as u64 & 0xffff_ffff)
}
