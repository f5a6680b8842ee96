//! A layer that was pulled once, fetched again because the stored one is bad.

use fs_base::{Digest, Error, LayerId, Result};
use layerfs::ingest::{IngestOptions, Media};
use layerfs::store::Store;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde_json::Value;

use super::auth::Logins;
use super::blob::Blob;
use super::client::{Repository, bases};
use crate::config::Config;
use crate::db::layers::LayerSource;

/// Fetches a layer from where it came from, verifies it, and puts it in the place of the stored one. No credentials are
/// kept: who asks for a repair gives his own.
pub fn fetch_again(config: &Config, store: &Store, logins: &Logins, source: &LayerSource, id: &LayerId) -> Result<()> {
    let (registry, path) = source.repository.split_once('/').unwrap_or((&source.repository, ""));
    let mut last = Error::not_found(format!("no registry is configured for {registry}"));
    for base in bases(registry, &config.registries) {
        let login = logins.of(registry);
        let repository = login.and_then(|credentials| Repository::new(base, path, credentials));
        let fetched = repository.and_then(|repository| fetch(&repository, config, store, source, id));
        match fetched {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last.context(format!("fetch it again from {}", source.repository)))
}

fn fetch(repository: &Repository, config: &Config, store: &Store, source: &LayerSource, id: &LayerId) -> Result<()> {
    let manifest = manifest_of(repository, source)?;
    let missing = || Error::corrupt(format!("the manifest of image {} has no layer {}", source.image, source.position));
    let blob = manifest.layers().get(source.position).ok_or_else(missing)?;
    let digest: Digest = blob.digest().to_string().parse()?;
    let options = IngestOptions {
        expected_diff_id: Some(*id),
        expected_blob: Some((digest, blob.size())),
        media: Media::of_type(blob.media_type().as_ref())?,
        limits: config.limits,
        progress: None,
    };
    store.ingest(&mut Blob::new(repository, digest, blob.size()), &options).map(drop)
}

/// The manifest of the image itself: the one that was kept, or out of the index that was kept the one with its config.
fn manifest_of(repository: &Repository, source: &LayerSource) -> Result<ImageManifest> {
    let unreadable = |error| Error::corrupt(format!("the manifest of image {} can't be read: {error}", source.image));
    let value: Value = serde_json::from_slice(&source.manifest).map_err(unreadable)?;
    if value.get("manifests").is_none() {
        return serde_json::from_value(value).map_err(unreadable);
    }
    let index: ImageIndex = serde_json::from_value(value).map_err(unreadable)?;
    for descriptor in index.manifests() {
        let fetched = repository.manifest(descriptor.digest().as_ref())?;
        // Some of them are no images at all.
        let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&fetched.bytes) else { continue };
        if manifest.config().digest().to_string() == source.image.to_string() {
            return Ok(manifest);
        }
    }
    Err(Error::not_found(format!("{} has no manifest for image {} any more", source.repository, source.image)))
}
