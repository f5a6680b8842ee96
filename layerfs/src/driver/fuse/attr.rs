//! What the file system says of a file, and whose it says it is.

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::capability::{CAPABILITY, root_of, set_root};
use crate::erofs::FileKind;
use crate::metadata::Metadata;

/// What an operation answers: its value, or the errno that the caller gets.
pub type Answer<T> = Result<T, Errno>;

/// The errno for an error of the libraries below. What is damaged is an I/O error of that file alone.
pub(super) fn errno(error: &fs_base::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or_else(|| error.class().errno()))
}

/// Seconds since the epoch and nanoseconds.
pub type Time = (i64, u32);

/// The attributes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The number that names it, and that `stat` shows.
    pub number: u64,
    /// What it is.
    pub kind: FileKind,
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Count of names; 1 for a directory that is merged from several, as overlayfs has it.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it takes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of its attributes.
    pub ctime: Time,
    /// A device's major and minor number.
    pub device: (u32, u32),
}

impl Attr {
    /// Of a file about which nothing else is known: root's, empty, without a permission.
    pub(super) fn bare(number: u64, kind: FileKind) -> Attr {
        Attr {
            number,
            kind,
            mode: kind.mode_bits(),
            uid: 0,
            gid: 0,
            links: 1,
            size: 0,
            blocks: 0,
            atime: (0, 0),
            mtime: (0, 0),
            ctime: (0, 0),
            device: (0, 0),
        }
    }
}

impl Attr {
    pub(super) fn of_stat(stat: &Stat) -> Attr {
        let metadata = Metadata::of_stat(stat);
        Attr {
            number: stat.st_ino,
            blocks: stat.st_blocks as u64,
            atime: (stat.st_atime, stat.st_atime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            ..Attr::of_metadata(&metadata, stat.st_ino)
        }
    }

    pub(super) fn of_metadata(metadata: &Metadata, number: u64) -> Attr {
        let mtime = (metadata.mtime, metadata.mtime_nanos);
        Attr {
            number,
            kind: metadata.kind,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            links: metadata.links,
            size: metadata.size,
            blocks: if metadata.kind == FileKind::File { metadata.size.div_ceil(512) } else { 0 },
            atime: mtime,
            mtime,
            ctime: mtime,
            device: metadata.device,
        }
    }

    /// Whether this is overlayfs's mark for "removed": character device 0:0.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.device == (0, 0)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }
}

/// A range of ids as seen through the mount, and as they are stored: both start somewhere and have one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id as it is shown.
    pub shown: u32,
    /// First id as it is stored.
    pub stored: u32,
    /// How many.
    pub count: u32,
}

/// How owners are shown and stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Everything is shown as this user's. A session that may not store other owners then stores its own.
    pub squash_uid: Option<u32>,
    /// The same for groups.
    pub squash_gid: Option<u32>,
    /// Users; nothing is changed if there is none.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

/// Who is shown where an id has no place. Source: `/proc/sys/kernel/overflowuid`.
const NOBODY: u32 = 65534;

impl Owners {
    pub(super) fn show(&self, attr: &mut Attr) {
        attr.uid = self.squash_uid.unwrap_or_else(|| shown(&self.uids, attr.uid));
        attr.gid = self.squash_gid.unwrap_or_else(|| shown(&self.gids, attr.gid));
    }

    /// The user to store for one that a caller names.
    pub(super) fn stored_uid(&self, uid: u32) -> Answer<u32> {
        stored(&self.uids, uid)
    }

    /// The same for a group.
    pub(super) fn stored_gid(&self, gid: u32) -> Answer<u32> {
        stored(&self.gids, gid)
    }

    /// An attribute's value as the caller sees it.
    pub(super) fn shown_value(&self, name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
        if is_acl(name) {
            let change = |is_user: bool, id| Ok(shown(if is_user { &self.uids } else { &self.gids }, id));
            // What is shown has always a place.
            let _ = map_acl(&mut value, change);
        } else if name == CAPABILITY
            && let Some(root) = root_of(&value).and_then(|root| place_of(&self.uids, root))
        {
            // Those of another root give nothing to whom these ids are for.
            set_root(&mut value, root);
        }
        value
    }

    /// The value to store for one that a caller sets; `None` if that is the same.
    pub(super) fn stored_value(&self, name: &[u8], value: &[u8]) -> Answer<Option<Vec<u8>>> {
        if self.uids.is_empty() && self.gids.is_empty() {
            return Ok(None);
        }
        let mut value = value.to_vec();
        if is_acl(name) {
            map_acl(&mut value, |is_user, id| stored(if is_user { &self.uids } else { &self.gids }, id))?;
        } else if name == CAPABILITY
            && let Some(root) = root_of(&value)
        {
            set_root(&mut value, stored(&self.uids, root)?);
        } else {
            return Ok(None);
        }
        Ok(Some(value))
    }

    /// Whether owners are shown as somebody else's, so that what is stored need not be what was meant.
    pub(super) fn squashes(&self) -> bool {
        self.squash_uid.is_some() || self.squash_gid.is_some()
    }
}

/// Changes the users and groups that an ACL names. Source: linux/posix_acl_xattr.h: a header of four bytes, then entries of
/// a tag, permissions, and an id, little-endian; tags 2 and 8 are named users and groups.
fn map_acl(acl: &mut [u8], change: impl Fn(bool, u32) -> Answer<u32>) -> Answer<()> {
    for entry in acl.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == 2 || tag == 8 {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&change(tag == 2, id)?.to_le_bytes());
        }
    }
    Ok(())
}

/// Whether an attribute names users and groups.
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

fn shown(ranges: &[IdRange], id: u32) -> u32 {
    place_of(ranges, id).unwrap_or(NOBODY)
}

/// What is shown for an id that is stored, if it has a place.
fn place_of(ranges: &[IdRange], id: u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    let found = ranges.iter().find(|range| id.checked_sub(range.stored).is_some_and(|at| at < range.count))?;
    Some(found.shown + (id - found.stored))
}

fn stored(ranges: &[IdRange], id: u32) -> Answer<u32> {
    if ranges.is_empty() {
        return Ok(id);
    }
    let found = ranges.iter().find(|range| id.checked_sub(range.shown).is_some_and(|at| at < range.count));
    found.map(|range| range.stored + (id - range.shown)).ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_both_ways() {
        let ranges = [IdRange { shown: 0, stored: 1000, count: 1 }, IdRange { shown: 1, stored: 100_000, count: 65536 }];
        assert_eq!((shown(&ranges, 1000), shown(&ranges, 100_005), shown(&ranges, 7)), (0, 6, NOBODY));
        assert_eq!((stored(&ranges, 0), stored(&ranges, 6), stored(&ranges, 70_000)), (Ok(1000), Ok(100_005), Err(Errno::INVAL)));
        assert_eq!((shown(&[], 7), stored(&[], 7)), (7, Ok(7)));
    }

    #[test]
    fn capabilities_are_for_the_root_that_is_shown() {
        let owners = Owners { uids: vec![IdRange { shown: 200_000, stored: 0, count: 1000 }], ..Owners::default() };
        let stored: Vec<u8> = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        let shown = owners.shown_value(CAPABILITY, stored.clone());
        assert_eq!(root_of(&shown), Some(200_000));
        assert_eq!(owners.stored_value(CAPABILITY, &shown), Ok(Some(stored.clone())));
        assert_eq!(owners.stored_value(CAPABILITY, &stored), Err(Errno::INVAL), "the host's root has no place");
        assert_eq!(owners.stored_value(b"user.x", &stored), Ok(None));
        let same = Owners::default();
        assert_eq!(same.shown_value(CAPABILITY, shown.clone()), shown);
        assert_eq!(same.stored_value(CAPABILITY, &shown), Ok(None));
    }
}
