//! Changes written as a layer, and read in again over what they were made from.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use common::{is_root, sh};
use fs_base::LayerId;
use layerfs::archive::tar_of_changes;
use layerfs::diff::{of_trees, of_upper};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tree::Tree;

fn ingest(store: &Store, mut tar: &[u8]) -> LayerId {
    store.ingest(&mut tar, &IngestOptions::default()).unwrap().id
}

fn tree_of(store: &Store, ids: &[LayerId]) -> Tree {
    Tree::new(ids.iter().map(|id| store.layer(id).unwrap()).collect())
}

#[test]
fn a_layer_of_changes_makes_the_same_tree() {
    if !is_root("whiteouts") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The upper directory as overlayfs writes it, made by hand.
    let script = r"
        mkdir -p l/etc/sub l/keep l/opaque/in l/gone l/swap/dir; for f in same mode gone target; do seq 100 > l/etc/$f; done
        echo x > l/opaque/in/f; echo x > l/gone/f; echo file > l/swap/file; echo x > l/swap/dir/f; tar -C l -cf l.tar .
        mkdir -p u/etc u/opaque u/swap/file u/new/deep; cp -a l/etc/mode u/etc/; chmod 4711 u/etc/mode; chown 7:8 u/etc/mode
        mknod u/etc/gone c 0 0; mknod u/gone c 0 0; setfattr -n trusted.overlay.opaque -v y u/opaque; echo fresh > u/opaque/fresh
        echo inner > u/swap/file/inner; echo 'now a file' > u/swap/dir; echo hard > u/new/a; ln u/new/a u/new/deep/b
        ln -s /etc/same u/new/link; mkfifo u/new/fifo; mknod u/new/null c 1 3; setfattr -n user.x -v y u/new/a
        truncate -s 8M u/new/hole; touch -d '2001-02-03 04:05:06.123456789 UTC' u/new/hole; : > u/new/empty
    ";
    sh(dir.path(), script);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let lower = ingest(&store, &std::fs::read(dir.path().join("l.tar")).unwrap());
    let changed = Tree::with_upper(vec![store.layer(&lower).unwrap()], &dir.path().join("u")).unwrap();
    let changes = of_upper(&tree_of(&store, &[lower]), &dir.path().join("u")).unwrap();
    let mut tar = Vec::new();
    tar_of_changes(&changed, &changes, &mut tar).unwrap();
    assert!(tar.len() < 1 << 20, "holes stay holes");
    std::fs::write(dir.path().join("changes.tar"), &tar).unwrap();
    let listed = sh(dir.path(), "tar tf changes.tar");
    for path in ["etc/.wh.gone", ".wh.gone", "opaque/.wh.in", "new/deep/b", "swap/dir"] {
        assert!(listed.lines().any(|line| line == path), "{path} in {listed}");
    }
    let upper = ingest(&store, &tar);
    let left = of_trees(&changed, &tree_of(&store, &[lower, upper])).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(tar_of_changes(&changed, &[], &mut Vec::new()).unwrap().entries, 0);
}
