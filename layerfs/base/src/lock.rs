//! A folder that belongs to one process at a time.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::{Error, IoContext, Result};

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock file `path` (made if missing), or says at once who holds it ([`crate::Class::Busy`]).
    pub fn take(path: &Path) -> Result<Lock> {
        use std::io::{Read, Seek, Write};
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).at("open", path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Who holds it is for people to read; that it can't be written, on a full disk, is no reason not to.
                let _ = file.rewind().and_then(|()| write!(file, "{}", std::process::id()));
                let _ = file.stream_position().and_then(|end| file.set_len(end));
                Ok(Lock { _file: file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Err(Error::busy(format!("{} is in use by process {}", path.display(), holder.trim()))
                    .with_hint("stop that process first, or choose another folder"))
            }
            Err(error) => Err(error).at("lock", path),
        }
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
}
