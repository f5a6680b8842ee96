//! Numbers of mounts that no other mount ever gets: those of the mount table go to the next mount as soon as one is gone.
//!
//! Source: statx(2), `STATX_MNT_ID_UNIQUE`; statmount(2); Linux `include/uapi/linux/mount.h`. Both since Linux 6.8.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

/// The number of the mount that `path` is on, a last symlink not followed. `None` where the kernel has none, or does not tell
/// it: of a FUSE mount it tells those only who may look into it. Nothing is asked of the file system itself, which may be
/// dead.
pub fn of_path(path: &Path) -> Option<u64> {
    unique(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// The number of the mount that an open file or path descriptor is on.
pub fn of(fd: impl AsFd) -> Option<u64> {
    unique(fd, Path::new(""), AtFlags::EMPTY_PATH)
}

fn unique(dir: impl AsFd, path: &Path, flags: AtFlags) -> Option<u64> {
    const WANTED: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(dir, path, flags, WANTED).ok()?;
    (found.stx_mask & WANTED.bits() != 0).then_some(found.stx_mnt_id)
}

/// What there is of a mount in this mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is there, with this number in the mount table for now.
    There(u64),
    /// It is not.
    Gone,
    /// The kernel does not tell.
    Unknown,
}

/// `struct mnt_id_req`, as the first kernel with it has it.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// `struct statmount`, up to what is looked at; the rest of its 512 bytes.
#[repr(C)]
struct Answer {
    size: u32,
    options: u32,
    mask: u64,
    file_system: [u64; 3],
    mount: u64,
    parent: u64,
    in_table: u32,
    rest: [u32; 113],
}

/// Looks for the mount that [`of`] gave this number of.
pub fn find(unique: u64) -> Found {
    /// The same on all architectures that Rust's standard library knows.
    const STATMOUNT: libc::c_long = 457;
    const BASIC: u64 = 2;
    let request = Request { size: size_of::<Request>() as u32, spare: 0, mount: unique, wanted: BASIC };
    let mut answer =
        Answer { size: 0, options: 0, mask: 0, file_system: [0; 3], mount: 0, parent: 0, in_table: 0, rest: [0; 113] };
    // SAFETY: `request` is a live `struct mnt_id_req` of the size in it, `answer` is memory of the size given, which the
    // kernel fills with integers.
    let result = unsafe {
        libc::syscall(
            STATMOUNT,
            std::ptr::from_ref(&request),
            std::ptr::from_mut(&mut answer),
            size_of::<Answer>(),
            0 as libc::c_ulong,
        )
    };
    match result {
        0 if answer.mask & BASIC != 0 && answer.mount == unique => Found::There(answer.in_table.into()),
        0 => Found::Unknown,
        _ if std::io::Error::last_os_error().raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Found::Gone,
        _ => Found::Unknown,
    }
}

/// The number of this process's mount namespace, which the mounts in it have their numbers in.
pub fn namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/mnt").ok().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number() {
        let proc = Path::new("/proc");
        let Some(number) = of_path(proc) else { return eprintln!("SKIPPED: kernel: it has no unique numbers of mounts") };
        assert_eq!(of(std::fs::File::open(proc).unwrap()), Some(number));
        let table = super::super::mount::mount_table().unwrap();
        let at_proc: Vec<u64> = table.iter().filter(|mount| mount.target == proc).map(|mount| mount.id).collect();
        match find(number) {
            Found::There(id) => assert!(at_proc.contains(&id), "{id} {at_proc:?}"),
            other => assert_eq!(other, Found::Unknown),
        }
        // As far away as no kernel has counted.
        assert!(matches!(find(1 << 60), Found::Gone | Found::Unknown));
    }
}
