//! Starting a container, and what happens when it ends.

use std::path::Path;
use std::process::Child;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use engine::shim::{Client, Exit, Launch, LogOptions, Options, launch};
use fs_base::sys::root::Root;
use fs_base::{Class, ContainerId, Error, IoContext, Result};

use super::live::Live;
use super::to_engine::to_engine;
use super::{ContainerRow, State, Status, apparmor, files, health, ipc, join, log_attributes, oom, restart, selinux, users};
use crate::app::App;
use crate::network;

/// What Docker's clients read off a start that failed: the program is not there.
const NOT_FOUND: i32 = 127;
/// It is there, and can't be run.
const NOT_EXECUTABLE: i32 = 126;
/// Something else was in its way.
const NOT_STARTED: i32 = 128;
/// The exit code of a container whose shim was killed, as if it had been killed itself.
const KILLED: i32 = 137;
/// Docker's exit code of a container that ran when the machine went down.
const LOST: i32 = 255;

/// Starts a container; `false` if it runs already. Must be called on a thread of the runtime's.
pub fn start(app: &Arc<App>, id: &ContainerId) -> Result<bool> {
    let live = app.containers.of(id);
    let alone = live.alone();
    let row = app.db.container(id)?.ok_or_else(|| Error::not_found(format!("No such container: {id}")))?;
    if row.state.paused {
        return Err(Error::conflict("cannot start a paused container, try unpause instead"));
    }
    if row.state.is_up() {
        return Ok(false);
    }
    restart::reset(&live);
    let row = ContainerRow { state: State { restart_count: 0, ..row.state.clone() }, ..row };
    go(app, &row, &live, alone).map(|()| true)
}

/// Starts a container that waits for that in this round. Must be called on a thread of the runtime's.
pub fn start_again(app: &Arc<App>, id: &ContainerId, round: u64) -> Result<()> {
    let live = app.containers.of(id);
    let alone = live.alone();
    match app.db.container(id)? {
        Some(row) if row.state.status == Status::Restarting && restart::is_due(&live, round) => go(app, &row, &live, alone),
        _ => Ok(()),
    }
}

fn go(app: &Arc<App>, row: &ContainerRow, live: &Live, alone: MutexGuard<'_, ()>) -> Result<()> {
    let (id, client) = (&row.id, app.shim(&row.id));
    let started = begin(app, row, live, &client);
    let (pid, shim, waiting) = match started {
        Ok(started) => started,
        Err(error) => {
            let error = failed(app, row, live, error);
            drop(alone);
            if row.definition.auto_remove() {
                super::remove(app, row, super::remove::Options { force: false, volumes: true })?;
            }
            return Err(error);
        }
    };
    let running = State {
        health: health::at_start(row),
        apparmor: apparmor::of_running(app, id),
        ..row.state.running(pid, crate::db::now())
    };
    let recorded = record(app, row, &running);
    app.events.volumes("mount", row);
    app.events.container("start", row, &[]);
    drop(alone);
    watch(app, id, waiting, Some(shim));
    recorded
}

type Started = (i32, Child, std::os::unix::net::UnixStream);

/// Everything up to the running program. The result is its number, its shim, and the connection that hears of its end.
fn begin(app: &App, row: &ContainerRow, live: &Live, client: &Client) -> Result<Started> {
    let launched = make(app, row, live)?;
    let result = release(live, client);
    match result {
        Ok(waiting) => Ok((launched.pid, launched.shim, waiting)),
        Err(error) => {
            end_made(client, launched);
            Err(error)
        }
    }
}

/// What was made and can't run has ended by itself, or is ended now.
fn end_made(client: &Client, mut launched: engine::shim::Launched) {
    let _ = client.kill(rustix::process::Signal::KILL.as_raw());
    let _ = launched.shim.wait();
}

/// Makes the container's processes, which wait.
fn make(app: &App, row: &ContainerRow, live: &Live) -> Result<engine::shim::Launched> {
    let image =
        app.db.image(&row.image)?.ok_or_else(|| Error::corrupt(format!("the image {} of the container is gone", row.image)))?;
    let dir = app.container_dir(&row.id);
    let row = &*selinux::labelled(app, row)?;
    let specs = app.volumes.prepare(&row.definition.mounts)?;
    let known = network::linked::known(app, row)?;
    let mut prepared = network::prepare(app, row, &known.hosts)?;
    let files = {
        let _alone = app.networks.hosts();
        files::write(row, &dir, &prepared.files)?
    };
    selinux::relabel(app, row, &specs, &files, prepared.files.shared_with.is_some())?;
    let own = std::mem::replace(&mut prepared.network, engine::config::Network::Own);
    let mut container = to_engine(row, specs, files, own)?;
    // What it says itself is said over that.
    container.env.splice(..0, known.env);
    container.selinux = selinux::of(row).cloned();
    if let Some(other) = join::pid(app, row)? {
        container.pid = other;
    }
    ipc::apply(app, row, &mut container)?;
    container.users = users::of(app, row)?;
    apparmor::settle(&mut container)?;
    live.hold(Some(app.mounter.lease(&image.layers)?));
    let root = crate::mounts::container_tree(app, row, &image.layers, container.users.ids())?;
    let spec = engine::spec::build(&container, &Root::from_fd(root.try_clone()?.into_fd()))?;
    let options = Options {
        open_stdin: container.open_stdin,
        stdin_once: container.stdin_once,
        init: container.init,
        runtime: super::runtimes::find(&app.config, row.definition.host_text("Runtime"))?,
        log: log_of(row, &dir)?,
    };
    let run_dir = app.run_dir(&row.id);
    let launch_with = Launch { program: &app.config.shim, dir: &run_dir, spec: &spec, options: &options, root };
    let launched = launch(launch_with).map_err(|error| task_error(&error))?;
    for warning in &launched.warnings {
        tracing::warn!(container = %row.id, "{warning}");
    }
    if let Err(error) = network::attach(app, row, prepared, launched.pid) {
        end_made(&app.shim(&row.id), launched);
        return Err(error);
    }
    Ok(launched)
}

/// Where it logs, with what is said of every line.
fn log_of(row: &ContainerRow, dir: &Path) -> Result<Option<LogOptions>> {
    let Some(log) = super::log_options(&row.definition.host_config)? else { return Ok(None) };
    Ok(Some(match log.journal {
        Some(_) => LogOptions { journal: Some(log_attributes::fields(row)?), ..log },
        None => LogOptions { path: dir.join(&log.path), attributes: log_attributes::attributes(row)?, ..log },
    }))
}

/// Connects who attached early, then lets the program run.
fn release(live: &Live, client: &Client) -> Result<std::os::unix::net::UnixStream> {
    let waiting = client.begin_wait()?;
    {
        let mut early = live.early();
        for client_of in early.take().unwrap_or_default() {
            let [stdin, stdout, stderr] = client_of.streams;
            // One that has gone meanwhile misses nothing.
            let _ = client_of.to.send(client.attach(stdin, stdout, stderr)?);
        }
    }
    client.start().map_err(|error| task_error(&error))?;
    Ok(waiting)
}

/// What the runtime said, as containerd hands it on.
fn task_error(error: &Error) -> Error {
    let text = error.to_string();
    let text = if text.starts_with("exec: ") {
        format!("OCI runtime create failed: unable to start container process: {text}: unknown")
    } else if text.starts_with("OCI runtime ") {
        format!("{text}: unknown")
    } else {
        text
    };
    let told = Error::new(error.class(), format!("failed to create task for container: {text}"));
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

/// Undoes a start, and says why as Docker does.
fn failed(app: &App, row: &ContainerRow, live: &Live, error: Error) -> Error {
    let (code, class) = verdict(&error);
    // Docker tells how it ended last where this start says nothing of its own.
    let code = if code == NOT_STARTED && row.state.exit_code != 0 { row.state.exit_code } else { code };
    let error = error.with_class(class);
    clean_up(app, row, live);
    forget_run(app, row);
    if let Err(error) =
        app.db.set_container_state(&row.id, &row.state.not_started(code, fsd_api::words::of_system(&error.to_string())))
    {
        tracing::error!(container = %row.id, %error, "the failed start could not be recorded");
    }
    app.events.container("die", row, &[("exitCode", code.to_string())]);
    error
}

/// The exit code of a container that could not be started, and the class that decides the status of the answer. A program
/// that can't be run is its asker's affair; what else stands in the way of a start is not the request's fault, so Docker
/// answers 500, but for networks that are not there or full. Source: moby, `setExitCodeFromError` and `containerStart`.
fn verdict(error: &Error) -> (i32, Class) {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if text.starts_with("failed to set up container networking") {
        let is_port = says(&["driver failed programming external connectivity"]);
        return (NOT_STARTED, if is_port { Class::Internal } else { error.class() });
    }
    if says(&["executable file not found", "not a directory"]) || says(&["exec: \""]) && says(&["no such file or directory"]) {
        return (NOT_FOUND, Class::Invalid);
    }
    if says(&["exec: \""]) && says(&["permission denied", "is a directory", "exec format error"]) {
        return (NOT_EXECUTABLE, Class::Invalid);
    }
    let class = match error.class() {
        Class::Unsupported | Class::Unavailable | Class::Corrupt => error.class(),
        _ => Class::Internal,
    };
    (NOT_STARTED, class)
}

/// What a container holds while it runs.
fn clean_up(app: &App, row: &ContainerRow, live: &Live) {
    live.hold(None);
    network::release(app, row);
    // Who attached and was not connected hears the end.
    live.set_early(Some(Vec::new()));
    let running = |id: &ContainerId| app.db.container(id).ok().flatten().is_some_and(|row| row.state.is_running());
    if let Err(error) = app.volumes.release(&row.definition.mounts, &|id| *id != row.id && running(id)) {
        tracing::warn!(container = %row.id, %error, "a volume could not be released");
    }
}

/// Removes a container's run folder, and with it the record of its end.
pub fn discard_run_dir(app: &App, id: &ContainerId) -> Result<()> {
    let dir = app.run_dir(id);
    ipc::release(&dir)?;
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", dir),
        _ => Ok(()),
    }
}

fn forget_run(app: &App, row: &ContainerRow) {
    if let Err(error) = discard_run_dir(app, &row.id) {
        tracing::warn!(container = %row.id, %error, "a container's run folder could not be removed");
    }
}

/// Waits for a container's end without a thread, and deals with it.
pub fn watch(app: &Arc<App>, id: &ContainerId, waiting: std::os::unix::net::UnixStream, shim: Option<Child>) {
    health::watch(app, id);
    oom::watch(app, id, shim.is_none());
    let (app, id) = (Arc::clone(app), id.clone());
    tokio::runtime::Handle::current().spawn(async move {
        let exit = super::exec::exit_from(waiting).await;
        let ended = tokio::task::spawn_blocking(move || {
            if let Err(error) = ended(&app, &id, exit) {
                tracing::error!(container = %id, %error, "the end of a container could not be dealt with");
            }
        });
        let _ = ended.await;
        if let Some(shim) = shim {
            gone(shim).await;
        }
    });
}

/// Takes the status of a shim when it has ended. It may have output for slow clients for a long time yet, so nothing
/// that the daemon's own end waits for may wait for it.
async fn gone(mut shim: Child) {
    let mut pause = Duration::from_millis(2);
    while let Ok(None) = shim.try_wait() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// A container has ended. Without an exit its shim did, and what is left of it is ended too.
pub fn ended(app: &Arc<App>, id: &ContainerId, exit: Option<Exit>) -> Result<()> {
    let live = app.containers.of(id);
    let alone = live.alone();
    let Some(row) = app.db.container(id)?.filter(|row| row.state.is_running()) else { return Ok(()) };
    let exit = match exit {
        Some(exit) => Some(exit),
        None => app.shim(id).exit_record()?,
    };
    if let Some(Exit { unlogged: lines @ 1.., .. }) = exit {
        tracing::warn!(container = %id, lines, "lines of a container's output are not in its log");
    }
    let mut state = if let Some(exit) = exit {
        row.state.exited(exit.code, exit.oom_killed, exit.finished)
    } else if !app.run_dir(id).exists() {
        // Nothing of a run survives the machine's.
        row.state.exited(LOST, false, crate::db::now())
    } else {
        if let Err(error) = engine::shim::forget(&app.run_dir(id)) {
            tracing::warn!(container = %id, %error, "its runtime could not be told of the container's end");
        }
        end_by_cgroup(&row)?;
        let mut state = row.state.exited(KILLED, false, crate::db::now());
        "the container's shim was killed, so the container was ended".clone_into(&mut state.error);
        state
    };
    let again = restart::after_end(&row, &live, &state);
    if again.is_some() {
        state = state.restarting();
    }
    clean_up(app, &row, &live);
    if let Err(error) = record(app, &row, &state) {
        // The disk may be full: it is told all the same, and found again at the next start of the daemon.
        tracing::error!(container = %id, %error, "the end of a container could not be recorded");
        state.error = error.to_string();
    } else {
        // Only now: until it is recorded, the end is known by what lies there.
        forget_run(app, &row);
    }
    let seconds = (state.finished - state.started).max(0) / 1_000_000_000;
    let told = [("exitCode", state.exit_code.to_string()), ("execDuration", seconds.to_string())];
    if live.end_oom() && row.state.oom_kills == 0 && state.oom_killed {
        app.events.container("oom", &row, &[]);
    }
    app.events.container("die", &row, &told);
    app.events.volumes("unmount", &row);
    live.ended(state.exit_code);
    drop(alone);
    if let Some(wait) = again {
        restart::later(app, id, wait);
    } else if row.definition.auto_remove() && !restart::is_kept(&live) {
        let row = ContainerRow { state, ..row };
        match super::remove(app, &row, super::remove::Options { force: false, volumes: true }) {
            Err(error) if error.class() == Class::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn record(app: &App, row: &ContainerRow, state: &State) -> Result<()> {
    // One that goes when it ends goes at the next start after a power cut too, so it waits for no disk.
    if row.definition.auto_remove() {
        app.db.set_passing_state(&row.id, state)
    } else {
        app.db.set_container_state(&row.id, state)
    }
}

fn end_by_cgroup(row: &ContainerRow) -> Result<()> {
    let cgroup = super::group::of(row)?;
    cgroup.kill_all()?;
    cgroup.delete()
}
