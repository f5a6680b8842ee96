//! Trees in user space: paths, contents, exact diffs, and what the check of a layer finds.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use common::{is_root, sh};
use fs_base::{Class, LayerId};
use layerfs::diff::{Change, ChangeKind, of_trees, of_upper};
use layerfs::ingest::IngestOptions;
use layerfs::store::{FindingKind, Store};
use layerfs::tree::{Origin, Tree, Walk};

/// Three layers: files, changes with whiteouts, and a directory that comes back.
const LAYERS: &str = r"
    mkdir -p a/etc a/usr/lib a/gone/deep a/opaque; echo 1 > a/etc/one; echo 2 > a/etc/two; echo lib > a/usr/lib/so; ln -s usr/lib a/lib
    echo x > a/gone/deep/x; echo hidden > a/opaque/old; ln a/etc/one a/etc/hard; chmod 1777 a/opaque; head -c 100000 /dev/zero | tr '\0' z > a/big
    mkdir -p b/etc b/usr b/opaque; echo changed > b/etc/two; touch b/.wh.gone b/opaque/.wh..wh..opq; echo new > b/opaque/new; ln -s /etc/two b/usr/link
    chmod 1777 b/opaque; ln -s loop b/loop; ln -s nowhere b/dangling
    mkdir -p c/etc c/gone; touch c/etc/.wh.one; echo back > c/gone/back; chmod 700 c/etc
    for l in a b c; do tar -C $l --xattrs -cf $l.tar .; done
";

fn chain(dir: &Path) -> (Arc<Store>, Vec<LayerId>) {
    sh(dir, LAYERS);
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let ids = ["a", "b", "c"].map(|l| ingest(&store, &dir.join(format!("{l}.tar"))));
    (store, ids.to_vec())
}

fn ingest(store: &Store, tar: &Path) -> LayerId {
    store.ingest(&mut std::fs::File::open(tar).unwrap(), &IngestOptions::default()).unwrap().id
}

fn tree_of(store: &Store, ids: &[LayerId]) -> Tree {
    Tree::new(ids.iter().map(|id| store.layer(id).unwrap()).collect())
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
    for gone in ["/etc/one", "/opaque/old", "/gone/deep", "/big/x", "/dangling", "/nothing"] {
        assert_eq!(size(gone), None, "{gone}");
    }
    assert_eq!(size("/etc/hard"), Some(2));
    assert_eq!(tree.lookup(b"/loop", true).unwrap_err().class(), Class::Invalid);
    assert!(tree.lookup(b"/loop", false).unwrap().is_some());
    assert!(tree.lookup(b"/lib/", false).unwrap().unwrap().is_dir(), "a slash at the end follows");
    assert_eq!(tree.lookup(b"/etc/two", true).unwrap().unwrap().origin, Origin::Layer(1));
    assert!(Tree::new(Vec::new()).root().unwrap().is_none());
    let mut seen = Vec::new();
    let top = tree.lookup(b"/", true).unwrap().unwrap();
    tree.walk(&top, &mut |path, entry| {
        seen.push(String::from_utf8(path.to_vec()).unwrap());
        Ok(if entry.is_dir() && path == b"usr" { Walk::Skip } else { Walk::Continue })
    })
    .unwrap();
    let want =
        ["", "big", "dangling", "etc", "etc/hard", "etc/two", "gone", "gone/back", "lib", "loop", "opaque", "opaque/new", "usr"];
    assert_eq!(seen, want);
}

#[test]
fn a_sparse_file_is_read_anywhere_and_says_where_its_data_is() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir s; truncate -s 1M s/f; printf middle | dd of=s/f bs=1 seek=500000 conv=notrunc status=none; tar -Scf s.tar -C s .",
    );
    let store = Store::open(&dir.path().join("store")).unwrap();
    let tree = tree_of(&store, &[ingest(&store, &dir.path().join("s.tar"))]);
    let mut content = tree.open(&tree.lookup(b"f", true).unwrap().unwrap()).unwrap();
    let mut all = Vec::new();
    content.read_to_end(&mut all).unwrap();
    assert_eq!(all, std::fs::read(dir.path().join("s/f")).unwrap());
    assert!(content.segments().iter().map(|(_, length)| length).sum::<u64>() < 10_000);
    let mut part = [0; 6];
    content.seek(SeekFrom::Start(500_000)).unwrap();
    content.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"middle");
    assert_eq!(content.seek(SeekFrom::End(-1)).unwrap(), (1 << 20) - 1);
    assert_eq!(content.read(&mut part).unwrap(), 1);
    assert_eq!(content.read(&mut part).unwrap(), 0);
    assert!(content.seek(SeekFrom::Current(-(1 << 30))).is_err());
}

fn text(changes: &[Change]) -> Vec<String> {
    let line = |c: &Change| {
        let kind = match c.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        let why = match (c.kind, c.content, c.metadata) {
            (ChangeKind::Modified, true, true) => " both",
            (ChangeKind::Modified, false, true) => " metadata",
            (ChangeKind::Modified, false, false) => " parent",
            _ => "",
        };
        format!("{kind} {} {:+}{why}", String::from_utf8_lossy(&c.path), c.size)
    };
    changes.iter().map(line).collect()
}

#[test]
fn a_diff_of_two_images_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    let (a, c) = (tree_of(&store, &ids[..1]), tree_of(&store, &ids));
    assert!(of_trees(&c, &c).unwrap().is_empty());
    let forward = [
        "A /dangling +0",
        "C /etc +0 metadata",
        "D /etc/one -2",
        "C /etc/two +6",
        "C /gone +0 parent",
        "A /gone/back +5",
        "D /gone/deep -2",
        "A /loop +0",
        "C /opaque +0 parent",
        "A /opaque/new +4",
        "D /opaque/old -7",
        "C /usr +0 parent",
        "A /usr/link +0",
    ];
    assert_eq!(text(&of_trees(&a, &c).unwrap()), forward);
    let back = text(&of_trees(&c, &a).unwrap());
    assert!(back.contains(&"A /gone/deep/x +2".to_owned()), "what comes back is listed file by file: {back:?}");
    let nothing = Tree::new(Vec::new());
    assert_eq!(of_trees(&nothing, &a).unwrap().iter().map(|c| c.size).sum::<i64>(), 100_000 + 2 + 2 + 2 + 4 + 2 + 7);
    assert!(of_trees(&a, &nothing).unwrap().iter().all(|c| c.kind == ChangeKind::Deleted));
}

/// An upper directory as overlayfs writes it, made by hand.
#[test]
fn a_diff_of_a_container_lists_what_changed_and_nothing_else() {
    if !is_root("whiteouts") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r"
        mkdir -p l/etc/sub l/keep l/replaced/in l/gone/deep l/swap l/only l/owner
        for f in same touched content grown mode user attr gone target; do seq 100 > l/etc/$f; done
        ln -s target l/etc/link; ln -s target l/etc/link2; echo 12345 > l/replaced/in/f; echo 123 > l/gone/deep/f; ln l/gone/deep/f l/gone/hard
        echo file > l/swap/was-file; mkdir l/swap/was-dir; echo 12 > l/swap/was-dir/f; echo 1 > l/only/child; chmod 755 l/owner
        truncate -s 1M l/etc/holes
        tar -C l -Scf l.tar .
        cp -a l/. u; cd u; rm -r keep
        touch etc/touched; echo changed > etc/content; dd if=etc/content of=etc/content2 status=none; mv etc/content2 etc/content
        echo more >> etc/grown; chmod 600 etc/mode; chown 7 etc/user; setfattr -n user.x -v y etc/attr; rm etc/gone; mknod etc/gone c 0 0
        mknod etc/never-was c 0 0; ln -sf elsewhere etc/link; echo new > etc/new; mkdir -p etc/newdir/sub; echo 1 > etc/newdir/sub/f
        rm -r gone; mknod gone c 0 0; rm -r replaced/in; setfattr -n trusted.overlay.opaque -v y replaced; echo 1 > replaced/fresh
        rm -r swap/*; mkdir swap/was-file; echo 123 > swap/was-file/inner; echo 1234567 > swap/was-dir; echo 2 > only/child
        setfattr -n trusted.overlay.origin -v zzz owner; setfattr -n user.overlay.opaque -v y only; setfattr -x user.overlay.opaque only
        cp --sparse=never etc/holes etc/h2; touch -r etc/holes etc/h2; mv etc/h2 etc/holes
        find . -exec touch -h -d '2020-01-01' {} +
    ";
    sh(dir.path(), script);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let lower = tree_of(&store, &[ingest(&store, &dir.path().join("l.tar"))]);
    let sizes = |path: &str| std::fs::symlink_metadata(dir.path().join(path)).unwrap().len() as i64;
    let content = sizes("u/etc/content") - sizes("l/etc/content");
    let changes = text(&of_upper(&lower, &dir.path().join("u")).unwrap());
    let want = [
        "C /etc +0 parent".to_owned(),
        "C /etc/attr +0 metadata".to_owned(),
        format!("C /etc/content {content:+}"),
        "D /etc/gone -292".to_owned(),
        "C /etc/grown +5".to_owned(),
        "C /etc/link +0".to_owned(),
        "C /etc/mode +0 metadata".to_owned(),
        "A /etc/new +4".to_owned(),
        "A /etc/newdir +0".to_owned(),
        "A /etc/newdir/sub +0".to_owned(),
        "A /etc/newdir/sub/f +2".to_owned(),
        "C /etc/user +0 metadata".to_owned(),
        "D /gone -4".to_owned(),
        "C /only +0 parent".to_owned(),
        "C /only/child +0".to_owned(),
        "C /replaced +0 parent".to_owned(),
        "A /replaced/fresh +2".to_owned(),
        "D /replaced/in -6".to_owned(),
        "C /swap +0 parent".to_owned(),
        "C /swap/was-dir +5 both".to_owned(),
        "C /swap/was-file -5 both".to_owned(),
        "A /swap/was-file/inner +4".to_owned(),
    ];
    assert_eq!(changes, want);
    let tree = Tree::with_upper(vec![store.layer(&store.list().unwrap()[0]).unwrap()], &dir.path().join("u")).unwrap();
    let of = |path: &str| tree.lookup(path.as_bytes(), true).unwrap();
    assert_eq!(of("/etc/new").unwrap().origin, Origin::Upper);
    assert_eq!(of("/keep").unwrap().origin, Origin::Layer(0));
    assert!(of("/gone").is_none() && of("/replaced/in").is_none());
    assert!(tree.xattrs(&of("/owner").unwrap()).unwrap().is_empty(), "overlayfs's own attributes are not shown");
}

#[test]
fn check_finds_damage_and_says_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    for id in &ids {
        assert_eq!(store.check(id, true).unwrap(), [], "a good layer");
    }
    let layer = dir.path().join("store/layers").join(ids[0].hex());
    let (index, data) = (layer.join("index"), layer.join("data"));
    let (good_index, good_data) = (std::fs::read(&index).unwrap(), std::fs::read(&data).unwrap());
    let kinds = |deep: bool| store.check(&ids[0], deep).unwrap().into_iter().map(|f| f.kind).collect::<Vec<_>>();
    let damaged_data = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good_data.clone();
        change(&mut bytes);
        std::fs::write(&data, bytes).unwrap();
    };

    std::fs::write(&index, b"junk").unwrap();
    assert_eq!(kinds(false), [FindingKind::Index]);
    store.layer(&ids[0]).unwrap();
    assert_eq!(std::fs::read(&index).unwrap(), good_index, "a bad index is built again when the layer is used");

    std::fs::copy(dir.path().join("store/layers").join(ids[1].hex()).join("index"), &index).unwrap();
    assert_eq!(kinds(false), [FindingKind::Index], "the index of another layer");
    store.layer(&ids[0]).unwrap();
    assert_eq!(std::fs::read(&index).unwrap(), good_index);

    // The last byte of metadata: no structure is hurt, but it is not the index of this data.
    let mut bytes = good_index.clone();
    let mode = bytes.len() - bytes.iter().rev().position(|&b| b != 0).unwrap() - 1;
    bytes[mode] ^= 1;
    std::fs::write(&index, &bytes).unwrap();
    assert!(kinds(true).contains(&FindingKind::Index));
    std::fs::write(&index, &good_index).unwrap();

    damaged_data(&|bytes| bytes[600] ^= 1);
    let in_a_file = good_data.windows(4).position(|w| w == b"zzzz").unwrap() + 5000;
    damaged_data(&|bytes| bytes[in_a_file] ^= 1);
    assert_eq!(kinds(false), [], "a flipped bit in a file is not looked for");
    assert_eq!(kinds(true), [FindingKind::Data]);
    damaged_data(&|bytes| bytes.fill(0));
    assert_eq!(kinds(false), [FindingKind::Data], "what a lost write leaves is found without reading everything");
    damaged_data(&|bytes| bytes.truncate(2048));
    assert_eq!(kinds(false), [FindingKind::Data]);
    let error = store.layer(&ids[0]).unwrap_err();
    assert!(error.class() == Class::Corrupt && error.hint().is_some(), "a short layer is not opened: {error}");

    std::fs::write(layer.join("what"), "").unwrap();
    assert_eq!(kinds(false), [FindingKind::Stray("what".into()), FindingKind::Data]);
    assert_eq!(ingest(&store, &dir.path().join("a.tar")), ids[0]);
    assert_eq!(store.check(&ids[0], true).unwrap(), [], "loading it again replaces it");
    std::fs::remove_file(&data).unwrap();
    assert_eq!(kinds(true), [FindingKind::Missing]);
    assert_eq!(store.layer(&ids[0]).unwrap_err().class(), Class::NotFound);
    ingest(&store, &dir.path().join("a.tar"));
    assert_eq!(kinds(true), []);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The index of `layer` as the format's version 1 wrote it: another name in the superblock, and a checksum that is right.
fn as_version_1(index: &Path) {
    let mut bytes = std::fs::read(index).unwrap();
    assert_eq!(&bytes[1088..1099], b"fsd-index-3");
    bytes[1098] = b'1';
    bytes[1028..1032].fill(0);
    let block = 1usize << bytes[1036];
    let summed = if block > 1024 { block - 1024 } else { block };
    let crc = bytes[1024..1024 + summed].iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    });
    bytes[1028..1032].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(index, bytes).unwrap();
}

#[test]
fn indexes_of_another_version_are_built_again_when_the_layer_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    let index_of = |id: &LayerId| dir.path().join("store/layers").join(id.hex()).join("index");
    let before: Vec<_> = ids.iter().map(|id| std::fs::read(index_of(id)).unwrap()).collect();
    for id in &ids {
        as_version_1(&index_of(id));
        let error = layerfs::erofs::Index::open(&index_of(id)).unwrap_err();
        assert!(error.class() == Class::Corrupt && error.to_string().contains("another version"), "{error}");
    }
    let store = Store::open(&dir.path().join("store")).inspect(|_| drop(store)).unwrap();
    assert_eq!(tree_of(&store, &ids).lookup(b"/etc/two", true).unwrap().unwrap().metadata.size, 8);
    for (id, before) in ids.iter().zip(&before) {
        assert!(std::fs::read(index_of(id)).unwrap() == *before, "it is what ingest writes");
        assert!(store.check(id, true).unwrap().is_empty());
    }
    assert_eq!(std::fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_layer_that_passed_raised_limits_can_have_its_index_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // The longest file that ext4 has, made longer than the default limit where the sparse headers tell its size.
    sh(
        dir.path(),
        "mkdir r; truncate -s 17592186040320 r/long; tar -C r -S --format=pax -cf r.tar long; sed -i s/17592186040320/17592186048512/ r.tar",
    );
    let bytes = std::fs::read(dir.path().join("r.tar")).unwrap();
    let limits = layerfs::tar::Limits { file_size: u64::MAX, ..layerfs::tar::Limits::default() };
    assert!(store.ingest(&mut &bytes[..], &IngestOptions::default()).is_err());
    let id = store.ingest(&mut &bytes[..], &IngestOptions { limits, ..IngestOptions::default() }).unwrap().id;
    as_version_1(&dir.path().join("layers").join(id.hex()).join("index"));
    assert_eq!(store.layer(&id).unwrap().index.inodes(), 2);
    assert!(store.check(&id, true).unwrap().is_empty());
}

#[test]
fn a_layer_that_comes_twice_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = chain(dir.path());
    let held = store.layer(&ids[0]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(ingest(&store, &dir.path().join("a.tar")), ids[0]));
        }
    });
    assert!(Arc::ptr_eq(&held, &store.layer(&ids[0]).unwrap()));
    assert_eq!(store.list().unwrap().len(), 3);
    let usage = store.usage(&ids[0]).unwrap();
    assert!(usage.data >= 100_000 && usage.index > 0 && usage.unpacked == 0 && usage.total() == usage.data + usage.index);
    store.remove(&ids[0]).unwrap();
    assert!(!store.contains(&ids[0]) && store.layer(&ids[0]).is_err());
    assert!(held.index.inode(held.index.root()).is_ok(), "who holds it can still read it");
    store.remove(&ids[0]).unwrap();
    store.sweep().unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("store/trash")).unwrap().count(), 0);
}
