//! Stopping a container's processes where they are, and letting them go on.

use fs_base::{ContainerId, Error, Result};

use super::{ContainerRow, Status, group};
use crate::app::App;

/// A container that must run for what is asked of it.
pub fn running(row: &ContainerRow) -> Result<()> {
    match row.state.status {
        Status::Running => Ok(()),
        Status::Restarting => {
            Err(Error::conflict(format!("Container {} is restarting, wait until the container is running", row.id)))
        }
        _ => Err(Error::conflict(format!("container {} is not running", row.id))),
    }
}

/// Stops all processes of a container.
pub fn pause(app: &App, name: &str) -> Result<()> {
    let id = app.db.find_container(name)?.id;
    let live = app.containers.of(&id);
    let _alone = live.alone();
    let row = of(app, &id)?;
    running(&row)?;
    if row.state.paused {
        return Err(Error::conflict(format!("Container {id} is already paused")));
    }
    let cgroup = group::of(&row)?;
    if !cgroup.is_there() {
        // It ends just now, and that is not recorded yet.
        return Err(Error::conflict(format!("container {id} is not running")));
    }
    cgroup.freeze().map_err(|error| error.context(format!("cannot pause container {id}")))?;
    app.db.set_container_state(&id, &super::State { paused: true, ..row.state.clone() })?;
    app.events.container("pause", &row, &[]);
    Ok(())
}

/// Lets them go on.
pub fn unpause(app: &App, name: &str) -> Result<()> {
    let id = app.db.find_container(name)?.id;
    let live = app.containers.of(&id);
    let _alone = live.alone();
    let row = of(app, &id)?;
    if !row.state.paused {
        return Err(Error::conflict(format!("Container {id} is not paused")));
    }
    thaw(app, &row)
}

/// The same for one that got a signal which it can only take when it runs. One that isn't paused is left as it is.
pub fn release(app: &App, id: &ContainerId) -> Result<()> {
    let live = app.containers.of(id);
    let _alone = live.alone();
    match app.db.container(id)?.filter(|row| row.state.paused) {
        Some(row) => thaw(app, &row),
        None => Ok(()),
    }
}

fn thaw(app: &App, row: &ContainerRow) -> Result<()> {
    group::of(row)?.thaw().map_err(|error| error.context(format!("cannot unpause container {}", row.id)))?;
    app.db.set_container_state(&row.id, &super::State { paused: false, ..row.state.clone() })?;
    app.events.container("unpause", row, &[]);
    Ok(())
}

fn of(app: &App, id: &ContainerId) -> Result<ContainerRow> {
    app.db.container(id)?.ok_or_else(|| Error::not_found(format!("No such container: {id}")))
}
