//! Bytes that survive a power cut: the only place that calls fsync, rename and link.
//!
//! The order is always: write, sync the file, put it in its place by one atomic step, sync the directory. After
//! the first sync that fails, nothing can be said of what is on the disk: the process-wide latch [`is_poisoned`]
//! closes, and every later durable step is refused until a restart (the lesson of "fsyncgate", 2018).
//!
//! Every step goes through [`step`], which is where tests let it fail (`fault`, in debug builds only). What others do
//! that is durable, such as the database, tells of it by [`step`] and [`poison`].

#[cfg(debug_assertions)]
pub mod fault;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};

use crate::{Error, IoContext, Result};

static POISONED: AtomicBool = AtomicBool::new(false);

/// Whether a sync has failed in this process, so that durable steps are refused.
pub fn is_poisoned() -> bool {
    POISONED.load(Ordering::Acquire)
}

/// Closes the latch: a sync that was not made here (the database's) has failed.
pub fn poison() {
    POISONED.store(true, Ordering::Release);
}

fn refuse_if_poisoned() -> Result<()> {
    if is_poisoned() {
        return Err(Error::unavailable("the store refuses writes: an earlier sync to disk failed")
            .with_hint("check the disk, restart the daemon, then run `ctl system check`"));
    }
    Ok(())
}

/// A durable step is about to be taken, here or by the caller: says whether it may be.
pub fn step(operation: &str, path: &Path) -> Result<()> {
    refuse_if_poisoned()?;
    strike(operation, path).at(operation, path)
}

#[cfg(debug_assertions)]
use fault::strike;

#[cfg(not(debug_assertions))]
#[expect(clippy::unnecessary_wraps, reason = "stands in for what can fail")]
fn strike(_operation: &str, _path: &Path) -> rustix::io::Result<()> {
    Ok(())
}

fn sync(path: &Path, call: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
    refuse_if_poisoned()?;
    let result = strike("sync", path).and_then(|()| call());
    if result.is_err() {
        poison();
    }
    result.at("sync", path)
}

/// What was written to `path` has just been synced by others: where a test can let that fail.
pub fn synced_by_others(path: &Path) -> Result<()> {
    sync(path, || Ok(()))
}

/// Makes a file's bytes and size durable.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    sync(path, || rustix::fs::fsync(file))
}

/// Asks the kernel to start writing a file's dirty pages, and does not wait: a later [`sync_file`] finds less to do.
/// A hint; that it can't be given is no error.
pub fn start_writeback(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: has no memory effects; offset and length 0 mean the whole file.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    sync(path, || rustix::fs::fsync(dir))
}

/// Syncs the whole file system that holds `dir`: cheaper than one sync per file where a tree was written.
pub fn sync_file_system(dir: &Path) -> Result<()> {
    let fd = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", dir)?;
    sync(dir, || rustix::fs::syncfs(fd))
}

/// Writes a whole small file so that a reader sees the old bytes or the new, never a mix, also after a power cut.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    refuse_if_poisoned()?;
    let parent = parent(path);
    let temporary = parent.join(format!(".{}.new", crate::id::random_hex::<8>()?));
    let result = (|| {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary).at("create", &temporary)?;
        file.write_all(bytes).at("write", &temporary)?;
        sync_file(&file, &temporary)?;
        step("rename to", path)?;
        rustix::fs::rename(&temporary, path).at("rename to", path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result?;
    sync_dir(parent)
}

/// Publishes a finished tree or file: syncs the directory that holds its names, moves it to its place and syncs
/// both parents. Fails with [`crate::Class::Conflict`] if `to` exists; nothing is ever replaced.
///
/// The files inside must have been synced by their writers ([`sync_file`] or [`sync_file_system`]).
pub fn publish(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        sync_dir(from)?;
    }
    rename_new(from, to)?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Like [`publish`], but for what takes the place of something: that lies at `from` afterwards. At any moment, and
/// after a power cut, either is there and whole. [`crate::Class::Unsupported`] where the file system can't do it.
pub fn exchange(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        sync_dir(from)?;
    }
    step("exchange with", to)?;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            return Err(Error::unsupported(format!("{}: this file system can't exchange names", to.display())));
        }
        other => other.at("exchange with", to)?,
    }
    sync_dir(parent(to))?;
    sync_dir(parent(from))
}

/// Publishes a finished file over whatever has the name. The file must have been synced.
pub fn publish_over(from: &Path, to: &Path) -> Result<()> {
    step("rename to", to)?;
    rustix::fs::rename(from, to).at("rename to", to)?;
    sync_dir(parent(to))
}

/// Moves to a name that must not exist. Not durable by itself: for trash and the like.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    step("rename to", to)?;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems have no RENAME_NOREPLACE; our callers hold a lock on the store, so a look suffices there.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => {
            rustix::fs::rename(from, to).at("rename to", to)
        }
        other => other.at("rename to", to),
    }
}

/// Moves over whatever has the name. Not durable: for sockets and other things that end with the machine.
pub fn replace(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to).at("rename to", to)
}

/// Gives an unnamed (`O_TMPFILE`) file its name.
pub fn link_unnamed(file: &File, to: &Path) -> Result<()> {
    use std::os::fd::AsRawFd;
    step("link", to)?;
    let source = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::linkat(CWD, source, CWD, to, AtFlags::SYMLINK_FOLLOW).at("link", to)?;
    sync_dir(parent(to))
}

/// Gives the file `old` of one directory a second name in another. A symlink is linked itself. Not durable by itself.
pub fn link_at(old_dir: BorrowedFd<'_>, old: &Path, new_dir: BorrowedFd<'_>, new: &Path) -> Result<()> {
    rustix::fs::linkat(old_dir, old, new_dir, new, AtFlags::empty()).at("link", new)
}

/// Moves a name from one open directory to another. Not durable by itself: for file systems that are served to others,
/// who sync when they want it. The errno is theirs too.
pub fn rename_at(
    old_dir: BorrowedFd<'_>,
    old: &[u8],
    new_dir: BorrowedFd<'_>,
    new: &[u8],
    flags: RenameFlags,
) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(old_dir, old, new_dir, new, flags)
}

/// Gives a file, open in whatever way, one more name. Not durable by itself.
pub fn link_fd_at(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, source, dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// Syncs somebody else's file or directory because he asks for it: a failure is his to know, and says nothing about the
/// store.
pub fn sync_for_others(file: BorrowedFd<'_>, data_only: bool) -> rustix::io::Result<()> {
    if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, b"1", 0o600).unwrap();
        publish(&a, &b).unwrap();
        write(&a, b"2", 0o600).unwrap();
        assert_eq!(publish(&a, &b).unwrap_err().class(), crate::Class::Conflict);
        assert_eq!(std::fs::read(&b).unwrap(), b"1");
    }

    #[test]
    fn exchange_keeps_both() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::fs::write(a.join("new"), "").unwrap();
        exchange(&a, &b).unwrap();
        assert!(b.join("new").exists() && !a.join("new").exists() && a.is_dir());
        assert_eq!(exchange(&a, &dir.path().join("none")).unwrap_err().class(), crate::Class::NotFound);
    }

    #[test]
    fn write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("x"), b"1", 0o640).unwrap();
        write(&dir.path().join("x"), b"2", 0o640).unwrap();
        assert!(write(&dir.path().join("no/x"), b"2", 0o640).is_err());
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["x"]);
    }
}
