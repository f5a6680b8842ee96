//! Images: found by name, listed, tagged, removed.

mod adding;
pub mod config;
pub mod duplicates;
pub mod instruction;
pub mod load;
mod once;
mod remove;
pub mod save;
pub mod tree;
mod turns;

use std::io::Read;

use fs_base::{Digest, Error, Result};
use layerfs::ingest::Built;

use crate::app::{App, Pinned};
use crate::db::images::ImageRow;
use crate::db::layers::LayerRow;
use crate::reference::{Reference, familiar};
pub use adding::Adding;
pub use config::Config;
pub use load::Loaded;
pub use remove::{Removed, prune, remove};
pub use turns::Turns;

/// Loads an archive and records its images.
pub fn load(app: &App, input: &mut (dyn Read + Send)) -> Result<Vec<Loaded>> {
    let images = {
        let adding = Adding::new(app);
        let images = load::load(input, app.config.limits, &|member, options| once::layer(&adding, member, options))?;
        for image in &images {
            app.db.add_image(&image.id, &image.config, &image.layers, None, &image.tags)?;
        }
        images
    };
    for image in &images {
        app.events.object("image", "load", &image.id.to_string(), &[("name", &image.id.to_string())]);
    }
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
    let adding = Adding::new(app);
    let options = layerfs::ingest::IngestOptions { limits: app.config.limits, ..Default::default() };
    let built = adding.ingest(input, &options)?;
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
    app.events.object("image", "import", &id.to_string(), &[("name", name)]);
    Ok(id)
}

/// Docker's words.
pub fn no_such(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}

/// The image that a person means: an id, the start of one, or a name.
pub fn find(app: &App, name: &str) -> Result<ImageRow> {
    let id = find_id(app, name)?.ok_or_else(|| match name.parse::<Reference>() {
        Ok(reference) => no_such(&reference.to_string()),
        // What can't be the name of any image is told so.
        Err(error) => error,
    })?;
    app.db.image(&id)?.ok_or_else(|| no_such(name))
}

/// Keeps the layers of an image that was just found, unless it is gone by now.
pub fn pinned<'a>(app: &'a App, image: &ImageRow) -> Result<Pinned<'a>> {
    let pinned = app.pin(&image.layers);
    app.db.image(&image.id)?.map(|_| pinned).ok_or_else(|| no_such(&image.id.to_string()))
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
    // Source: moby, `tag`: it would be taken for a digest.
    if familiar(&reference.repository) == "sha256" {
        return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
    }
    if reference.digest.is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    app.db.tag_image(&reference.repository, reference.tag_or_latest(), &image.id)?;
    app.events.object("image", "tag", &image.id.to_string(), &[("name", &target)]);
    Ok(())
}

/// How a person is told of an image: its first name, or its id.
pub fn name_of(image: &ImageRow) -> String {
    shown_tags(image).into_iter().next().unwrap_or_else(|| image.id.to_string())
}

/// The names of an image as people see them.
pub fn shown_tags(image: &ImageRow) -> Vec<String> {
    image.tags.iter().map(|(repository, tag)| format!("{}:{tag}", familiar(repository))).collect()
}

/// The registry digests of an image as people see them.
pub fn shown_digests(image: &ImageRow) -> Vec<String> {
    image.digests.iter().map(|(repository, digest)| format!("{}@{digest}", familiar(repository))).collect()
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod load_tests;
