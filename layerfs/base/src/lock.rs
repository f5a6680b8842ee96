//! A folder that belongs to one process at a time.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::sys::pid::Process;
use crate::{Class, Error, IoContext, Result};

/// How long a process that has ended may hold its lock, by what it had just begun to start: that has all of its files
/// until it has become its program.
const AFTERLIFE: Duration = Duration::from_secs(10);

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock file `path` (made if missing), or says at once who holds it ([`crate::Class::Busy`]). One that has
    /// ended is waited for, and so is one in another process namespace, which can't be told from one that has.
    pub fn take(path: &Path) -> Result<Lock> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).at("open", path)?;
        let end = Instant::now() + AFTERLIFE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Who holds it is for people to read; that it can't be written, on a full disk, is no reason not to.
                    let _ = file.rewind().and_then(|()| write!(file, "{}", std::process::id()));
                    let _ = file.stream_position().and_then(|end| file.set_len(end));
                    return Ok(Lock { file });
                }
                Err(Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
                    if !has_ended(&holder) || Instant::now() > end {
                        return Err(Error::busy(format!("{} is in use by process {}", path.display(), holder.trim()))
                            .with_hint("stop that process first, or choose another folder"));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).at("lock", path),
            }
        }
    }
}

impl Drop for Lock {
    /// Whoever has the file too, by having been copied from this process, does not keep the lock.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Whether there is no process of this number any more.
fn has_ended(holder: &str) -> bool {
    let Ok(pid) = holder.trim().parse() else { return false };
    match Process::open(pid) {
        Ok(process) => process.has_ended(),
        Err(error) => error.class() == Class::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err();
        assert_eq!(error.class(), crate::Class::Busy);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn what_was_begun_by_one_that_has_ended_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // A shell that has ended by now, and a child of it that still has its file.
        let script = "exec 9> lock; flock -n 9; printf $$ > lock; (sleep 0.3; :) & :";
        let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(dir.path()).status().unwrap();
        assert!(status.success());
        Lock::take(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
    }
}
