//! What a container is to run, as a plain value: no Docker type is in it, and nothing in it is looked up yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fs_base::sys::ids::IdMap;
use fs_base::{ContainerId, MountSpec};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxResources};
use serde::{Deserialize, Serialize};

use crate::selinux::Labels;

/// A container, as [`crate::spec::build`] turns it into an OCI runtime spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its id; also the name of its cgroup.
    pub id: ContainerId,
    /// The command and its arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute path in the container; made if missing. `/` if empty.
    pub cwd: String,
    /// `""`, `name`, `uid`, `name:group`, `uid:gid`: looked up in the container's own /etc/passwd and /etc/group.
    pub user: String,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// Its host name.
    pub hostname: String,
    /// Its NIS domain name; unset if empty.
    pub domainname: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// The size of that from the start, lines and characters in a line; the kernel's, which is none, if `None`.
    #[serde(default)]
    pub console_size: Option<(u16, u16)>,
    /// Whether its standard input is kept open.
    pub open_stdin: bool,
    /// Whether its standard input ends when the first client that attached to it leaves.
    pub stdin_once: bool,
    /// Whether its root can't be written.
    pub read_only_root: bool,
    /// What its user asked to mount.
    pub mounts: Vec<MountSpec>,
    /// Files that the daemon keeps for it (`/etc/hosts`, …), mounted before anything of its user's.
    pub files: Vec<ManagedFile>,
    /// Its network.
    pub network: Network,
    /// Its process ids.
    pub pid: Namespace,
    /// Its System V and POSIX message queues.
    pub ipc: Namespace,
    /// The folder of the host that is its /dev/shm, where that is shared; a tmpfs of its own if `None`.
    pub shm: Option<PathBuf>,
    /// Its host name's namespace.
    pub uts: Namespace,
    /// Its view of the cgroups.
    pub cgroup: Namespace,
    /// Its users and groups.
    pub users: Users,
    /// Capabilities on top of Docker's default ones: `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities less than the default ones.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Whether set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// The AppArmor profile that it is in; that of its maker if `None`. It has to be loaded.
    pub apparmor: Option<String>,
    /// The SELinux labels of it and of its files; those that its maker's come to if `None`.
    #[serde(default)]
    pub selinux: Option<Labels>,
    /// Paths that it sees empty; Docker's defaults if `None`.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that it can't write; Docker's defaults if `None`.
    pub readonly_paths: Option<Vec<String>>,
    /// Kernel settings of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of its first process.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm; 64 MiB if `None`, and there is none if 0.
    pub shm_size: Option<u64>,
    /// Nodes in its /dev besides those that every container has.
    pub devices: Vec<LinuxDevice>,
    /// What it may do with devices besides the rules for every container.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// What its cgroup allows.
    pub resources: LinuxResources,
    /// The cgroup that its own is made in; [`crate::cgroup::DEFAULT_PARENT`] if `None`.
    pub cgroup_parent: Option<String>,
    /// How early the kernel ends it when memory runs out (-1000 to 1000).
    pub oom_score_adj: Option<i32>,
    /// Whether a small init of ours is its first process.
    pub init: bool,
}

/// A file of the daemon's that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedFile {
    /// Absolute host path.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
}

/// Whose network a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own, with nothing but `lo` until somebody connects it.
    Own,
    /// The host's.
    Host,
    /// The one at this path, which is another container's.
    Of(PathBuf),
}

/// Whose namespace of a kind a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Its own.
    Private,
    /// The host's.
    Host,
    /// The one at this path, which is another container's.
    Of(PathBuf),
}

/// Whose users and groups a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Users {
    /// The host's: its root is the host's root, with fewer rights.
    Host,
    /// Its own, in a user namespace with these ids.
    Own(IdMap),
    /// Those of another container, whose user namespace is at this path and has these ids. Namespaces that belong to a
    /// user namespace can be joined only in that.
    Of(PathBuf, IdMap),
}

impl Users {
    /// Their ids inside and outside, where these differ.
    pub fn ids(&self) -> Option<&IdMap> {
        match self {
            Users::Host => None,
            Users::Own(ids) | Users::Of(_, ids) => Some(ids),
        }
    }
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Those of Docker's default profile.
    Default,
    /// All.
    Unconfined,
    /// Those of a profile in Docker's JSON form.
    Profile(String),
}

/// One resource limit. Source: getrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core`, …
    pub name: String,
    /// The limit in force; -1 is none.
    pub soft: i64,
    /// How far the process may raise it; -1 is none.
    pub hard: i64,
}
