//! The file by which others see that a session lives, and by which they end it for good.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_base::sys::fuse::Mounted;
use fs_base::{Error, IoContext, Result};
use rustix::fs::FlockOperation;

/// Holds the lock for as long as this process, or one that was copied from it, lives.
#[derive(Debug)]
pub struct SessionLock {
    path: PathBuf,
    file: File,
}

impl SessionLock {
    /// Locks the file, shared with the other processes of the session. It is made, unless it must be there already.
    pub fn take(path: &Path, must_exist: bool) -> Result<SessionLock> {
        let path = std::path::absolute(path).at("find", path)?;
        let file = File::options().read(true).write(true).create(!must_exist).truncate(false).open(&path).at("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::busy(format!("{} is locked by somebody else", path.display()))),
            other => other.at("lock", &path).map(|()| SessionLock { path, file }),
        }
    }

    /// Writes down which mount is served, so that others find it wherever it is moved to.
    pub fn note(&self, mount: &Mounted) -> Result<()> {
        let text = format!("{}\n", mount.key());
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        written.at("write", &self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
