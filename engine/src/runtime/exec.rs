//! A further process in a container that runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_base::sys::pid;
use fs_base::sys::process::{ForkOptions, Forked, exit_now, fork};
use fs_base::{Class, Error, IoContext, Result};
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;

use super::channel::Channel;
use super::init::{become_program, set_streams};
use super::process::set_oom_score;
use super::terminal::Terminal;
use super::{Stdio, reap};
use crate::cgroup::Cgroup;
use crate::seccomp::Filter;

/// What [`exec`] needs.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The first process of the container.
    pub target: BorrowedFd<'a>,
    /// The namespaces that the container has of its own, as clone flags.
    pub namespaces: u64,
    /// What is to run.
    pub process: &'a Process,
    /// Its system call filter.
    pub filter: Option<&'a Filter>,
    /// Its streams.
    pub stdio: Stdio,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
}

/// Runs a process in a container. When this returns, it is the user's program, and a child of the caller. The master
/// side of its terminal comes along, if it has one.
pub fn exec(request: Exec<'_>) -> Result<(pid::Process, Option<OwnedFd>)> {
    let joiner = request.cgroup.joiner()?;
    let (ours, theirs) = Channel::pair()?;
    // Its own, because the process that stays may speak before the one that made it.
    let (number, tell_number) = Channel::pair()?;
    let options = ForkOptions { into_cgroup: request.cgroup.unified_dir(), ..ForkOptions::default() };
    let between = match fork(&options)? {
        Forked::Child => {
            drop((ours, number));
            let result = joiner.join_self().and_then(|()| enter(request, theirs, &tell_number));
            if let Err(error) = result {
                tell_number.send_failure(&error);
            }
            exit_now(0)
        }
        Forked::Parent(child) => child,
    };
    drop((theirs, tell_number));
    let process = number.wait_for_pid().and_then(pid::Process::open);
    reap(between.pidfd.as_fd())?;
    let process = process?;
    let started = ours.wait_for_ready().and_then(|ready| {
        ours.send_start()?;
        ours.wait_for_exec().map(|()| ready.console)
    });
    match started {
        Ok(console) => Ok((process, console)),
        Err(error) => {
            let _ = process.signal(rustix::process::Signal::KILL.as_raw());
            let _ = reap(process.as_fd());
            Err(error)
        }
    }
}

/// In the process in between: joins the container, and makes the process that stays, whose parent is the caller.
fn enter(request: Exec<'_>, channel: Channel, tell_number: &Channel) -> Result<()> {
    let mut warnings = Vec::new();
    set_oom_score(request.process, &mut warnings)?;
    // Nobody in the container may look into a process that is half in it. (CVE-2019-5736, CVE-2019-14271)
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).at("set", "not dumpable")?;
    let kinds = ThreadNameSpaceType::from_bits_retain(request.namespaces as u32);
    rustix::thread::move_into_thread_name_spaces(request.target, kinds).at("join", "the container's namespaces").map_err(
        |error| if error.class() == Class::NotFound { Error::conflict("the container is not running") } else { error },
    )?;
    match fork(&ForkOptions { sibling: true, ..ForkOptions::default() }) {
        Ok(Forked::Parent(child)) => {
            drop(channel);
            tell_number.send_pid(child.pid)
        }
        Ok(Forked::Child) => {
            let error = match set_up(request.stdio) {
                Ok(console) => become_program(request.process, request.filter, &mut warnings, console, &channel),
                Err(error) => error,
            };
            channel.send_failure(&error);
            exit_now(255)
        }
        Err(error) => Err(error),
    }
}

/// Session and streams. The result is the master side of its terminal.
fn set_up(stdio: Stdio) -> Result<Option<OwnedFd>> {
    rustix::process::setsid().at("setsid", "new process")?;
    let (console, slave) = match &stdio {
        Stdio::Terminal => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let devpts = rustix::fs::open("/dev/pts", flags, Mode::empty()).at("open", "/dev/pts")?;
            let terminal = Terminal::open(devpts.as_fd())?;
            (Some(terminal.master), Some(terminal.slave))
        }
        Stdio::Streams { .. } => (None, None),
    };
    set_streams(stdio, slave)?;
    Ok(console)
}
