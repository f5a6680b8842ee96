//! Loop devices: files as read-only block devices. Source: loop(4), `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::{Error, IoContext, Result};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Another process may take the free device before us; this often is more than bad luck.
const TRIES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device that frees itself when its last user, this value or a mount, is gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _device: File,
}

impl LoopDevice {
    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Attaches a file read-only, with blocks of 512 bytes.
pub fn attach(path: &Path) -> Result<LoopDevice> {
    let backing = File::open(path).at("open", path)?;
    let control_path = "/dev/loop-control";
    let control = File::options().read(true).write(true).open(control_path).at("open", control_path)?;
    for _ in 0..TRIES {
        // SAFETY: takes no argument and touches no memory of ours.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(Error::io("find a free loop device with", control_path, std::io::Error::last_os_error()));
        }
        let device_path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).open(&device_path).at("open", &device_path)?;
        // SAFETY: all fields are integers, for which zero is a value.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = backing.as_raw_fd() as u32;
        config.block_size = 512;
        config.info.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
        // SAFETY: `config` is a live `struct loop_config`.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(&config)) } == 0 {
            return Ok(LoopDevice { path: device_path, _device: device });
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(Error::io("attach a file to", &device_path, error));
        }
    }
    Err(Error::busy("no free loop device: others take them faster than we can"))
}
