//! Removal in two steps: out of sight by one rename, out of existence later.

use std::path::{Path, PathBuf};

use crate::{Class, IoContext, Result, durable, id};

/// A folder on the same file system as what is thrown into it.
#[derive(Debug, Clone)]
pub struct Trash {
    dir: PathBuf,
}

impl Trash {
    /// The trash in `dir`, made if missing.
    pub fn open(dir: PathBuf) -> Result<Trash> {
        std::fs::create_dir_all(&dir).at("make directory", &dir)?;
        Ok(Trash { dir })
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
    if path.symlink_metadata().at("stat", path)?.is_dir() {
        std::fs::remove_dir_all(path).at("remove", path)
    } else {
        std::fs::remove_file(path).at("remove", path)
    }
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
}
