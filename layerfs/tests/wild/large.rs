//! Sizes that do not fit: files past what an octal field says, and directories of very many names.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_base::{Digest, LayerId};
use layerfs::erofs::Index;
use layerfs::ingest::rebuild_index;
use layerfs::tar::Limits;
use layerfs::tree::Tree;
use rustix::mount::MountAttrFlags;

use crate::blocks::{Block, file, pax};
use crate::common::{may_mount, sh};
use crate::tree_of;

/// A layer's folder through the kernel, and the mount that holds it.
pub fn kernel(dir: &Path) -> (fs_base::sys::mount::Mount, PathBuf) {
    let context = fs_base::sys::mount::FsContext::open("erofs").unwrap();
    context.string("source", dir.join("index")).unwrap();
    context.string("device", dir.join("data")).unwrap();
    context.flag("ro").unwrap();
    let mount = context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    let place = PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()));
    (mount, place)
}

pub fn layer_dir(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir.join("store/layers")).unwrap().next().unwrap().unwrap().path()
}

const BIG: u64 = 9 << 30;

/// Sparse files of 9 GiB and of a terabyte, in each form that GNU tar and bsdtar have for them: what is data and what it
/// says, by GNU tar's copy, by our reader, and by the kernel.
#[test]
fn sparse_files_over_8_gib() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir src; cd src; truncate -s 9G big; truncate -s 1T huge; for at in 0 4096000 8589934592 9663600000; do echo \"at $at\" | dd of=big bs=1 seek=$at conv=notrunc status=none; done; echo end | dd of=huge bs=1 seek=1099511600000 conv=notrunc status=none",
    );
    for writer in [
        "tar --format=gnu --sparse -cf",
        "tar --format=posix --sparse --sparse-version=0.0 -cf",
        "tar --format=posix --sparse --sparse-version=0.1 -cf",
        "tar --format=posix --sparse --sparse-version=1.0 -cf",
        "bsdtar --format=pax -cf",
    ] {
        if writer.starts_with("bsdtar") && !crate::has("bsdtar") {
            continue;
        }
        sh(dir.path(), &format!("{writer} l.tar -C src big huge; rm -rf out; mkdir out; tar -C out -xf l.tar"));
        let layer = tempfile::tempdir().unwrap();
        let tree = tree_of(layer.path(), &std::fs::read(dir.path().join("l.tar")).unwrap());
        let (_mount, place) = kernel(&layer_dir(layer.path()));
        for name in ["big", "huge"] {
            let path = dir.path().join("out").join(name);
            same_sparse(&tree, name, &File::open(&path).unwrap(), writer);
            same_sparse(&tree, name, &File::open(place.join(name)).unwrap(), writer);
        }
    }
}

/// The same size, and the same bytes wherever either has any.
fn same_sparse(tree: &Tree, name: &str, theirs: &File, what: &str) {
    let entry = tree.lookup(name.as_bytes(), false).unwrap().unwrap();
    let ours = tree.open(&entry).unwrap();
    assert_eq!(ours.size(), theirs.metadata().unwrap().len(), "{what}: {name}");
    let mut places: Vec<u64> =
        ours.segments().iter().flat_map(|(at, length)| [*at, (at + length).saturating_sub(4096)]).collect();
    let mut at = 0;
    while let Some((start, end)) = fs_base::sys::copy::next_data(theirs, at, ours.size()) {
        // The kernel's EROFS says that a chunk is data, however much of it is.
        places.extend([start, end.saturating_sub(4096)]);
        at = end;
    }
    places.extend([0, 1 << 32, (1 << 33) - 100, ours.size() - 4096]);
    for place in places {
        let (mut one, mut other) = (vec![0; 4096], vec![0; 4096]);
        let (got, their) = (ours.read_at(&mut one, place).unwrap(), theirs.read_at(&mut other, place).unwrap());
        let both = got.min(their);
        assert!(both > 0 && one[..both] == other[..both], "{what}: {name} at {place}");
    }
}

/// A file that is 9 GiB in the tar itself, its size in base-256 and in a PAX record. The tar is a sparse file, so that
/// nothing is written.
#[test]
fn a_plain_file_over_8_gib() {
    let dir = tempfile::tempdir().unwrap();
    let size = [&[0x80, 0, 0, 0][..], &BIG.to_be_bytes()].concat();
    let base_256 = Block::new(b"big", b'0', 0).set(257, b"ustar  \0").set(124, &size).alone();
    let in_pax = [pax(b'x', &[("size", BIG.to_string().as_bytes())]), Block::new(b"big", b'0', 0).alone()].concat();
    for head in [base_256, in_pax] {
        let data_path = dir.path().join("data");
        let data = File::options().read(true).write(true).create(true).truncate(true).open(&data_path).unwrap();
        let start = head.len() as u64;
        data.write_all_at(&head, 0).unwrap();
        data.write_all_at(b"at the end", start + BIG - 10).unwrap();
        data.write_all_at(&[file("next", b"behind it"), vec![0; 1024]].concat(), start + BIG).unwrap();
        let index_path = dir.path().join("index");
        let _ = std::fs::remove_file(&index_path);
        rebuild_index(&LayerId(Digest::from_bytes([1; 32])), &data, &index_path, Limits::default()).unwrap();
        let names = sh(dir.path(), "tar -tvf data | awk '{ print $3, $6 }'");
        assert_eq!(names, format!("{BIG} big\n9 next\n"));
        let index = Index::open(&index_path).unwrap();
        let nid = index.lookup(index.root(), b"big").unwrap().unwrap();
        assert_eq!(index.inode(nid).unwrap().size, BIG);
        if may_mount() {
            let (_mount, place) = kernel(dir.path());
            let big = File::open(place.join("big")).unwrap();
            let mut end = [0; 20];
            assert_eq!((big.metadata().unwrap().len(), big.read_at(&mut end, BIG - 10).unwrap()), (BIG, 10));
            assert_eq!(&end[..10], b"at the end");
            assert_eq!(std::fs::read(place.join("next")).unwrap(), b"behind it");
        }
    }
}

/// Names in an order that no directory has, so that nothing comes sorted.
fn name(n: u32) -> String {
    format!("{:08x}-of-many", n.wrapping_mul(2_654_435_761))
}

#[test]
fn a_directory_of_200_000_entries() {
    const COUNT: u32 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Block::new(b"many/", b'5', 0).number(100, 8, 0o755).alone();
    for n in 0..COUNT {
        let block = Block::new(format!("many/{}", name(n)).as_bytes(), b'0', u64::from(n % 2));
        bytes.extend(block.number(108, 8, u64::from(n % 1000)).number(136, 12, u64::from(n)).with(&b"x"[..(n % 2) as usize]));
    }
    bytes.resize(bytes.len() + 1024, 0);
    let tree = tree_of(dir.path(), &bytes);
    let many = tree.lookup(b"/many", false).unwrap().unwrap();
    let ours = tree.read_dir(&many).unwrap();
    let names: BTreeSet<Vec<u8>> = ours.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!((ours.len(), names.len()), (COUNT as usize, COUNT as usize));
    std::fs::write(dir.path().join("l.tar"), &bytes).unwrap();
    let listed = sh(dir.path(), "tar -tf l.tar");
    let theirs: BTreeSet<Vec<u8>> = listed.lines().skip(1).map(|line| line.as_bytes()["many/".len()..].to_vec()).collect();
    assert!(names == theirs, "GNU tar lists other names");
    for n in (0..COUNT).step_by(997) {
        let found = tree.child(&many, name(n).as_bytes()).unwrap().unwrap().metadata;
        assert_eq!((found.size, found.uid, found.mtime), (u64::from(n % 2), n % 1000, i64::from(n)));
    }
    assert!(tree.child(&many, b"not-there").unwrap().is_none());
    if may_mount() {
        let (_mount, place) = kernel(&layer_dir(dir.path()));
        let mut count = 0;
        for entry in std::fs::read_dir(place.join("many")).unwrap() {
            let entry = entry.unwrap();
            let stat = entry.metadata().unwrap();
            let text = entry.file_name().into_string().unwrap();
            let n = stat.mtime() as u32;
            assert_eq!((text, stat.uid(), stat.len()), (name(n), n % 1000, u64::from(n % 2)));
            count += 1;
        }
        assert_eq!(count, COUNT);
    }
}
