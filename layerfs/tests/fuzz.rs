//! The fuzz targets without libFuzzer: seeds, kept findings, and some thousand changes of them.
#![allow(clippy::unwrap_used, missing_docs)] // a failed step fails the test

use std::path::{Path, PathBuf};

#[path = "../fuzz/targets/index.rs"]
mod index;
#[path = "../fuzz/targets/merge.rs"]
mod merge;
#[path = "../fuzz/targets/mutate.rs"]
mod mutate;
#[path = "../fuzz/targets/tar.rs"]
mod tar;

fn inputs(target: &str) -> [PathBuf; 2] {
    ["seeds", "findings"].map(|kind| Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target))
}

fn run(name: &str, target: fn(&[u8], &Path), count: u64) {
    let [seeds, findings] = inputs(name);
    mutate::run(target, &[&seeds, &findings], count);
}

#[test]
fn the_tar_parser() {
    run("tar", tar::run, 3000);
}

#[test]
fn the_index_reader() {
    run("index", index::run, 6000);
}

#[test]
fn whiteouts_and_the_merge() {
    run("merge", merge::run, 3000);
}

/// Else the target would look at superblocks only.
#[test]
fn the_seeds_of_the_index_reader_open() {
    let [seeds, _] = inputs("index");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(seeds).unwrap() {
        let mut bytes = std::fs::read(entry.unwrap().path()).unwrap();
        index::mend(&mut bytes);
        let path = dir.path().join("index");
        std::fs::write(&path, bytes).unwrap();
        let opened = layerfs::erofs::Index::open(&path).unwrap();
        assert!(opened.inode(opened.root()).unwrap().is_dir());
    }
}
