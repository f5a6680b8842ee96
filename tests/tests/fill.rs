//! A new volume gets what the image has where it is mounted: a real layer, the copy engine and the volumes together.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use fs_base::ContainerId;
use fs_base::sys::root::Root;
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tree::Tree;
use system_tests::{can, sh};
use volumes::conformance::Memory;
use volumes::parse::{self, Sources};
use volumes::{MountPoint, Volumes};

/// An image with a directory that has all kinds of things in it, made by GNU tar.
fn image(store: &Store, dir: &Path) -> Tree {
    sh(
        dir,
        "mkdir -p src/data/sub src/empty && cd src && echo hello > data/file && ln data/file data/again \
         && ln -s file data/link && truncate -s 8M data/hole && echo end >> data/hole && chmod 4755 data/sub \
         && touch -d @1500000000 data/file && chown 7:8 data/file data && chmod 1770 data && touch -d @1400000000 data \
         && tar --sparse --format=pax -cf ../layer.tar data empty",
    );
    let mut tar = std::fs::File::open(dir.join("layer.tar")).unwrap();
    let built = store.ingest(&mut tar, &IngestOptions::default()).unwrap();
    Tree::new(vec![store.layer(&built.id).unwrap()])
}

fn mount_points(volumes: &Volumes, binds: &[&str]) -> Vec<MountPoint> {
    let binds: Vec<String> = binds.iter().map(|&bind| bind.to_owned()).collect();
    let requests = parse::merge(&Sources { binds: &binds, ..Sources::default() }).unwrap();
    volumes.attach(&ContainerId::random().unwrap(), &requests).unwrap().points
}

/// What the daemon does when it makes a container.
fn fill(volumes: &Volumes, tree: &Tree, point: &MountPoint) -> bool {
    let Some(filling) = volumes.fill(point).unwrap() else { return false };
    let into = Root::open(&filling.dir()).unwrap();
    let filled = layerfs::archive::populate(tree, &point.target, &into).unwrap().is_some();
    filling.publish().unwrap();
    filled
}

#[test]
fn a_volume_holds_exactly_what_the_image_has() {
    if !can("other owners' files (needs root)", rustix::process::geteuid().is_root()) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let tree = image(&store, root.path());
    let volumes = Volumes::open(root.path(), Arc::new(Memory::default())).unwrap();
    let points = mount_points(&volumes, &["full:/data", "none:/nothing", "empty:/empty", "raw:/data/sub:nocopy"]);
    let by_target = |target: &str| points.iter().find(|point| point.target == Path::new(target)).unwrap();
    assert!(fill(&volumes, &tree, by_target("/data")));
    assert!(!fill(&volumes, &tree, by_target("/nothing")));
    assert!(!fill(&volumes, &tree, by_target("/data/sub")));
    fill(&volumes, &tree, by_target("/empty"));
    assert!(!fill(&volumes, &tree, by_target("/data")), "a volume is filled once");

    // Names, kinds, modes, owners, sizes, times, links, and every byte.
    let list = "find . -printf '%P %y %m %U %G %s %n %T@ %l\\n' | grep -v '^ \\|^sub \\| d ' | sort; \
                find . -type d -printf '%P %m %U %G %T@\\n' | sort; find . -type f -exec sha256sum {} + | sort -k2";
    let data = root.path().join("volumes/full/_data");
    let unpacked = root.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    sh(root.path(), "tar -xpf layer.tar -C unpacked");
    assert_eq!(sh(&data, list), sh(&unpacked.join("data"), list));
    let metadata = data.metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777), (7, 8, 0o1770));
    assert!(data.join("hole").metadata().unwrap().blocks() < 100, "holes stay holes");
    assert_eq!(data.join("file").metadata().unwrap().ino(), data.join("again").metadata().unwrap().ino());
    assert_eq!(std::fs::read_dir(root.path().join("volumes/empty/_data")).unwrap().count(), 0);
    for name in ["full", "none", "empty", "raw"] {
        let left = std::fs::read_dir(root.path().join("volumes").join(name)).unwrap().count();
        assert_eq!(left, 1, "{name}: only its data");
    }
}

/// Dropped in the middle, as by an error, and interrupted by a crash before and after it was complete.
#[test]
fn a_filling_that_does_not_finish_leaves_the_volume_empty() {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(root.path(), Arc::new(Memory::default())).unwrap();
    let points = mount_points(&volumes, &["data:/data"]);
    let data = root.path().join("volumes/data/_data");
    let filling = volumes.fill(&points[0]).unwrap().unwrap();
    std::fs::write(filling.dir().join("half"), "").unwrap();
    let dir = filling.dir();
    drop(filling);
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("half"), "").unwrap();
    volumes.recover(&|_| true, &|_| true).unwrap();
    assert!(!dir.exists());
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}
