//! At the start of the daemon: containers and their rows are put together again.

use std::sync::Arc;

use engine::shim::{Client, Status as ShimStatus};
use fs_base::{Class, ContainerId, IoContext, Result};

use super::run::{discard_run_dir, ended, watch};
use super::{ContainerRow, State, apparmor};
use crate::app::App;

/// Finds the containers that run on, ends those that were half made, and records the ends that nobody saw. Must be
/// called on a thread of the runtime's, before requests are served.
pub fn recover(app: &Arc<App>) -> Result<()> {
    apparmor::warn_if_missing();
    for row in app.db.containers()? {
        // One container in disorder keeps no other from being found.
        if let Err(error) = recover_one(app, &row) {
            tracing::error!(container = %row.id, %error, "a container could not be recovered");
        }
    }
    remove_orphans(app)?;
    // On a kernel that has no netfilter there are no networks, but all else.
    if let Err(error) = crate::network::recover(app) {
        tracing::error!(%error, "networks could not be put together again");
    }
    super::restart::with_daemon(app)
}

fn recover_one(app: &Arc<App>, row: &ContainerRow) -> Result<()> {
    let client = app.shim(&row.id);
    match client.state() {
        Ok(state) if state.status == ShimStatus::Created => {
            // Made but never started: as if it had never been.
            client.kill(rustix::process::Signal::KILL.as_raw())?;
            let _ = client.wait();
            discard_run_dir(app, &row.id)
        }
        Ok(state) => {
            if !row.state.is_running() {
                let running = row.state.running(state.pid, crate::db::now());
                let running = State { apparmor: apparmor::of_running(app, &row.id), ..running };
                app.db.set_container_state(&row.id, &running)?;
            }
            adopt(app, row, &client)
        }
        Err(error) if error.class() == Class::NotFound => {
            if row.state.is_running() {
                return ended(app, &row.id, None);
            }
            discard_run_dir(app, &row.id)?;
            // As Docker: whether it ended unseen or was never started.
            if row.definition.auto_remove() && !row.state.is_up() {
                super::remove(app, row, super::remove::Options { force: false, volumes: true })?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn adopt(app: &Arc<App>, row: &ContainerRow, client: &Client) -> Result<()> {
    let live = app.containers.of(&row.id);
    live.set_early(None);
    if let Some(image) = app.db.image(&row.image)? {
        live.hold(app.mounter.lease(&image.layers).ok());
    }
    tracing::info!(container = %row.id, name = row.name, "runs on");
    watch(app, &row.id, client.begin_wait()?, None);
    Ok(())
}

/// Folders and processes of containers that have no row.
fn remove_orphans(app: &Arc<App>) -> Result<()> {
    let known = |id: &ContainerId| app.db.container(id).map(|row| row.is_some());
    for id in ids_in(&app.config.run.join("containers"))? {
        if !known(&id)? {
            let client = app.shim(&id);
            if client.kill(rustix::process::Signal::KILL.as_raw()).is_ok() {
                let _ = client.wait();
            }
            discard_run_dir(app, &id)?;
        }
    }
    for id in ids_in(&app.config.root.join("containers"))? {
        if !known(&id)? {
            tracing::info!(container = %id, "removing what is left of a container");
            app.trash.discard(&app.container_dir(&id))?;
        }
    }
    app.trash.sweep()
}

fn ids_in(dir: &std::path::Path) -> Result<Vec<ContainerId>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("read directory", dir)?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.at("read directory", dir)?.file_name();
        ids.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(ids)
}
