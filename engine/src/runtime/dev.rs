//! The nodes of a container's /dev.
//!
//! A process in a user namespace may make no device, so there the maker fills /dev before the process is born: a tmpfs
//! of the host's, whose files belong to the root inside. Others bind the host's own nodes into a tmpfs of the
//! container's, which then belong to nobody and take a mount each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use fs_base::sys::ids::IdMap;
use fs_base::sys::mount::{FsContext, Mount};
use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::MountAttrFlags;

use super::options::Options;
use super::selinux;

/// Where it is.
pub const DEV: &str = "/dev";

/// The nodes and links that every container has. Source: OCI runtime spec, config-linux.md, "Default devices".
pub fn fill(dev: &Mount, ids: Option<&IdMap>) -> Result<()> {
    let own = |name: &str| match ids {
        Some(ids) => give(dev.as_fd(), name, ids.root()?),
        None => Ok(()),
    };
    for (name, minor, major) in
        [("null", 3, 1), ("zero", 5, 1), ("full", 7, 1), ("random", 8, 1), ("urandom", 9, 1), ("tty", 0, 5)]
    {
        make_node(dev.as_fd(), name, FileType::CharacterDevice, 0o666, (major, minor))?;
        own(name)?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        // Some kernels have no such file. /proc is still the host's.
        if name == "core" && !Path::new(to).exists() {
            continue;
        }
        rustix::fs::symlinkat(to, dev, name).at("link", Path::new(DEV).join(name))?;
        own(name)?;
    }
    Ok(())
}

/// The node that masks files.
pub fn null_of(dev: &Mount) -> Result<OwnedFd> {
    rustix::fs::openat(dev, "null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at("open", "/dev/null")
}

/// The same of the host, as long as this process sees it.
pub fn null_of_host() -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let null = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let stat = rustix::fs::fstat(&null).at("stat", path)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(Error::unavailable("the host's /dev/null is none"));
    }
    Ok(null)
}

/// In the maker: all of /dev for a container with a user namespace; `None` if its spec mounts none.
pub fn make(spec: &Spec, ids: &IdMap) -> Result<Option<Mount>> {
    let devices: Vec<_> = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten().collect();
    let Some(mount) = spec.mounts().iter().flatten().find(|mount| is_made(mount)) else {
        return match devices.first() {
            Some(device) if !is_given(spec) => Err(elsewhere(device)),
            _ => Ok(None),
        };
    };
    let options = Options::parse(mount)?;
    let root = ids.root()?;
    let context = FsContext::open("tmpfs")?;
    context.string("source", "tmpfs")?;
    selinux::set_context(spec, "tmpfs", &context)?;
    for (key, value) in &options.data {
        match value {
            Some(value) => context.string(key, value.as_str())?,
            None => context.flag(key)?,
        }
    }
    context.string("uid", root.0.to_string())?;
    context.string("gid", root.1.to_string())?;
    let dev = context.mount(options.set.0 - MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    fill(&dev, Some(ids))?;
    let tree = Root::from_fd(dev.as_fd().try_clone_to_owned().at("duplicate", "mount descriptor")?);
    for device in devices {
        let below = device.path().strip_prefix(DEV).map_err(|_| elsewhere(device))?;
        make_device(&tree, below, device, Some(ids)).map_err(|error| named(device, error))?;
    }
    Ok(Some(dev))
}

/// A place for the terminal in such a /dev, which crun 1.8 makes only where it makes the rest.
pub fn make_console(dev: &Mount, ids: &IdMap) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dev, "console", flags, Mode::RUSR | Mode::WUSR).at("make", "/dev/console")?;
    give(dev.as_fd(), "console", ids.root()?)
}

/// Whether this is the mount that [`make`] makes.
pub fn is_made(mount: &oci_spec::runtime::Mount) -> bool {
    mount.destination() == Path::new(DEV) && mount.typ().as_deref() == Some("tmpfs")
}

fn elsewhere(device: &LinuxDevice) -> Error {
    Error::unsupported(format!("device {} is not supported in a user namespace: it can only be in /dev", device.path().display()))
}

fn named(device: &LinuxDevice, error: Error) -> Error {
    error.context(format!("device {}", device.path().display()))
}

/// Whether /dev is mounted from somewhere.
fn is_given(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten().filter(|mount| mount.destination() == Path::new(DEV));
    mounts.any(|mount| mount.typ().as_deref() == Some("bind"))
}

/// Further nodes, by their paths in the container. A /dev that is mounted from somewhere is not ours to make any in.
pub fn make_all(root: &Root, spec: &Spec) -> Result<()> {
    if is_given(spec) {
        return Ok(());
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let make = |device: &LinuxDevice| make_device(root, device.path(), device, None).map_err(|error| named(device, error));
    devices.into_iter().flatten().try_for_each(make)
}

fn make_device(root: &Root, path: &Path, device: &LinuxDevice, ids: Option<&IdMap>) -> Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(Error::invalid("it has no type")),
    };
    if let Some(parent) = path.parent() {
        root.make_dirs(parent, Mode::from(0o755))?;
    }
    let Some((parent, name)) = root.parent_of(path)? else { return Err(Error::invalid("it has no name")) };
    let name = name.to_string_lossy().into_owned();
    let number = (device.major() as u32, device.minor() as u32);
    match make_node(parent.as_fd(), &name, kind, device.file_mode().unwrap_or(0o666), number) {
        Err(error) if error.class() == Class::Conflict => return Ok(()),
        other => other?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    let owner = match ids {
        None => (uid, gid),
        // What the host gives to somebody who is nobody inside belongs to the root inside.
        Some(ids) => {
            let root = ids.root()?;
            (ids.uid_outside(uid).unwrap_or(root.0), ids.gid_outside(gid).unwrap_or(root.1))
        }
    };
    give(parent.as_fd(), &name, owner)
}

fn give(dir: BorrowedFd<'_>, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("set owner of", name)
}

fn make_node(dir: BorrowedFd<'_>, name: &str, kind: FileType, mode: u32, (major, minor): (u32, u32)) -> Result<()> {
    rustix::fs::mknodat(dir, name, kind, Mode::from(mode), rustix::fs::makedev(major, minor)).at("make device", name)?;
    // What the umask took.
    rustix::fs::chmodat(dir, name, Mode::from(mode), AtFlags::empty()).at("set mode of", name)
}
