//! The fuzz targets without libFuzzer: seeds, kept findings, and some thousand changes of them.

use std::path::{Path, PathBuf};

#[path = "../../fuzz/targets/archive.rs"]
mod archive;
#[path = "../../fuzz/targets/config.rs"]
mod config;
#[path = "../../../layerfs/fuzz/targets/mutate.rs"]
mod mutate;

fn run(name: &str, target: fn(&[u8], &Path), count: u64) {
    let inputs: [PathBuf; 2] =
        ["seeds", "findings"].map(|kind| Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name));
    mutate::run(target, &[&inputs[0], &inputs[1]], count);
}

#[test]
fn archives_of_images() {
    run("archive", archive::run, 600);
}

#[test]
fn configs_manifests_and_names() {
    run("config", config::run, 20_000);
}
