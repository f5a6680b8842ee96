use std::path::PathBuf;

use rustix::mount::MountAttrFlags;

use super::*;
use crate::sys::mount::{FsContext, unmount};

const ONE: &str = "u:object_r:file_t:s0:c1,c2";
const OTHER: &str = "u:object_r:file_t:s0";

fn label_of(path: &Path) -> Option<String> {
    let mut value = [0u8; 256];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned())
}

/// Labels are for root to set, whether the kernel has SELinux or not.
fn able() -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    if rustix::process::geteuid().is_root() && file(&path, OTHER).is_ok() && label_of(&path).is_some() {
        return Some((dir, path));
    }
    println!("SKIPPED: labels of files: needs root, and a file system that has them");
    None
}

#[test]
fn a_tree_has_its_label_from_the_bottom_to_the_top() {
    let Some((_dir, path)) = able() else { return };
    let top = path.join("tree");
    std::fs::create_dir_all(top.join("a/b")).unwrap();
    std::fs::write(top.join("a/b/file"), "").unwrap();
    tree(&top, ONE).unwrap();
    for name in ["", "a", "a/b", "a/b/file"] {
        assert_eq!(label_of(&top.join(name)).as_deref(), Some(ONE), "{name:?}");
    }
    file(&top.join("a/b/file"), OTHER).unwrap();
    tree_once(&top, ONE).unwrap();
    assert_eq!(label_of(&top.join("a/b/file")).as_deref(), Some(OTHER), "the top says that all was done");
    file(&top, OTHER).unwrap();
    tree_once(&top, ONE).unwrap();
    assert_eq!(label_of(&top.join("a/b/file")).as_deref(), Some(ONE));
}

/// A daemon's directory may be a symlink to where there is room. What is below may be anybody's.
#[test]
fn a_symlink_on_the_way_is_for_who_owns_it() {
    let Some((_dir, path)) = able() else { return };
    let (way, top) = (path.join("way"), path.join("real/tree"));
    std::fs::create_dir_all(top.join("a")).unwrap();
    std::fs::write(top.join("a/file"), "").unwrap();
    std::fs::write(path.join("other"), "").unwrap();
    std::os::unix::fs::symlink("../../other", top.join("link")).unwrap();
    std::os::unix::fs::symlink("real", &way).unwrap();
    assert!(tree(&way.join("tree"), ONE).is_err());
    assert_ne!(label_of(&top.join("a/file")).as_deref(), Some(ONE));
    tree_once(&way.join("tree"), ONE).unwrap();
    file(&way.join("tree/a"), ONE).unwrap();
    for name in ["", "a", "a/file", "link"] {
        assert_eq!(label_of(&top.join(name)).as_deref(), Some(ONE), "{name:?}");
    }
    assert_ne!(label_of(&path.join("other")).as_deref(), Some(ONE));
}

#[test]
fn other_mounts_are_left_alone() {
    let Some((_dir, path)) = able() else { return };
    let (top, place) = (path.join("tree"), path.join("tree/place"));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(top.join("file"), "").unwrap();
    let memory = FsContext::open("tmpfs").unwrap().mount(MountAttrFlags::empty()).unwrap();
    if memory.attach(&place).is_err() {
        println!("SKIPPED: labels of files: mounts are not allowed here");
        return;
    }
    std::fs::write(place.join("theirs"), "").unwrap();
    let done = tree(&top, ONE);
    let theirs = label_of(&place.join("theirs"));
    unmount(&place, true).unwrap();
    drop(memory);
    done.unwrap();
    assert_eq!(label_of(&top.join("file")).as_deref(), Some(ONE));
    assert_ne!(theirs.as_deref(), Some(ONE));
}

/// Deeper than files may be open, and than a path can be long.
#[test]
fn no_depth_is_too_deep() {
    let Some((dir, _)) = able() else { return };
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { dir };
    let mut here = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        rustix::fs::mkdirat(&here, "e", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    let path = dir.path().canonicalize().unwrap();
    let work = move || tree(&path, ONE);
    std::thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap().join().unwrap().unwrap();
    let proc_path = format!("/proc/self/fd/{}", here.as_raw_fd());
    assert_eq!(label_of(&Path::new(&proc_path).join(".")).as_deref(), Some(ONE));
    let parent = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    crate::sys::remove::tree(parent.as_fd(), b"d").unwrap();
}
