//! Any bytes as the documents that come with an image: its config, a manifest, an index of manifests, a name.

use std::path::Path;

use layerfs::ingest::Media;
use oci_spec::image::{ImageIndex, ImageManifest};

use crate::image::config::{Config, check_count};
use crate::reference::{Reference, familiar};

/// One input.
pub fn run(bytes: &[u8], _folder: &Path) {
    if let Ok(config) = Config::parse(bytes) {
        let _ = (config.labels(), config.created_seconds(), check_count(config.rootfs.diff_ids.len()));
    }
    if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(bytes) {
        for descriptor in manifest.layers() {
            let _ = Media::of_type(descriptor.media_type().as_ref());
            let _ = descriptor.digest().to_string().parse::<fs_base::Digest>();
        }
    }
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(bytes) {
        for descriptor in index.manifests() {
            let _ = descriptor.digest().to_string().parse::<fs_base::Digest>();
        }
    }
    let Some(reference) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Reference>().ok()) else { return };
    // What is shown to a person means the same when it is typed.
    let again: Reference = reference.to_string().parse().expect("a name that was shown is a name");
    assert_eq!(again.repository, reference.repository);
    assert!(reference.digest.is_some() || again.tag_or_latest() == reference.tag_or_latest());
    assert_eq!(again.digest, reference.digest);
    assert!(!familiar(&reference.repository).is_empty());
    assert!(!reference.repository.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
}
