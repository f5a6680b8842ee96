//! Ending containers.

use std::sync::Arc;
use std::time::Duration;

use fs_base::{Class, ContainerId, Error, Result};

use super::live::End;
use super::{ContainerRow, Status, pause, restart, signal};
use crate::app::App;

/// How long Docker lets a container take, in seconds.
const GRACE: i64 = 10;
/// How long a killed container may take before that is an error: it may hang in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(60);

const KILL: i32 = 9;

/// Sends a running container a signal.
pub fn kill(app: &App, name: &str, text: &str) -> Result<()> {
    let missing = |error: Error| error.context(format!("Cannot kill container: {name}"));
    let row = settled(app, &app.db.find_container(name).map_err(missing)?.id).map_err(missing)?;
    let number = if text.is_empty() { KILL } else { signal::parse(text)? };
    let not_running = || Error::conflict(format!("Cannot kill container: {name}: Container {} is not running", row.id));
    if !row.state.is_up() {
        return Err(not_running());
    }
    let stop_signal = row.definition.config_text("StopSignal");
    // As Docker: any signal may be meant to end a container that has not said which one is.
    let ends = number == KILL || stop_signal.is_empty() || signal::parse(stop_signal)? == number;
    if ends && give_up(app, &row.id)? {
        return Ok(());
    }
    match app.shim(&row.id).kill(number) {
        Err(error) if error.class() == Class::NotFound => Err(not_running()),
        other => other,
    }?;
    app.events.container("kill", &row, &[("signal", number.to_string())]);
    if ends { pause::release(app, &row.id) } else { Ok(()) }
}

/// The container as it is when no change of it is under way: a program that was just let run may have said so before that
/// is recorded.
pub fn settled(app: &App, id: &ContainerId) -> Result<ContainerRow> {
    let live = app.containers.of(id);
    let _alone = live.alone();
    app.db.container(id)?.ok_or_else(|| Error::not_found(format!("No such container: {id}")))
}

/// Keeps its restart policy from being applied; whether that was all that had to be done to end it.
fn give_up(app: &App, id: &ContainerId) -> Result<bool> {
    let live = app.containers.of(id);
    let _alone = live.alone();
    let Some(row) = app.db.container(id)? else { return Ok(true) };
    restart::cancel(app, &live, &row)?;
    Ok(row.state.status == Status::Restarting)
}

/// Ends a container: its stop signal, then a while of grace (in seconds, -1 for ever), then SIGKILL. `false` if it did
/// not run.
pub async fn stop(app: &Arc<App>, row: &ContainerRow, grace: Option<i64>, signal_text: Option<&str>) -> Result<bool> {
    let mut ends = app.containers.of(&row.id).ends();
    let before = ends.borrow_and_update().count;
    let row = {
        let (app, id) = (Arc::clone(app), row.id.clone());
        let looked = tokio::task::spawn_blocking(move || settled(&app, &id)).await;
        looked.map_err(|_| Error::internal("looking at the container panicked"))??
    };
    if !row.state.is_up() {
        return Ok(false);
    }
    let configured = row.definition.config["StopTimeout"].as_i64();
    let grace = grace.or(configured).unwrap_or(GRACE);
    let text = signal_text.filter(|text| !text.is_empty()).unwrap_or(row.definition.config_text("StopSignal"));
    let first = if text.is_empty() { rustix::process::Signal::TERM.as_raw() } else { signal::parse(text)? };
    let ended = |end: &End| end.count > before || end.removed;
    let done = {
        let (app, row) = (Arc::clone(app), row.clone());
        let work = move || if give_up(&app, &row.id)? { Ok(true) } else { send(&app, &row, first).map(|()| false) };
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("stopping the container panicked"))??
    };
    let gone = async {
        if !done {
            drop(ends.wait_for(ended).await);
        }
    };
    let in_time = if grace < 0 {
        gone.await;
        true
    } else {
        tokio::time::timeout(Duration::from_secs(grace as u64), gone).await.is_ok()
    };
    if !in_time {
        send(app, &row, KILL)?;
        tokio::time::timeout(KILL_DEADLINE, ends.wait_for(ended))
            .await
            .map_err(|_| Error::internal(format!("container {} did not end although it was killed", row.id)))?
            .map_err(|_| Error::internal("the container's watch ended"))?;
    }
    app.events.container("stop", &row, &[]);
    Ok(true)
}

/// Stops it and starts it again. One that is removed at its end is kept.
pub async fn restart(app: &Arc<App>, row: &ContainerRow, grace: Option<i64>, signal_text: Option<&str>) -> Result<()> {
    let kept = restart::keep(&app.containers.of(&row.id));
    stop(app, row, grace, signal_text).await?;
    let (app, row) = (Arc::clone(app), row.clone());
    let started = tokio::task::spawn_blocking(move || {
        super::start(&app, &row.id).map_err(|error| error.context(format!("Cannot restart container {}", row.name)))?;
        app.events.container("restart", &row, &[]);
        Ok(())
    });
    let result = started.await.map_err(|_| Error::internal("starting the container panicked"))?;
    drop(kept);
    result
}

/// A paused container gets it, and goes on to take it.
fn send(app: &App, row: &ContainerRow, number: i32) -> Result<()> {
    match app.shim(&row.id).kill(number) {
        // It ends just now.
        Err(error) if error.class() == Class::NotFound => return Ok(()),
        other => other?,
    }
    app.events.container("kill", row, &[("signal", number.to_string())]);
    pause::release(app, &row.id)
}

/// Ends a container at once, if it runs, and blocks until that is recorded.
pub fn kill_and_wait(app: &Arc<App>, id: &ContainerId) -> Result<()> {
    let mut ends = app.containers.of(id).ends();
    let before = ends.borrow_and_update().count;
    let Some(row) = app.db.container(id)?.filter(|row| row.state.is_up()) else { return Ok(()) };
    if give_up(app, id)? {
        return Ok(());
    }
    send(app, &row, KILL)?;
    let wait = ends.wait_for(|end| end.count > before || end.removed);
    tokio::runtime::Handle::current().block_on(async {
        tokio::time::timeout(KILL_DEADLINE, wait)
            .await
            .map(drop)
            .map_err(|_| Error::internal(format!("container {id} did not end although it was killed")))
    })
}
