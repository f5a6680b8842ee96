//! From a name to an image in the store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fs_base::{Class, Digest, Error, LayerId, Result};
use layerfs::ingest::{IngestOptions, Media};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::{Value, json};

use super::auth::Credentials;
use super::blob::Blob;
use super::client::{Fetched, Repository, bases};
use crate::app::App;
use crate::db::images::PulledAs;
use crate::image::config::check_count;
use crate::image::load::architecture;
use crate::image::{Adding, Config};
use crate::reference::{Reference, familiar};

/// Layers fetched at once. Docker's default.
const AT_ONCE: usize = 3;

/// How long a pull waits for another at the same layer, which ends by itself where its registry hangs.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is to be pulled.
pub struct Request {
    /// Its name.
    pub reference: Reference,
    /// `os/arch[/variant]`; this host's if empty.
    pub platform: String,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// Pulls an image. `tell` is given each line of progress in Docker's shape; the first one comes when the registry
/// has answered for the manifest.
pub fn pull(app: &App, request: &Request, tell: &(dyn Fn(Value) + Sync)) -> Result<()> {
    let adding = Adding::new(app);
    let reference = &request.reference;
    let wanted = reference.digest.map_or_else(|| reference.tag_or_latest().to_owned(), |digest| digest.to_string());
    let (repository, top) = resolve(app, request, &wanted)?;
    tell(json!({"status": format!("Pulling from {}", path_of(reference).1), "id": wanted}));
    let manifest = for_platform(&repository, &top, request)?;
    let config_digest: Digest = manifest.config().digest().to_string().parse()?;
    let config = repository.small_blob(&config_digest)?;
    let diff_ids = Config::parse(&config)?.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers().len() {
        return Err(Error::corrupt(format!(
            "{reference}: the manifest has {} layers, the config {}",
            manifest.layers().len(),
            diff_ids.len()
        )));
    }
    let new = app.db.image(&config_digest)?.is_none();
    check_count(diff_ids.len())?;
    layers(app, &adding, &repository, manifest.layers(), &diff_ids, tell)?;
    let tags = if reference.digest.is_some() { Vec::new() } else { vec![(reference.repository.clone(), wanted)] };
    let had = tags.first().map(|(r, t)| app.db.image_by_tag(r, t)).transpose()?.flatten();
    let pulled = PulledAs { repository: reference.repository.clone(), digest: top.digest, manifest: top.bytes };
    app.db.add_image(&config_digest, &config, &diff_ids, Some(&pulled), &tags)?;
    app.events.object("image", "pull", &reference.to_string(), &[("name", familiar(&reference.repository))]);
    tell(json!({"status": format!("Digest: {}", pulled.digest)}));
    let up_to_date = !new && (tags.is_empty() || had == Some(config_digest));
    let outcome = if up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
    tell(json!({"status": format!("Status: {outcome} {reference}")}));
    Ok(())
}

/// Registry and path of a repository.
fn path_of(reference: &Reference) -> (&str, &str) {
    reference.repository.split_once('/').unwrap_or((&reference.repository, ""))
}

/// The first base that has the manifest.
fn resolve(app: &App, request: &Request, wanted: &str) -> Result<(Repository, Fetched)> {
    let (registry, path) = path_of(&request.reference);
    let mut last = Error::not_found(format!("no registry is configured for {registry}"));
    for base in bases(registry, &app.config.registries) {
        let repository = Repository::new(base, path, request.credentials.clone())?;
        match repository.manifest(wanted) {
            Ok(manifest) => return Ok((repository, manifest)),
            Err(error) => last = error,
        }
    }
    Err(match last.class() {
        Class::NotFound => Error::not_found(format!("manifest for {} not found: {last}", request.reference)),
        Class::Denied => Error::denied(format!(
            "pull access denied for {}, repository does not exist or may require authorization: {last}",
            familiar(&request.reference.repository)
        )),
        _ => last,
    })
}

fn for_platform(repository: &Repository, top: &Fetched, request: &Request) -> Result<ImageManifest> {
    let value: Value = serde_json::from_slice(&top.bytes).map_err(|e| unreadable(&request.reference, &e))?;
    if value["schemaVersion"] != 2 {
        return Err(Error::unsupported(format!(
            "{}: the manifest has schema version {}, only 2 is supported",
            request.reference, value["schemaVersion"]
        )));
    }
    if value.get("manifests").is_none() {
        return serde_json::from_value(value).map_err(|e| unreadable(&request.reference, &e));
    }
    let index: ImageIndex = serde_json::from_value(value).map_err(|e| unreadable(&request.reference, &e))?;
    let platform = if request.platform.is_empty() { format!("linux/{}", architecture()) } else { request.platform.clone() };
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|p| {
            let short = format!("{}/{}", p.os(), p.architecture());
            short == platform || p.variant().as_ref().is_some_and(|variant| format!("{short}/{variant}") == platform)
        })
    };
    let chosen = index.manifests().iter().find(fits).ok_or_else(|| {
        Error::not_found(format!("no matching manifest for {platform} in the manifest list entries of {}", request.reference))
    })?;
    let manifest = repository.manifest(chosen.digest().as_ref())?;
    serde_json::from_slice(&manifest.bytes).map_err(|e| unreadable(&request.reference, &e))
}

fn unreadable(reference: &Reference, error: &serde_json::Error) -> Error {
    Error::corrupt(format!("{reference}: the registry's manifest can't be read: {error}"))
}

/// Brings all layers in, several at a time. The first failure ends the rest at their next layer.
fn layers(
    app: &App,
    adding: &Adding<'_>,
    repository: &Repository,
    blobs: &[Descriptor],
    ids: &[LayerId],
    tell: &(dyn Fn(Value) + Sync),
) -> Result<()> {
    for (blob, id) in blobs.iter().zip(ids) {
        if app.db.layer(id)?.is_none() {
            let known = Media::of_type(blob.media_type().as_ref());
            known.map_err(|error| error.context(format!("layer {}", blob.digest())))?;
        }
    }
    for blob in blobs {
        tell(json!({"status": "Pulling fs layer", "progressDetail": {}, "id": shown(blob)}));
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(blobs.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(blob), Some(id)) = (blobs.get(number), ids.get(number)) else { return };
                    if let Err(error) = layer(app, adding, repository, blob, *id, tell) {
                        next.store(blobs.len(), Ordering::Relaxed);
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

fn layer(
    app: &App,
    adding: &Adding<'_>,
    repository: &Repository,
    blob: &Descriptor,
    id: LayerId,
    tell: &(dyn Fn(Value) + Sync),
) -> Result<()> {
    let name = shown(blob);
    let waiting = || tell(json!({"status": "Waiting", "progressDetail": {}, "id": name}));
    let turn = adding.turn(id.to_string().into_bytes(), PATIENCE, waiting);
    if adding.has(&id)? {
        tell(json!({"status": "Already exists", "progressDetail": {}, "id": name}));
        return Ok(());
    }
    let digest: Digest = blob.digest().to_string().parse()?;
    let total = blob.size();
    let progress =
        |current: u64| tell(json!({"status": "Downloading", "progressDetail": {"current": current, "total": total}, "id": name}));
    let options = IngestOptions {
        expected_diff_id: Some(id),
        expected_blob: Some((digest, total)),
        media: Media::of_type(blob.media_type().as_ref())?,
        limits: app.config.limits,
        progress: Some(&progress),
    };
    let built = adding.ingest(&mut Blob::new(repository, digest, total), &options);
    turn.done(&built.map_err(|e| e.context(format!("layer {digest}")))?);
    tell(json!({"status": "Pull complete", "progressDetail": {}, "id": name}));
    Ok(())
}

fn shown(blob: &Descriptor) -> String {
    let digest = blob.digest().to_string();
    digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex).chars().take(12).collect()
}
