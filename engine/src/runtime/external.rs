//! `--runtime`: an OCI runtime's program (runc, crun, …) in the built-in one's place.
//!
//! The shim's folder is the bundle. The container's tree is attached at `rootfs` in a mount namespace that only the runtime
//! sees, and only while it makes the container, so that the host's mount table does not see it. For a container with users
//! of its own more is prepared there, see `bundle.rs`. The container's processes become children of the shim when the
//! runtime, their maker, has ended, because the shim is a subreaper for that moment.
//!
//! Source: OCI runtime spec 1.2; the command line is runc's, which other runtimes take.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio as Standard};
use std::time::{Duration, Instant};

use fs_base::sys::ids::IdMap;
use fs_base::sys::mount::{Mount, open_dir, unshare_mount_namespace};
use fs_base::sys::pid::Process;
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{Process as ProcessSpec, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{getpid, set_child_subreaper};
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::process::fit;
use super::{Created, Gate, Stdio, userns};
use crate::shim::server::passing;

/// Where the runtime keeps its own state, in the shim's folder.
const STATE: &str = "runtime";
/// Where the container's tree is, in the shim's folder.
pub const ROOTFS: &str = "rootfs";
/// How long it may take to forget a container.
const DELETE: Duration = Duration::from_secs(60);
/// Where it writes what went wrong.
const LOG: &str = "runtime.log";

/// A runtime's program, and the container that it is for.
#[derive(Debug, Clone)]
pub struct External {
    program: PathBuf,
    dir: PathBuf,
}

impl External {
    /// `dir` is the shim's folder, whose name is the container's for the runtime too.
    pub fn new(program: &Path, dir: &Path) -> External {
        External { program: program.to_owned(), dir: dir.to_owned() }
    }

    /// Makes the container. Its cgroup may be there already.
    pub fn create(&self, spec: &Spec, root: &Mount, stdio: Stdio) -> Result<Created> {
        let ids = userns::map_of(spec)?;
        let process = spec.process().as_ref();
        if let (Some(ids), Some(process)) = (&ids, process) {
            userns::check(ids, process)?;
            userns::give_streams_outside(ids, &stdio, Some(process));
        }
        let bundle = Bundle::prepare(spec, &self.dir, &self.program, ids.as_ref())?;
        let mut told = bundle.as_ref().map_or_else(|| spec.clone(), Bundle::spec);
        let warnings = told.process_mut().as_mut().map(fit).unwrap_or_default();
        set_domainname(&mut told);
        if told != *spec {
            self.write("config.json", &told)?;
        }
        let place = || match &bundle {
            None => root.attach(&self.dir.join(ROOTFS)),
            Some(bundle) => bundle.place(root),
        };
        let terminal = process.and_then(ProcessSpec::terminal).unwrap_or(false);
        let dir = bundle.as_ref().map_or_else(|| self.dir.clone(), Bundle::dir);
        let program = bundle.as_ref().map_or(self.program.as_path(), Bundle::program);
        let command = self.command_in((program, &dir), "create", "init.log");
        let made = self.begin(command, ("create", "init"), terminal, stdio, Some(&place));
        let made = made.and_then(|mut making| making.finish());
        no_subreaper()?;
        let (process, console) = made?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{}/root", process.pid());
        let root = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path)?;
        Ok(Created { process, root, console, warnings, gate: Gate::External(self.clone()) })
    }

    /// Lets the container's program run.
    pub fn start(&self) -> Result<()> {
        let mut command = self.command("start", LOG);
        self.run(command.arg(self.id()), "start")
    }

    /// Begins a process in the container, under a name that no other one under way has. `ids` are those of the container's
    /// user namespace, if it has one.
    pub fn exec(&self, name: &str, process: &ProcessSpec, ids: Option<&IdMap>, stdio: Stdio) -> Result<Making> {
        if let Some(ids) = ids {
            userns::check(ids, process)?;
            userns::give_streams_outside(ids, &stdio, Some(process));
        }
        let spec = format!("{name}.json");
        let mut process = process.clone();
        fit(&mut process);
        self.write(&spec, &process)?;
        let mut command = self.command("exec", &format!("{name}.log"));
        command.args(["--detach", "--process", &spec]);
        self.begin(command, ("exec", name), process.terminal().unwrap_or(false), stdio, None)
    }

    /// Has the runtime forget the container, which is ended if it runs. One that takes too long is ended itself: the
    /// container's processes are the cgroup's affair, and what the runtime keeps lies in the shim's folder.
    pub fn delete(&self) -> Result<()> {
        let _ = std::fs::remove_file(self.dir.join(LOG));
        let mut command = self.command("delete", LOG);
        let mut child = command.arg("--force").arg(self.id()).spawn().at("run", &self.program)?;
        let end = Instant::now() + DELETE;
        while child.try_wait().at("wait for", &self.program)?.is_none() {
            if Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::internal(format!("OCI runtime delete did not end in {} s", DELETE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = child.wait().at("wait for", &self.program)?;
        self.result(status, "delete", LOG)
    }

    /// `create` and `exec` are alike: they hand their streams on, or send a terminal, and write a number. What `place` gives
    /// a place is there for the runtime alone.
    fn begin(
        &self,
        mut command: Command,
        (verb, name): (&'static str, &str),
        terminal: bool,
        stdio: Stdio,
        place: Option<&dyn Fn() -> Result<()>>,
    ) -> Result<Making> {
        let [pid_file, socket] = ["pid", "sock"].map(|kind| format!("{name}.{kind}"));
        command.args(["--pid-file", &pid_file]);
        let console = terminal.then(|| self.listen(&socket)).transpose()?;
        if console.is_some() {
            command.args(["--console-socket", &socket]);
        }
        if let Stdio::Streams { stdin, stdout, stderr } = stdio {
            command.stdin(Standard::from(stdin)).stdout(Standard::from(stdout)).stderr(Standard::from(stderr));
        }
        set_child_subreaper(Some(getpid())).at("become", "subreaper")?;
        let apart = place.map(|place| Apart::begin().and_then(|apart| place().map(|()| apart))).transpose()?;
        let mut child = command.arg(self.id()).spawn().at("run", &self.program)?;
        let back = apart.map_or(Ok(()), Apart::end);
        let process = match back.and_then(|()| Process::open(child.id().cast_signed())) {
            Ok(process) => process,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        // The command itself holds the process's ends of the streams, and goes here.
        Ok(Making { external: self.clone(), verb, name: name.to_owned(), child, process, console })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let file = self.dir.join(name);
        let json = serde_json::to_vec(value).map_err(|error| Error::internal(format!("{}: {error}", file.display())))?;
        std::fs::write(&file, json).at("write", &file)
    }

    fn command(&self, verb: &str, log: &str) -> Command {
        self.command_in((&self.program, &self.dir), verb, log)
    }

    /// Where the runtime's program and the shim's folder are at these places.
    fn command_in(&self, (program, dir): (&Path, &Path), verb: &str, log: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg0(&self.program)
            .current_dir(dir)
            .env_clear()
            // It may call programs of its own (newuidmap, criu).
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--root")
            .arg(dir.join(STATE))
            .args(["--log", log, "--log-format", "json", verb])
            .stdin(Standard::null())
            .stdout(Standard::null())
            .stderr(Standard::null());
        command
    }

    fn id(&self) -> &OsStr {
        self.dir.file_name().unwrap_or_default()
    }

    fn run(&self, command: &mut Command, verb: &str) -> Result<()> {
        let log = self.dir.join(LOG);
        let _ = std::fs::remove_file(&log);
        let status = command.status().at("run", &self.program)?;
        self.result(status, verb, LOG)
    }

    fn result(&self, status: ExitStatus, verb: &str, log: &str) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let text = std::fs::read_to_string(self.dir.join(log)).unwrap_or_default();
        let why = last_error(&text).unwrap_or_else(|| format!("{}: {status}", self.program.display()));
        // Of exec the caller says so itself, as it does for the built-in runtime.
        Err(Error::internal(if verb == "exec" { why } else { format!("OCI runtime {verb} failed: {why}") }))
    }

    fn read_pid(&self, name: &str) -> Result<i32> {
        let path = self.dir.join(name);
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let _ = std::fs::remove_file(&path);
        text.trim().parse().map_err(|_| Error::internal(format!("{}: {text:?} is no process", path.display())))
    }

    /// By a short name for its folder: a socket's path may be 107 bytes long.
    fn listen(&self, name: &str) -> Result<UnixListener> {
        let _ = std::fs::remove_file(self.dir.join(name));
        let folder = open_dir(&self.dir)?;
        let listener =
            UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())).at("bind", self.dir.join(name))?;
        listener.set_nonblocking(true).at("configure", "console socket")?;
        Ok(listener)
    }

    /// The runtime has ended: what it sent is there, or never comes.
    fn take_console(&self, listener: &UnixListener, name: &str) -> Result<Option<OwnedFd>> {
        let _ = std::fs::remove_file(self.dir.join(name));
        match listener.accept() {
            Ok((from, _)) => Ok(passing::receive(&from)?.1),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).at("accept on", "console socket"),
        }
    }
}

/// The children of this process, which has one thread; none where the kernel does not tell (`CONFIG_PROC_CHILDREN`).
pub fn children() -> Result<Vec<i32>> {
    let path = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).at("read", path),
    }
}

/// Until its end, this process has a mount namespace of its own.
struct Apart {
    hosts: OwnedFd,
    here: OwnedFd,
    is_over: bool,
}

impl Apart {
    fn begin() -> Result<Apart> {
        let path = "/proc/self/ns/mnt";
        let hosts = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
        let here = open_dir(Path::new("."))?;
        let apart = Apart { hosts, here, is_over: false };
        unshare_mount_namespace()?;
        Ok(apart)
    }

    /// Goes back to the host's, without which nothing that is mounted or found from here on is where it is thought to be.
    fn end(mut self) -> Result<()> {
        self.is_over = true;
        self.go_back()
    }

    fn go_back(&self) -> Result<()> {
        let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
        rustix::thread::move_into_link_name_space(self.hosts.as_fd(), kind).at("go back to", "the mount namespace")?;
        // That led to the root directory.
        rustix::process::fchdir(&self.here).at("go back to", "the working directory")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if !self.is_over {
            // What failed before is told instead.
            let _ = self.go_back();
        }
    }
}

/// A process that the runtime is making. Its descriptor is readable when the runtime has ended.
#[derive(Debug)]
pub struct Making {
    external: External,
    verb: &'static str,
    name: String,
    child: Child,
    process: Process,
    console: Option<UnixListener>,
}

impl Making {
    /// Waits for the runtime to end, and takes what it made: its process, and the terminal if it has one.
    pub fn finish(&mut self) -> Result<(Process, Option<OwnedFd>)> {
        let status = self.child.wait().at("wait for", &self.external.program)?;
        let file = |kind: &str| format!("{}.{kind}", self.name);
        let made = self.external.result(status, self.verb, &file("log"));
        let process = made.and_then(|()| self.external.read_pid(&file("pid"))).and_then(Process::open);
        let console = self.console.take().map(|listener| self.external.take_console(&listener, &file("sock"))).transpose();
        Ok((process?, console?.flatten()))
    }
}

impl AsFd for Making {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Nobody wants it any more, unless it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for kind in ["log", "pid", "sock", "json"] {
            let _ = std::fs::remove_file(self.external.dir.join(format!("{}.{kind}", self.name)));
        }
    }
}

/// The runtime has ended: the children of others are none of the shim's again.
pub fn no_subreaper() -> Result<()> {
    set_child_subreaper(None).at("be no longer", "subreaper")
}

/// runc 1.1 knows the domain name as a setting of the kernel's only.
fn set_domainname(spec: &mut Spec) {
    let Some(name) = spec.domainname().clone() else { return };
    if let Some(linux) = spec.linux_mut() {
        let mut sysctls = linux.sysctl().clone().unwrap_or_default();
        sysctls.entry("kernel.domainname".to_owned()).or_insert(name);
        linux.set_sysctl(Some(sysctls));
    }
}

/// The last error in the runtime's log, which has an object on each line.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.rfind(|line| matches!(line.level.as_str(), "error" | "fatal")).map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_the_last_error() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\nnoise\n\
                   {\"level\":\"error\",\"msg\":\"last\",\"time\":\"t\"}\n{\"level\":\"info\",\"msg\":\"i\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("last"));
        assert_eq!(last_error(""), None);
    }
}
