//! The mount API of Linux 5.2 and later: mounts are descriptors first, and get a place in the tree only if asked.
//!
//! A [`Mount`] that is never attached is in no mount table, and the kernel frees it when its last holder closes it.
//! Source: fsopen(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::{Error, IoContext, Result};

/// A file system being configured: `fsopen`, then settings, then [`FsContext::mount`].
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fs_type: String,
}

impl FsContext {
    /// Starts to configure a new file system of this type.
    pub fn open(fs_type: &str) -> Result<FsContext> {
        let fd = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).at("fsopen", fs_type)?;
        Ok(FsContext { fd, fs_type: fs_type.to_owned() })
    }

    /// Sets a flag option (`ro`, `userxattr`, …).
    pub fn flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|e| self.error(key, e))
    }

    /// Sets `key=value`.
    pub fn string(&self, key: &str, value: impl rustix::path::Arg) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value).map_err(|e| self.error(key, e))
    }

    /// Gives a file or directory by descriptor (overlayfs since 6.13: `lowerdir+`, `upperdir`, `workdir`).
    pub fn descriptor(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        rustix::mount::fsconfig_set_fd(&self.fd, key, value).map_err(|e| self.error(key, e))
    }

    /// Makes the file system and a detached mount of it.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<Mount> {
        rustix::mount::fsconfig_create(&self.fd).map_err(|e| self.error("create", e))?;
        let fd =
            rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| self.error("mount", e))?;
        Ok(Mount { fd })
    }

    /// The error of a step, with what the kernel wrote into the context's message queue.
    fn error(&self, step: &str, errno: rustix::io::Errno) -> Error {
        let mut error = Error::io("configure", format!("{} file system ({step})", self.fs_type), errno);
        let messages = self.messages();
        if !messages.is_empty() {
            error = error.with_hint(format!("the kernel says: {messages}"));
        }
        error
    }

    fn messages(&self) -> String {
        let mut messages = Vec::new();
        let mut buffer = [0u8; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer[..]) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        messages.join("; ")
    }
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A mount held by a descriptor. Detached unless [`Mount::attach`] was called; unmounted by the kernel when the
/// last descriptor and the last process that uses it are gone.
#[derive(Debug)]
pub struct Mount {
    fd: OwnedFd,
}

impl Mount {
    /// Takes over a descriptor from `fsmount` or `open_tree(OPEN_TREE_CLONE)`, for example one that another
    /// process sent.
    pub fn from_fd(fd: OwnedFd) -> Mount {
        Mount { fd }
    }

    /// The descriptor, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// A second holder of the same mount.
    pub fn try_clone(&self) -> Result<Mount> {
        Ok(Mount { fd: self.fd.try_clone().at("duplicate", "mount descriptor")? })
    }

    /// A detached copy of the mount at `path` (a bind mount without a place), with the mounts below it if `recursive`.
    pub fn clone_of(path: &Path, recursive: bool) -> Result<Mount> {
        Mount::clone_at(CWD, path, recursive)
    }

    /// Like [`Mount::clone_of`], relative to a directory; an empty path means `dir` itself.
    pub fn clone_at(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<Mount> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let fd = rustix::mount::open_tree(dir, path, flags).at("open_tree", path)?;
        Ok(Mount { fd })
    }

    /// Gives the mount a place: over the directory or file `target`, which is resolved from `dir` without
    /// following a last symlink. An empty target means `dir` itself.
    pub fn attach_at(&self, dir: BorrowedFd<'_>, target: &Path) -> Result<()> {
        let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if target.as_os_str().is_empty() {
            flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        }
        rustix::mount::move_mount(&self.fd, "", dir, target, flags).at("move_mount", target)
    }

    /// Gives the mount a place over the directory or file at `target`.
    pub fn attach(&self, target: &Path) -> Result<()> {
        self.attach_at(CWD, target)
    }

    /// Changes the attributes of this mount, and of all below it if `recursive`.
    pub fn set_attributes(&self, set: MountAttrFlags, clear: MountAttrFlags, recursive: bool) -> Result<()> {
        let attributes = MountSetAttr { set: set.bits().into(), clear: clear.bits().into(), ..MountSetAttr::default() };
        mount_setattr(self.fd.as_fd(), recursive, attributes)
    }

    /// Sets the propagation of this mount, and of all below it if `recursive`.
    pub fn set_propagation(&self, propagation: crate::Propagation, recursive: bool) -> Result<()> {
        let flag = match propagation {
            crate::Propagation::Private => libc::MS_PRIVATE,
            crate::Propagation::Slave => libc::MS_SLAVE,
            crate::Propagation::Shared => libc::MS_SHARED,
        };
        mount_setattr(self.fd.as_fd(), recursive, MountSetAttr { propagation: flag, ..MountSetAttr::default() })
    }
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct MountSetAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attributes: MountSetAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid empty C string, `attributes` is a live `struct mount_attr` of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<MountSetAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::io("mount_setattr", "mount descriptor", std::io::Error::last_os_error())) }
}

/// See [`Mount::map_ids`].
pub(super) fn set_id_map(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<()> {
    let attributes =
        MountSetAttr { set: libc::MOUNT_ATTR_IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountSetAttr::default() };
    mount_setattr(mount, false, attributes)
}

/// Mounts over `target` with mount(2) and its string of options: for kernels whose file system can't be told everything
/// by descriptors. `/proc/self/fd/N` in the options names descriptors of this process. Source: mount(2).
pub fn mount_by_options(fs_type: &str, source: &str, target: &Path, options: &str) -> Result<()> {
    let text = std::ffi::CString::new(options).map_err(|_| Error::invalid("a mount option with a NUL byte"))?;
    rustix::mount::mount(source, target, fs_type, rustix::mount::MountFlags::empty(), &*text)
        .at("mount", format!("{fs_type} file system ({options})"))
}

/// Takes the topmost mount at `target` away. `lazy` detaches it now and frees it when its last user is gone.
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if lazy {
        flags |= UnmountFlags::DETACH;
    }
    rustix::mount::unmount(target, flags).at("unmount", target)
}

/// Gives the calling thread a mount namespace of its own, in which nothing it mounts is seen by others and
/// nothing it holds keeps a host mount busy. Only for a thread that ends with its work: there is no way back.
pub fn unshare_mount_namespace() -> Result<()> {
    // SAFETY: unshare has no memory effects; CLONE_FS is needed before CLONE_NEWNS in a threaded process and
    // only separates this thread's working directory and umask.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
        return Err(Error::io("unshare", "mount namespace", std::io::Error::last_os_error()));
    }
    rustix::mount::mount_change("/", rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::DOWNSTREAM)
        .at("make downstream", "/")
}

/// Gives the calling thread a working directory of its own. Only for a thread that ends with its work.
pub fn own_directory() -> Result<()> {
    // SAFETY: unshare has no memory effects; CLONE_FS separates this thread's working directory and umask.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(Error::io("unshare", "working directory", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// A detached copy of the mount that `root` is the top of, where `root` was opened in the mount namespace `namespace`.
pub fn clone_from_namespace(namespace: OwnedFd, root: OwnedFd) -> Result<Mount> {
    // The thread's namespace ends with it.
    let thread = std::thread::Builder::new().name("clone".to_owned()).spawn(move || {
        own_directory()?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).at("enter", "mount namespace")?;
        Mount::clone_at(root.as_fd(), Path::new(""), false)
    });
    let result = thread.at("start", "thread")?.join();
    result.unwrap_or_else(|_| Err(Error::internal("the copy of a mount panicked")))
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique while mounted, and the next mount's afterwards.
    pub id: u64,
    /// Major and minor number of its file system, as its files show it.
    pub device: (u32, u32),
    /// Where, unescaped.
    pub target: PathBuf,
    /// The file system's type.
    pub fs_type: String,
    /// What it says its source is.
    pub source: String,
    /// In a peer group: mounts made below it show in its peers.
    pub shared: bool,
    /// Receives from a peer group.
    pub slave: bool,
}

impl MountInfo {
    /// What it is known by for as long as it is mounted, wherever it is moved to meanwhile: its numbers in the table, which
    /// others get when it is gone, and where the kernel has it the [one](super::mount_id) that stays its own, with the
    /// number of the mount namespace in which that is so.
    pub fn key(&self, unique: Option<u64>) -> String {
        let numbers = format!("{} {}:{}", self.id, self.device.0, self.device.1);
        match unique.zip(super::mount_id::namespace()) {
            Some((unique, namespace)) => format!("{numbers} {unique} {namespace}"),
            None => numbers,
        }
    }
}

/// The mounts of this process's namespace. Source: proc_pid_mountinfo(5).
pub fn mount_table() -> Result<Vec<MountInfo>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read(path).at("read", path)?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_mountinfo).collect())
}

fn parse_mountinfo(line: &[u8]) -> Option<MountInfo> {
    use std::os::unix::ffi::OsStringExt;
    let mut fields = line.split(|&b| b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let target = unescape(fields.nth(1)?);
    let optional: Vec<&[u8]> = fields.by_ref().skip(1).take_while(|field| *field != b"-").collect();
    let (shared, slave) = (has_tag(&optional, b"shared:"), has_tag(&optional, b"master:"));
    let mut tail = fields;
    let fs_type = String::from_utf8_lossy(tail.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(tail.next()?)).into_owned();
    Some(MountInfo { id, device, target: std::ffi::OsString::from_vec(target).into(), fs_type, source, shared, slave })
}

fn has_tag(fields: &[&[u8]], tag: &[u8]) -> bool {
    fields.iter().any(|field| field.starts_with(tag))
}

/// Undoes the kernel's `\040` escapes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

/// Opens a directory as a path descriptor, for use as a mount's layer or a resolution root.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
}

/// Takes over a descriptor number that this process inherited (socket activation, a mount handed to a shim).
///
/// Refused if the number is not open. The caller must be its only owner, as the protocol that passed it says.
pub fn adopt_inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_GETFD only reads the descriptor's flags.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Error::invalid(format!("descriptor {number} is not open")));
    }
    // SAFETY: it is open, and by this function's contract nobody else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).at("fcntl", format!("descriptor {number}"))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_escapes_and_optional_fields() {
        let line = br"36 35 98:0 /mnt1 /a\040b rw,noatime shared:1 master:2 - ext4 /dev/root rw,errors=continue";
        let info = parse_mountinfo(line).unwrap();
        assert_eq!((info.id, info.target.as_path(), info.fs_type.as_str()), (36, Path::new("/a b"), "ext4"));
        assert_eq!((info.source.as_str(), info.key(None).as_str()), ("/dev/root", "36 98:0"));
        assert!(info.shared && info.slave);
        let alone = parse_mountinfo(br"36 35 98:0 / /proc rw,relatime - proc proc rw").unwrap();
        assert_eq!((alone.source.as_str(), alone.shared, alone.slave), ("proc", false, false));
    }

    #[test]
    fn the_mount_table_has_a_proc() {
        assert!(mount_table().unwrap().iter().any(|m| m.target == Path::new("/proc")));
    }
}
