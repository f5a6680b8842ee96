//! Between the kernel's requests and [`Fs`]: translates, and decides what the kernel may cache.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fs_base::sys::fuse::SESSION_XATTR;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::change::{Maker, New};
use super::convert::{code, device, done, entry, file_attr, file_type, kind, sized, wanted_time};
use super::file::Seek;
use super::fs::Fs;
use super::list::DirEntry;
use super::passthrough::{Passthrough, Way};
use super::rename::Over;
use super::report::Report;
use super::write::SetAttr;

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
    passthrough: Passthrough,
    report: Report,
    /// The process that ends when all is cleaned up.
    last: Pid,
}

impl Adapter {
    pub fn new(fs: Arc<Fs>, last: Pid) -> Adapter {
        Adapter { fs, unasked: false, passthrough: Passthrough::default(), report: Report::default(), last }
    }

    /// Flags of a file that goes by the kernel's cache.
    fn cached(&self) -> FopenFlags {
        let keep = if self.fs.holds().is_zero() { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE };
        keep | FopenFlags::FOPEN_NOFLUSH
    }

    /// Asks for what depends on who we are and what is served.
    fn negotiate_writing(&self, config: &mut KernelConfig) {
        let privileged = crate::overlayfs::Namespace::of_process() == crate::overlayfs::Namespace::Trusted;
        let passes = privileged
            && !self.fs.is_immutable()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        self.passthrough.set_able(passes);
        if self.fs.is_read_only() {
            return;
        }
        let wanted = [InitFlags::FUSE_ATOMIC_O_TRUNC, InitFlags::FUSE_HANDLE_KILLPRIV_V2, InitFlags::FUSE_DONT_MASK];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        if !passes {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        }
    }
}

fn maker(req: &Request, mode: u32, umask: u32) -> Maker {
    Maker { uid: req.uid(), gid: req.gid(), mode, umask }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let offered = config.capabilities();
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Always with attributes: they cost us less than the requests that would ask for them one by one, which is
            // why the kernel's own guess (READDIRPLUS_AUTO) is not asked for.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_POSIX_ACL,
            // An aborted connection is told from one that is mounted nowhere any more.
            InitFlags::FUSE_ABORT_ERROR,
        ];
        for flag in wanted {
            // What this kernel does not know is not used.
            let _ = config.add_capabilities(flag);
        }
        let unasked = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.unasked = self.fs.is_immutable() && offered.contains(unasked);
        self.negotiate_writing(config);
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.fs.lookup(parent.0, name.as_bytes()), self.fs.holds());
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.getattr(ino.0) {
            Ok(attr) => reply.attr(&self.fs.holds(), &file_attr(&attr)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(wanted_time), mtime.map(wanted_time));
        let set = SetAttr { mode, uid, gid, size, atime, mtime, kill_set_id: size.is_some() && req.uid() != 0 };
        match self.fs.setattr(ino.0, fh.map(|fh| fh.0), &set) {
            Ok(attr) => reply.attr(&self.fs.holds(), &file_attr(&attr)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = kind(mode) else { return reply.error(fuser::Errno::EINVAL) };
        let new = New::Node(kind, device(rdev));
        entry(reply, self.fs.make(parent.0, name.as_bytes(), new, maker(req, mode, umask)).map(Some), self.fs.holds());
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.fs.make(parent.0, name.as_bytes(), New::Dir, maker(req, mode, umask)).map(Some), self.fs.holds());
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = New::Symlink(target.as_os_str().as_bytes());
        entry(reply, self.fs.make(parent.0, link_name.as_bytes(), new, maker(req, 0o777, 0)).map(Some), self.fs.holds());
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        entry(reply, self.fs.link(ino.0, newparent.0, newname.as_bytes()).map(Some), self.fs.holds());
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.fs.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.fs.rmdir(parent.0, name.as_bytes()));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let over = if flags.is_empty() {
            Over::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Over::Keep
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            Over::Exchange
        } else {
            return reply.error(fuser::Errno::EINVAL);
        };
        done(reply, self.fs.rename((parent.0, name.as_bytes()), (newparent.0, newname.as_bytes()), over));
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _flags: i32, reply: ReplyCreate) {
        let (attr, handle) = match self.fs.create(parent.0, name.as_bytes(), maker(req, mode, umask)) {
            Ok(made) => made,
            Err(error) => return reply.error(code(error)),
        };
        let (attr, fh) = (file_attr(&attr), FileHandle(handle));
        match self.passthrough.choose(&self.fs, handle, true, |file| reply.open_backing(file)) {
            Way::Cached => reply.created(&self.fs.holds(), &attr, Generation(0), fh, self.cached()),
            Way::Passed(id) => {
                reply.created_passthrough(&self.fs.holds(), &attr, Generation(0), fh, FopenFlags::FOPEN_NOFLUSH, &id);
            }
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.unasked {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let truncate = OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::TRUNC);
        let to_write = truncate || flags.acc_mode() != OpenAccMode::O_RDONLY;
        let opened = if to_write { self.fs.open_to_write(ino.0, truncate, req.uid() != 0) } else { self.fs.open(ino.0) };
        let handle = match opened {
            Ok(handle) => handle,
            Err(error) => return reply.error(code(error)),
        };
        match self.passthrough.choose(&self.fs, handle, to_write, |file| reply.open_backing(file)) {
            Way::Cached => reply.opened(FileHandle(handle), self.cached()),
            Way::Passed(id) => reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, &id),
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
        // Answered first: who closes a file does not wait for what follows.
        reply.ok();
        self.passthrough.closed(fh.0);
        self.fs.release(fh.0);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.fs.write(fh.0, data, offset, kill) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(code(error)),
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        done(reply, self.fs.fsync(fh.0, datasync));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        done(reply, self.fs.fsyncdir(ino.0, datasync));
    }

    fn fallocate(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        done(reply, self.fs.fallocate(fh.0, mode as u32, offset, length));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits.
        let length = len.min(1 << 30) as usize;
        match self.fs.copy_range((fh_in.0, offset_in), (fh_out.0, offset_out), length) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(code(error)),
        }
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
        let keep = if self.fs.is_worth_listing(ino.0) { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE };
        let cached = keep | FopenFlags::FOPEN_CACHE_DIR;
        match self.fs.opendir(ino.0) {
            Ok(handle) if self.fs.holds().is_zero() => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Ok(handle) => reply.opened(FileHandle(handle), cached),
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
            !reply.add(INodeNo(entry.number), entry.next, name, &self.fs.holds(), &attr, Generation(0))
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
        if ino == INodeNo::ROOT && name == SESSION_XATTR {
            return sized(reply, size, Ok(self.last.to_string().into_bytes()));
        }
        let report = (ino == INodeNo::ROOT).then(|| self.report.value(&self.fs, name.as_bytes())).flatten();
        sized(reply, size, report.unwrap_or_else(|| self.fs.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.fs.listxattr(ino.0).map(|names| {
            let ended = names.into_iter().flat_map(|name| [name, vec![0]].concat());
            ended.collect()
        });
        sized(reply, size, names);
    }

    fn setxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        done(reply, self.fs.setxattr(ino.0, name.as_bytes(), value, flags as u32));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.fs.removexattr(ino.0, name.as_bytes()));
    }
}
