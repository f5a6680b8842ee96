//! A container's user namespace: what its maker does for it from outside, where it still has the host's rights.
//!
//! The namespace is made by the same clone that makes the others, which the kernel has it own. The new process is
//! nobody until its maker has written the ids, and waits for that. What root inside may not do is done outside before:
//! device nodes, limits above those in force, the OOM score, owners of streams, mounts mapped to the ids.

use std::os::fd::BorrowedFd;

use fs_base::sys::ids::{IdMap, IdRange, UserNamespace};
use fs_base::sys::pid;
use fs_base::sys::process::{ForkOptions, Forked, exit_now, fork};
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use rustix::fs::{Gid, Uid};

use super::channel::Channel;
use super::process::{give_streams_to, raise_limits, set_oom_score};
use super::rootfs::Source;
use super::{Among, Stdio, joined, reap};

/// The user namespace that a spec asks for.
#[derive(Debug)]
pub struct Users {
    map: IdMap,
    /// Another container's, to be joined.
    joined: Option<UserNamespace>,
}

impl Users {
    /// `None` if it is the host's.
    pub fn of(spec: &Spec) -> Result<Option<Users>> {
        let Some(map) = map_of(spec)? else { return Ok(None) };
        spec.process().as_ref().map_or(Ok(()), |process| check(&map, process))?;
        let joined = joined(spec, LinuxNamespaceType::User)?.map(UserNamespace::from_fd);
        Ok(Some(Users { map, joined }))
    }

    /// Its ids.
    pub fn map(&self) -> &IdMap {
        &self.map
    }

    /// The one to join.
    pub fn joined(&self) -> Option<&UserNamespace> {
        self.joined.as_ref()
    }

    /// Does for a new process, which waits for it, what it can't do itself.
    pub fn settle(&self, pid: i32, process: Option<&Process>, sources: &[Option<Source>]) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let made;
        let namespace = if let Some(joined) = &self.joined {
            joined
        } else {
            self.map.give_to(pid)?;
            made = UserNamespace::of_process(pid)?;
            &made
        };
        sources.iter().flatten().try_for_each(|source| source.map_ids(namespace))?;
        if let Some(process) = process {
            set_oom_score(process, Some(pid), &mut warnings)?;
            raise_limits(process, pid);
        }
        Ok(warnings)
    }

    /// Gives the user of a process inside the streams it was handed.
    pub fn give_streams(&self, stdio: &Stdio, process: Option<&Process>) {
        give_streams_outside(&self.map, stdio, process);
    }
}

/// See [`Users::give_streams`].
pub fn give_streams_outside(map: &IdMap, stdio: &Stdio, process: Option<&Process>) {
    let uid = process.and_then(|process| map.uid_outside(process.user().uid()));
    if let (Stdio::Streams { stdin, stdout, stderr }, Some(uid)) = (stdio, uid) {
        use std::os::fd::AsFd;
        give_streams_to(uid, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    }
}

/// Refuses a user or a group that the namespace does not know. The texts are runc's.
pub fn check(map: &IdMap, process: &Process) -> Result<()> {
    let user = process.user();
    if map.uid_outside(user.uid()).is_none() {
        return Err(Error::invalid("cannot set uid to unmapped user in user namespace"));
    }
    let mut groups = user.additional_gids().iter().flatten().copied().chain([user.gid()]).collect::<Vec<_>>();
    groups.retain(|gid| map.gid_outside(*gid).is_none());
    match groups.first() {
        Some(gid) => {
            Err(Error::invalid("cannot set gid to unmapped user in user namespace").with_hint(format!("it is group {gid}")))
        }
        None => Ok(()),
    }
}

/// The ids of the user namespace that a spec asks for.
pub fn map_of(spec: &Spec) -> Result<Option<IdMap>> {
    let Some(linux) = spec.linux() else { return Ok(None) };
    if !linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User) {
        return Ok(None);
    }
    let ranges = |list: Option<&Vec<LinuxIdMapping>>| list.into_iter().flatten().map(range).collect::<Vec<_>>();
    let map = IdMap::new(ranges(linux.uid_mappings().as_ref()), ranges(linux.gid_mappings().as_ref()));
    map.map(Some).map_err(|error| error.context("the spec's user namespace"))
}

fn range(mapping: &LinuxIdMapping) -> IdRange {
    IdRange { inside: mapping.container_id(), outside: mapping.host_id(), count: mapping.size() }
}

/// Becomes root of the user namespace that this process is in, where it is nobody yet.
pub fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).at("set", "groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).at("set", "group 0")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at("set", "user 0")
}

/// What came of [`fork_among`].
pub enum Born {
    /// This is the new process.
    Child,
    /// Its maker has it as a child.
    Parent(pid::Process),
}

/// Makes a container's first process, in the user namespace and among the processes that it is to join.
pub fn fork_among(
    users: Option<&UserNamespace>,
    pids: Option<&std::os::fd::OwnedFd>,
    namespaces: u64,
    into_cgroup: Option<BorrowedFd<'_>>,
) -> Result<Born> {
    let Some(users) = users else {
        let _among = pids.map(Among::enter).transpose()?;
        return Ok(match fork(&ForkOptions { namespaces, into_cgroup, sibling: false })? {
            Forked::Child => Born::Child,
            Forked::Parent(child) => Born::Parent(pid::Process::of_child(child)),
        });
    };
    // There is no way back from another user namespace: a process in between goes there and makes the one that stays.
    let (ours, theirs) = Channel::pair()?;
    let between = match fork(&ForkOptions { into_cgroup, ..ForkOptions::default() })? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop(ours);
            let options = ForkOptions { namespaces, sibling: true, ..ForkOptions::default() };
            let born = pids.map(Among::enter).transpose().and_then(|among| {
                std::mem::forget(among);
                users.join()?;
                fork(&options)
            });
            match born {
                Ok(Forked::Child) => return Ok(Born::Child),
                Ok(Forked::Parent(child)) => drop(theirs.send_pid(child.pid)),
                Err(error) => theirs.send_failure(&error),
            }
            exit_now(0)
        }
    };
    drop(theirs);
    let process = ours.wait_for_pid().and_then(pid::Process::open);
    use std::os::fd::AsFd;
    reap(between.pidfd.as_fd())?;
    process.map(Born::Parent)
}
