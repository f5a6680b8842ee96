//! A container's changes as a new image.

use std::io::{BufWriter, Write};

use fs_base::{Class, Digest, Error, IoContext, Result};
use layerfs::archive::tar_of_changes;
use layerfs::diff::Change;
use layerfs::ingest::{Built, IngestOptions};
use layerfs::tree::Tree;
use serde_json::{Map, Value, json};

use super::{ContainerRow, diff, files, pause};
use crate::app::App;
use crate::db::images::ImageRow;
use crate::image::{self, Adding};
use crate::reference::Reference;

/// Bytes in one piece on their way into the layer.
const PIECE: usize = 128 << 10;
/// What of a container's config is the image's: the rest is of one container.
const KEPT: &[&str] = &[
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// What `POST /commit` asks for.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The name of the new image; none if empty.
    pub name: String,
    /// What is said of it.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Instructions that change its config.
    pub changes: Vec<String>,
    /// A config that goes over the container's.
    pub config: Map<String, Value>,
    /// Whether the container stands still meanwhile.
    pub pause: bool,
}

/// Makes an image of what a container is now.
pub fn commit(app: &App, container: &str, wanted: &Wanted) -> Result<Digest> {
    let row = app.db.find_container(container)?;
    let reference = if wanted.name.is_empty() { None } else { Some(wanted.name.parse::<Reference>()?) };
    if reference.as_ref().is_some_and(|reference| reference.digest.is_some()) {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let defaults = defaults(&row, wanted)?;
    let gone = || Error::corrupt(format!("the image {} of the container is gone", row.image));
    let image = app.db.image(&row.image)?.ok_or_else(gone)?;
    // The container may be removed meanwhile, and its image after it.
    let _pinned = image::pinned(app, &image)?;
    let adding = Adding::new(app);
    let built = {
        let _still = still(app, &row, wanted.pause)?;
        layer(app, &adding, &row, &image)?
    };
    let mut layers = image.layers.clone();
    if let Some(built) = &built {
        layers.push(built.id);
    }
    let config = config(&row, &image, wanted, defaults, built.as_ref())?;
    let id = image::load::digest_of(&config);
    let tags = reference.map(|reference| (reference.repository.clone(), reference.tag_or_latest().to_owned()));
    app.db.add_image(&id, &config, &layers, None, tags.as_slice())?;
    let told = [
        ("comment", wanted.comment.clone()),
        ("imageID", id.to_string()),
        ("imageRef", tags.map(|(repository, tag)| format!("{repository}:{tag}")).unwrap_or_default()),
    ];
    app.events.container("commit", &row, &told);
    Ok(id)
}

/// Lets the container go on when it is dropped.
struct Still<'a>(&'a App, &'a ContainerRow);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Err(error) = pause::release(self.0, &self.1.id) {
            tracing::warn!(container = %self.1.id, %error, "a container that was paused for a commit stays so");
        }
    }
}

fn still<'a>(app: &'a App, row: &'a ContainerRow, wanted: bool) -> Result<Option<Still<'a>>> {
    if !wanted || !row.state.is_running() || row.state.paused {
        return Ok(None);
    }
    match pause::pause(app, row.id.as_str()) {
        Ok(()) => Ok(Some(Still(app, row))),
        // It has ended meanwhile, or somebody else has paused it.
        Err(error) if error.class() == Class::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// The container's changes as a layer; `None` if there are none.
fn layer(app: &App, adding: &Adding<'_>, row: &ContainerRow, image: &ImageRow) -> Result<Option<Built>> {
    let changes = diff::changes(app, row)?;
    if changes.is_empty() {
        return Ok(None);
    }
    let layers = image.layers.iter().map(|id| app.store.layer(id)).collect::<Result<_>>()?;
    let tree = Tree::with_upper(layers, &app.container_dir(&row.id).join(files::UPPER))?;
    ingest(app, adding, &tree, &changes).map(Some)
}

/// Packed by one thread and read in by another, so that the layer is nowhere whole in memory.
fn ingest(app: &App, adding: &Adding<'_>, tree: &Tree, changes: &[Change]) -> Result<Built> {
    let (mut from, to) = std::io::pipe().at("make", "pipe")?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(PIECE, to);
            tar_of_changes(tree, changes, &mut out)?;
            out.flush().at("write", "layer")
        });
        let options = IngestOptions { limits: app.config.limits, ..IngestOptions::default() };
        let built = adding.ingest(&mut from, &options);
        // Its end makes the packing end, too.
        drop(from);
        let packed = packing.join().unwrap_or_else(|_| Err(Error::internal("packing a layer panicked")));
        // An ingest that failed breaks the pipe: what it says is the reason.
        let built = built?;
        packed.map(|()| built)
    })
}

/// What a container of the new image gets by default.
fn defaults(row: &ContainerRow, wanted: &Wanted) -> Result<Map<String, Value>> {
    let own = row.definition.config.as_object().cloned().unwrap_or_default();
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let mut config: Map<String, Value> = Map::new();
    for key in KEPT {
        let over = wanted.config.get(*key).filter(|value| !is_empty(value));
        if let Some(value) = over.or(own.get(*key)).filter(|value| !is_empty(value)) {
            config.insert((*key).to_owned(), value.clone());
        }
    }
    for line in &wanted.changes {
        image::instruction::apply(&mut config, line)?;
    }
    Ok(config)
}

/// The image's config, byte for byte.
fn config(
    row: &ContainerRow,
    image: &ImageRow,
    wanted: &Wanted,
    defaults: Map<String, Value>,
    built: Option<&Built>,
) -> Result<Vec<u8>> {
    let bad = |error| Error::corrupt(format!("the image's config can't be read: {error}"));
    let mut config: Map<String, Value> = serde_json::from_slice(&image.config).map_err(bad)?;
    let created = jiff::Timestamp::now().to_string();
    let mut step = json!({"created": created, "created_by": row.definition.command().join(" ")});
    for (key, text) in [("author", &wanted.author), ("comment", &wanted.comment)] {
        config.remove(key);
        if !text.is_empty() {
            config.insert(key.to_owned(), json!(text));
            step[key] = json!(text);
        }
    }
    if built.is_none() {
        step["empty_layer"] = json!(true);
    }
    // Of the container that a builder of old made it with.
    for key in ["container", "container_config"] {
        config.remove(key);
    }
    config.insert("created".to_owned(), json!(created));
    config.insert("config".to_owned(), Value::Object(defaults));
    if let Some(ids) = config.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids")).and_then(Value::as_array_mut) {
        ids.extend(built.map(|built| json!(built.id)));
    }
    let history = config.entry("history").or_insert_with(|| json!([]));
    if let Some(history) = history.as_array_mut() {
        history.push(step);
    }
    Ok(Value::Object(config).to_string().into_bytes())
}
