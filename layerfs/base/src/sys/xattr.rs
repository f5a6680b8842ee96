//! Extended attributes of open objects, path descriptors included.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::{IoContext, Result};

/// Where the kernel shows a descriptor as a path: xattr calls refuse path descriptors, but not this.
fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// All attributes of the object, sorted by name. A file system without xattrs has none.
pub fn list(fd: impl AsFd) -> Result<Vec<(OsString, Vec<u8>)>> {
    use rustix::io::Errno;
    let path = proc_path(&fd);
    let mut names = vec![0u8; 4096];
    let length = loop {
        match rustix::fs::listxattr(&path, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error).at("list attributes of", &path),
        }
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if let Some(value) = get(&fd, name)? {
            attributes.push((OsString::from_vec(name.as_bytes().to_vec()), value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// One attribute; `None` if it isn't there, or is a file capability of a user namespace that nobody here knows.
pub fn get(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let path = proc_path(&fd);
    let mut value = vec![0u8; 256];
    loop {
        match rustix::fs::getxattr(&path, name.as_ref(), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => value.resize(value.len() * 16, 0),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::OVERFLOW) => return Ok(None),
            Err(error) => return Err(error).at("read attribute of", &path),
        }
    }
}

/// Sets one attribute.
pub fn set(fd: impl AsFd, name: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
    let path = proc_path(&fd);
    rustix::fs::setxattr(&path, name.as_ref(), value, rustix::fs::XattrFlags::empty()).at("set attribute of", &path)
}

/// Removes one attribute; no error if it isn't there.
pub fn remove(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let path = proc_path(&fd);
    match rustix::fs::removexattr(&path, name.as_ref()) {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
        Err(error) => Err(error).at("remove attribute of", &path),
    }
}
