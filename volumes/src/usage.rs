//! How much a directory takes on the disk.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use fs_base::{IoContext, Result};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// What a tree takes, as `du` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Allocated bytes: holes take none, a file with several names counts once.
    pub bytes: u64,
    /// Files, directories and all else, each once.
    pub inodes: u64,
    /// Directories that could not be read, or moved away during the walk; what is in them is not counted.
    pub unreadable: u64,
}

/// Unit of `st_blocks`, whatever the file system's own. Source: statx(2).
const BLOCK: u64 = 512;

/// Directories on the way down that are kept open. Deeper ones are found again through `..`, so that a tree
/// of any depth is walked with this many descriptors.
const OPEN_DIRS: usize = 64;

/// Walks the tree at `dir`, which others may be changing: what vanishes meanwhile is not counted. Stays on the
/// file system of `dir` and follows no symlink in it.
pub fn of(dir: &Path) -> Result<Usage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).at("open", dir)?;
    let status = status_of(&fd).at("stat", dir)?;
    let mut walk = Walk { usage: Usage::default(), linked: HashSet::new(), device: (status.stx_dev_major, status.stx_dev_minor) };
    walk.count(&status);
    walk.run(fd, status.stx_ino);
    Ok(walk.usage)
}

struct Walk {
    usage: Usage,
    linked: HashSet<u64>,
    device: (u32, u32),
}

/// A directory on the way from the top to where the walk is.
struct Frame {
    fd: Option<OwnedFd>,
    inode: u64,
    subdirs: Vec<CString>,
}

impl Walk {
    fn run(&mut self, root: OwnedFd, inode: u64) {
        let mut frames = vec![self.read(root, inode)];
        while let Some(top) = frames.last_mut() {
            if let Some(name) = top.subdirs.pop() {
                let entered = top.fd.as_ref().and_then(|fd| self.enter(fd, &name));
                frames.extend(entered);
                if let Some(far) = frames.len().checked_sub(OPEN_DIRS + 1) {
                    frames[far].fd = None;
                }
                continue;
            }
            let done = frames.pop().and_then(|frame| frame.fd);
            let Some(above) = frames.last_mut().filter(|above| above.fd.is_none()) else { continue };
            above.fd = done.and_then(|fd| reopen_parent(&fd, above.inode));
            if above.fd.is_none() {
                // The tree was moved under the walk: there is no way back to what is left of it.
                self.usage.unreadable += frames.len() as u64;
                return;
            }
        }
    }

    fn enter(&mut self, parent: &OwnedFd, name: &CString) -> Option<Frame> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => {
                let status = status_of(&fd).ok()?;
                (self.is_here(&status)).then(|| self.read(fd, status.stx_ino))
            }
            // Gone, or no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(_) => {
                self.usage.unreadable += 1;
                None
            }
        }
    }

    /// Counts the entries of a directory, and notes which of them are directories.
    fn read(&mut self, fd: OwnedFd, inode: u64) -> Frame {
        let mut subdirs = Vec::new();
        let entries = Dir::read_from(&fd).map(|dir| dir.take_while(Result::is_ok).flatten());
        if entries.is_err() {
            self.usage.unreadable += 1;
        }
        for entry in entries.into_iter().flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let Ok(status) = rustix::fs::statx(&fd, name, flags, MASK) else { continue };
            if !self.is_here(&status) {
                continue;
            }
            self.count(&status);
            if is_dir(&status) {
                subdirs.push(name.to_owned());
            }
        }
        Frame { fd: Some(fd), inode, subdirs }
    }

    fn is_here(&self, status: &Statx) -> bool {
        self.device == (status.stx_dev_major, status.stx_dev_minor)
    }

    fn count(&mut self, status: &Statx) {
        if !is_dir(status) && status.stx_nlink > 1 && !self.linked.insert(status.stx_ino) {
            return;
        }
        self.usage.bytes += status.stx_blocks * BLOCK;
        self.usage.inodes += 1;
    }
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS;

fn status_of(fd: &OwnedFd) -> rustix::io::Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, MASK)
}

fn is_dir(status: &Statx) -> bool {
    rustix::fs::FileType::from_raw_mode(status.stx_mode.into()).is_dir()
}

/// The directory above, if it is still the one that the walk came from.
fn reopen_parent(fd: &OwnedFd, inode: u64) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(fd, c"..", flags, Mode::empty()).ok()?;
    (status_of(&parent).ok()?.stx_ino == inode).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, symlink};

    fn du(dir: &Path) -> u64 {
        let output = std::process::Command::new("du").args(["-s", "-x", "-B1"]).arg(dir).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn it_counts_as_du_does() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        std::fs::create_dir_all(top.join("a/b/c")).unwrap();
        std::fs::write(top.join("a/file"), vec![7; 100_000]).unwrap();
        std::fs::hard_link(top.join("a/file"), top.join("a/b/again")).unwrap();
        std::fs::File::create(top.join("a/hole")).unwrap().write_all_at(b"x", 64 << 20).unwrap();
        symlink("/etc", top.join("a/link")).unwrap();
        let usage = of(top).unwrap();
        assert_eq!(usage.bytes, du(top));
        assert!(usage.bytes < 1 << 20);
        assert_eq!((usage.inodes, usage.unreadable), (7, 0));
    }

    #[test]
    fn a_tree_deeper_than_the_open_descriptors_is_walked_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        for level in 0..300 {
            deep.push("d");
            std::fs::create_dir(&deep).unwrap();
            std::fs::write(deep.join("f"), vec![1; 5000]).unwrap();
            if level % 50 == 0 {
                std::fs::create_dir(deep.join("side")).unwrap();
            }
        }
        let usage = of(dir.path()).unwrap();
        assert_eq!(usage.bytes, du(dir.path()));
        assert_eq!(usage.inodes, 1 + 600 + 6);
    }

    #[test]
    fn changes_during_the_walk_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_owned();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let churn = std::thread::spawn({
            let (top, stop) = (top.clone(), stop.clone());
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::create_dir_all(top.join("x/y/z")).unwrap();
                    std::fs::write(top.join("x/y/f"), "1").unwrap();
                    std::fs::rename(top.join("x"), top.join("w")).unwrap();
                    std::fs::remove_dir_all(top.join("w")).unwrap();
                }
            }
        });
        for _ in 0..200 {
            of(&top).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        churn.join().unwrap();
    }
}
