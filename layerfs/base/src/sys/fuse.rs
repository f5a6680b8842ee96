//! FUSE mounts without libfuse: by the mount API where this process may, else by `fusermount3`.
//!
//! Source: Linux `Documentation/filesystems/fuse.rst` (mount options), fusermount3(1) and libfuse's `mount_util`: the
//! helper sends the device's descriptor over the socket that `_FUSE_COMMFD` names.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

use super::mount::{FsContext, Mount, mount_table};
use super::mount_id;
use super::pid::Process;
use super::place::{self, Place};
use super::user::User;
use crate::{Class, Error, IoContext, Result};

/// The helper that mounts for ordinary users.
const HELPER: &str = "fusermount3";

/// How a FUSE file system is mounted.
#[derive(Debug, Clone)]
pub struct FuseOptions {
    /// What the mount table says its source is.
    pub source: String,
    /// Its type in the mount table: `fuse.` and this.
    pub subtype: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// Other users than the one that mounts may use it.
    pub allow_other: bool,
    /// Set-user-id bits count. Only for a process that may mount.
    pub suid: bool,
    /// Devices count. Only for a process that may mount.
    pub dev: bool,
    /// The user that it is mounted for, who must be allowed to mount over the target: the tree is that user's alone. Only for a process that may mount.
    pub user: Option<User>,
    /// The SELinux label that all its files have. Only for a process that may mount.
    pub label: Option<String>,
}

/// Mounts over the directory `target` and returns the device that requests are read from. The kernel checks permissions
/// by modes and owners (`default_permissions`).
pub fn mount(target: &Path, options: &FuseOptions) -> Result<OwnedFd> {
    match mount_directly(target, options) {
        Err(error) if error.class() == Class::Denied && options.user.is_none() => {
            mount_by_helper(target, options).map_err(|helped| match helped.class() {
                Class::NotFound => error.with_hint(format!("ordinary users need {HELPER} (package fuse3)")),
                _ => helped,
            })
        }
        other => other,
    }
}

fn mount_directly(target: &Path, options: &FuseOptions) -> Result<OwnedFd> {
    let (device, mount) = mount_detached(options)?;
    match &options.user {
        Some(user) => Place::of_user(target, user)?.cover(&mount)?,
        None => mount.attach(target)?,
    }
    Ok(device)
}

/// Mounts without a place: the device that requests are read from, and the mount. Who uses the mount waits until somebody
/// serves it, or until the device is closed. Only for a process that may mount.
pub fn mount_detached(options: &FuseOptions) -> Result<(OwnedFd, Mount)> {
    let path = "/dev/fuse";
    let device = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let context = FsContext::open("fuse")?;
    context.string("source", options.source.as_str())?;
    context.string("subtype", options.subtype.as_str())?;
    context.string("fd", device.as_raw_fd().to_string())?;
    context.string("rootmode", "40000")?;
    let user = options.user.clone().unwrap_or_else(User::own);
    context.string("user_id", user.uid.to_string())?;
    context.string("group_id", user.gid.to_string())?;
    context.flag("default_permissions")?;
    if options.allow_other {
        context.flag("allow_other")?;
    }
    if let Some(label) = &options.label {
        context.string("context", label.as_str())?;
    }
    let mut attributes = MountAttrFlags::empty();
    if options.read_only {
        context.flag("ro")?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if !options.suid {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID;
    }
    if !options.dev {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let mount = context.mount(attributes)?;
    Ok((device, mount))
}

fn mount_by_helper(target: &Path, options: &FuseOptions) -> Result<OwnedFd> {
    let (ours, its) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
        .at("make", "a socket for the mount helper")?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).at("fcntl", "socket")?;
    let mut words = vec![format!("fsname={}", escaped(&options.source)), format!("subtype={}", escaped(&options.subtype))];
    words.push(if options.read_only { "ro" } else { "rw" }.to_owned());
    words.push("default_permissions".to_owned());
    if options.allow_other {
        words.push("allow_other".to_owned());
    }
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", its.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .at("run", HELPER)?;
    drop(its);
    let device = receive(&ours);
    let output = child.wait_with_output().at("wait for", HELPER)?;
    match device? {
        Some(device) if output.status.success() => Ok(device),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::denied(format!("mount {}: {said}", target.display())))
        }
    }
}

/// A comma would end the option.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

fn receive(socket: &OwnedFd) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).at("read from", HELPER)?;
    let device = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}

/// A FUSE mount in this mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    target: PathBuf,
    id: u64,
    key: String,
    unique: Option<u64>,
}

impl Mounted {
    /// The FUSE mount that covers `target` now, if one does. Nothing is asked of the file system itself, which may be dead.
    pub fn at(target: &Path) -> Result<Option<Mounted>> {
        let top = mount_table()?.into_iter().rev().find(|mount| mount.target == target);
        let Some(mount) = top.filter(|mount| mount.fs_type.split('.').next() == Some("fuse")) else { return Ok(None) };
        let unique = mount_id::of_path(target);
        Ok(Some(Mounted { target: target.to_owned(), id: mount.id, key: mount.key(unique), unique }))
    }

    /// The directory that it covers.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Its [`key`](super::mount::MountInfo::key).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Takes the mount away, if it is still the one there; who has files open on it keeps them for as long as they are
    /// served. Nobody is waited for.
    ///
    /// The number in the mount table goes to the next mount as soon as this one is gone. Only Linux 6.8 and later have one
    /// that doesn't: before, who calls this must know that the mount has not been taken away by somebody else.
    pub fn detach(&self) -> Result<()> {
        let Some(now) = Mounted::at(&self.target)? else { return Ok(()) };
        // Who may not look into the mount is not told the number that is unique.
        let other = matches!((now.unique, self.unique), (Some(a), Some(b)) if a != b);
        if now.id != self.id || other {
            return Ok(());
        }
        take_away(&self.target, true)
    }
}

/// Asked of the root of a mount, one of our sessions answers with the number of the process that is the last of it to end.
pub const SESSION_XATTR: &str = "user.fsd-fuse.session";
/// How long a session may take to say who it is.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a session that nobody can use any more may take to end.
const END: Duration = Duration::from_secs(10);

/// Takes the topmost mount at `target` away, by the helper where only that may. If one of our sessions serves it and
/// nobody uses it any more, then this returns when the session has ended, and nothing of it is left: at most ten seconds
/// later, since there may be more mounts of it. `lazy` takes it away even if it is in use.
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let session = session_at(target);
    match take_away(target, false) {
        Err(error) if lazy && error.class() == Class::Busy => return take_away(target, true),
        other => other?,
    }
    let end = Instant::now() + END;
    while session.as_ref().is_some_and(|session| !session.has_ended()) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn session_at(target: &Path) -> Option<Process> {
    let (to, from) = mpsc::channel();
    let path = target.to_owned();
    // A session that hangs holds up this thread, and nobody else.
    let asked = std::thread::Builder::new().spawn(move || {
        let mut answer = [0; 16];
        let length = rustix::fs::getxattr(&path, SESSION_XATTR, &mut answer[..]).unwrap_or_default();
        let _ = to.send(std::str::from_utf8(&answer[..length]).ok().and_then(|text| text.parse().ok()));
    });
    let pid = asked.ok().and_then(|_| from.recv_timeout(ANSWER).ok()).flatten()?;
    Process::open(pid).ok()
}

fn take_away(target: &Path, lazy: bool) -> Result<()> {
    match place::unmount(target, lazy) {
        Err(error) if error.class() == Class::Denied => {
            let how: &[&str] = if lazy { &["-u", "-z", "-q", "--"] } else { &["-u", "-q", "--"] };
            let output = Command::new(HELPER).args(how).arg(target).stdin(Stdio::null()).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                // It has no other word for it.
                Ok(output) if !lazy && String::from_utf8_lossy(&output.stderr).contains("busy") => {
                    Err(Error::busy(format!("{} is in use", target.display())))
                }
                _ => Err(error),
            }
        }
        other => other,
    }
}
