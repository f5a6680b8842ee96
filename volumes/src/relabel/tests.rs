use std::path::PathBuf;

use fs_base::{Propagation, VolumeName};

use super::*;
use crate::parse::{BindPropagation, Tmpfs};

const PRIVATE: &str = "u:object_r:file_t:s0:c1,c2";
const SHARED: &str = "u:object_r:file_t:s0";

fn labels() -> Labels {
    Labels { private: PRIVATE.to_owned(), shared: SHARED.to_owned() }
}

fn bind(source: &Path, mode: &str) -> (MountPoint, MountSpec) {
    let kind = PointKind::Bind {
        source: source.to_owned(),
        propagation: BindPropagation::RPrivate,
        create_source: false,
        recursive: true,
    };
    let spec = MountKind::Bind { source: source.to_owned(), propagation: Propagation::Private, recursive: true };
    pair(kind, spec, mode)
}

fn volume(source: &Path, mode: &str) -> (MountPoint, MountSpec) {
    let name: VolumeName = "data".parse().unwrap();
    let spec = MountKind::Volume { name: "data".to_owned(), source: source.to_owned() };
    let (driver, source) = ("local".to_owned(), source.to_owned());
    pair(PointKind::Volume { name, driver, source, copy: true, anonymous: false }, spec, mode)
}

fn pair(kind: PointKind, spec: MountKind, mode: &str) -> (MountPoint, MountSpec) {
    let target = PathBuf::from("/x");
    let point = MountPoint { target: target.clone(), kind, read_only: false, mode: mode.to_owned() };
    (point, MountSpec { target, kind: spec, read_only: false })
}

fn relabel((point, spec): (MountPoint, MountSpec)) -> Result<()> {
    all(&[point], &[spec], &labels())
}

fn label_of(path: &Path) -> Option<String> {
    let mut value = [0u8; 256];
    let length = rustix::fs::lgetxattr(path, label::ATTRIBUTE, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned())
}

/// Labels are for root to set, whether the kernel has SELinux or not.
fn able() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() && label::file(dir.path(), SHARED).is_ok() && label_of(dir.path()).is_some() {
        return Some(dir);
    }
    println!("SKIPPED: labels of files: needs root, and a file system that has them");
    None
}

#[test]
fn a_mount_gets_the_label_that_its_mode_says() {
    let (path, none) = (Path::new("/s"), None);
    let tmpfs = PointKind::Tmpfs { options: Tmpfs::default(), hidden: false };
    let tmpfs = pair(tmpfs, MountKind::Tmpfs { size: None, mode: None, options: Vec::new() }, "");
    for (mount, label) in [
        (bind(path, ""), none),
        (bind(path, "ro,rslave"), none),
        (bind(path, "ro,z"), Some(SHARED)),
        (bind(path, "Z,ro"), Some(PRIVATE)),
        (volume(path, "z"), Some(SHARED)),
        (volume(path, "Z"), Some(PRIVATE)),
        (volume(path, "ro"), Some(SHARED)),
        (tmpfs, none),
    ] {
        assert_eq!(labels().of(&mount.0), label, "{:?}", mount.0);
    }
}

#[test]
fn a_tree_is_labelled_and_nothing_else() {
    let Some(dir) = able() else { return };
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("tree/a/b")).unwrap();
    std::fs::create_dir(at("kept")).unwrap();
    for file in ["tree/file", "tree/a/b/file", "kept/file", "tree/\u{e9}"] {
        std::fs::write(at(file), "").unwrap();
    }
    std::os::unix::fs::symlink("../kept", at("tree/link")).unwrap();
    std::os::unix::fs::symlink("tree", at("way")).unwrap();
    let before = label_of(&at("kept"));
    relabel(bind(&at("way"), "Z")).unwrap();
    for name in ["tree", "tree/file", "tree/a", "tree/a/b", "tree/a/b/file", "tree/\u{e9}", "tree/link"] {
        assert_eq!(label_of(&at(name)).as_deref(), Some(PRIVATE), "{name}");
    }
    assert_eq!((label_of(&at("kept")), label_of(&at("kept/file"))), (before, label_of(&at("kept/file"))));
    assert_ne!(label_of(&at("kept/file")).as_deref(), Some(PRIVATE), "a symlink is not followed");
    relabel(volume(&at("tree"), "")).unwrap();
    assert_eq!(label_of(&at("tree/a/b/file")).as_deref(), Some(SHARED));
    relabel(bind(&at("tree/file"), "Z")).unwrap();
    assert_eq!(label_of(&at("tree/file")).as_deref(), Some(PRIVATE), "a file by itself");
    relabel(bind(&at("tree"), "ro")).unwrap();
    assert_eq!(label_of(&at("tree/file")).as_deref(), Some(PRIVATE), "nobody asked");
}

#[test]
fn what_the_host_needs_is_not_labelled() {
    for path in ["/", "/etc", "/usr", "/usr/../home", "/var/lib"] {
        if !Path::new(path).exists() {
            continue;
        }
        let said = relabel(bind(Path::new(path), "z")).unwrap_err().to_string();
        let own = Path::new(path).canonicalize().unwrap();
        let want =
            format!("error setting label on mount source '{path}': SELinux relabeling of {} is not allowed", own.display());
        assert_eq!(said, want);
    }
    let said = relabel(bind(Path::new("/no/such"), "Z")).unwrap_err().to_string();
    assert!(said.starts_with("error setting label on mount source '/no/such'"), "{said}");
}
