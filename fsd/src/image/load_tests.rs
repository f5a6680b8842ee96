use std::cell::RefCell;
use std::io::{Cursor, Read, Write};

use fs_base::{Class, Error};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tar::Limits;
use serde_json::json;

use super::config::check_count;
use super::load::{Candidate, Loaded, digest_of, load};

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What comes of an archive, and how many layers of it were published.
fn outcome(archive: &[u8]) -> (Result<Vec<Loaded>, Error>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let published = RefCell::new(0);
    let limits = Limits { ratio_floor: 2 << 20, ..Limits::default() };
    let bring = |member: Candidate<'_>, options: &IngestOptions<'_>| {
        *published.borrow_mut() += 1;
        store.ingest(&mut Cursor::new(member.head).chain(member.rest), options)
    };
    let result = load(&mut &archive[..], limits, &bring);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    (result, published.into_inner())
}

/// Each layer is below what is looked at; all of them together are not.
#[test]
fn a_bomb_in_many_small_pieces_is_stopped() {
    let layers: Vec<(String, Vec<u8>)> = (0..100)
        .map(|n| (format!("{n}.tar"), zstd::encode_all(&tar_of(&[("zeros", &vec![n; 1 << 20])])[..], 3).unwrap()))
        .collect();
    let members: Vec<(&str, &[u8])> = layers.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    for archive in [tar_of(&members), gzip(&tar_of(&members))] {
        let (result, published) = outcome(&archive);
        let error = result.unwrap_err();
        assert!(error.class() == Class::Invalid && error.to_string().contains("limit `ratio`"), "{error}");
        assert!((2..60).contains(&published), "{published}");
    }
}

#[test]
fn an_archive_that_is_a_bomb_itself_is_stopped() {
    // No layer by its first bytes, and too large to be kept: it is passed over, as far as it goes.
    let archive = tar_of(&[("junk", &vec![b'x'; 24 << 20])]);
    for bytes in [gzip(&archive), zstd::encode_all(&archive[..], 3).unwrap()] {
        let error = outcome(&bytes).0.unwrap_err();
        assert!(error.to_string().contains("limit `ratio`"), "{error}");
    }
}

#[test]
fn an_image_of_very_many_layers_is_refused() {
    assert!(check_count(500).is_ok());
    assert!(check_count(1001).unwrap_err().to_string().contains("1001 layers: 1000 is the most"));
    let ids = vec![format!("sha256:{}", "0".repeat(64)); 2000];
    let config = serde_json::to_vec(&json!({"rootfs": {"type": "layers", "diff_ids": ids}})).unwrap();
    let manifest = serde_json::to_vec(&json!([{"Config": "c", "RepoTags": null, "Layers": vec!["l.tar"; 2000]}])).unwrap();
    let archive = tar_of(&[("l.tar", &tar_of(&[("f", b"1")])), ("c", &config), ("manifest.json", &manifest)]);
    assert!(outcome(&archive).0.unwrap_err().to_string().contains("2000 layers: 1000 is the most"));
}

/// Foreign layers are mostly not in the archive: it is not taken for damaged.
#[test]
fn an_archive_with_a_foreign_layer_says_so() {
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest_of(bytes).hex());
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest_of(bytes), "size": bytes.len()});
    let config = serde_json::to_vec(&json!({"rootfs": {"type": "layers", "diff_ids": [digest_of(b"elsewhere")]}})).unwrap();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.nondistributable.v1.tar+gzip", b"elsewhere")],
    }))
    .unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &manifest)]});
    let index = serde_json::to_vec(&index).unwrap();
    let archive = tar_of(&[("index.json", &index), (&blob(&manifest), &manifest), (&blob(&config), &config)]);
    let error = outcome(&archive).0.unwrap_err();
    assert!(error.class() == Class::Unsupported && error.to_string().contains("their licence forbids distribution"), "{error}");
}
