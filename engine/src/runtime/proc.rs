//! What of a procfs may be mounted over, and what is one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use fs_base::{Error, IoContext, Result};

/// Where a container has it.
pub const PROC: &str = "/proc";
/// Source: linux/magic.h.
const SUPER_MAGIC: u64 = 0x9fa0;
/// The inode of its root. Source: kernel `include/linux/proc_ns.h`.
const ROOT_INODE: u64 = 1;
/// Files that only tell numbers, which lxcfs and its like replace by the container's own. The same as runc's.
const REPLACEABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// Whether it lies in a procfs.
pub fn is_part(file: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    Ok(rustix::fs::fstatfs(file).at("stat", path)?.f_type as u64 == SUPER_MAGIC)
}

/// Whether it is a procfs, and not a part of one.
pub fn is_root(file: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    Ok(is_part(file, path)? && rustix::fs::fstat(file).at("stat", path)?.st_ino == ROOT_INODE)
}

/// Whether a file may lie over this one.
pub fn is_replaceable(target: &Path, is_dir: bool) -> bool {
    !is_dir && REPLACEABLE.iter().any(|file| target == Path::new(file))
}

/// Refuses what would be in the place of /proc, or in it, by its name.
pub fn refuse_bind(source: BorrowedFd<'_>, is_dir: bool, target: &Path) -> Result<()> {
    if target == Path::new(PROC) {
        return if is_root(source, target)? { Ok(()) } else { refuse_over(target) };
    }
    if target.starts_with(PROC) && !is_replaceable(target, is_dir) {
        return Err(inside(target));
    }
    Ok(())
}

/// Refuses another file system in the place of /proc.
pub fn refuse_over(target: &Path) -> Result<()> {
    if target != Path::new(PROC) {
        return Ok(());
    }
    // runc's words.
    Err(Error::denied(format!("{PROC} cannot be mounted because it is not of type proc")))
}

/// Whatever is mounted over a part of procfs could fool those who trust it.
pub fn refuse_inside(place: &OwnedFd, target: &Path) -> Result<()> {
    if is_part(place.as_fd(), target)? { Err(inside(target)) } else { Ok(()) }
}

// runc's words.
fn inside(target: &Path) -> Error {
    Error::denied(format!("{} cannot be mounted because it is inside /proc", target.display()))
}
