//! Taking containers away, and giving them other names.

use std::sync::Arc;

use fs_base::{ContainerId, Error, Result, VolumeName};
use fsd_api::ObjectKind;
use volumes::MountPoint;

use super::{ContainerRow, names, size, stop};
use crate::app::App;

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// End it first, if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// Removes a container: its row first, then its bytes.
pub fn remove(app: &Arc<App>, row: &ContainerRow, options: Options) -> Result<()> {
    if options.force {
        stop::kill_and_wait(app, &row.id)?;
    }
    let live = app.containers.of(&row.id);
    let alone = live.alone();
    let gone = || Error::not_found(format!("No such container: {}", row.id));
    let row = app.db.container(&row.id)?.ok_or_else(gone)?;
    if row.state.is_up() {
        let why = match row.state.word() {
            "paused" => "paused and must be unpaused first".to_owned(),
            word => format!("{word}: stop the container before removing or force remove"),
        };
        return Err(Error::conflict(format!("cannot remove container \"/{}\": container is {why}", row.name)));
    }
    let mounted =
        crate::mounts::release(app, ObjectKind::Container, row.id.as_str(), options.force || row.definition.auto_remove());
    mounted.map_err(|error| error.context(format!("cannot remove container \"/{}\"", row.name)))?;
    let passing: Vec<&VolumeName> =
        row.definition.mounts.iter().filter(|_| options.volumes).filter_map(MountPoint::anonymous).collect();
    app.db.remove_container(&row.id, &passing)?;
    // From here on it is gone; what can't be cleaned now is cleaned at the next start.
    let volumes = app.volumes.detach(&row.id, &row.definition.mounts, options.volumes);
    if let Ok(gone) = &volumes {
        for name in passing.into_iter().filter(|name| !gone.contains(name)) {
            // Another container took it.
            app.db.keep_volume(name)?;
        }
    }
    let discarded = app.trash.discard(&app.container_dir(&row.id)).map(drop);
    for result in [volumes.map(|names| destroyed(app, &row, &names)), discarded] {
        if let Err(error) = result {
            tracing::warn!(container = %row.id, %error, "something of a removed container is left");
        }
    }
    app.events.container("destroy", &row, &[]);
    drop(alone);
    app.containers.forget(&row.id);
    // A large tree takes a while, and nobody has to wait for it.
    app.trash.sweep_soon(|error| tracing::warn!(%error, "the trash could not be emptied"));
    Ok(())
}

/// Tells of a container's volumes that went with it.
pub(super) fn destroyed(app: &App, row: &ContainerRow, names: &[VolumeName]) {
    for mount in row.definition.mounts.iter().filter_map(MountPoint::shown) {
        if let (Some(name), Some(driver)) = (&mount.name, &mount.driver)
            && names.contains(name)
        {
            app.events.object("volume", "destroy", name.as_str(), &[("driver", driver)]);
        }
    }
}

/// Removes the containers that don't run and that `wanted` takes. The result is their ids, and the bytes given back.
pub fn prune(app: &Arc<App>, wanted: &dyn Fn(&ContainerRow) -> bool) -> Result<(Vec<ContainerId>, u64)> {
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for row in app.db.containers()? {
        if row.state.is_up() || !wanted(&row) {
            continue;
        }
        let own = size::own(app, &row.id);
        match remove(app, &row, Options::default()) {
            Ok(()) => {
                removed.push(row.id);
                bytes += own;
            }
            // Started, or removed by somebody else, meanwhile.
            Err(error) if matches!(error.class(), fs_base::Class::Conflict | fs_base::Class::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    app.events.pruned("container", bytes);
    Ok((removed, bytes))
}

/// Gives a container another name.
pub fn rename(app: &App, name: &str, new: &str) -> Result<()> {
    let row = app.db.find_container(name)?;
    if new.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    let allocating = |error: Error| error.context("Error when allocating new name");
    let rooted = format!("/{}", new.strip_prefix('/').unwrap_or(new));
    let new = names::checked(&rooted).map_err(allocating)?;
    if new == row.name {
        return Err(Error::invalid("Renaming a container with the same name as its current name"));
    }
    app.db.rename_container(&row.id, &new).map_err(allocating)?;
    if let Err(error) = crate::network::renamed(app, &row.id) {
        tracing::warn!(container = %row.id, %error, "the new name is not answered yet");
    }
    let old = row.name.clone();
    app.events.container("rename", &ContainerRow { name: new, ..row }, &[("oldName", format!("/{old}"))]);
    Ok(())
}
