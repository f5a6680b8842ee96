//! What a layer could claim without an end: depth, headers, attributes. Each is refused or costs what it should.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod blocks;

use std::path::Path;
use std::sync::Arc;

use blocks::{Block, file, pax};
use fs_base::sys::root::Root;
use fs_base::{Class, Error};
use layerfs::archive::{TarOptions, copy_of_tree, tar_of_root, tar_of_tree};
use layerfs::diff;
use layerfs::ingest::{Built, IngestOptions};
use layerfs::store::Store;
use layerfs::tree::{Tree, Walk};

fn take(store: &Store, parts: &[Vec<u8>]) -> Result<Built, Error> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len() + 1024, 0);
    store.ingest(&mut &bytes[..], &IngestOptions::default())
}

fn store(dir: &Path) -> Arc<Store> {
    Arc::new(Store::open(dir).unwrap())
}

fn link(name: &str, target: &str) -> Vec<u8> {
    [pax(b'x', &[("linkpath", target.as_bytes()), ("path", name.as_bytes())]), Block::new(b"l", b'2', 0).alone()].concat()
}

/// Each path is short enough; together they would lead 10,000 directories deep.
#[test]
fn links_lead_no_deeper_than_paths_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Vec::new();
    let steps = vec!["d"; 900].join("/");
    parts.push(link("0", &steps));
    for n in 0..10 {
        parts.push([pax(b'x', &[("path", format!("{n}/{steps}/f").as_bytes())]), file("f", b"")].concat());
        parts.push(link(&(n + 1).to_string(), &format!("{n}/{steps}")));
    }
    let error = take(&store(dir.path()), &parts).unwrap_err();
    assert!(error.class() == Class::Invalid && error.to_string().contains("limit `depth`"), "{error}");
}

/// As deep as a layer may be, on a stack as small as the daemon's threads have.
#[test]
fn the_deepest_tree_is_walked_compared_packed_and_copied() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let layer = |name: &str| {
        let path = format!("{}{name}", "d/".repeat(1023));
        let built = take(&store, &[pax(b'x', &[("path", path.as_bytes())]), file("f", name.as_bytes())]).unwrap();
        Tree::new(vec![store.layer(&built.id).unwrap()])
    };
    let (one, two) = (layer("one"), layer("two"));
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    std::thread::scope(|scope| {
        let work = || {
            let changes = diff::of_trees(&one, &two).unwrap();
            assert_eq!(changes.len(), 1023 + 2, "a file deleted, one added, and the directories on the way");
            assert_eq!(diff::of_trees(&one, &Tree::new(Vec::new())).unwrap().len(), 1);
            assert_eq!(diff::of_trees(&Tree::new(Vec::new()), &one).unwrap().len(), 1024);
            let mut seen = 0;
            one.walk(&one.root().unwrap().unwrap(), &mut |_, _| {
                seen += 1;
                Ok(Walk::Continue)
            })
            .unwrap();
            assert_eq!(seen, 1025);
            tar_of_tree(&one, Path::new("/"), &mut std::io::sink(), TarOptions::default()).unwrap();
            copy_of_tree(&one, Path::new("/."), &Root::open(&to).unwrap()).unwrap();
            let copied = Root::open(&to).unwrap();
            tar_of_root(&copied, Path::new("/"), &mut std::io::sink(), TarOptions::default()).unwrap();
            let changes = diff::of_upper(&two, &to).unwrap();
            assert_eq!(changes.len(), 1023 + 1);
            store.check(&store.list().unwrap()[0], true).unwrap();
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, work).unwrap().join().unwrap();
    });
    let copied = std::fs::read(to.join("d/".repeat(1023)).join("one")).unwrap();
    assert_eq!(copied, b"one");
}

/// One header may be a megabyte; a million of them for one entry may not.
#[test]
fn the_headers_of_one_entry_are_bounded_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let value = vec![b'x'; 60_000];
    let mut parts: Vec<_> = (0..40).map(|n| pax(b'x', &[(&format!("SCHILY.xattr.user.a{n}"), &value[..])])).collect();
    parts.push(file("a", b"1"));
    let error = take(&store, &parts).unwrap_err();
    assert!(error.class() == Class::Invalid && error.to_string().contains("limit `attributes`"), "{error}");
}

/// To look each one up among the others took minutes.
#[test]
fn many_small_attributes_cost_no_more_than_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let names: Vec<String> = (0..9000).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let parts: Vec<_> = (0..50).flat_map(|n| [pax(b'x', &records), file(&format!("f{n}"), b"")]).collect();
    let built = take(&store, &parts).unwrap();
    let tree = Tree::new(vec![store.layer(&built.id).unwrap()]);
    assert_eq!(tree.xattrs(&tree.lookup(b"/f49", false).unwrap().unwrap()).unwrap().len(), 9000);
    assert!(built.index_size < 50 << 20);
}

/// Each path is short and within the limit on links; to follow all of them again and again took a second for each entry's
/// kilobyte.
#[test]
fn links_are_not_followed_for_hours() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    // Each link leads through the one before, and goes down and up on the way.
    let detour = "x/../".repeat(400);
    let mut parts =
        vec![Block::new(b"x/", b'5', 0).alone(), Block::new(b"y/", b'5', 0).alone(), link("0", &format!("{detour}x"))];
    parts.extend((1..38).map(|n| link(&n.to_string(), &format!("{detour}{}", n - 1))));
    let good = take(&store, &[parts.concat(), file("37/one", b"1")]).unwrap();
    assert_eq!(good.entries, 41);
    // Two directories in turn, so that none is that of the last entry.
    parts.extend((0..20_000).flat_map(|n| [file(&format!("37/{n}"), b""), file(&format!("y/{n}"), b"")]));
    let error = take(&store, &parts).unwrap_err();
    assert!(error.class() == Class::Invalid && error.to_string().contains("limit `links`"), "{error}");
}
