//! The built-in runtime: a spec and a tree become processes.
//!
//! [`create`] makes the container's first process and everything around it, up to the point where it would become the
//! user's program; [`Gate::open`] lets it. [`exec`] adds a process to a container that runs. Both fork without
//! exec, so their caller must have one thread: the shim.
//!
//! The new process does its own work, with the descriptors it inherited, and says over a socket when it is ready or
//! what went wrong. Nothing of a container's tree is opened by a joined path: everything goes through the descriptor
//! of its root (openat2, in-root), and the kernel's own file systems are used by the descriptors that made them, so a
//! hostile image can put nothing in the way.
//!
//! What a spec asks for and this runtime can't do is refused by name.

mod apparmor;
mod attr;
mod bundle;
mod channel;
mod dev;
mod exec;
mod external;
mod init;
mod network;
mod options;
mod proc;
mod process;
mod reaper;
mod refuse;
mod rootfs;
mod selinux;
mod terminal;
mod userns;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use fs_base::sys::mount::Mount;
use fs_base::sys::pid::Process;
use fs_base::sys::process::exit_now;
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::cgroup::Cgroup;
use crate::seccomp::{self, Filter};
pub use channel::Channel;
pub use exec::{Exec, Starting, Step, exec};
pub use external::{External, Making, children, no_subreaper};
pub use userns::map_of;
use userns::{Born, Users};

/// Standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// These.
    Streams {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container, whose master side the maker gets.
    Terminal,
}

/// What [`create`] needs.
#[derive(Debug)]
pub struct Create<'a> {
    /// What is to run.
    pub spec: &'a Spec,
    /// The container's tree, detached.
    pub root: Mount,
    /// An existing host directory; in the container's own namespace its tree gets its place there for a moment.
    pub scratch: &'a Path,
    /// Its streams.
    pub stdio: Stdio,
    /// Where it is to be; made already.
    pub cgroup: &'a Cgroup,
    /// Whether a small init of ours is the first process.
    pub init: bool,
}

/// A container that waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Its first process.
    pub process: Process,
    /// Its "/", as a path descriptor.
    pub root: OwnedFd,
    /// The master side of its terminal, if it has one.
    pub console: Option<OwnedFd>,
    /// What could not be done and was left.
    pub warnings: Vec<String>,
    /// What it waits at.
    pub gate: Gate,
}

/// What a new container waits at.
#[derive(Debug)]
pub enum Gate {
    /// The built-in runtime's. Dropped, the container ends.
    Builtin(Channel),
    /// Another's, which has its own.
    External(External),
}

impl Gate {
    /// Lets the container become the user's program. An error is the program's that could not be run.
    pub fn open(self) -> Result<()> {
        match self {
            Gate::Builtin(channel) => channel.send_start().and_then(|()| channel.wait_for_exec()),
            Gate::External(runtime) => runtime.start(),
        }
    }
}

/// Makes a container from its spec. On failure nothing is left but the cgroup, which is the caller's.
pub fn create(request: Create<'_>) -> Result<Created> {
    refuse::check(request.spec)?;
    let binds = rootfs::open_sources(request.spec)?;
    let users = Users::of(request.spec)?;
    let dev = users.as_ref().map(|users| dev::make(request.spec, users.map())).transpose()?.flatten();
    if let Some(users) = &users {
        users.give_streams(&request.stdio, request.spec.process().as_ref());
    }
    let joiner = request.cgroup.joiner()?;
    let network = joined(request.spec, LinuxNamespaceType::Network)?;
    let pids = joined(request.spec, LinuxNamespaceType::Pid)?;
    let ipc = joined(request.spec, LinuxNamespaceType::Ipc)?;
    let mut namespaces = namespaces(request.spec)?;
    let others = users.as_ref().and_then(Users::joined);
    for (typ, is_joined) in [
        (LinuxNamespaceType::Network, network.is_some()),
        (LinuxNamespaceType::Pid, pids.is_some()),
        (LinuxNamespaceType::Ipc, ipc.is_some()),
        (LinuxNamespaceType::User, others.is_some()),
    ] {
        if is_joined {
            namespaces &= !(typ as u64);
        }
    }
    let filter = filter(request.spec)?;
    let (ours, theirs) = Channel::pair()?;
    // A cgroup namespace shows the cgroup one is in when it is made: the process makes its own after joining.
    let mut at_birth = namespaces & !(LinuxNamespaceType::Cgroup as u64);
    if users.is_some() {
        // Its message queues belong to whoever makes it, who is nobody at birth.
        at_birth &= !(LinuxNamespaceType::Ipc as u64);
    }
    match userns::fork_among(others, pids.as_ref(), at_birth, request.cgroup.unified_dir())? {
        Born::Child => {
            drop(ours);
            let inherited = init::Inherited {
                binds: &binds,
                joiner: &joiner,
                namespaces,
                network: network.as_ref(),
                ipc: ipc.as_ref(),
                filter: filter.as_ref(),
                users: users.as_ref(),
                dev,
            };
            let code = init::run(request, inherited, theirs);
            exit_now(code)
        }
        Born::Parent(process) => {
            drop(theirs);
            let made = wait_until_made(request.spec, users.as_ref(), &binds, &process, &ours);
            match made {
                Ok((root, ready)) => {
                    Ok(Created { process, root, console: ready.console, warnings: ready.warnings, gate: Gate::Builtin(ours) })
                }
                Err(error) => {
                    let _ = process.signal(rustix::process::Signal::KILL.as_raw());
                    let _ = reap(process.as_fd());
                    Err(error)
                }
            }
        }
    }
}

fn wait_until_made(
    spec: &Spec,
    users: Option<&Users>,
    binds: &[Option<rootfs::Source>],
    process: &Process,
    channel: &Channel,
) -> Result<(OwnedFd, channel::Ready)> {
    let mut warnings = Vec::new();
    if let Some(users) = users {
        warnings = users.settle(process.pid(), spec.process().as_ref(), binds)?;
        // If it has failed before that, its word is waiting.
        let _ = channel.send_start();
    }
    let mut ready = channel.wait_for_ready()?;
    ready.warnings.extend(warnings);
    let root = ready.root.take().ok_or_else(|| Error::internal("the new process sent no root"))?;
    Ok((root, ready))
}

/// Waits for a child to end and takes its status: the exit code, or 128 plus the signal that ended it.
pub fn reap(process: BorrowedFd<'_>) -> Result<i32> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = loop {
        match waitid(WaitId::PidFd(process), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.at("wait for", "process")?,
        }
    };
    let status = status.ok_or_else(|| Error::internal("a process ended without a status"))?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    })
}

/// The compiled system call filter of a spec.
pub fn filter(spec: &Spec) -> Result<Option<Filter>> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(seccomp::compile).transpose()
}

/// While it lives, the children of this process are born among the processes of another container. Source:
/// pid_namespaces(7), `setns`.
struct Among(OwnedFd);

impl Among {
    fn enter(pids: &OwnedFd) -> Result<Among> {
        let path = "/proc/self/ns/pid";
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let own = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).at("open", path)?;
        let kind = Some(rustix::thread::LinkNameSpaceType::ProcessID);
        rustix::thread::move_into_link_name_space(pids.as_fd(), kind).at("join", "process namespace")?;
        Ok(Among(own))
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        // To where it is itself it may always go back.
        let _ = rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(rustix::thread::LinkNameSpaceType::ProcessID));
    }
}

/// Another container's namespace of this kind, if that is to be joined.
fn joined(spec: &Spec, typ: LinuxNamespaceType) -> Result<Option<OwnedFd>> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let path = all.filter(|one| one.typ() == typ).find_map(|one| one.path().as_ref());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    path.map(|path| rustix::fs::open(path, flags, rustix::fs::Mode::empty()).at("open", path)).transpose()
}

/// The namespaces that a container of this spec has apart from its maker, as clone flags. Of those that exist already
/// only those of the network, of the processes, of their messages and of users can be joined.
pub fn namespaces(spec: &Spec) -> Result<u64> {
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("the spec has no linux section"))?;
    let mut flags = 0;
    for namespace in linux.namespaces().iter().flatten() {
        use LinuxNamespaceType::{Ipc, Network, Pid, User};
        let can_join = matches!(namespace.typ(), Network | Pid | Ipc | User);
        if let Some(path) = namespace.path().as_ref().filter(|_| !can_join) {
            return Err(Error::unsupported(format!(
                "joining the {} namespace {} is not supported by the built-in runtime",
                namespace.typ(),
                path.display()
            )));
        }
        match namespace.typ() {
            LinuxNamespaceType::Time => {
                return Err(Error::unsupported(format!(
                    "{} namespaces are not supported by the built-in runtime",
                    namespace.typ()
                )));
            }
            typ => flags |= typ as u64,
        }
    }
    if flags & LinuxNamespaceType::Mount as u64 == 0 {
        return Err(Error::invalid("the spec asks for no mount namespace"));
    }
    Ok(flags)
}
