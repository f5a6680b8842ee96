//! Between the kernel's requests and [`Fs`]: translates, and decides what the kernel may cache.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request,
};
use rustix::io::Errno;

use super::attr::{Answer, Attr, Time};
use super::file::Seek;
use super::fs::Fs;
use super::list::DirEntry;
use crate::erofs::FileKind;

/// Names and attributes change only through the mount, and then the kernel knows: it may keep them for ever.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// The largest request. Source: linux/fs/fuse/fuse_i.h, `FUSE_MAX_MAX_PAGES` (256 by default).
const MAX_REQUEST: u32 = 1 << 20;
/// Requests that the kernel may have under way without anybody waiting: readahead, mostly.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// What a read is put in on its way to the kernel; one for each thread that serves.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves a tree.
#[derive(Debug)]
pub(super) struct Adapter {
    fs: Arc<Fs>,
    /// The kernel opens files and directories without asking.
    unasked: bool,
}

impl Adapter {
    pub fn new(fs: Arc<Fs>) -> Adapter {
        Adapter { fs, unasked: false }
    }
}

pub(super) fn code(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

fn time((seconds, nanos): Time) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's packing of a device number (`new_encode_dev`).
        rdev: attr.device.1 & 0xff | attr.device.0 << 8 | (attr.device.1 & !0xff) << 12,
        blksize: 4096,
        flags: 0,
    }
}

/// "There is no such name", which the kernel may keep too: an entry without a number.
fn nothing() -> FileAttr {
    let attr = Attr {
        number: 0,
        kind: FileKind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        links: 0,
        size: 0,
        blocks: 0,
        atime: (0, 0),
        mtime: (0, 0),
        ctime: (0, 0),
        device: (0, 0),
    };
    file_attr(&attr)
}

fn entry(reply: ReplyEntry, answer: Answer<Option<Attr>>) {
    match answer {
        Ok(Some(attr)) => reply.entry(&FOREVER, &file_attr(&attr), Generation(0)),
        Ok(None) => reply.entry(&FOREVER, &nothing(), Generation(0)),
        Err(error) => reply.error(code(error)),
    }
}

fn sized(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(code(error)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let offered = config.capabilities();
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        for flag in wanted {
            // What this kernel does not know is not used.
            let _ = config.add_capabilities(flag);
        }
        let unasked = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.unasked = self.fs.is_immutable() && offered.contains(unasked);
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.fs.lookup(parent.0, name.as_bytes()));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.getattr(ino.0) {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(code(error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.unasked {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.fs.open(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(error) => reply.error(code(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            match self.fs.read(ino.0, fh.0, &mut buffer[..size as usize], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(error) => reply.error(code(error)),
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            3 => Seek::Data,
            4 => Seek::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        // Without a handle the kernel goes on as if there were no holes.
        let found = match u64::try_from(offset) {
            _ if self.unasked => Err(Errno::NOSYS),
            Ok(offset) => self.fs.seek(fh.0, offset, what),
            Err(_) => Err(Errno::NXIO),
        };
        match found {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(code(error)),
        }
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.unasked {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut take = |entry: &DirEntry<'_>| {
            !reply.add(INodeNo(entry.number), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name))
        };
        match self.fs.readdir(ino.0, fh.0, offset, false, &mut take) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut take = |entry: &DirEntry<'_>| {
            let Some(attr) = entry.attr.as_ref().map(file_attr) else { return true };
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.number), entry.next, name, &FOREVER, &attr, Generation(0))
        };
        match self.fs.readdir(ino.0, fh.0, offset, true, &mut take) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(code(error)),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(reply, size, self.fs.getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.fs.listxattr(ino.0).map(|names| {
            let ended = names.into_iter().flat_map(|name| [name, vec![0]].concat());
            ended.collect()
        });
        sized(reply, size, names);
    }
}
