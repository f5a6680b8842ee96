//! The first process of a container, from its birth to the user's program.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fs_base::sys::mount::Mount;
use fs_base::sys::process::unshare;
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxNamespaceType, Process};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::channel::Channel;
use super::process::{late_filter, prepare, set_oom_score};
use super::rootfs::{Rootfs, Source, own_root};
use super::terminal::{self, Terminal};
use super::userns::{self, Users};
use super::{Create, Stdio, network, reaper};
use crate::cgroup::Joiner;
use crate::seccomp::Filter;

/// What was prepared for it before it was born.
pub struct Inherited<'a> {
    /// The sources of its bind mounts.
    pub binds: &'a [Option<Source>],
    /// The way into its cgroup.
    pub joiner: &'a Joiner,
    /// Its new namespaces.
    pub namespaces: u64,
    /// Another container's network namespace, which it has too.
    pub network: Option<&'a OwnedFd>,
    /// Another container's namespace of messages, which it has too.
    pub ipc: Option<&'a OwnedFd>,
    /// Its system call filter.
    pub filter: Option<&'a Filter>,
    /// The user namespace that it is in, and not yet known in.
    pub users: Option<&'a Users>,
    /// Its /dev, if it can't make that itself.
    pub dev: Option<Mount>,
}

/// All of the first process's life that is ours. Never returns to the maker's code: the result is an exit code.
pub fn run(request: Create<'_>, inherited: Inherited<'_>, channel: Channel) -> i32 {
    let Some(process) = request.spec.process().clone() else { return 255 };
    let init = request.init;
    let mut warnings = Vec::new();
    let filter = inherited.filter;
    let error = match set_up(request, &process, inherited, &channel, &mut warnings) {
        Ok(console) if init => return reaper::run(&process, filter, &warnings, console, channel),
        Ok(console) => become_program(&process, filter, &mut warnings, console, &channel),
        Err(error) => error,
    };
    channel.send_failure(&error);
    255
}

/// The last steps, with the wait for the word to go between them. Returns only if one fails.
pub fn become_program(
    process: &Process,
    filter: Option<&Filter>,
    warnings: &mut Vec<String>,
    console: Option<OwnedFd>,
    channel: &Channel,
) -> Error {
    let ready = prepare(process, filter, warnings).and_then(|program| {
        channel.send_ready(own_root()?.as_fd(), console.as_ref().map(AsFd::as_fd), warnings)?;
        drop(console);
        channel.wait_for_start()?;
        late_filter(process, filter)?;
        Ok(program)
    });
    match ready {
        Ok(program) => program.run(),
        Err(error) => error,
    }
}

/// Namespaces, tree and streams. The result is the master side of its terminal.
fn set_up(
    request: Create<'_>,
    process: &Process,
    inherited: Inherited<'_>,
    channel: &Channel,
    warnings: &mut Vec<String>,
) -> Result<Option<OwnedFd>> {
    let Create { spec, root, scratch, stdio, cgroup, .. } = request;
    let has = |namespace: LinuxNamespaceType| inherited.namespaces & namespace as u64 != 0;
    inherited.joiner.join_self()?;
    match inherited.users {
        None => set_oom_score(process, None, warnings)?,
        // Its maker does that, and names its ids.
        Some(_) => channel.wait_for_start()?,
    }
    rustix::process::setsid().at("setsid", "first process")?;
    if has(LinuxNamespaceType::Cgroup) {
        unshare(LinuxNamespaceType::Cgroup as u64)?;
    }
    join(inherited.network, LinkNameSpaceType::Network, "network namespace")?;
    join(inherited.ipc, LinkNameSpaceType::InterProcessCommunication, "IPC namespace")?;
    if has(LinuxNamespaceType::Network) {
        network::bring_loopback_up()?;
    }
    if has(LinuxNamespaceType::Uts) {
        set_names(spec)?;
    }
    // Modes are given in full from here on.
    rustix::process::umask(Mode::empty());
    let mut tree = Rootfs::begin(spec, &root, scratch)?;
    drop(root);
    if inherited.users.is_some() {
        // Not before: the way to the tree's place is the host's root's.
        userns::become_root()?;
        unshare(inherited.namespaces & LinuxNamespaceType::Ipc as u64)?;
        tree.take_dev(inherited.dev);
    }
    tree.mount_all(inherited.binds, &cgroup.views())?;
    tree.make_devices()?;
    tree.set_sysctls()?;
    make_cwd(&tree, process.cwd())?;
    let (console, slave) = match &stdio {
        Stdio::Terminal => {
            let devpts = tree.devpts().ok_or_else(|| Error::invalid("a terminal needs /dev/pts in the spec"))?;
            let terminal = Terminal::open(devpts, process)?;
            tree.mount_console(terminal.slave.as_fd())?;
            (Some(terminal.master), Some(terminal.slave))
        }
        Stdio::Streams { .. } => (None, None),
    };
    tree.protect()?;
    tree.enter()?;
    set_streams(stdio, slave)?;
    Ok(console)
}

fn join(other: Option<&OwnedFd>, kind: LinkNameSpaceType, what: &str) -> Result<()> {
    other.map_or(Ok(()), |other| move_into_link_name_space(other.as_fd(), Some(kind)).at("join", what))
}

/// Sets the standard streams to what the maker gave, or to the terminal's slave side.
pub fn set_streams(stdio: Stdio, slave: Option<OwnedFd>) -> Result<()> {
    match (stdio, slave) {
        (Stdio::Streams { stdin, stdout, stderr }, _) => terminal::set_streams(stdin.as_fd(), stdout.as_fd(), stderr.as_fd()),
        (Stdio::Terminal, Some(slave)) => terminal::take(slave.as_fd()),
        (Stdio::Terminal, None) => Ok(()),
    }
}

fn set_names(spec: &oci_spec::runtime::Spec) -> Result<()> {
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).at("sethostname:", name)?;
    }
    if let Some(name) = spec.domainname() {
        rustix::system::setdomainname(name.as_bytes()).at("set domain name", name)?;
    }
    Ok(())
}

/// Docker makes a working directory that is missing, and says it so if another thing is there. Where it can't be made,
/// going there fails by name later.
fn make_cwd(tree: &Rootfs<'_>, cwd: &Path) -> Result<()> {
    let made = match tree.root().resolve(cwd) {
        Ok(_) => tree.root().open_at(cwd, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()),
        Err(_) => tree.root().make_dirs(cwd, Mode::from(0o755)),
    };
    match made {
        Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
            Err(Error::invalid(format!("Cannot mkdir: {} is not a directory", cwd.display())))
        }
        _ => Ok(()),
    }
}
