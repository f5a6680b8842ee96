//! What tests of containers share: a daemon that has images, both programs that drive it, and a look at what they made.

use std::process::Output;

use crate::{Daemon, has, images, may_mount, ok};

/// A daemon that has the images of these archives; `None` where containers can't be run.
pub fn daemon_with(archives: &[&str]) -> Option<Daemon> {
    if !may_mount() || !has("docker") {
        return None;
    }
    let archives = archives.iter().map(|name| images::made(name)).collect::<Option<Vec<_>>>()?;
    let daemon = Daemon::start();
    for archive in archives {
        ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    }
    Some(daemon)
}

/// A daemon that has busybox.
pub fn with_busybox() -> Option<Daemon> {
    daemon_with(&["busybox.tar"])
}

/// Whether containers run on the built-in runtime. `make test` runs some tests once more on runc.
pub fn is_builtin() -> bool {
    std::env::var("FSD_DEFAULT_RUNTIME").map_or(true, |name| name == "builtin")
}

/// One of the programs, on a daemon's socket.
pub type Cli = fn(&Daemon, &[&str]) -> Output;

/// Both, by name.
pub const CLIS: [(&str, Cli); 2] = [("docker", |d, a| d.docker(a)), ("ctl", |d, a| d.ctl(a))];

/// A detached container that runs a script.
#[track_caller]
pub fn detached(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let fixed = ["run", "-d", "--network", "none", "--name", name];
    ok(&daemon.docker(&[&fixed, flags, &["busybox", "sh", "-c", script]].concat()));
}

/// What `inspect` says about a container.
#[track_caller]
pub fn inspect(daemon: &Daemon, name: &str, format: &str) -> String {
    ok(&daemon.docker(&["inspect", "--type", "container", "-f", format, name])).trim().to_owned()
}

/// Makes a file in a container that ends when it finds it. From outside: a process inside could be killed with the others
/// before it has said that it is done.
#[track_caller]
pub fn end_by(daemon: &Daemon, name: &str, file: &str) {
    let pid = inspect(daemon, name, "{{.State.Pid}}");
    std::fs::write(format!("/proc/{pid}/root{file}"), "").unwrap();
}

/// A program's exit code; -1 if a signal ended it.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// What it said, whether it succeeded or not.
pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it said of errors, whether it succeeded or not.
pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The memory that a process has for itself, in kB: without what it maps of its program, which comes and goes with what
/// else the host does. None if it has ended.
pub fn own_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = text.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
    private.filter_map(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).sum()
}
