//! Images for tests: real ones from Debian's packages where `make images` made them, small ones made here.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Daemon;

/// Where `make images` puts them: `debian.tar` and `busybox.tar` (docker-archives), `debian-rootfs.tar`.
pub fn made(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("FSD_IMAGES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images"), PathBuf::from);
    let path = folder.join(name);
    crate::can(&format!("{name} (made by `make images`)"), path.exists()).then_some(path)
}

/// The digest of bytes, with its algorithm.
pub fn digest(bytes: &[u8]) -> String {
    fs_base::Digest::from_bytes(Sha256::digest(bytes).into()).to_string()
}

/// A layer tar of these files.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A config for these layers.
pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    config_of(&json!({"Cmd": ["sh"], "Labels": {"k": "v"}}), layers)
}

/// A config that says this of containers.
fn config_of(settings: &Value, layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config: Value = json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    serde_json::to_vec(&config).unwrap()
}

/// A tar of these members, in this order.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A docker-archive of one image, layers first as `docker save` writes them.
pub fn docker_archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    docker_archive_of(name, &config(layers), layers)
}

/// One of an image whose containers are to be so (`Cmd`, `User`, `WorkingDir`, …).
pub fn docker_archive_with(name: &str, settings: &Value, layers: &[&[u8]]) -> Vec<u8> {
    docker_archive_of(name, &config_of(settings, layers), layers)
}

fn docker_archive_of(name: &str, config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut members: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(layers.iter().copied()).collect();
    members.push(("config.json", config));
    members.push(("manifest.json", &manifest));
    archive(&members)
}

/// Gives a daemon an image of these layers.
#[track_caller]
pub fn load(daemon: &Daemon, name: &str, layers: &[&[u8]]) {
    let (status, answer) = daemon.send("POST", "/images/load", &docker_archive(name, layers)).unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout in a tar: an index of two platforms, of which this host's has these layers (gzip).
pub fn oci_archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let config = config(layers);
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{media}"), "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor("config.v1+json", &config),
        "layers": blobs.iter().map(|blob| descriptor("layer.v1.tar+gzip", blob)).collect::<Vec<_>>(),
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut here = descriptor("manifest.v1+json", &manifest);
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = descriptor("manifest.v1+json", b"not here");
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let platforms = serde_json::to_vec(
        &json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [other, here]}),
    )
    .unwrap();
    let mut top = descriptor("index.v1+json", &platforms);
    top["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [top]})).unwrap();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)[7..]);
    let mut members =
        vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()), ("index.json".to_owned(), index)];
    for bytes in [config, manifest, platforms].into_iter().chain(blobs) {
        members.push((path(&bytes), bytes));
    }
    archive(&members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}
