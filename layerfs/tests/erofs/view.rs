//! The same questions to our reader and to the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_base::sys::mount::{FsContext, Mount};
use layerfs::erofs::{FileKind, Index, Nid, Source};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

/// What a view says of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub mtime: (i64, u32),
    pub links: u32,
    pub device: (u32, u32),
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file system to ask.
pub trait View {
    /// The names in a directory, in the order that it gives them.
    fn names(&self, path: &[Vec<u8>]) -> Vec<Vec<u8>>;
    /// One file, found by looking up each name of its path.
    fn see(&self, path: &[Vec<u8>]) -> Seen;
    /// Bytes of a regular file.
    fn read(&self, path: &[Vec<u8>], offset: u64, length: usize) -> Vec<u8>;
    /// Whether there is a file.
    fn has(&self, path: &[Vec<u8>]) -> bool;
}

/// Our reader.
pub struct Ours<'a> {
    pub index: &'a Index,
    pub data: &'a [u8],
}

impl Ours<'_> {
    fn find(&self, path: &[Vec<u8>]) -> Option<Nid> {
        path.iter().try_fold(self.index.root(), |nid, name| self.index.lookup(nid, name).unwrap())
    }
}

impl View for Ours<'_> {
    fn names(&self, path: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.index.read_dir(self.find(path).unwrap()).unwrap().iter().map(|entry| entry.name.to_vec()).collect()
    }

    fn see(&self, path: &[Vec<u8>]) -> Seen {
        let nid = self.find(path).unwrap_or_else(|| panic!("{path:?} is not there"));
        let inode = self.index.inode(nid).unwrap();
        let kind = match inode.kind {
            FileKind::File => "file",
            FileKind::Dir => "dir",
            FileKind::Symlink => "symlink",
            FileKind::CharDevice => "char",
            FileKind::BlockDevice => "block",
            FileKind::Fifo => "fifo",
            FileKind::Socket => "socket",
        };
        Seen {
            kind,
            mode: inode.mode & 0o7777,
            owner: (inode.uid, inode.gid),
            size: if kind == "dir" { 0 } else { inode.size },
            mtime: (inode.mtime, inode.mtime_nanos),
            links: inode.links,
            device: inode.device,
            target: if kind == "symlink" { self.index.read_link(nid).unwrap().into_owned() } else { Vec::new() },
            xattrs: self.index.xattrs(nid).unwrap().into_iter().collect(),
        }
    }

    fn read(&self, path: &[Vec<u8>], offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let (mut covered, end) = (0, offset + length as u64);
        for extent in self.index.extents(self.find(path).unwrap()).unwrap() {
            assert_eq!(extent.file_offset, covered, "extents have no gap");
            covered += extent.length;
            let (from, to) = (extent.file_offset.max(offset), covered.min(end));
            if from < to {
                let part = &mut bytes[(from - offset) as usize..(to - offset) as usize];
                let skipped = from - extent.file_offset;
                match extent.source {
                    Source::Hole => {}
                    Source::Data(at) => part.copy_from_slice(&self.data[(at + skipped) as usize..][..part.len()]),
                    Source::Index(at) => part.copy_from_slice(self.index.raw(at + skipped, part.len() as u64).unwrap()),
                }
            }
        }
        bytes.truncate(covered.saturating_sub(offset) as usize);
        bytes
    }

    fn has(&self, path: &[Vec<u8>]) -> bool {
        self.find(path).is_some()
    }
}

/// The kernel's EROFS.
pub struct Kernel {
    mount: Mount,
}

impl Kernel {
    /// Mounts an index, detached. `None`, said loudly, where that is not allowed.
    pub fn mount(index: &Path, data: &Path) -> Option<Kernel> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: kernel mounts: needs root");
            return None;
        }
        let context = FsContext::open("erofs").unwrap();
        context.string("source", index).unwrap();
        context.string("device", data).unwrap();
        context.flag("ro").unwrap();
        let mount = context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap_or_else(|e| panic!("{e} {:?}", e.hint()));
        Some(Kernel { mount })
    }

    fn path(&self, path: &[Vec<u8>]) -> PathBuf {
        let names: PathBuf = path.iter().map(|name| std::ffi::OsStr::from_bytes(name)).collect();
        Path::new(&format!("/proc/self/fd/{}", self.mount.as_fd().as_raw_fd())).join(names)
    }

    /// The file itself: a relative walk from the mount, so that deep paths fit.
    fn open(&self, path: &[Vec<u8>], flags: OFlags) -> OwnedFd {
        let mut here = self.mount.as_fd().try_clone_to_owned().unwrap();
        let last = path.len().saturating_sub(1);
        for (number, name) in path.iter().enumerate() {
            let flags = if number == last { flags } else { OFlags::PATH };
            here = rustix::fs::openat(&here, &name[..], flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .unwrap_or_else(|e| panic!("{}: {e}", self.path(path).display()));
        }
        here
    }
}

impl View for Kernel {
    fn names(&self, path: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let fd = self.open(path, OFlags::PATH);
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_vec()).collect()
    }

    fn see(&self, path: &[Vec<u8>]) -> Seen {
        let fd = self.open(path, OFlags::PATH);
        let xattrs = fs_base::sys::xattr::list(&fd).unwrap();
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map(std::ffi::CString::into_bytes).unwrap_or_default();
        let stat = File::from(fd).metadata().unwrap();
        let kind = match stat.file_type() {
            t if t.is_file() => "file",
            t if t.is_dir() => "dir",
            t if t.is_symlink() => "symlink",
            t if t.is_char_device() => "char",
            t if t.is_block_device() => "block",
            t if t.is_fifo() => "fifo",
            _ => "socket",
        };
        assert_ne!(stat.ino(), 0, "no file has the number 0");
        let is_device = matches!(kind, "char" | "block");
        Seen {
            kind,
            mode: stat.mode() & 0o7777,
            owner: (stat.uid(), stat.gid()),
            size: if kind == "dir" { 0 } else { stat.size() },
            mtime: (stat.mtime(), stat.mtime_nsec() as u32),
            links: stat.nlink() as u32,
            device: if is_device { (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev())) } else { (0, 0) },
            target,
            xattrs: xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect(),
        }
    }

    fn read(&self, path: &[Vec<u8>], offset: u64, length: usize) -> Vec<u8> {
        let file = File::from(self.open(path, OFlags::RDONLY));
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], offset + filled as u64).unwrap() {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        bytes
    }

    fn has(&self, path: &[Vec<u8>]) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}
