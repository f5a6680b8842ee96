use std::collections::BTreeMap;
use std::sync::Arc;

use fs_base::{ContainerId, Propagation, VolumeName};

use super::*;
use crate::NewVolume;
use crate::conformance::Memory;
use crate::parse::{self, BindPropagation, Sources, Tmpfs};

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

fn store() -> (tempfile::TempDir, Volumes) {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(root.path(), Arc::new(Memory::default())).unwrap();
    (root, volumes)
}

fn relabel((point, spec): (MountPoint, MountSpec)) -> Result<()> {
    store().1.relabel(&[point], &[spec], &labels())
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
    for (mount, is_own, label) in [
        (bind(path, ""), false, none),
        (bind(path, "ro,rslave"), false, none),
        (bind(path, "ro,z"), false, Some(SHARED)),
        (bind(path, "Z,ro"), false, Some(PRIVATE)),
        (volume(path, "z"), true, Some(SHARED)),
        (volume(path, "Z"), true, Some(PRIVATE)),
        (volume(path, ""), true, Some(SHARED)),
        (volume(path, "ro"), true, none),
        (volume(path, "nocopy"), true, none),
        (volume(path, "ro,z"), true, Some(SHARED)),
        (volume(path, ""), false, none),
        (volume(path, "z"), false, Some(SHARED)),
        (volume(path, "Z"), false, Some(PRIVATE)),
        (tmpfs, false, none),
    ] {
        assert_eq!(labels().of(&mount.0, is_own), label, "{is_own} {:?}", mount.0);
    }
}

/// As a daemon does it, from what is written on the command line.
#[test]
fn only_a_volume_of_our_own_is_labelled_unasked() {
    let Some(dir) = able() else { return };
    let (root, volumes) = store();
    let options = |device: &Path| {
        BTreeMap::from(
            [("type", "none"), ("o", "bind"), ("device", device.to_str().unwrap())]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        )
    };
    let new = NewVolume { name: Some("theirs".to_owned()), options: Some(options(dir.path())), ..NewVolume::default() };
    volumes.create(new).unwrap();
    let start = |bind: &str| {
        let (id, binds) = (ContainerId::random().unwrap(), [bind.to_owned()]);
        let requests = parse::merge(&Sources { binds: &binds, ..Sources::default() }).unwrap();
        let points = volumes.attach(&id, &requests).unwrap().points;
        volumes.relabel(&points, &volumes.prepare(&points).unwrap(), &labels()).unwrap();
        volumes.detach(&id, &points, true).unwrap();
    };
    let data = |name: &str| label_of(&root.path().join("volumes").join(name).join("_data"));
    label::file(dir.path(), PRIVATE).unwrap();
    for bind in ["theirs:/x", "theirs:/x:ro", "theirs:/x:nocopy"] {
        start(bind);
        assert_eq!(label_of(dir.path()).as_deref(), Some(PRIVATE), "{bind}");
    }
    start("theirs:/x:z");
    assert_eq!(label_of(dir.path()).as_deref(), Some(SHARED));
    start("ours:/x:ro");
    assert_ne!(data("ours").as_deref(), Some(SHARED));
    start("ours:/x");
    assert_eq!(data("ours").as_deref(), Some(SHARED));
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
    let before = ["kept", "kept/file"].map(|name| label_of(&at(name)));
    relabel(bind(&at("way"), "Z")).unwrap();
    for name in ["tree", "tree/file", "tree/a", "tree/a/b", "tree/a/b/file", "tree/\u{e9}", "tree/link"] {
        assert_eq!(label_of(&at(name)).as_deref(), Some(PRIVATE), "{name}");
    }
    assert_eq!(["kept", "kept/file"].map(|name| label_of(&at(name))), before, "a symlink is not followed");
    assert_ne!(before[1].as_deref(), Some(PRIVATE));
    relabel(volume(&at("tree"), "z")).unwrap();
    assert_eq!(label_of(&at("tree/a/b/file")).as_deref(), Some(SHARED));
    relabel(bind(&at("tree/file"), "Z")).unwrap();
    assert_eq!(label_of(&at("tree/file")).as_deref(), Some(PRIVATE), "a file by itself");
    relabel(bind(&at("tree"), "ro")).unwrap();
    assert_eq!(label_of(&at("tree/file")).as_deref(), Some(PRIVATE), "nobody asked");
}

/// A host whose `/bin` and the like are symlinks, and whose homes are elsewhere.
fn merged(path: &Path) -> PathBuf {
    let moves =
        [("/bin", "/usr/bin"), ("/sbin", "/usr/bin"), ("/usr/sbin", "/usr/bin"), ("/lib", "/usr/lib"), ("/home", "/var/home")];
    let moves = moves.into_iter().chain([("/root", "/var/roothome"), ("/srv/way", "/usr"), ("/usr/../etc", "/etc")]);
    let moved = moves.filter_map(|(from, to)| Some((from, Path::new(to).join(path.strip_prefix(from).ok()?))));
    match moved.max_by_key(|(from, _)| from.len()) {
        // `join` of nothing adds a slash, which `Path` does not tell apart.
        Some((_, to)) => to,
        None => path.to_owned(),
    }
}

#[test]
fn what_the_host_needs_is_not_labelled() {
    let plain = |path: &Path| path.to_owned();
    for path in ["/", "/etc", "/etc/", "/usr", "/lib", "/usr/lib", "/usr/sbin", "/home", "/home/me", "/root", "/var/lib"] {
        assert!(is_hosts_own(Path::new(path), plain), "{path}");
        assert!(is_hosts_own(Path::new(path), merged), "{path} of a merged host");
    }
    for path in ["/var/home", "/var/home/me", "/var/roothome", "/srv/way", "/srv/way/lib", "/usr/../etc", "/sbin"] {
        assert!(is_hosts_own(Path::new(path), merged), "{path}");
    }
    for path in ["/home/me/src", "/srv/data", "/usr/share/mine", "/lib/mine", "/root/src", "/var/lib/mine", "/etc/mine"] {
        assert!(!is_hosts_own(Path::new(path), plain), "{path}");
        assert!(!is_hosts_own(Path::new(path), merged), "{path} of a merged host");
    }
}

#[test]
fn the_store_is_not_labelled() {
    let dir = tempfile::tempdir().unwrap();
    let (root, link) = (dir.path().join("above/root"), dir.path().join("link"));
    std::fs::create_dir_all(&root).unwrap();
    std::os::unix::fs::symlink("above", &link).unwrap();
    let volumes = Volumes::open(&link.join("root"), Arc::new(Memory::default())).unwrap();
    for path in [&root, &link, &dir.path().join("above")] {
        let (point, spec) = bind(path, "z");
        let said = volumes.relabel(&[point], &[spec], &labels()).unwrap_err().to_string();
        let path = path.display();
        assert_eq!(said, format!("error setting label on mount source '{path}': SELinux relabeling of {path} is not allowed"));
    }
    let said = relabel(bind(Path::new("/no/such"), "Z")).unwrap_err().to_string();
    assert!(said.starts_with("error setting label on mount source '/no/such'"), "{said}");
}
