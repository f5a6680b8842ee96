//! From Docker's words to the engine's value.

use std::collections::BTreeMap;

use engine::config::{Container, ManagedFile, Namespace, Network, Seccomp, Ulimit};
use fs_base::{Error, MountSpec, Result};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde::Deserialize;
use serde_json::Value;

use super::create::read;
use super::{ContainerRow, Definition};

/// Docker's least memory limit.
const MEMORY_LEAST: i64 = 6 << 20;
/// Docker's period for `--cpus`, in microseconds.
const PERIOD: i64 = 100_000;

/// The fields of `HostConfig` that the engine gets.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Host {
    cap_add: Option<Vec<String>>,
    cap_drop: Option<Vec<String>>,
    group_add: Option<Vec<String>>,
    security_opt: Option<Vec<String>>,
    sysctls: Option<BTreeMap<String, String>>,
    ulimits: Option<Vec<HostUlimit>>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    shm_size: Option<u64>,
    cgroup_parent: Option<String>,
    oom_score_adj: Option<i32>,
    init: Option<bool>,
    cpu_shares: Option<u64>,
    cpu_period: Option<i64>,
    cpu_quota: Option<i64>,
    nano_cpus: Option<i64>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    memory: Option<i64>,
    memory_swap: Option<i64>,
    memory_reservation: Option<i64>,
    memory_swappiness: Option<i64>,
    oom_kill_disable: Option<bool>,
    pids_limit: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostUlimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// Whether the engine could take it.
pub fn check(config: &Value, host_config: &Value) -> Result<()> {
    let host: Host = read(host_config, "HostConfig")?;
    resources(&host)?;
    security(&host)?;
    engine::capability::effective_set(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        false,
    )?;
    let cwd = config["WorkingDir"].as_str().unwrap_or_default();
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return Err(Error::invalid(format!("the working directory '{cwd}' is invalid, it needs to be an absolute path")));
    }
    if let Some(signal) = config["StopSignal"].as_str().filter(|text| !text.is_empty()) {
        super::signal::parse(signal)?;
    }
    for host in host_config["ExtraHosts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        super::files::extra_host(host)?;
    }
    super::log_options(host_config).map(drop)
}

/// The engine's value of a container whose mounts are ready.
pub fn to_engine(row: &ContainerRow, mounts: Vec<MountSpec>, files: Vec<ManagedFile>) -> Result<Container> {
    let Definition { host_config, .. } = &row.definition;
    let definition = &row.definition;
    let host: Host = read(host_config, "HostConfig")?;
    let (seccomp, no_new_privileges, unmasked) = security(&host)?;
    let mode = |key: &str| if definition.host_text(key) == "host" { Namespace::Host } else { Namespace::Private };
    let resources = resources(&host)?;
    let cleared = |paths: Option<Vec<String>>| if unmasked { Some(Vec::new()) } else { paths };
    Ok(Container {
        id: row.id.clone(),
        args: definition.command(),
        env: definition.config_texts("Env"),
        cwd: definition.config_text("WorkingDir").to_owned(),
        user: definition.config_text("User").to_owned(),
        groups: host.group_add.unwrap_or_default(),
        hostname: definition.config_text("Hostname").to_owned(),
        domainname: definition.config_text("Domainname").to_owned(),
        tty: definition.config_flag("Tty"),
        open_stdin: definition.config_flag("OpenStdin"),
        stdin_once: definition.config_flag("StdinOnce"),
        read_only_root: definition.host_flag("ReadonlyRootfs"),
        mounts,
        files,
        network: if definition.host_text("NetworkMode") == "host" { Network::Host } else { Network::Loopback },
        pid: mode("PidMode"),
        ipc: mode("IpcMode"),
        uts: mode("UTSMode"),
        cgroup: mode("CgroupnsMode"),
        cap_add: host.cap_add.unwrap_or_default(),
        cap_drop: host.cap_drop.unwrap_or_default(),
        privileged: definition.host_flag("Privileged"),
        no_new_privileges,
        seccomp,
        masked_paths: cleared(host.masked_paths),
        readonly_paths: cleared(host.readonly_paths),
        sysctls: host.sysctls.unwrap_or_default(),
        ulimits: host
            .ulimits
            .unwrap_or_default()
            .into_iter()
            .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
        shm_size: host.shm_size.filter(|size| *size > 0),
        resources,
        cgroup_parent: host.cgroup_parent.filter(|parent| !parent.is_empty()),
        oom_score_adj: host.oom_score_adj.filter(|score| *score != 0),
        init: host.init.unwrap_or(false),
    })
}

/// `--security-opt`: the profile of system calls, whether privileges can be gained, and whether nothing is masked.
fn security(host: &Host) -> Result<(Seccomp, bool, bool)> {
    let (mut seccomp, mut no_new_privileges, mut unmasked) = (Seccomp::Default, false, false);
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            ("seccomp", "unconfined") => seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "default") => seccomp = Seccomp::Default,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => seccomp = Seccomp::Profile(profile.to_owned()),
            ("systempaths", "unconfined") => unmasked = true,
            // There is no such module to confine by in what we run.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => return Err(Error::unsupported(format!("--security-opt {option} is not supported"))),
        }
    }
    Ok((seccomp, no_new_privileges, unmasked))
}

fn resources(host: &Host) -> Result<LinuxResources> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let mut resources = LinuxResources::default();
    let (limit, swap, reservation) = (set(host.memory), set(host.memory_swap), set(host.memory_reservation));
    if limit.is_some_and(|limit| (1..MEMORY_LEAST).contains(&limit)) {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if swap.is_some_and(|swap| swap > 0) && limit.is_none() {
        return Err(Error::invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if let (Some(limit), Some(swap @ 1..)) = (limit, swap)
        && swap < limit
    {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if let (Some(limit), Some(reservation)) = (limit, reservation)
        && reservation > limit
    {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    let disabled = host.oom_kill_disable == Some(true);
    let swappiness = host.memory_swappiness.filter(|value| *value >= 0).map(|value| value as u64);
    if limit.is_some() || reservation.is_some() || disabled || swappiness.is_some() {
        let mut memory = LinuxMemory::default();
        // As Docker: as much swap again as there is memory, if nothing is said of it.
        let swap = swap.or(limit.map(|limit| limit.saturating_mul(2)));
        memory.set_limit(limit).set_swap(swap).set_reservation(reservation).set_swappiness(swappiness);
        memory.set_disable_oom_killer(disabled.then_some(true));
        resources.set_memory(Some(memory));
    }
    resources.set_cpu(cpu(host)?);
    if let Some(limit) = host.pids_limit.filter(|limit| *limit != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

fn cpu(host: &Host) -> Result<Option<LinuxCpu>> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let (mut quota, mut period) = (set(host.cpu_quota), set(host.cpu_period));
    if let Some(nanos) = set(host.nano_cpus) {
        if quota.is_some() || period.is_some() {
            return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
        }
        let most = std::thread::available_parallelism().map_or(1, usize::from) as i64;
        if nanos < 0 || nanos > most * 1_000_000_000 {
            return Err(Error::invalid(format!(
                "Range of CPUs is from 0.01 to {most}.00, as there are only {most} CPUs available"
            )));
        }
        (period, quota) = (Some(PERIOD), Some(nanos / 10_000));
    }
    if period.is_some_and(|period| !(1_000..=1_000_000).contains(&period)) {
        return Err(Error::invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"));
    }
    if quota.is_some_and(|quota| (1..1_000).contains(&quota)) {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let shares = host.cpu_shares.filter(|shares| *shares != 0);
    let (cpus, mems) = (text(&host.cpuset_cpus), text(&host.cpuset_mems));
    if shares.is_none() && quota.is_none() && period.is_none() && cpus.is_none() && mems.is_none() {
        return Ok(None);
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(shares).set_quota(quota).set_period(period.map(|period| period as u64)).set_cpus(cpus).set_mems(mems);
    Ok(Some(cpu))
}
