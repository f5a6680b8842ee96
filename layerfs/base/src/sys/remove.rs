//! Removing whole trees that others have made, however deep.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Which directory a descriptor is of.
type Identity = (u64, u64);

/// Removes a name of a directory and, if it is a directory itself, all below it. Symlinks are removed, not followed. It is
/// an error if there is no such name, and if something is mounted below it ([`Errno::XDEV`]), which stays as it is.
///
/// Neither the stack nor the number of open files grows with the depth: a process in a container can make directories so
/// deep that the standard library's way, which goes down by calling itself and holds each directory open, ends the process.
/// The way up is by `..`, and only to the directory that the way down came from: one that somebody moves meanwhile is
/// [`Errno::STALE`].
pub fn tree(directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    if !is_dir_after_unlink(directory, name)? {
        return Ok(());
    }
    let mut here = open(directory, name)?;
    let mut way: Vec<(CString, Identity)> = Vec::new();
    loop {
        if let Some(child) = next_directory(here.as_fd())? {
            let below = open(here.as_fd(), child.to_bytes())?;
            way.push((child, identity(here.as_fd())?));
            here = below;
            continue;
        }
        let Some((child, above)) = way.pop() else {
            return rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR);
        };
        let parent = open(here.as_fd(), b"..")?;
        if identity(parent.as_fd())? != above {
            return Err(Errno::STALE);
        }
        rustix::fs::unlinkat(&parent, &child, AtFlags::REMOVEDIR)?;
        here = parent;
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What is mounted below is not part of the tree.
    rustix::fs::openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS)
}

fn identity(directory: BorrowedFd<'_>) -> Result<Identity> {
    rustix::fs::fstat(directory).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Removes what is no directory; says whether it is one.
fn is_dir_after_unlink(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        // POSIX's word for a directory; a file that may not be removed has the same one.
        Err(Errno::PERM) => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { Ok(true) } else { Err(Errno::PERM) }
        }
        Err(error) => Err(error),
    }
}

/// A directory in this one. What else is met before it is removed; if there is none, everything is.
fn next_directory(here: BorrowedFd<'_>) -> Result<Option<CString>> {
    loop {
        let mut is_changed = false;
        for entry in Dir::read_from(here)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                return Ok(Some(name.to_owned()));
            }
            match is_dir_after_unlink(here, name.to_bytes()) {
                Ok(true) => return Ok(Some(name.to_owned())),
                Ok(false) => is_changed = true,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        // Some file systems leave names out of a listing that is changed on the way.
        if !is_changed {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open_path(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_of_everything_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (tree_path, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        std::fs::create_dir_all(tree_path.join("a/b/c")).unwrap();
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink("../../kept", tree_path.join("a/link")).unwrap();
        for n in 0..5000 {
            std::fs::write(tree_path.join(format!("a/b/file-{n}")), "").unwrap();
        }
        for n in 0..300 {
            std::fs::create_dir_all(tree_path.join(format!("a/dir-{n}/x"))).unwrap();
        }
        let parent = open_path(dir.path());
        tree(parent.as_fd(), b"tree").unwrap();
        assert!(!tree_path.exists() && kept.join("file").exists());
        assert_eq!(tree(parent.as_fd(), b"tree"), Err(Errno::NOENT));
        std::fs::write(&tree_path, "").unwrap();
        tree(parent.as_fd(), b"tree").unwrap();
        assert!(!tree_path.exists());
    }

    /// Deeper than a stack is large, and than files may be open.
    #[test]
    fn no_depth_is_too_deep() {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let mut here = open_path(dir.path());
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        let parent = open_path(dir.path());
        let work = move || tree(parent.as_fd(), b"d").unwrap();
        std::thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap().join().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
