//! The kernel's words for what [`Fs`](super::Fs) speaks of.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyEmpty, ReplyEntry, ReplyXattr, TimeOrNow};
use rustix::io::Errno;

use super::attr::{Answer, Attr, Time};
use crate::erofs::FileKind;

pub(super) fn code(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub(super) fn time((seconds, nanos): Time) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's packing of a device number (`new_encode_dev`).
        rdev: attr.device.1 & 0xff | attr.device.0 << 8 | (attr.device.1 & !0xff) << 12,
        blksize: 4096,
        flags: 0,
    }
}

/// "There is no such name", which the kernel may keep too: an entry without a number.
pub(super) fn nothing() -> FileAttr {
    file_attr(&Attr { mode: 0, links: 0, ..Attr::bare(0, FileKind::File) })
}

pub(super) fn entry(reply: ReplyEntry, answer: Answer<Option<Attr>>, holds: Duration) {
    match answer {
        Ok(Some(attr)) => reply.entry(&holds, &file_attr(&attr), Generation(0)),
        Ok(None) => reply.entry(&holds, &nothing(), Generation(0)),
        Err(error) => reply.error(code(error)),
    }
}

pub(super) fn sized(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(code(error)),
    }
}

pub(super) fn done(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(error)),
    }
}

/// A device number as the kernel packs it (`new_decode_dev`).
pub(super) fn device(packed: u32) -> (u32, u32) {
    (packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xf_ff00)
}

/// A time to set; now is what utimensat(2) calls so.
pub(super) fn wanted_time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::Now => (0, rustix::fs::UTIME_NOW as u32),
        TimeOrNow::SpecificTime(time) => match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let nanos = before.subsec_nanos();
                let whole = -(before.as_secs() as i64);
                if nanos == 0 { (whole, 0) } else { (whole - 1, 1_000_000_000 - nanos) }
            }
        },
    }
}

/// The type of file that a mode asks for.
pub(super) fn kind(mode: u32) -> Option<FileKind> {
    FileKind::of_mode(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_and_devices_survive() {
        for wanted in [(0, 0), (7, 5), (-1, 0), (-2, 999_999_999), (1 << 33, 1)] {
            assert_eq!(wanted_time(TimeOrNow::SpecificTime(time(wanted))), wanted);
        }
        let attr = Attr { device: (0xabc, 0x1_2345), kind: FileKind::CharDevice, ..super::super::list::dot(7) };
        assert_eq!(device(file_attr(&attr).rdev), (0xabc, 0x1_2345));
    }
}
