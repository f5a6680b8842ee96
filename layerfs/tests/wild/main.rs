//! Layers as they are met in the wild, each against what an independent tool makes of the same bytes, name by name.
#![allow(clippy::unwrap_used)] // a failed step fails the test

#[path = "../blocks/mod.rs"]
mod blocks;
mod chains;
#[path = "../common/mod.rs"]
mod common;
mod compressed;
mod large;
mod random;
mod tools;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use layerfs::ingest::{Built, IngestOptions};
use layerfs::store::Store;
use layerfs::tree::Tree;

/// Whether a program is there; said loudly if not.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program} > /dev/null")]).status().unwrap().success();
    if !found {
        println!("SKIPPED: {program}: it is not installed");
    }
    found
}

fn take(store: &Store, bytes: &[u8]) -> fs_base::Result<Built> {
    store.ingest(&mut &bytes[..], &IngestOptions::default())
}

fn open(store: &Store, layers: &[Built]) -> Tree {
    Tree::new(layers.iter().map(|built| store.layer(&built.id).unwrap()).collect())
}

/// The tree of one layer.
fn tree_of(dir: &Path, bytes: &[u8]) -> Tree {
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let built = take(&store, bytes).unwrap();
    open(&store, &[built])
}
