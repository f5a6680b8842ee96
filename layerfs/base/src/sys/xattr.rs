//! Extended attributes of open objects, path descriptors included.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{IoContext, Result};

/// Where the kernel shows a descriptor as a path: xattr calls refuse path descriptors, but not this.
fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// All attributes of the object, sorted by name. A file system without xattrs has none.
pub fn list(fd: impl AsFd) -> Result<Vec<(OsString, Vec<u8>)>> {
    let path = proc_path(&fd);
    let names = names(&path, |path, names| rustix::fs::listxattr(path, names))?;
    values(names, |name| get(&fd, name))
}

/// All attributes of what a path names, a last symlink not followed, sorted by name. Needs no `/proc`.
pub fn list_of_path(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
    let names = names(path, |path, names| rustix::fs::llistxattr(path, names))?;
    values(names, |name| value(path, |value| rustix::fs::lgetxattr(path, name, value)))
}

fn names(path: &Path, call: fn(&Path, &mut [u8]) -> rustix::io::Result<usize>) -> Result<Vec<OsString>> {
    let mut names = vec![0u8; 4096];
    let length = loop {
        match call(path, &mut names) {
            Ok(length) => break length,
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error).at("list attributes of", path),
        }
    };
    let names = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

fn values(names: Vec<OsString>, get: impl Fn(&OsStr) -> Result<Option<Vec<u8>>>) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for name in names {
        if let Some(value) = get(&name)? {
            attributes.push((name, value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// One attribute; `None` if it isn't there, or is a file capability of a user namespace that nobody here knows.
pub fn get(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
    let path = proc_path(&fd);
    value(&path, |value| rustix::fs::getxattr(&path, name.as_ref(), value))
}

fn value(path: &Path, call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        match call(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => value.resize(value.len() * 16, 0),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::OVERFLOW) => return Ok(None),
            Err(error) => return Err(error).at("read attribute of", path),
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
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(error).at("remove attribute of", &path),
    }
}
