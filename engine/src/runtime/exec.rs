//! A further process in a container that runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_base::sys::ids::IdMap;
use fs_base::sys::pid;
use fs_base::sys::process::{Child, ForkOptions, Forked, exit_now, fork};
use fs_base::{Class, Error, IoContext, Result};
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;

use super::channel::Channel;
use super::init::{become_program, set_streams};
use super::process::{raise_limits, set_oom_score};
use super::terminal::Terminal;
use super::{Stdio, reap, refuse, userns};
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
    /// The ids of its user namespace, if it has one.
    pub ids: Option<&'a IdMap>,
}

/// A process that is on its way to become the user's program. It may take long: its working directory or its program
/// can lie in a volume whose server is slow, or hangs, and the container may be frozen. Dropped, it is ended.
#[derive(Debug)]
pub struct Starting {
    stage: Stage,
    /// `None` before it has a number, and once it is the caller's.
    process: Option<pid::Process>,
    channel: Channel,
    console: Option<OwnedFd>,
}

#[derive(Debug)]
enum Stage {
    /// The process in between joins the container, and tells the number of the one that stays.
    Number(Channel, Child),
    /// The process in between ends.
    Between(Child),
    /// The one that stays does all but become the program.
    Ready,
    /// And becomes it.
    Exec,
}

/// How far a process has come.
#[derive(Debug)]
pub enum Step {
    /// There is more to wait for.
    Pending(Starting),
    /// It is the user's program, and a child of the caller. The master side of its terminal comes along, if it has one.
    Running(pid::Process, Option<OwnedFd>),
}

impl Starting {
    /// Takes the next step, for which this must be readable. An error is why it could not become the program.
    pub fn step(mut self) -> Result<Step> {
        match self.go_on() {
            Ok(false) => Ok(Step::Pending(self)),
            Ok(true) => {
                let process = self.process.take().ok_or_else(|| Error::internal("a process was taken twice"))?;
                Ok(Step::Running(process, self.console.take()))
            }
            Err(error) => {
                // It has ended, or is about to: what it had to say was its last word.
                if let Some(process) = self.process.take() {
                    let _ = process.signal(rustix::process::Signal::KILL.as_raw());
                    let _ = reap(process.as_fd());
                }
                Err(error)
            }
        }
    }

    /// Whether that was the last step.
    fn go_on(&mut self) -> Result<bool> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Exec) {
            Stage::Number(number, between) => match number.wait_for_pid().and_then(pid::Process::open) {
                Ok(process) => {
                    self.process = Some(process);
                    Stage::Between(between)
                }
                Err(error) => {
                    reap(between.pidfd.as_fd())?;
                    return Err(error);
                }
            },
            Stage::Between(between) => {
                reap(between.pidfd.as_fd())?;
                Stage::Ready
            }
            Stage::Ready => {
                self.console = self.channel.wait_for_ready()?.console;
                self.channel.send_start()?;
                Stage::Exec
            }
            Stage::Exec => {
                self.channel.wait_for_exec()?;
                return Ok(true);
            }
        };
        Ok(false)
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stage {
            Stage::Number(number, _) => number.as_fd(),
            Stage::Between(between) => between.pidfd.as_fd(),
            Stage::Ready | Stage::Exec => self.channel.as_fd(),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let Some(process) = &self.process else { return };
        let _ = process.signal(rustix::process::Signal::KILL.as_raw());
        // One that hangs in the kernel is not waited for: whoever comes after us takes its status.
        let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Begins to run a process in a container. Nothing here waits for the container's files.
pub fn exec(request: Exec<'_>) -> Result<Starting> {
    refuse::process(request.process)?;
    request.ids.map_or(Ok(()), |ids| userns::check(ids, request.process))?;
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
    Ok(Starting { stage: Stage::Number(number, between), process: None, channel: ours, console: None })
}

/// In the process in between: joins the container, and makes the process that stays, whose parent is the caller.
fn enter(request: Exec<'_>, channel: Channel, tell_number: &Channel) -> Result<()> {
    let mut warnings = Vec::new();
    set_oom_score(request.process, None, &mut warnings)?;
    if let Some(ids) = request.ids {
        // What takes the host's rights comes before they are given up.
        userns::give_streams_outside(ids, &request.stdio, Some(request.process));
        raise_limits(request.process, rustix::process::getpid().as_raw_nonzero().get());
    }
    // Nobody in the container may look into a process that is half in it. (CVE-2019-5736, CVE-2019-14271)
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).at("set", "not dumpable")?;
    let kinds = ThreadNameSpaceType::from_bits_retain(request.namespaces as u32);
    rustix::thread::move_into_thread_name_spaces(request.target, kinds).at("join", "the container's namespaces").map_err(
        |error| if error.class() == Class::NotFound { Error::conflict("the container is not running") } else { error },
    )?;
    if request.ids.is_some() {
        userns::become_root()?;
    }
    match fork(&ForkOptions { sibling: true, ..ForkOptions::default() }) {
        Ok(Forked::Parent(child)) => {
            drop(channel);
            tell_number.send_pid(child.pid)
        }
        Ok(Forked::Child) => {
            let error = match set_up(request.stdio, request.process) {
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
fn set_up(stdio: Stdio, process: &Process) -> Result<Option<OwnedFd>> {
    rustix::process::setsid().at("setsid", "new process")?;
    let (console, slave) = match &stdio {
        Stdio::Terminal => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let devpts = rustix::fs::open("/dev/pts", flags, Mode::empty()).at("open", "/dev/pts")?;
            let terminal = Terminal::open(devpts.as_fd(), process)?;
            (Some(terminal.master), Some(terminal.slave))
        }
        Stdio::Streams { .. } => (None, None),
    };
    set_streams(stdio, slave)?;
    Ok(console)
}
