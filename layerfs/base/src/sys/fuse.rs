//! FUSE mounts without libfuse: by the mount API where this process may, else by `fusermount3`.
//!
//! Source: Linux `Documentation/filesystems/fuse.rst` (mount options), fusermount3(1) and libfuse's `mount_util`: the
//! helper sends the device's descriptor over the socket that `_FUSE_COMMFD` names.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

use super::mount::{FsContext, mount_table};
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
}

/// Mounts over the directory `target` and returns the device that requests are read from. The kernel checks permissions
/// by modes and owners (`default_permissions`).
pub fn mount(target: &Path, options: &FuseOptions) -> Result<OwnedFd> {
    match mount_directly(target, options) {
        Err(error) if error.class() == Class::Denied => mount_by_helper(target, options).map_err(|helped| match helped.class() {
            Class::NotFound => error.with_hint(format!("ordinary users need {HELPER} (package fuse3)")),
            _ => helped,
        }),
        other => other,
    }
}

fn mount_directly(target: &Path, options: &FuseOptions) -> Result<OwnedFd> {
    let path = "/dev/fuse";
    let device = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let context = FsContext::open("fuse")?;
    context.string("source", options.source.as_str())?;
    context.string("subtype", options.subtype.as_str())?;
    context.string("fd", device.as_raw_fd().to_string())?;
    context.string("rootmode", "40000")?;
    context.string("user_id", rustix::process::getuid().as_raw().to_string())?;
    context.string("group_id", rustix::process::getgid().as_raw().to_string())?;
    context.flag("default_permissions")?;
    if options.allow_other {
        context.flag("allow_other")?;
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
    context.mount(attributes)?.attach(target)?;
    Ok(device)
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

/// The id of the FUSE mount that covers `target` now, if one does. Nothing is asked of the file system itself, which
/// may be dead.
pub fn mounted_at(target: &Path) -> Result<Option<u64>> {
    let top = mount_table()?.into_iter().rev().find(|mount| mount.target == target);
    Ok(top.filter(|mount| mount.fs_type.split('.').next() == Some("fuse")).map(|mount| mount.id))
}

/// Detaches the FUSE mount `id` from `target`, if it is still the one there.
pub fn detach(target: &Path, id: u64) -> Result<()> {
    if mounted_at(target)? != Some(id) {
        return Ok(());
    }
    unmount(target, true)
}

/// Takes the topmost mount at `target` away as [`super::mount::unmount`] does; where this process may not, by the helper,
/// which may if it is a FUSE mount of the same user.
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    match super::mount::unmount(target, lazy) {
        Err(error) if error.class() == Class::Denied => {
            let how: &[&str] = if lazy { &["-u", "-z", "-q", "--"] } else { &["-u", "-q", "--"] };
            let status = Command::new(HELPER).args(how).arg(target).status();
            if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(error) }
        }
        other => other,
    }
}
