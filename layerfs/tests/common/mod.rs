//! What several test files use: shell steps, and whole trees as text that can be compared.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test file uses a part of it; a failed step fails the test

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_base::sys::mount::Mount;
use layerfs::driver::Choice;
use layerfs::erofs::FileKind;
use layerfs::tree::{Entry, Tree};

pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Prints why a test does nothing here, and whether it can run.
pub fn may_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: kernel mounts: needs root");
    }
    root
}

pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {what}: needs root");
    }
    root
}

/// The program that serves trees by FUSE: cargo puts it beside the folder of the tests' programs. Without it, that driver
/// is skipped, and says so.
pub fn fuse_program() -> Option<&'static Path> {
    static PROGRAM: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    let find = || {
        let dir = std::env::current_exe().ok()?;
        Some(dir.parent()?.parent()?.join("fsd-fuse")).filter(|program| program.exists())
    };
    PROGRAM.get_or_init(find).as_deref()
}

/// This driver, and the best way of stacking.
pub fn named(driver: &str) -> Choice<'_> {
    Choice { driver: Some(driver), fuse: fuse_program(), ..Choice::default() }
}

/// Everything that one file is, as text, so that a difference reads well.
pub type Listing = BTreeMap<Vec<u8>, String>;

pub fn place_of(mount: &Mount) -> PathBuf {
    use std::os::fd::{AsFd, AsRawFd};
    PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()))
}

/// What a directory on the disk, or a mount, shows.
pub fn list_dir(path: &Path) -> Listing {
    fn go(path: &Path, shown: &[u8], out: &mut Listing) {
        let stat = path.symlink_metadata().unwrap();
        let content = if stat.is_file() {
            std::fs::read(path).unwrap()
        } else if stat.is_symlink() {
            std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let device = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
        let mut text = line(stat.mode(), stat.uid(), stat.gid(), (stat.mtime(), stat.mtime_nsec() as u32), device, &content);
        if !stat.is_dir() {
            write!(text, " links={}", stat.nlink()).unwrap();
        }
        out.insert(shown.to_vec(), text + &attributes_of(path));
        if stat.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name();
                go(&path.join(&name), &[shown, b"/", name.as_bytes()].concat(), out);
            }
        }
    }
    let mut out = Listing::new();
    go(path, b"", &mut out);
    out
}

/// What a tree in user space shows.
pub fn list_tree(tree: &Tree) -> Listing {
    fn go(tree: &Tree, path: &[u8], entry: &Entry, out: &mut Listing) {
        let mut content = Vec::new();
        match entry.metadata.kind {
            FileKind::File => drop(tree.open(entry).unwrap().read_to_end(&mut content).unwrap()),
            FileKind::Symlink => content = tree.read_link(entry).unwrap(),
            _ => {}
        }
        let m = &entry.metadata;
        let mut text = line(m.mode, m.uid, m.gid, (m.mtime, m.mtime_nanos), m.device, &content);
        if !entry.is_dir() {
            write!(text, " links={}", m.links).unwrap();
        }
        out.insert(path.to_vec(), text + &attributes(tree.xattrs(entry).unwrap()));
        if entry.is_dir() {
            for (name, child) in tree.read_dir(entry).unwrap() {
                let found = tree.child(entry, &name).unwrap().unwrap();
                assert_eq!(found.metadata, child.metadata);
                go(tree, &[path, b"/", &name].concat(), &child, out);
            }
        }
    }
    let mut out = Listing::new();
    go(tree, b"", &tree.root().unwrap().unwrap(), &mut out);
    out
}

fn line(mode: u32, uid: u32, gid: u32, mtime: (i64, u32), device: (u32, u32), content: &[u8]) -> String {
    use sha2::Digest;
    let sum = if content.len() > 60 { format!("{:?}", sha2::Sha256::digest(content)) } else { format!("{content:?}") };
    format!("{mode:o} {uid}:{gid} {}.{:09} {device:?} {} {sum}", mtime.0, mtime.1, content.len())
}

fn attributes_of(path: &Path) -> String {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    let all = fs_base::sys::xattr::list(&fd).unwrap();
    attributes(all.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect())
}

fn attributes(all: Vec<(Vec<u8>, Vec<u8>)>) -> String {
    let mut text = String::new();
    for (name, value) in all {
        if !name.starts_with(b"security.selinux") {
            write!(text, " {}={value:?}", OsStr::from_bytes(&name).display()).unwrap();
        }
    }
    text
}

/// A listing without POSIX ACLs: GNU tar keeps them in records of its own.
pub fn without_acls(mut listing: Listing) -> Listing {
    for line in listing.values_mut() {
        while let Some(start) = line.find(" system.posix_acl") {
            let end = line[start..].find(']').unwrap() + start + 1;
            line.replace_range(start..end, "");
        }
    }
    listing
}

/// Fails with the lines that differ only.
pub fn assert_same(left: &Listing, right: &Listing, what: &str) {
    let mut difference = String::new();
    for key in left.keys().chain(right.keys()).collect::<std::collections::BTreeSet<_>>() {
        if left.get(key) != right.get(key) {
            writeln!(difference, "{}\n  - {:?}\n  + {:?}", String::from_utf8_lossy(key), left.get(key), right.get(key)).unwrap();
        }
    }
    assert!(difference.is_empty(), "{what}:\n{difference}");
}
