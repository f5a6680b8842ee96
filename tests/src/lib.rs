//! A daemon of one's own for each test, and what it is tested with: `ctl`, the `docker` CLI, curl, GNU tar.
//!
//! Tests share nothing: own root, own run folder, own socket. What this host can't do is skipped with a line that
//! begins with `SKIPPED:`; in CI, as root, that is a failure.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // a failed step fails the test

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take. A machine may be many times slower than another, and only what fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The same, as `timeout` and curl take it.
pub const PATIENCE_SECONDS: &str = "300";

pub mod containers;
pub mod cut;
pub mod fuse;
pub mod http;
pub mod images;
pub mod networks;
pub mod registry;

/// The folder that holds the built programs: cargo puts test programs into `deps/` below it.
pub fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let dir = tests.parent().and_then(Path::parent).unwrap();
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first, as `make test` does", path.display());
    path
}

/// Copies a built program, and says where to. It is done by a process of its own: what this one has open for writing, others
/// that it is just starting have too, and as long as anybody has it nobody can run it.
pub fn program_in(dir: &Path, name: &str) -> PathBuf {
    ok(&Command::new("cp").arg(program(name)).arg(dir).output().unwrap());
    dir.join(name)
}

/// Whether a host can do what a test needs; says loudly if not.
pub fn can(what: &str, able: bool) -> bool {
    if !able {
        println!("SKIPPED: {what}");
        let root_in_ci = std::env::var_os("CI").is_some() && rustix::process::geteuid().is_root();
        assert!(!root_in_ci, "CI must run this tier: {what}");
    }
    able
}

/// Whether this process may mount.
pub fn may_mount() -> bool {
    can("kernel mounts (needs root)", rustix::process::geteuid().is_root())
}

/// Whether a program is installed.
pub fn has(name: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()));
    can(&format!("{name} (not installed)"), found)
}

/// A daemon on a root of its own; stopped, and all its folders removed, when dropped.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
    arguments: Vec<String>,
}

impl Daemon {
    /// A daemon on a fresh root below `/tmp`.
    pub fn start() -> Daemon {
        Daemon::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// A daemon in this folder with further flags.
    pub fn start_in(dir: tempfile::TempDir, flags: &[&str]) -> Daemon {
        let arguments: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let child = spawn(&program("fsd"), dir.path(), &arguments);
        let daemon = Daemon { dir, child, arguments };
        daemon.wait_until_ready();
        daemon
    }

    /// The folder that holds its root, its run folder and its log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("run/fsd.sock")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() || !self.ping() {
            assert!(Instant::now() < end, "the daemon does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ping(&self) -> bool {
        self.curl(&["http://d/_ping"]).stdout == b"OK"
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on what it left.
    pub fn restart(&mut self) {
        self.child = spawn(&program("fsd"), self.dir(), &self.arguments);
        self.wait_until_ready();
    }

    /// Starts another program on what it left, with further flags.
    pub fn restart_as(&mut self, program: &Path, flags: &[&str]) {
        self.arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        self.child = spawn(program, self.dir(), &self.arguments);
        self.wait_until_ready();
    }

    /// Stops it as a service manager would.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "the daemon did not stop cleanly:\n{}", self.log());
    }

    /// curl on its socket.
    pub fn curl(&self, arguments: &[&str]) -> Output {
        Command::new("curl")
            .args(["-sSg", "--max-time", PATIENCE_SECONDS, "--unix-socket"])
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The docker CLI on its socket.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        patient("docker").args(["-H", &format!("unix://{}", self.socket().display())]).args(arguments).output().unwrap()
    }

    /// The docker CLI on its socket, with something to read.
    pub fn docker_with(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = patient("docker")
            .args(["-H", &format!("unix://{}", self.socket().display())])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// `ctl` on its socket.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        patient(program("ctl")).args(["-H", &format!("unix://{}", self.socket().display())]).args(arguments).output().unwrap()
    }
}

/// A command that is ended after [`PATIENCE`]. Not for what has a terminal: `timeout` puts it into the background there,
/// where the docker CLI spins for ever.
pub fn patient(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE_SECONDS).arg(program);
    command
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn spawn(program: &Path, dir: &Path, flags: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new(program)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--run")
        .arg(dir.join("run"))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Containers outlive their daemon.
        for container in std::fs::read_dir(self.dir().join("run/containers")).into_iter().flatten().flatten() {
            let shim = engine::shim::Client::new(&container.path());
            let _ = shim.kill(rustix::process::Signal::KILL.as_raw());
            let end = Instant::now() + PATIENCE;
            while shim.state().is_ok() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Bridges and rules outlive it too.
        let networks = engine::network::Host::new(engine::network::Scope::of_root(&self.dir().join("root")));
        let _ = networks.remove_all();
        // A failed test must not leave a mount in the way of its folder's removal.
        for mount in fs_base::sys::mount::mount_table().unwrap_or_default() {
            if mount.target.starts_with(self.dir.path()) {
                let _ = fs_base::sys::mount::unmount(&mount.target, true);
            }
        }
    }
}

/// The standard output of a command that must have succeeded.
#[track_caller]
pub fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}{}", output.status, shown(&output.stdout), shown(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The standard error of a command that must have failed.
#[track_caller]
pub fn fails(output: &Output) -> String {
    assert!(!output.status.success(), "succeeded: {}", shown(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a person still reads of an output.
fn shown(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(8 << 10)])
}

/// A shell script in a folder; it must succeed.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    ok(&patient("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir).output().unwrap())
}

/// Waits until `events` tells what is looked for; what it told. What happened in this second is told in the next one,
/// because clients ask for times in whole seconds.
#[track_caller]
pub fn told(daemon: &Daemon, filters: &[&str], format: &str, done: impl Fn(&[&str]) -> bool) -> Vec<String> {
    let events = || {
        let words = [&["events", "--since", "1h", "--until", "0s", "--format", format], filters].concat();
        ok(&daemon.docker(&words))
    };
    until("it is told", || done(&events().lines().collect::<Vec<_>>()));
    events().lines().map(str::to_owned).collect()
}

/// Waits until what was thrown away is gone: a removal has its answer before.
pub fn swept(daemon: &Daemon) {
    let trash = daemon.dir().join("root/trash");
    until("the trash is emptied", || std::fs::read_dir(&trash).unwrap().next().is_none());
}

/// Mounts below a folder.
pub fn mounts_below(dir: &Path) -> usize {
    fs_base::sys::mount::mount_table().unwrap().iter().filter(|mount| mount.target.starts_with(dir)).count()
}
