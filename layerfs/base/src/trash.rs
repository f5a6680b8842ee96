//! Removal in two steps: out of sight by one rename, out of existence later.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::remove;
use crate::{Class, Error, IoContext, Result, durable, id};

/// A folder on the same file system as what is thrown into it.
#[derive(Debug, Clone)]
pub struct Trash {
    dir: PathBuf,
    /// Shared by its clones.
    soon: Arc<Mutex<Soon>>,
}

/// What [`Trash::sweep_soon`] has under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Soon {
    #[default]
    Nothing,
    Sweeping,
    /// Something was thrown away since that began.
    Again,
}

impl Trash {
    /// The trash in `dir`, made if missing.
    pub fn open(dir: PathBuf) -> Result<Trash> {
        std::fs::create_dir_all(&dir).at("make directory", &dir)?;
        Ok(Trash { dir, soon: Arc::default() })
    }

    /// Takes `path` out of its place, at once and whatever its size. It is gone for readers, and its space is
    /// given back by [`Trash::sweep`]. The place where it lies now is returned. Nothing there is no error.
    pub fn discard(&self, path: &Path) -> Result<Option<PathBuf>> {
        let to = self.dir.join(id::random_hex::<16>()?);
        match durable::rename_new(path, &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.class() == Class::NotFound && !path.exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Like [`Trash::sweep`], on a thread of its own: a large file takes its time, and nobody has to wait for it. `failed`
    /// is told what could not be removed. What a process that ends leaves is there for the next one's sweep.
    pub fn sweep_soon(&self, failed: fn(&Error)) {
        let mut soon = self.soon();
        *soon = match *soon {
            Soon::Nothing => Soon::Sweeping,
            _ => Soon::Again,
        };
        if *soon == Soon::Again {
            return;
        }
        drop(soon);
        let trash = self.clone();
        let started = std::thread::Builder::new().name("sweep".to_owned()).spawn(move || trash.sweep_until_done(failed));
        if started.is_err() {
            self.sweep_until_done(failed);
        }
    }

    fn sweep_until_done(&self, failed: fn(&Error)) {
        loop {
            if let Err(error) = self.sweep() {
                failed(&error);
            }
            let mut soon = self.soon();
            if *soon == Soon::Sweeping {
                *soon = Soon::Nothing;
                return;
            }
            *soon = Soon::Sweeping;
        }
    }

    fn soon(&self) -> MutexGuard<'_, Soon> {
        self.soon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes all that was discarded; goes on after a failure and returns the first one.
    pub fn sweep(&self) -> Result<()> {
        let mut first = Ok(());
        for entry in std::fs::read_dir(&self.dir).at("read directory", &self.dir)? {
            let path = entry.at("read directory", &self.dir)?.path();
            match remove(&path) {
                Err(error) if error.class() != Class::NotFound && first.is_ok() => first = Err(error),
                _ => {}
            }
        }
        first
    }
}

fn remove(path: &Path) -> Result<()> {
    durable::step("remove", path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::internal(format!("{} can't be removed", path.display())));
    };
    let parent = std::fs::File::open(parent).at("open", parent)?;
    // A container may have written what is in it.
    remove::tree(parent.as_fd(), name.as_bytes()).map_err(std::io::Error::from).at("remove", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_is_out_of_sight_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::open(dir.path().join("trash")).unwrap();
        let victim = dir.path().join("tree");
        std::fs::create_dir_all(victim.join("a/b")).unwrap();
        assert!(trash.discard(&victim).unwrap().unwrap().join("a/b").is_dir());
        assert!(!victim.exists());
        assert_eq!(trash.discard(&victim).unwrap(), None);
        trash.sweep().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn many_sweeps_soon_sweep_all_that_was_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::open(dir.path().join("trash")).unwrap();
        for number in 0..200 {
            let victim = dir.path().join(number.to_string());
            std::fs::create_dir_all(victim.join("a/b")).unwrap();
            trash.discard(&victim).unwrap();
            trash.sweep_soon(|error| panic!("{error}"));
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(300);
        while *trash.soon() != Soon::Nothing {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(std::fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    }
}
