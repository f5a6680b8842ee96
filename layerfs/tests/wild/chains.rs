//! Chains of many layers, and whiteouts, against umoci.

use std::path::Path;
use std::sync::Arc;

use layerfs::store::Store;
use sha2::Digest as _;

use crate::blocks::{Block, file};
use crate::common::{Listing, assert_same, is_root, list_dir, list_tree, sh};
use crate::{has, open, take};

fn hex(bytes: &[u8]) -> String {
    fs_base::Digest::from_bytes(sha2::Sha256::digest(bytes).into()).hex()
}

/// Layers as an image in an OCI layout, tagged `latest`.
pub fn write_layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        std::fs::write(blobs.join(hex(bytes)), bytes).unwrap();
        format!(
            r#"{{"mediaType": "application/vnd.oci.image.{media_type}", "digest": "sha256:{}", "size": {}}}"#,
            hex(bytes),
            bytes.len()
        )
    };
    let described: Vec<String> = layers.iter().map(|layer| put(layer, "layer.v1.tar")).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!(r#""sha256:{}""#, hex(layer))).collect();
    let config = format!(
        r#"{{"architecture": "amd64", "os": "linux", "config": {{}}, "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
        diff_ids.join(", ")
    );
    let config = put(config.as_bytes(), "config.v1+json");
    let manifest = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{}]}}"#, described.join(", "));
    let manifest = put(manifest.as_bytes(), "manifest.v1+json");
    let named = manifest.replace('}', r#", "annotations": {"org.opencontainers.image.ref.name": "latest"}}"#);
    std::fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion": 2, "manifests": [{named}]}}"#)).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

/// What umoci unpacks of a chain. The times of directories are left out: each layer that puts something into one sets
/// them, and umoci restores those of some. So are counts of links: a name that is taken away stays counted in its layer, as
/// under overlayfs.
fn umoci(dir: &Path, layers: &[Vec<u8>]) -> Listing {
    write_layout(&dir.join("layout"), layers);
    sh(dir, "rm -rf bundle; umoci raw unpack --image layout:latest bundle; rm -rf layout");
    without_times_and_links(list_dir(&dir.join("bundle")))
}

fn ours(dir: &Path, layers: &[Vec<u8>]) -> Listing {
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let built: Vec<_> = layers.iter().map(|layer| take(&store, layer).unwrap()).collect();
    without_times_and_links(list_tree(&open(&store, &built)))
}

fn without_times_and_links(mut listing: Listing) -> Listing {
    for line in listing.values_mut() {
        let is_dir = line.starts_with('4');
        let words = line.split(' ').enumerate().filter(|(n, word)| !(is_dir && *n == 2 || word.starts_with("links=")));
        *line = words.map(|(_, word)| word).collect::<Vec<_>>().join(" ");
    }
    listing
}

fn layer(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn dir(name: &str) -> Vec<u8> {
    Block::new(name.as_bytes(), b'5', 0).number(100, 8, 0o755).alone()
}

fn link(name: &str, flag: u8, target: &str) -> Vec<u8> {
    Block::new(name.as_bytes(), flag, 0).set(157, target.as_bytes()).alone()
}

#[test]
fn whiteouts_and_replacements_are_what_umoci_makes_of_them() {
    if !is_root("owners") || !has("umoci") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layers = [
        layer(&[
            dir("./"),
            dir("a/"),
            file("a/one", b"1"),
            file("a/two", b"2"),
            dir("b/"),
            file("b/x", b"x"),
            dir("b/sub/"),
            file("b/sub/y", b"y"),
            dir("c/"),
            file("c/z", b"z"),
            file("file", b"a file"),
            link("hard", b'1', "file"),
            link("link", b'2', "a"),
            dir("gone/"),
            file("gone/deep", b""),
        ]),
        layer(&[
            file("a/.wh.one", b""),
            dir("b/"),
            file("b/.wh..wh..opq", b""),
            file("b/new", b"new"),
            file(".wh.gone", b""),
            file(".wh.hard", b""),
            file(".wh.link", b""),
            file("c/.wh.never-there", b""),
        ]),
        layer(&[
            dir("gone/"),
            file("gone/again", b"back"),
            file("b/sub", b"a file now"),
            file("a/one", b"back"),
            dir("link/"),
            file("link/in", b""),
        ]),
        layer(&[file("c/.wh.z", b""), file(".wh.file", b""), link("file", b'2', "a/one"), link("c/z", b'2', "../file")]),
    ];
    for count in 1..=layers.len() {
        let chain = &layers[..count];
        let store = tempfile::tempdir().unwrap();
        assert_same(&ours(store.path(), chain), &umoci(folder.path(), chain), &format!("{count} layers"));
    }
}

/// Each layer adds, replaces, and takes away, in directories that all of them share.
fn long_chain(count: usize) -> Vec<Vec<u8>> {
    let one = |n: usize| {
        let mut entries = vec![
            dir("./"),
            dir("shared/"),
            file(&format!("shared/of-{n}"), format!("layer {n}").as_bytes()),
            file("shared/last", format!("{n}").as_bytes()),
            dir(&format!("own-{}/", n % 7)),
            file(&format!("own-{}/of-{n}", n % 7), &[b'x'; 700]),
        ];
        if n % 5 == 4 {
            entries.push(file(&format!("shared/.wh.of-{}", n - 3), b""));
        }
        if n % 50 == 49 {
            entries.extend([file(&format!("own-{}/.wh..wh..opq", n % 7), b"")]);
        }
        layer(&entries)
    };
    (0..count).map(one).collect()
}

#[test]
fn a_chain_of_120_layers_and_one_of_500() {
    if !is_root("owners") || !has("umoci") {
        return;
    }
    for count in [120, 500] {
        let folder = tempfile::tempdir().unwrap();
        let layers = long_chain(count);
        let ours = ours(folder.path(), &layers);
        assert!(ours.len() > count / 2);
        assert_same(&ours, &umoci(folder.path(), &layers), &format!("{count} layers"));
    }
}
