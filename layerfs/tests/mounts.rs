//! Chains of layers: what the kernel shows through each driver, what the tree in user space shows, and how they differ.
#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fs_base::sys::mount::{Mount, mount_table};
use fs_base::{Class, LayerId};
use layerfs::diff::{Change, ChangeKind, of_trees};
use layerfs::driver::Mounter;
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tree::{Entry, Tree};

fn sh(dir: &Path, script: &str) {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn may_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: kernel mounts: needs root");
    }
    root
}

/// Three layers: files, changes with whiteouts, and an opaque directory.
const LAYERS: &str = r"
    mkdir -p a/etc a/usr/lib a/gone/deep a/opaque; echo 1 > a/etc/one; echo 2 > a/etc/two; echo lib > a/usr/lib/so; ln -s usr/lib a/lib
    echo x > a/gone/deep/x; echo hidden > a/opaque/old; ln a/etc/one a/etc/hard; chmod 1777 a/opaque; head -c 100000 /dev/urandom > a/big
    mkdir -p b/etc b/usr b/opaque; echo changed > b/etc/two; touch b/.wh.gone b/opaque/.wh..wh..opq; echo new > b/opaque/new; ln -s /etc/two b/usr/link
    mkdir -p c/etc c/gone; touch c/etc/.wh.one; echo back > c/gone/back; chmod 700 c/etc
    for l in a b c; do tar -C $l --xattrs -cf $l.tar .; done
";

fn chain(dir: &Path) -> (Arc<Store>, Vec<LayerId>) {
    sh(dir, LAYERS);
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let ids = ["a", "b", "c"].map(|l| {
        store.ingest(&mut std::fs::File::open(dir.join(format!("{l}.tar"))).unwrap(), &IngestOptions::default()).unwrap().id
    });
    (store, ids.to_vec())
}

fn tree_of(store: &Store, ids: &[LayerId]) -> Tree {
    Tree::new(ids.iter().map(|id| store.layer(id).unwrap()).collect())
}

fn list_tree(tree: &Tree) -> BTreeMap<PathBuf, String> {
    use std::io::Read;
    fn go(tree: &Tree, path: &Path, entry: &Entry, out: &mut BTreeMap<PathBuf, String>) {
        let mut content = Vec::new();
        match entry.metadata.kind {
            layerfs::erofs::FileKind::File => drop(tree.open(entry).unwrap().read_to_end(&mut content).unwrap()),
            layerfs::erofs::FileKind::Symlink => content = tree.read_link(entry).unwrap(),
            _ => {}
        }
        let i = &entry.metadata;
        out.insert(path.to_owned(), line(i.mode, i.uid, i.gid, i.mtime, &content));
        if entry.is_dir() {
            for (name, child) in tree.read_dir(entry).unwrap() {
                go(tree, &path.join(std::ffi::OsStr::from_bytes(&name)), &child, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    go(tree, Path::new("/"), &tree.root().unwrap().unwrap(), &mut out);
    out
}

fn list_mount(mount: &Mount) -> BTreeMap<PathBuf, String> {
    fn go(path: &Path, shown: &Path, out: &mut BTreeMap<PathBuf, String>) {
        let stat = path.symlink_metadata().unwrap();
        let content = if stat.is_file() {
            std::fs::read(path).unwrap()
        } else if stat.is_symlink() {
            std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        out.insert(shown.to_owned(), line(stat.mode(), stat.uid(), stat.gid(), stat.mtime(), &content));
        if stat.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name();
                go(&path.join(&name), &shown.join(&name), out);
            }
        }
    }
    let mut out = BTreeMap::new();
    go(&place_of(mount), Path::new("/"), &mut out);
    out
}

fn place_of(mount: &Mount) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()))
}

fn line(mode: u32, uid: u32, gid: u32, mtime: i64, content: &[u8]) -> String {
    format!("{mode:o} {uid}:{gid} {mtime} {} {:?}", content.len(), &content[..content.len().min(40)])
}

/// What every driver must do, on the file system that holds `dir`.
fn conformance(dir: &Path, driver: &str) {
    let (store, ids) = chain(dir);
    let mounter = match Mounter::new(Arc::clone(&store), Some(driver)) {
        Ok(mounter) => mounter,
        Err(error) if error.class() == Class::Unsupported => {
            println!("SKIPPED: driver {driver}: {error}");
            return;
        }
        Err(error) => panic!("{driver}: {error}"),
    };
    for length in 1..=ids.len() {
        let mount = mounter.image(&ids[..length]).unwrap_or_else(|e| panic!("{driver}: {e} {:?}", e.hint()));
        assert_eq!(list_mount(&mount), list_tree(&tree_of(&store, &ids[..length])), "{driver} with {length} layers");
        assert!(std::fs::write(place_of(&mount).join("x"), "x").is_err(), "{driver}: an image is read-only");
    }
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let mount = mounter.container(&ids, &upper, &work).unwrap_or_else(|e| panic!("{driver}: {e} {:?}", e.hint()));
    std::fs::write(place_of(&mount).join("etc/two"), "mine").unwrap();
    std::fs::remove_file(place_of(&mount).join("big")).unwrap();
    assert_eq!(std::fs::read(upper.join("etc/two")).unwrap(), b"mine");
    assert!(mount_table().unwrap().iter().all(|m| !m.target.starts_with(dir)), "{driver}: nothing is in the mount table");
}

#[test]
fn every_driver_shows_what_the_tree_in_user_space_shows() {
    if may_mount() {
        for driver in ["erofs", "erofs-loop", "overlay"] {
            conformance(tempfile::tempdir().unwrap().path(), driver);
        }
    }
}

#[test]
fn a_store_on_tmpfs_falls_back_and_says_why() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (store, ids) = chain(dir.path());
    let mounter = Mounter::new(Arc::clone(&store), None).unwrap();
    assert!(!mounter.probed()[0].probe.is_supported(), "file-backed EROFS is refused on tmpfs");
    assert!(mounter.probed()[0].probe.why().is_some());
    assert_eq!(list_mount(&mounter.image(&ids).unwrap()), list_tree(&tree_of(&store, &ids)));
}

#[test]
fn an_unknown_driver_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let error = Mounter::new(store, Some("zfs")).unwrap_err();
    assert!(error.to_string().contains("\"zfs\""), "{error}");
    assert!(error.hint().unwrap().contains("erofs"));
}

#[test]
fn paths_are_resolved_inside_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    let tree = tree_of(&store, &ids);
    let size = |path: &str| tree.lookup(path.as_bytes(), true).unwrap().map(|e| e.metadata.size);
    assert_eq!(size("/lib/so"), Some(4));
    assert_eq!(size("usr/link"), Some(8));
    assert_eq!(size("../../../usr/../etc/two"), Some(8));
    assert_eq!(
        (size("/etc/one"), size("/etc/hard"), size("/opaque/old"), size("/gone/deep"), size("/big/x")),
        (None, Some(2), None, None, None)
    );
}

fn text(changes: &[Change]) -> Vec<String> {
    let kind = |c: &Change| match c.kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    changes
        .iter()
        .map(|c| {
            format!("{} {} {:+}{}", kind(c), String::from_utf8_lossy(&c.path), c.size, if c.content { "" } else { " metadata" })
        })
        .collect()
}

#[test]
fn a_diff_of_two_images_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    let (a, c) = (tree_of(&store, &ids[..1]), tree_of(&store, &ids));
    assert!(of_trees(&c, &c).unwrap().is_empty());
    let changes: Vec<_> =
        text(&of_trees(&a, &c).unwrap()).into_iter().filter(|t| !t.ends_with("metadata") || t.contains("/etc ")).collect();
    assert_eq!(
        changes,
        [
            "C /etc +0 metadata",
            "D /etc/one -2",
            "C /etc/two +6",
            "A /gone/back +5",
            "D /gone/deep -2",
            "A /opaque/new +4",
            "D /opaque/old -7",
            "A /usr/link +0"
        ]
    );
}

#[test]
fn check_finds_damage_and_a_bad_index_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    assert!(ids.iter().all(|id| store.check(id, true).unwrap().is_empty()));
    let layer = dir.path().join("store/layers").join(ids[0].hex());
    let before = std::fs::read(layer.join("index")).unwrap();
    std::fs::write(layer.join("index"), b"junk").unwrap();
    assert_eq!(store.check(&ids[0], false).unwrap().len(), 1);
    store.layer(&ids[0]).unwrap();
    assert_eq!(std::fs::read(layer.join("index")).unwrap(), before);
    let mut data = std::fs::read(layer.join("data")).unwrap();
    data[600] ^= 1;
    std::fs::write(layer.join("data"), data).unwrap();
    assert!(store.check(&ids[0], false).unwrap().is_empty());
    assert!(store.check(&ids[0], true).unwrap()[0].message.contains("digest"));
}
