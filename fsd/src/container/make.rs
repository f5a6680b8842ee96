//! Making a container: everything but running it.

use std::sync::Arc;

use fs_base::sys::root::Root;
use fs_base::{Class, ContainerId, Error, IoContext, Result};
use layerfs::archive::populate;
use layerfs::tree::Tree;
use volumes::parse::Request as VolumeRequest;
use volumes::{MountPoint, Volume};

use super::create::{New, Settled, decode};
use super::selinux::Chosen;
use super::{ContainerRow, Definition, State, names, selinux};
use crate::app::App;
use crate::db::images::ImageRow;
use crate::image;
use crate::network::linked::{self, Asked};
use crate::network::request::{self, Request};
use crate::network::{Endpoint, Mode};

/// How often a name of our own is tried.
const ATTEMPTS: u32 = 8;

/// A container that was made.
#[derive(Debug)]
pub struct Made {
    /// Its id.
    pub id: ContainerId,
    /// What the person should know.
    pub warnings: Vec<String>,
}

/// Makes a container from the API's body. If it fails, nothing of it is left. Only an image that is not there is not found:
/// clients would pull it for the lack of anything else.
pub fn create(app: &App, name: Option<&str>, body: &[u8]) -> Result<Made> {
    let name = name.filter(|name| !name.is_empty()).map(names::checked).transpose()?;
    let mut new = decode(body)?;
    new.choose_runtime(&app.config)?;
    new.choose_log(&app.config)?;
    let image = image::find(app, &new.image)?;
    // What is not found from here on is something else, until the row is added, which fails if the image is gone by then.
    let _pinned = image::pinned(app, &image)?;
    let prepared = prepare(app, new, &image).map_err(not_the_image)?;
    let Prepared { mut row, endpoints, known, created, warnings, labels } = prepared;
    for volume in &created {
        app.events.object("volume", "create", volume.name.as_str(), &[("driver", &volume.driver)]);
    }
    let added = |row: &mut ContainerRow| add(app, row, name, (&endpoints, &known));
    if let Err(error) = furnish(app, &row, &image).map_err(not_the_image).and_then(|()| added(&mut row)) {
        undo(app, &row);
        return Err(error);
    }
    // From here on its row says what it has.
    drop(labels);
    app.events.container("create", &row, &[]);
    Ok(Made { id: row.id, warnings })
}

/// Of what else is missing, Docker's clients are told as of what makes no sense.
fn not_the_image(error: Error) -> Error {
    if error.class() == Class::NotFound { error.with_class(Class::Invalid) } else { error }
}

/// A container that is all settled, and not there yet.
struct Prepared<'a> {
    row: ContainerRow,
    endpoints: Vec<Endpoint>,
    /// Whom it knows by `--link`.
    known: Vec<Asked>,
    /// Volumes that were made for it.
    created: Vec<Volume>,
    warnings: Vec<String>,
    /// Held until there is a row.
    labels: Chosen<'a>,
}

fn prepare<'a>(app: &'a App, new: New, image: &ImageRow) -> Result<Prepared<'a>> {
    let image_name = new.image.clone();
    let id = ContainerId::random()?;
    let mut settled = new.settle(&image::Config::parse(&image.config)?, &id)?;
    super::join::by_id(app, &mut settled.host_config)?;
    let (labels, warning) = selinux::choose(app, &mut settled.host_config)?;
    settled.warnings.extend(warning);
    let endpoints = networks(app, &id, &mut settled)?;
    let known = linked::asked(app, &mut settled.host_config)?;
    let requests = settled.mounts.requests(inherited(app, &settled)?, settled.volumes.clone())?;
    super::users::check_mounts(&app.config, &settled.host_config, &requests)?;
    let attached = app.volumes.attach(&id, &requests)?;
    let row = ContainerRow {
        id,
        name: String::new(),
        image: image.id,
        image_name,
        created: crate::db::now(),
        definition: Definition {
            config: settled.config,
            host_config: settled.host_config,
            mounts: attached.points,
            labels: labels.labels.clone(),
        },
        state: State::created(),
    };
    Ok(Prepared { row, endpoints, known, created: attached.created, warnings: settled.warnings, labels })
}

/// Its folder, and the contents of its volumes.
fn furnish(app: &App, row: &ContainerRow, image: &ImageRow) -> Result<()> {
    let dir = app.container_dir(&row.id);
    std::fs::create_dir_all(&dir).at("make directory", &dir)?;
    fill(app, &row.definition.mounts, image)
}

/// Its row, which comes last, under its name or one that is free.
fn add(app: &App, row: &mut ContainerRow, name: Option<String>, (endpoints, known): (&[Endpoint], &[Asked])) -> Result<()> {
    if let Some(name) = name {
        row.name = name;
        return app.db.add_container(row, endpoints, known);
    }
    let mut attempt = 0;
    loop {
        row.name = names::random(attempt)?;
        match app.db.add_container(row, endpoints, known) {
            Err(error) if error.class() == Class::Conflict && attempt < ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

/// The networks that it is to be in. In another container's, it has that one's host name.
fn networks(app: &App, id: &ContainerId, settled: &mut Settled) -> Result<Vec<Endpoint>> {
    let mode = settled.host_config["NetworkMode"].as_str().unwrap_or_default();
    if let Mode::Of(name) = Mode::parse(mode)
        && let Ok(other) = app.db.find_container(&name)
    {
        settled.config["Hostname"] = other.definition.config["Hostname"].clone();
    }
    let (networking, config, host_config) = (&settled.networking, &settled.config, &settled.host_config);
    let (endpoints, warnings) = request::endpoints(app, id, &Request { networking, config, host_config })?;
    settled.warnings.extend(warnings);
    Ok(endpoints)
}

fn undo(app: &App, row: &ContainerRow) {
    let anonymous = app.volumes.detach(&row.id, &row.definition.mounts, true);
    let anonymous = anonymous.map(|names| super::remove::destroyed(app, row, &names));
    let discarded = app.trash.discard(&app.container_dir(&row.id)).map(drop);
    for result in [anonymous, discarded, app.trash.sweep()] {
        if let Err(error) = result {
            tracing::warn!(container = %row.id, %error, "a failed creation was not wholly undone");
        }
    }
}

/// The mounts of the containers that it wants them from.
fn inherited(app: &App, settled: &Settled) -> Result<Vec<VolumeRequest>> {
    let mut requests = Vec::new();
    for (name, read_only) in settled.mounts.inherits_from()? {
        let row = app.db.find_container(name)?;
        requests.extend(row.definition.mounts.iter().map(|mount| mount.to_request(read_only)));
    }
    Ok(requests)
}

/// Fills volumes that are used for the first time with what the image has in their place.
fn fill(app: &App, mounts: &[MountPoint], image: &ImageRow) -> Result<()> {
    let mut tree = None;
    for point in mounts {
        let Some(filling) = app.volumes.fill(point)? else { continue };
        let tree = match &tree {
            Some(tree) => Arc::clone(tree),
            None => Arc::clone(tree.insert(Arc::new(layers_of(app, image)?))),
        };
        populate(&tree, &point.target, &Root::open(&filling.dir())?)?;
        filling.publish()?;
    }
    Ok(())
}

/// The tree of an image.
pub fn layers_of(app: &App, image: &ImageRow) -> Result<Tree> {
    Ok(Tree::new(image.layers.iter().map(|id| app.store.layer(id)).collect::<Result<_>>()?))
}
