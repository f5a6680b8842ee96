//! Further processes in running containers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::shim::Exit;
use engine::shim::proto::{self, Answer, ExecRequest, Reply};
use engine::spec::{ExecProcess, exec_process};
use fs_base::sys::root::Root;
use fs_base::{Class, ContainerId, Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::to_engine::to_engine;
use super::{ContainerRow, apparmor, pause};
use crate::app::App;

/// How long one that has ended can be asked about.
const KEPT: Duration = Duration::from_secs(300);
/// How long the record of what has happened may lag behind, in steps.
const SOON: u32 = 400;
const STEP: Duration = Duration::from_millis(5);

/// The API's body of an exec's creation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Wanted {
    /// The command.
    pub cmd: Option<Vec<String>>,
    /// Further variables.
    pub env: Option<Vec<String>>,
    /// As whom.
    pub user: Option<String>,
    /// Where.
    pub working_dir: Option<String>,
    /// With a terminal.
    pub tty: bool,
    /// With an input.
    pub attach_stdin: bool,
    /// With its output.
    pub attach_stdout: bool,
    /// With its errors.
    pub attach_stderr: bool,
    /// With all rights.
    pub privileged: bool,
    /// How a client leaves.
    pub detach_keys: Option<String>,
    /// The size of its terminal, lines and characters in a line.
    pub console_size: Option<(u16, u16)>,
}

/// A further process, from its creation on.
#[derive(Debug)]
pub struct Exec {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub container: ContainerId,
    /// What it is.
    pub wanted: Wanted,
    state: Mutex<ExecState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ExecState {
    started: bool,
    pid: i32,
    exit: Option<(i32, Instant)>,
}

impl Exec {
    fn state(&self) -> std::sync::MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its program could not be run.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.started && state.pid == 0 && state.exit.is_some()
    }

    /// `GET /exec/{id}/json`.
    pub fn inspect(&self) -> Value {
        let state = *self.state();
        let command = self.wanted.cmd.clone().unwrap_or_default();
        json!({
            "ID": self.id, "Running": state.started && state.exit.is_none(),
            "ExitCode": state.exit.map(|(code, _)| code),
            "ProcessConfig": {
                "tty": self.wanted.tty, "entrypoint": command.first(), "arguments": command.get(1..).unwrap_or_default(),
                "privileged": self.wanted.privileged, "user": self.wanted.user,
            },
            "OpenStdin": self.wanted.attach_stdin, "OpenStderr": self.wanted.attach_stderr, "OpenStdout": self.wanted.attach_stdout,
            "CanRemove": false, "ContainerID": self.container, "DetachKeys": self.wanted.detach_keys.clone().unwrap_or_default(),
            "Pid": state.pid,
        })
    }
}

/// Reads the body of its creation.
pub fn decode(body: &[u8]) -> Result<Wanted> {
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
}

/// Its client has left it, and it runs on.
pub fn detached(app: &App, exec: &Exec) {
    if let Ok(Some(row)) = app.db.container(&exec.container) {
        app.events.container("exec_detach", &row, &[("execID", exec.id.clone())]);
    }
}

/// Prepares a further process in a container that runs; it runs when it is started.
pub fn add(app: &App, row: &ContainerRow, wanted: Wanted) -> Result<Arc<Exec>> {
    if wanted.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    pause::running(row)?;
    if row.state.paused {
        return Err(Error::conflict(format!("Container {} is paused, unpause the container before exec", row.name)));
    }
    let id = fs_base::id::random_hex::<32>()?;
    let command = wanted.cmd.clone().unwrap_or_default().join(" ");
    let exec = Arc::new(Exec { id: id.clone(), container: row.id.clone(), wanted, state: Mutex::default() });
    let mut execs = app.containers.execs();
    forget_old(&mut execs);
    execs.insert(id.clone(), Arc::clone(&exec));
    drop(execs);
    app.events.container(&format!("exec_create: {command}"), row, &[("execID", id)]);
    Ok(exec)
}

/// Nobody will ask about it any more.
pub fn forget(app: &App, exec: &Exec) {
    app.containers.execs().remove(&exec.id);
}

/// Ends it, if it runs.
pub fn kill(exec: &Exec) {
    let state = *exec.state();
    if state.pid == 0 || state.exit.is_some() {
        return;
    }
    // Its number can't be another's yet: the shim takes its status, and that is recorded a moment later.
    if let Ok(process) = fs_base::sys::pid::Process::open(state.pid) {
        let _ = process.signal(rustix::process::Signal::KILL.as_raw());
    }
}

/// Waits for the end of one that was started, and gives its exit code.
pub async fn ended(exec: &Exec) -> Result<i32> {
    let mut tries = 0;
    loop {
        if let Some((code, _)) = exec.state().exit {
            return Ok(code);
        }
        tokio::time::sleep(STEP * (1 + tries / 20)).await;
        tries += 1;
    }
}

fn forget_old(execs: &mut HashMap<String, Arc<Exec>>) {
    execs.retain(|_, exec| exec.state().exit.is_none_or(|(_, when)| when.elapsed() < KEPT));
}

/// One that was created.
pub fn find(app: &App, id: &str) -> Result<Arc<Exec>> {
    app.containers.execs().get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
}

/// Those of a container that run.
pub fn of_container(app: &App, id: &ContainerId) -> Vec<String> {
    let execs = app.containers.execs();
    let running = |exec: &&Arc<Exec>| exec.container == *id && exec.state().started && exec.state().exit.is_none();
    execs.values().filter(running).map(|exec| exec.id.clone()).collect()
}

/// Starts it. The result carries its streams. Must be called on a thread of the runtime's.
pub fn start(app: &Arc<App>, exec: &Arc<Exec>, detach: bool, size: Option<(u16, u16)>) -> Result<std::os::unix::net::UnixStream> {
    {
        let mut state = exec.state();
        if state.started {
            return Err(Error::conflict(format!("Error: Exec command {} has already run", exec.id)));
        }
        state.started = true;
    }
    let started = run(app, exec, detach, size);
    if let Err(error) = &started {
        let text = error.to_string();
        let missing = text.contains("executable file not found") || text.contains("no such file or directory");
        let code = if missing && text.contains("exec: \"") { 127 } else { 126 };
        exec.state().exit = Some((code, Instant::now()));
    }
    started
}

fn run(app: &Arc<App>, exec: &Arc<Exec>, detach: bool, size: Option<(u16, u16)>) -> Result<std::os::unix::net::UnixStream> {
    let gone = || Error::not_found(format!("No such container: {}", exec.container));
    let row = app.db.container(&exec.container)?.ok_or_else(gone)?;
    let not_running = || Error::conflict(format!("Container {} is not running", row.id));
    if !row.state.is_running() {
        return Err(not_running());
    }
    let client = app.shim(&row.id);
    let ended = |error: Error| if error.class() == Class::NotFound { not_running() } else { error };
    let root = Root::from_fd(client.root().map_err(ended)?);
    let wanted = &exec.wanted;
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let size = size.or(wanted.console_size).filter(|size| *size != (0, 0));
    let process = ExecProcess {
        args: wanted.cmd.clone().unwrap_or_default(),
        env: wanted.env.clone().unwrap_or_default(),
        cwd: text(&wanted.working_dir),
        user: text(&wanted.user),
        tty: wanted.tty,
        console_size: size,
        privileged: wanted.privileged,
    };
    let mut container = to_engine(&row, Vec::new(), Vec::new(), engine::config::Network::Own)?;
    container.env.splice(..0, crate::network::linked::env_of_running(app, &row)?);
    // If somebody has taken away the profile that it joins, it is loaded again.
    apparmor::settle(&mut container)?;
    // Its shim knows which one that is, and one of an older version refuses to be told.
    container.apparmor = None;
    let request = ExecRequest {
        id: exec.id.clone(),
        process: exec_process(&container, &process, &root)?,
        unconfined: wanted.privileged,
        attach: !detach,
        stdin: wanted.attach_stdin,
        size,
    };
    let command = process.args.join(" ");
    let (pid, stream) = client.exec(request).map_err(|error| match error.class() {
        Class::NotFound => not_running(),
        _ => runtime_error(&error),
    })?;
    exec.state().pid = pid;
    app.events.container(&format!("exec_start: {command}"), &row, &[("execID", exec.id.clone())]);
    let waiting = client.begin_exec_wait(&exec.id);
    let (app, exec) = (Arc::clone(app), Arc::clone(exec));
    tokio::runtime::Handle::current().spawn(async move {
        let exit = match waiting {
            Ok(waiting) => exit_from(waiting).await,
            Err(_) => None,
        };
        // If the shim was killed, so was what ran in its container.
        let code = exit.map_or(137, |exit| exit.code);
        exec.state().exit = Some((code, Instant::now()));
        app.events.container("exec_die", &row, &[("execID", exec.id.clone()), ("exitCode", code.to_string())]);
    });
    Ok(stream)
}

/// What the runtime said, as containerd hands it on.
fn runtime_error(error: &Error) -> Error {
    let text = error.to_string();
    // Another runtime's program says so itself.
    let failed = if text.contains("exec failed") { "" } else { "exec failed: unable to start container process: " };
    Error::new(error.class(), format!("OCI runtime exec failed: {failed}{text}: unknown"))
}

/// Waits for the answer of a shim; `None` if it ended without one.
pub async fn exit_from(waiting: std::os::unix::net::UnixStream) -> Option<Exit> {
    waiting.set_nonblocking(true).ok()?;
    let mut stream = tokio::net::UnixStream::from_std(waiting).ok()?;
    let mut bytes = Vec::new();
    loop {
        match proto::decode::<Answer>(&bytes) {
            Ok(Some((Ok(Reply::Exit(exit)), _))) => return Some(exit),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Waits, but not for long, until it runs.
pub async fn running(exec: &Exec) {
    let mut tries = 0;
    while exec.state().pid == 0 && exec.state().exit.is_none() && tries < SOON {
        tokio::time::sleep(STEP).await;
        tries += 1;
    }
}

/// If its process is gone, waits until that is recorded: who saw its streams end asks for its exit code next.
pub async fn settled(exec: &Exec) {
    let pid = exec.state().pid;
    let mut tries = 0;
    while pid != 0 && exec.state().exit.is_none() && tries < SOON && !is_alive(pid) {
        tokio::time::sleep(STEP).await;
        tries += 1;
    }
}

fn is_alive(pid: i32) -> bool {
    fs_base::sys::pid::Process::open(pid).is_ok_and(|process| !process.has_ended())
}
