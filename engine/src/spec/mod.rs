//! From a [`Container`] to its OCI runtime spec, with Docker's defaults.
//!
//! The spec is all that a runtime gets to know. Source: OCI runtime spec 1.2, config.md and config-linux.md; defaults
//! after moby `daemon/oci_linux.go` and `oci/defaults.go`.

mod devices;
mod mounts;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fs_base::sys::ids::{IdMap, IdRange};
use fs_base::sys::root::Root;
use fs_base::{Error, Result};
use oci_spec::runtime::{
    Box as SpecBox, BoxBuilder, Capabilities, Capability, Linux, LinuxCapabilities, LinuxDevice, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Spec, User as SpecUser,
};

use crate::config::{Container, Namespace, Network, Ulimit, Users};
use crate::selinux::Labels;
use crate::user::{self, User};
use crate::{capability, cgroup, seccomp};

pub use devices::allowed as allowed_devices;

/// Paths that are hidden from a container that is not privileged, as Docker hides them.
pub const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that are read-only in one.
pub const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of a container whose tree is `root`: names of users are looked up there.
pub fn build(container: &Container, root: &Root) -> Result<Spec> {
    let mut spec = Spec::default();
    // The oldest that has all that is used here: crun 1.8 takes no newer one.
    spec.set_version("1.0.2".to_owned());
    let mut tree = oci_spec::runtime::Root::default();
    tree.set_readonly(Some(container.read_only_root));
    spec.set_root(Some(tree));
    spec.set_hostname((container.uts == Namespace::Private).then(|| container.hostname.clone()));
    let domainname =
        (container.uts == Namespace::Private && !container.domainname.is_empty()).then(|| container.domainname.clone());
    spec.set_domainname(domainname);
    spec.set_mounts(Some(mounts::all(container)?));
    let process = process_of(container, root)?;
    spec.set_linux(Some(linux(container)?));
    spec.set_process(Some(process));
    Ok(spec)
}

/// What an additional process of a container is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecProcess {
    /// The command and its arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, over those of the container.
    pub env: Vec<String>,
    /// Where it starts; the container's own place if `None`.
    pub cwd: Option<String>,
    /// As in [`Container::user`]; the container's own user if `None`.
    pub user: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// As in [`Container::console_size`].
    pub console_size: Option<(u16, u16)>,
    /// Whether it gets all capabilities and all system calls.
    pub privileged: bool,
}

/// The process that `exec` runs in a container, whose tree is `root`.
pub fn exec_process(container: &Container, exec: &ExecProcess, root: &Root) -> Result<Process> {
    if exec.args.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    let mut same = container.clone();
    same.args.clone_from(&exec.args);
    same.tty = exec.tty;
    same.console_size = exec.console_size;
    same.privileged |= exec.privileged;
    if let Some(user) = &exec.user {
        same.user.clone_from(user);
    }
    if let Some(cwd) = &exec.cwd {
        same.cwd.clone_from(cwd);
    }
    same.env = merge_env(container.env.clone(), &exec.env);
    process_of(&same, root)
}

fn process_of(container: &Container, root: &Root) -> Result<Process> {
    if container.args.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let user = user::resolve(root, &container.user, &container.groups)?;
    let mut process = Process::default();
    process
        .set_terminal(Some(container.tty))
        .set_console_size(container.console_size.filter(|_| container.tty).map(console).transpose()?)
        .set_args(Some(container.args.clone()))
        .set_env(Some(environment(container, &user)))
        .set_cwd(cwd(&container.cwd)?)
        .set_capabilities(Some(capabilities(container, &user)?))
        .set_no_new_privileges(Some(container.no_new_privileges))
        .set_apparmor_profile(container.apparmor.clone())
        .set_selinux_label(label(container, |labels| &labels.process))
        .set_oom_score_adj(container.oom_score_adj)
        .set_rlimits(Some(container.ulimits.iter().map(rlimit).collect::<Result<_>>()?));
    let mut spec_user = SpecUser::default();
    spec_user.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups));
    process.set_user(spec_user);
    Ok(process)
}

/// One of its labels, if it has it.
fn label(container: &Container, which: impl Fn(&Labels) -> &String) -> Option<String> {
    container.selinux.as_ref().map(|labels| which(labels).clone()).filter(|label| !label.is_empty())
}

fn console((rows, columns): (u16, u16)) -> Result<SpecBox> {
    let size = BoxBuilder::default().height(rows).width(columns).build();
    size.map_err(|error| Error::internal(format!("size of the terminal: {error}")))
}

fn cwd(text: &str) -> Result<PathBuf> {
    match text {
        "" => Ok("/".into()),
        absolute if absolute.starts_with('/') => Ok(absolute.into()),
        other => Err(Error::invalid(format!("the working directory '{other}' is invalid, it needs to be an absolute path"))),
    }
}

/// Docker's own variables, then the container's over them, then a home if there is none.
fn environment(container: &Container, user: &User) -> Vec<String> {
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.push(format!("HOSTNAME={}", container.hostname));
    if container.tty {
        env.push("TERM=xterm".to_owned());
    }
    let mut env = merge_env(env, &container.env);
    // An empty one is none, as runc has it.
    env.retain(|pair| pair != "HOME=");
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// `over` replaces what has the same name; a name without `=` takes it away, as Docker does.
fn merge_env(mut env: Vec<String>, over: &[String]) -> Vec<String> {
    for pair in over {
        let (name, has_value) = pair.split_once('=').map_or((pair.as_str(), false), |(name, _)| (name, true));
        let place = env.iter().position(|old| old.split_once('=').map_or(old.as_str(), |(old, _)| old) == name);
        match (place, has_value) {
            (Some(place), true) => env[place].clone_from(pair),
            (Some(place), false) => drop(env.remove(place)),
            (None, true) => env.push(pair.clone()),
            (None, false) => {}
        }
    }
    env
}

/// An ordinary user has none in force, only a bound on what set-user-id programs can give; root has them all.
fn capabilities(container: &Container, user: &User) -> Result<LinuxCapabilities> {
    let set: Capabilities = granted(container)?.into_iter().collect();
    let in_force = if user.uid == 0 { set.clone() } else { Capabilities::new() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set))
        .set_effective(Some(in_force.clone()))
        .set_permitted(Some(in_force))
        .set_inheritable(None)
        .set_ambient(None);
    Ok(capabilities)
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    let unknown = || Error::invalid(format!("invalid ulimit type: {}", limit.name));
    let name = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
    let typ: PosixRlimitType = serde_json::from_value(name.into()).map_err(|_| unknown())?;
    // -1 is "no limit", in the kernel's words the largest number.
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(limit.soft as u64)
        .hard(limit.hard as u64)
        .build()
        .map_err(|error| Error::invalid(format!("ulimit {}: {error}", limit.name)))
}

fn linux(container: &Container) -> Result<Linux> {
    let mut linux = Linux::default();
    let mut resources = container.resources.clone();
    let mut rules = devices::allowed(container.privileged);
    rules.extend(container.device_rules.iter().cloned());
    resources.set_devices(Some(rules));
    linux
        .set_resources(Some(resources))
        .set_namespaces(Some(namespaces(container)?))
        .set_cgroups_path(Some(cgroups_path(container)))
        .set_seccomp(seccomp_of(container)?)
        .set_sysctl(Some(sysctls(container)))
        .set_devices(Some(nodes(container)?))
        .set_uid_mappings(container.users.ids().map(|ids| mappings(ids.uids())).transpose()?)
        .set_gid_mappings(container.users.ids().map(|ids| mappings(ids.gids())).transpose()?)
        .set_rootfs_propagation(None)
        .set_mount_label(label(container, |labels| &labels.mount))
        .set_masked_paths(Some(paths(container, container.masked_paths.as_ref(), MASKED)))
        .set_readonly_paths(Some(paths(container, container.readonly_paths.as_ref(), READ_ONLY)));
    Ok(linux)
}

/// Ids in the spec's words.
fn mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>> {
    let mapping = |range: &IdRange| {
        let builder = LinuxIdMappingBuilder::default().container_id(range.inside).host_id(range.outside).size(range.count);
        builder.build().map_err(|error| Error::internal(format!("id mapping: {error}")))
    };
    ranges.iter().map(mapping).collect()
}

/// The nodes in its /dev: all of the host's if it is privileged, and those that were asked for.
fn nodes(container: &Container) -> Result<Vec<LinuxDevice>> {
    let mut nodes = if container.privileged { devices::of_host()? } else { Vec::new() };
    nodes.retain(|node| !container.devices.iter().any(|own| own.path() == node.path()));
    nodes.extend(container.devices.iter().cloned());
    Ok(nodes)
}

/// The profile, resolved for the container's capabilities.
fn seccomp_of(container: &Container) -> Result<Option<oci_spec::runtime::LinuxSeccomp>> {
    seccomp::to_spec(&container.seccomp, &granted(container)?, container.privileged)
}

/// What it is to have and this host can give.
fn granted(container: &Container) -> Result<Vec<Capability>> {
    let wanted = capability::effective_set(&container.cap_add, &container.cap_drop, container.privileged)?;
    Ok(capability::clamp_to_bounding(&wanted, &container.cap_add)?.kept)
}

/// Its cgroup, below the root of each hierarchy.
pub fn cgroups_path(container: &Container) -> PathBuf {
    Path::new(container.cgroup_parent.as_deref().unwrap_or(cgroup::DEFAULT_PARENT)).join(container.id.as_str())
}

fn namespaces(container: &Container) -> Result<Vec<LinuxNamespace>> {
    let private = |namespace: &Namespace| *namespace != Namespace::Host;
    let wanted = [
        // The others are to belong to it.
        (LinuxNamespaceType::User, container.users != Users::Host),
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::Network, container.network != Network::Host),
        (LinuxNamespaceType::Pid, private(&container.pid)),
        (LinuxNamespaceType::Ipc, private(&container.ipc)),
        (LinuxNamespaceType::Uts, private(&container.uts)),
        (LinuxNamespaceType::Cgroup, private(&container.cgroup)),
    ];
    let make = |typ| {
        let mut builder = LinuxNamespaceBuilder::default().typ(typ);
        let other = |namespace: &Namespace| match namespace {
            Namespace::Of(path) => Some(path.clone()),
            Namespace::Private | Namespace::Host => None,
        };
        let joined = match (typ, &container.network, &container.users) {
            (LinuxNamespaceType::Network, Network::Of(path), _) | (LinuxNamespaceType::User, _, Users::Of(path, _)) => {
                Some(path.clone())
            }
            (LinuxNamespaceType::Pid, ..) => other(&container.pid),
            (LinuxNamespaceType::Ipc, ..) => other(&container.ipc),
            _ => None,
        };
        if let Some(path) = joined {
            builder = builder.path(path);
        }
        builder.build().map_err(|error| Error::internal(format!("namespace {typ}: {error}")))
    };
    wanted.into_iter().filter(|(_, own)| *own).map(|(typ, _)| make(typ)).collect()
}

/// Docker lets any user of a network of its own use low ports and ping.
fn sysctls(container: &Container) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if container.network == Network::Own {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // Only groups that its user namespace knows are taken.
        let known = |ids: &IdMap| ids.gids().iter().find(|range| range.inside == 0).map_or(0, |range| range.count - 1);
        let last = container.users.ids().map_or(0x7fff_ffff, known);
        all.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    all.extend(container.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

fn paths(container: &Container, given: Option<&Vec<String>>, default: &[&str]) -> Vec<String> {
    match given {
        _ if container.privileged => Vec::new(),
        Some(given) => given.clone(),
        None => default.iter().map(|&path| path.to_owned()).collect(),
    }
}
