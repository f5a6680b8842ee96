//! Files that are the same by content, against what sha256sum says of the layers that GNU tar unpacks.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::sh;
use layerfs::duplicates::{Duplicates, find};
use layerfs::ingest::IngestOptions;
use layerfs::store::{Layer, Store};

fn layers(dir: &Path, names: &[&str]) -> Vec<Arc<Layer>> {
    let store = Store::open(&dir.join("store")).unwrap();
    let open = |name: &&str| {
        let mut tar = std::fs::File::open(dir.join(name)).unwrap();
        store.layer(&store.ingest(&mut tar, &IngestOptions::default()).unwrap().id).unwrap()
    };
    names.iter().map(open).collect()
}

fn all(layers: &[Arc<Layer>]) -> Duplicates {
    find(layers, &|| true).unwrap()
}

/// By digest: the layer and inode number of each file, and its size.
fn unpacked(dir: &Path, names: &[&str]) -> BTreeMap<String, (u64, BTreeSet<(usize, String)>)> {
    let mut files: BTreeMap<String, (u64, BTreeSet<(usize, String)>)> = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
        let script = format!(
            "mkdir out-{number}; tar -C out-{number} -xf {name}; cd out-{number}; find . -type f -size +0 -printf '%i %s ' -exec sha256sum {{}} \\;"
        );
        for line in sh(dir, &script).lines() {
            let mut words = line.split_whitespace();
            let (inode, size, digest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let file = files.entry(digest.to_owned()).or_default();
            file.0 = size.parse().unwrap();
            file.1.insert((number, inode.to_owned()));
        }
    }
    files
}

const LAYERS: &str = r"
    mkdir -p a/x b/y c
    for n in $(seq 1 300); do head -c $((n % 37 * 200 + 1)) /dev/urandom > a/x/$n; done
    cp a/x/1? b/y; cp a/x/2? c; cp a/x/10 c/again; cp a/x/37 a/x/twice; ln a/x/1 a/x/hard; cp a/x/111 b/one; cp a/x/111 c/two; head -c 777 /dev/urandom > b/own; cp b/own c/own
    head -c 3000000 /dev/urandom > a/big; cp a/big b/big; printf x | dd of=b/big bs=1 seek=2999999 conv=notrunc status=none
    head -c 123457 /dev/urandom > c/of-its-own-size; : > a/empty; : > b/empty; head -c 5000 /dev/zero > a/zeros; head -c 5000 /dev/zero > c/zeros
    for name in a b c; do tar -C $name -cf $name.tar .; done
";

#[test]
fn what_is_the_same_is_what_sha256sum_says() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), LAYERS);
    let names = ["a.tar", "b.tar", "c.tar"];
    let layers = layers(dir.path(), &names);
    let found = all(&layers);
    let theirs = unpacked(dir.path(), &names);
    assert_eq!(found.files, theirs.values().map(|(_, files)| files.len() as u64).sum::<u64>());
    assert_eq!(found.bytes, theirs.values().map(|(size, files)| size * files.len() as u64).sum::<u64>());
    let expected: BTreeMap<Vec<usize>, (u64, u64, u64, u64)> =
        theirs.values().filter(|(_, files)| files.len() > 1).fold(BTreeMap::new(), |mut groups, (size, files)| {
            let layers: BTreeSet<usize> = files.iter().map(|(layer, _)| *layer).collect();
            let group: &mut (u64, u64, u64, u64) = groups.entry(layers.into_iter().collect()).or_default();
            *group = (group.0 + 1, group.1 + files.len() as u64, group.2 + size, group.3 + size * (files.len() as u64 - 1));
            groups
        });
    let groups: BTreeMap<_, _> =
        found.groups().into_iter().map(|g| (g.layers, (g.contents, g.files, g.bytes, g.again))).collect();
    assert_eq!(groups, expected);
    assert!(groups.len() >= 5, "{groups:?}");
    assert_eq!(found.again(), expected.values().map(|group| group.3).sum::<u64>());
    assert!(found.read < found.bytes);
    let paths = found.paths(&layers, found.same.len()).unwrap();
    for (same, names) in found.same.iter().zip(&paths) {
        let read = |(layer, name): (usize, &Vec<u8>)| {
            let name = std::str::from_utf8(name).unwrap();
            std::fs::read(dir.path().join(format!("out-{layer}{name}"))).unwrap()
        };
        let contents: BTreeSet<_> = same.copies.iter().map(|(layer, _)| *layer).zip(names).map(read).collect();
        assert!(contents.len() == 1 && same.size == contents.first().unwrap().len() as u64, "{names:?}");
    }
    let two = all(&layers[..1]);
    assert_eq!(two.groups().iter().map(|group| group.layers.clone()).collect::<Vec<_>>(), [[0]]);
    assert_eq!(all(&[]), Duplicates::default());
}

/// A file reads the same whether its zeros are stored or are a hole, in whichever format; and costs what is no hole.
#[test]
fn holes_are_zeros_and_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir s; cd s; truncate -s 1M f; for at in 5000 300000 300600 1048570; do printf data | dd of=f bs=1 seek=$at conv=notrunc status=none; done; truncate -s 2T huge; printf end | dd of=huge bs=1 seek=1099511627776 conv=notrunc status=none; cd ..
        tar -C s -cf plain.tar f; tar -C s --format=gnu -S -cf gnu.tar f huge; tar -C s --format=posix -S --sparse-version=1.0 -cf posix.tar f huge",
    );
    let layers = layers(dir.path(), &["plain.tar", "gnu.tar", "posix.tar"]);
    let found = all(&layers);
    assert_eq!(found.same.len(), 2);
    let f = found.same.iter().find(|same| same.size == 1 << 20).unwrap();
    assert_eq!(f.copies.iter().map(|(layer, _)| *layer).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(f.bytes < 40_000 && f.again >= 1 << 20, "{f:?}");
    let huge = found.same.iter().find(|same| same.size == 2 << 40).unwrap();
    assert!(huge.copies.len() == 2 && huge.bytes <= 4 << 20, "{huge:?}");
    assert!(found.read < 16 << 20, "{}", found.read);
}

#[test]
fn work_that_nobody_waits_for_ends() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), LAYERS);
    let layers = layers(dir.path(), &["a.tar", "b.tar"]);
    let asked = AtomicUsize::new(0);
    let error = find(&layers, &|| asked.fetch_add(1, Ordering::Relaxed) < 20).unwrap_err();
    assert!(error.class() == fs_base::Class::Unavailable && asked.into_inner() < 30, "{error}");
}
