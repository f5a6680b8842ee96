//! What is known of one file without reading it.

use fs_base::sys::root::Root;
use rustix::fs::{FileType, Stat};

use crate::erofs::FileKind;

/// Who owns what belongs to nobody that a user namespace knows. Source: `DEFAULT_OVERFLOWUID` in `linux/highuid.h`.
pub(crate) const NOBODY: u32 = 65534;

/// The metadata of one file, wherever it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Count of names.
    pub links: u32,
    /// Size in bytes; of a symlink the length of its target.
    pub size: u64,
    /// Modification time in seconds.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// Major and minor number of a device; zero for all else.
    pub device: (u32, u32),
}

impl Metadata {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }

    /// The twelve permission bits.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether this is overlayfs's mark for "removed": character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.device == (0, 0)
    }

    /// As its owners are known in the tree it lies in.
    pub(crate) fn in_root(stat: &Stat, root: &Root) -> Metadata {
        let metadata = Metadata::of_stat(stat);
        let Some(ids) = root.ids() else { return metadata };
        Metadata {
            uid: ids.uid_inside(metadata.uid).unwrap_or(NOBODY),
            gid: ids.gid_inside(metadata.gid).unwrap_or(NOBODY),
            ..metadata
        }
    }

    pub(crate) fn of_stat(stat: &Stat) -> Metadata {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => FileKind::Dir,
            FileType::Symlink => FileKind::Symlink,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            _ => FileKind::File,
        };
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Metadata {
            kind,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink as u32,
            size: stat.st_size as u64,
            mtime: stat.st_mtime,
            mtime_nanos: stat.st_mtime_nsec as u32,
            device: if is_device { (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) } else { (0, 0) },
        }
    }
}
