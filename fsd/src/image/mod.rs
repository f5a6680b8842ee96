//! Images: found by name, listed, tagged, removed.

pub mod config;
pub mod load;
pub mod tree;

use std::io::Read;

use fs_base::{Digest, Error, Result};
use layerfs::ingest::Built;

use crate::app::App;
use crate::db::images::ImageRow;
use crate::db::layers::LayerRow;
use crate::reference::{Reference, familiar};
pub use config::Config;
pub use load::Loaded;

/// What removing an image did, in Docker's order and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or layer is gone.
    Deleted(String),
}

/// Loads an archive and records its images.
pub fn load(app: &App, input: &mut (dyn Read + Send)) -> Result<Vec<Loaded>> {
    let images = {
        let _adding = app.collecting.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let images = load::load(&app.store, input, app.config.limits, &|built| app.db.add_layer(&row_of(built)))?;
        for image in &images {
            app.db.add_image(&image.id, &image.config, &image.layers, None, &image.tags)?;
        }
        images
    };
    app.collect()?;
    Ok(images)
}

/// The row of a layer that was just ingested.
pub fn row_of(built: &Built) -> LayerRow {
    LayerRow {
        id: built.id,
        data_size: built.data_size,
        index_size: built.index_size,
        file_bytes: built.file_bytes,
        entries: built.entries,
    }
}

/// Makes an image of one layer out of a root filesystem's tar.
pub fn import(app: &App, input: &mut (dyn Read + Send), name: &str, message: &str) -> Result<Digest> {
    let reference = if name.is_empty() { None } else { Some(name.parse::<Reference>()?) };
    let _adding = app.collecting.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let options = layerfs::ingest::IngestOptions { limits: app.config.limits, ..Default::default() };
    let built = app.store.ingest(input, &options)?;
    app.db.add_layer(&row_of(&built))?;
    let created = jiff::Timestamp::now().to_string();
    let config = serde_json::json!({
        "architecture": load::architecture(), "os": "linux", "created": created, "comment": message, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [built.id]},
        "history": [{"created": created, "comment": if message.is_empty() { "Imported from -" } else { message }}],
    });
    let config = config.to_string().into_bytes();
    let id = load::digest_of(&config);
    let tags = reference.map(|r| (r.repository.clone(), r.tag_or_latest().to_owned()));
    app.db.add_image(&id, &config, &[built.id], None, tags.as_slice())?;
    Ok(id)
}

fn no_such(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}

/// The image that a person means: an id, the start of one, or a name.
pub fn find(app: &App, name: &str) -> Result<ImageRow> {
    let id = find_id(app, name)?.ok_or_else(|| match name.parse::<Reference>() {
        Ok(reference) => no_such(&reference.to_string()),
        Err(_) => no_such(name),
    })?;
    app.db.image(&id)?.ok_or_else(|| no_such(name))
}

fn find_id(app: &App, name: &str) -> Result<Option<Digest>> {
    if let Ok(digest) = name.parse::<Digest>() {
        return Ok(app.db.image(&digest)?.map(|image| image.id));
    }
    if let Ok(reference) = name.parse::<Reference>() {
        let found = match &reference.digest {
            Some(digest) => app.db.image_by_digest(&reference.repository, digest)?,
            None => app.db.image_by_tag(&reference.repository, reference.tag_or_latest())?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(None);
    }
    match app.db.images_by_prefix(hex)?[..] {
        [] => Ok(None),
        [id] => Ok(Some(id)),
        _ => Err(Error::conflict(format!("the id {name:?} is ambiguous")).with_hint("give more of its digits")),
    }
}

/// Gives an image a further name.
pub fn tag(app: &App, name: &str, repository: &str, tag: &str) -> Result<()> {
    let image = find(app, name)?;
    let target = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
    let reference: Reference = target.parse()?;
    if reference.digest.is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    app.db.tag_image(&reference.repository, reference.tag_or_latest(), &image.id)
}

/// The names of an image as people see them.
pub fn shown_tags(image: &ImageRow) -> Vec<String> {
    image.tags.iter().map(|(repository, tag)| format!("{}:{tag}", familiar(repository))).collect()
}

/// The registry digests of an image as people see them.
pub fn shown_digests(image: &ImageRow) -> Vec<String> {
    image.digests.iter().map(|(repository, digest)| format!("{}@{digest}", familiar(repository))).collect()
}

/// Removes a name, and with the last name the image. By id, an image with names in several repositories needs `force`.
pub fn remove(app: &App, name: &str, force: bool) -> Result<Vec<Removed>> {
    let image = find(app, name)?;
    let by_name = match name.parse::<Reference>() {
        Ok(reference) => image
            .tags
            .iter()
            .find(|(repository, tag)| *repository == reference.repository && tag == reference.tag_or_latest())
            .cloned(),
        Err(_) => None,
    };
    let mut removed = Vec::new();
    if let Some((repository, tag)) = &by_name
        && image.tags.len() > 1
    {
        app.db.untag(repository, tag)?;
        removed.push(Removed::Untagged(format!("{}:{tag}", familiar(repository))));
        return Ok(removed);
    }
    let repositories: std::collections::BTreeSet<_> = image.tags.iter().map(|(repository, _)| repository).collect();
    if by_name.is_none() && repositories.len() > 1 && !force {
        return Err(Error::conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id.short()
        )));
    }
    if let Some(mount) = app.db.mounts()?.into_iter().find(|mount| mount.object == image.id.to_string()) {
        return Err(Error::conflict(format!(
            "conflict: unable to delete {} (cannot be forced) - image is mounted at {}",
            image.id.short(),
            mount.target
        ))
        .with_hint(format!("run `ctl umount {}` first", mount.target)));
    }
    app.db.remove_image(&image.id)?;
    removed.extend(shown_tags(&image).into_iter().map(Removed::Untagged));
    removed.extend(shown_digests(&image).into_iter().map(Removed::Untagged));
    removed.push(Removed::Deleted(image.id.to_string()));
    app.collect()?;
    for layer in image.layers.iter().rev() {
        if app.db.layer(layer)?.is_none() {
            removed.push(Removed::Deleted(layer.to_string()));
        }
    }
    Ok(removed)
}

/// Removes images without a name, or with `all` every image that nothing uses. Returns what was removed and the
/// bytes given back.
pub fn prune(app: &App, all: bool) -> Result<(Vec<Removed>, u64)> {
    let before: u64 = app.db.layers()?.iter().map(|row| row.data_size + row.index_size).sum();
    let mounted: Vec<String> = app.db.mounts()?.into_iter().map(|mount| mount.object).collect();
    let mut removed = Vec::new();
    for image in app.db.images()? {
        let in_use = mounted.contains(&image.id.to_string()) || !app.db.containers_of_image(&image.id)?.is_empty();
        if !in_use && (all || image.tags.is_empty()) {
            removed.extend(remove(app, &image.id.to_string(), true)?);
        }
    }
    let after: u64 = app.db.layers()?.iter().map(|row| row.data_size + row.index_size).sum();
    Ok((removed, before.saturating_sub(after)))
}
