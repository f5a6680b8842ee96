//! Space set aside, so that on a full disk a daemon still starts and things can be removed.
//!
//! The database's log has blocks set aside for it while it is open. A daemon that stops takes the log away, and the next
//! one may find that others have filled the disk: for that a file of the store, `reserve`, is given up when it starts
//! and made again when it is up.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// For the log: the pages at which it is used again, and the largest transaction on top.
const LOG: u64 = 1 << 20;
/// For a start: the log, its index in shared memory, and a probe of the mount drivers.
const START: u64 = 3 << 19;

/// Sets blocks aside for the log of the database at this path.
pub fn for_log(database: &Path) {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    if let Ok(file) = File::options().write(true).open(&log) {
        set_aside(&file, LOG);
    }
}

/// The space that the last daemon set aside may be used until this is dropped; then it is set aside again.
#[must_use = "it is set aside again when this is dropped"]
pub struct Lent(PathBuf);

/// Gives up what the last daemon set aside for this start. For who has the store's lock.
pub fn lend(root: &Path) -> Lent {
    let path = root.join("reserve");
    let _ = std::fs::remove_file(&path);
    Lent(path)
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Ok(file) = File::create(&self.0)
            && !set_aside(&file, START)
        {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Whether that was done. Not on a disk that has hardly more, nor where the file system can't: it goes without.
fn set_aside(file: &File, bytes: u64) -> bool {
    let roomy = rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= 3 * bytes);
    roomy && rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes).is_ok()
}
