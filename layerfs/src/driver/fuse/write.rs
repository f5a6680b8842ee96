//! Open files changed, and attributes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_base::durable;
use rustix::fs::{FallocateFlags, OFlags, XattrFlags};
use rustix::io::Errno;

use super::attr::{Answer, Attr, Time};
use super::attributes::stored_name;
use super::copy_up::{remove_attribute, set_attribute, set_mode, set_times, times};
use super::file::reopen;
use super::fs::Fs;
use super::handle::Bytes;
use super::node::Node;
use crate::erofs::FileKind;

/// What is to be set; the rest stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last modification.
    pub mtime: Option<Time>,
    /// The caller may not keep set-user-id bits of a file that it truncates.
    pub kill_set_id: bool,
}

impl Fs {
    /// Opens a regular file for writing, and for reading where its permissions let this process.
    pub fn open_to_write(&self, node: u64, truncate: bool, kill_set_id: bool) -> Answer<u64> {
        self.upper()?;
        let node = self.nodes.get(node)?;
        if node.kind != FileKind::File {
            return Err(if node.is_dir() { Errno::ISDIR } else { Errno::INVAL });
        }
        self.copy_up(&node, truncate)?;
        let _names = self.shared();
        let file = match self.open_upper(&node, OFlags::RDWR) {
            Err(Errno::ACCESS) => self.open_upper(&node, OFlags::WRONLY)?,
            other => other?,
        };
        if truncate {
            rustix::fs::ftruncate(&file, 0)?;
            if kill_set_id {
                drop_set_id(&file)?;
            }
        }
        Ok(self.handles.add_file(node, Bytes::Upper(Arc::new(file))))
    }

    fn to_write(&self, handle: u64) -> Answer<Arc<File>> {
        match self.opened(handle)?.1 {
            Bytes::Upper(file) => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    /// Writes all of `data`.
    pub fn write(&self, handle: u64, data: &[u8], offset: u64, kill_set_id: bool) -> Answer<()> {
        let file = self.to_write(handle)?;
        if kill_set_id {
            drop_set_id(&file)?;
        }
        file.write_all_at(data, offset).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Sets space aside, or punches a hole. `mode` is that of fallocate(2).
    pub fn fallocate(&self, handle: u64, mode: u32, offset: u64, length: u64) -> Answer<()> {
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(&*self.to_write(handle)?, flags, offset, length)
    }

    /// Copies from one open file to another without bringing the bytes here; how many it were.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: usize) -> Answer<usize> {
        let (source, target) = (self.opened(from.0)?.1, self.to_write(to.0)?);
        let (mut start, mut end) = (from.1, to.1);
        match source {
            Bytes::Upper(file) | Bytes::Plain(file) => {
                rustix::fs::copy_file_range(&*file, Some(&mut start), &*target, Some(&mut end), length)
            }
            // The kernel then copies by reading and writing.
            Bytes::Indexed(..) | Bytes::Unopened => Err(Errno::OPNOTSUPP),
        }
    }

    /// Makes what was written durable.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Answer<()> {
        match self.opened(handle)?.1 {
            Bytes::Upper(file) if !self.volatile => durable::sync_for_others(file.as_fd(), data_only),
            _ => Ok(()),
        }
    }

    /// Makes a directory's names durable.
    pub fn fsyncdir(&self, node: u64, data_only: bool) -> Answer<()> {
        let node = self.nodes.get(node)?;
        if self.volatile || !node.in_upper() {
            return Ok(());
        }
        let fd = {
            let _names = self.shared();
            self.upper_fd(&node)?
        };
        durable::sync_for_others(reopen(fd.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd(), data_only)
    }

    /// Brings a file or directory up, to change what is known of it.
    fn changeable(&self, node: &Arc<Node>, emptied: bool) -> Answer<()> {
        self.upper()?;
        if node.in_upper() {
            return Ok(());
        }
        if !node.is_dir() {
            return self.copy_up(node, emptied);
        }
        let _names = self.exclusive();
        self.dir_up(node).map(drop)
    }

    /// Sets attributes and returns what they are then. `handle` is one that is open for writing, if there is one.
    pub fn setattr(&self, node: u64, handle: Option<u64>, set: &SetAttr) -> Answer<Attr> {
        let node = self.nodes.get(node)?;
        self.changeable(&node, set.size == Some(0))?;
        let _names = self.shared();
        let done = self.set(&node, handle, set);
        self.note_file(&node);
        done?;
        self.attr_of(&node)
    }

    fn set(&self, node: &Arc<Node>, handle: Option<u64>, set: &SetAttr) -> Answer<()> {
        let fd = self.upper_fd(node)?;
        if let Some(size) = set.size {
            self.truncate(node, handle, size, set.kill_set_id)?;
        }
        let uid = set.uid.map(|uid| self.owners.stored_uid(uid)).transpose()?;
        let gid = set.gid.map(|gid| self.owners.stored_gid(gid)).transpose()?;
        if uid.is_some() || gid.is_some() {
            self.chown(fd.as_fd(), uid, gid)?;
        }
        if let Some(mode) = set.mode {
            if node.kind == FileKind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            set_mode(fd.as_fd(), mode)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            set_times(fd.as_fd(), node.kind, &times(set.atime, set.mtime))?;
        }
        Ok(())
    }

    fn truncate(&self, node: &Arc<Node>, handle: Option<u64>, size: u64, kill_set_id: bool) -> Answer<()> {
        let open = handle.and_then(|handle| self.handles.file(handle).ok()).map(|file| file.bytes());
        let file = match open {
            Some(Bytes::Upper(file)) => file,
            _ => Arc::new(self.open_upper(node, OFlags::WRONLY)?),
        };
        if kill_set_id {
            drop_set_id(&file)?;
        }
        match rustix::fs::ftruncate(&*file, size) {
            // That handle was for reading.
            Err(Errno::INVAL | Errno::BADF) if handle.is_some() => {
                rustix::fs::ftruncate(self.open_upper(node, OFlags::WRONLY)?, size)
            }
            other => other,
        }
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, node: u64, name: &[u8], value: &[u8], flags: u32) -> Answer<()> {
        let node = self.nodes.get(node)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let mapped = self.owners.stored_value(name, value)?;
        self.changeable(&node, false)?;
        let _names = self.shared();
        let done = set_attribute(self.upper_fd(&node)?.as_fd(), &stored_name(name), mapped.as_deref().unwrap_or(value), flags);
        self.note_file(&node);
        done
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, node: u64, name: &[u8]) -> Answer<()> {
        self.upper()?;
        self.getxattr(node, name)?;
        let node = self.nodes.get(node)?;
        self.changeable(&node, false)?;
        let _names = self.shared();
        let done = remove_attribute(self.upper_fd(&node)?.as_fd(), &stored_name(name));
        self.note_file(&node);
        done
    }
}

/// Who writes to a file without being root takes its set-user-id bit, and that of the group if the group may execute.
fn drop_set_id(file: &File) -> Answer<()> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    let left = mode & !(0o4000 | group);
    if left == mode { Ok(()) } else { set_mode(file.as_fd(), left) }
}
