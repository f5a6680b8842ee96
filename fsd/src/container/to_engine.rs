//! From Docker's words to the engine's value.

use std::collections::BTreeMap;

use engine::config::{Container, ManagedFile, Namespace, Network, Seccomp, Ulimit, Users};
use fs_base::{Error, MountSpec, Result};
use serde::Deserialize;
use serde_json::Value;

use super::create::read;
use super::{ContainerRow, Definition};
use crate::network::links;

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
    shm_size: Option<i64>,
    cgroup_parent: Option<String>,
    oom_score_adj: Option<i32>,
    init: Option<bool>,
    console_size: Option<(u16, u16)>,
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
    super::resources::of(host_config)?;
    super::restart::check(host_config)?;
    super::health::validate(config)?;
    super::devices::check(host_config)?;
    if let Some(score) = host.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(Error::invalid(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]")));
    }
    if host.shm_size.is_some_and(|size| size < 0) {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if let Some(parent) = &host.cgroup_parent {
        engine::cgroup::check_parent(parent)?;
    }
    let Security { apparmor, .. } = security(&host)?;
    apparmor.as_deref().map_or(Ok(()), super::apparmor::check)?;
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
pub fn to_engine(row: &ContainerRow, mounts: Vec<MountSpec>, files: Vec<ManagedFile>, network: Network) -> Result<Container> {
    let Definition { host_config, .. } = &row.definition;
    let definition = &row.definition;
    let host: Host = read(host_config, "HostConfig")?;
    let Security { seccomp, no_new_privileges, unmasked, apparmor, .. } = security(&host)?;
    let mode = |key: &str| if definition.host_text(key) == "host" { Namespace::Host } else { Namespace::Private };
    let resources = super::resources::of(host_config)?;
    let devices = super::devices::of(host_config)?;
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
        console_size: host.console_size.filter(|size| *size != (0, 0)),
        open_stdin: definition.config_flag("OpenStdin"),
        stdin_once: definition.config_flag("StdinOnce"),
        read_only_root: definition.host_flag("ReadonlyRootfs"),
        mounts,
        files,
        network,
        pid: mode("PidMode"),
        ipc: mode("IpcMode"),
        shm: None,
        uts: mode("UTSMode"),
        cgroup: mode("CgroupnsMode"),
        users: Users::Host,
        cap_add: host.cap_add.unwrap_or_default(),
        cap_drop: host.cap_drop.unwrap_or_default(),
        privileged: definition.host_flag("Privileged"),
        no_new_privileges,
        seccomp,
        apparmor,
        selinux: None,
        masked_paths: cleared(host.masked_paths),
        readonly_paths: cleared(host.readonly_paths),
        // Those of links are set when there are links.
        sysctls: host.sysctls.unwrap_or_default().into_iter().filter(|(name, _)| !links::is_of_link(row, name)).collect(),
        ulimits: host
            .ulimits
            .unwrap_or_default()
            .into_iter()
            .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
        shm_size: match definition.host_text("IpcMode") {
            "none" => Some(0),
            _ => host.shm_size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
        },
        devices: devices.nodes,
        device_rules: devices.rules,
        resources,
        cgroup_parent: host.cgroup_parent.filter(|parent| !parent.is_empty()),
        oom_score_adj: host.oom_score_adj.filter(|score| *score != 0),
        init: host.init.unwrap_or(false),
    })
}

/// What `--security-opt` says.
struct Security {
    /// Which system calls it may make.
    seccomp: Seccomp,
    /// Whether set-user-id programs gain nothing.
    no_new_privileges: bool,
    /// Whether nothing is masked.
    unmasked: bool,
    /// The AppArmor profile that was asked for.
    apparmor: Option<String>,
    /// What is said of its SELinux labels.
    labels: Vec<String>,
}

/// What a `HostConfig` says of SELinux labels.
pub fn label_options(host_config: &Value) -> Result<Vec<String>> {
    Ok(security(&read(host_config, "HostConfig")?)?.labels)
}

fn security(host: &Host) -> Result<Security> {
    let (seccomp, labels) = (Seccomp::Default, Vec::new());
    let mut all = Security { seccomp, no_new_privileges: false, unmasked: false, apparmor: None, labels };
    for option in host.security_opt.iter().flatten() {
        if option == "no-new-privileges" {
            all.no_new_privileges = true;
            continue;
        }
        // The texts are moby's, numbers and all.
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))?;
        match (key, value) {
            ("no-new-privileges", "1" | "t" | "T" | "TRUE" | "true" | "True") => all.no_new_privileges = true,
            ("no-new-privileges", "0" | "f" | "F" | "FALSE" | "false" | "False") => all.no_new_privileges = false,
            ("seccomp", "unconfined") => all.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "default") => all.seccomp = Seccomp::Default,
            ("seccomp", profile) => all.seccomp = Seccomp::Profile(profile.to_owned()),
            ("systempaths", "unconfined") => all.unmasked = true,
            ("apparmor", profile) => all.apparmor = Some(profile.to_owned()).filter(|profile| !profile.is_empty()),
            ("label", option) => all.labels.push(option.to_owned()),
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok(all)
}

/// An option that there is and that can't be had here.
pub fn refused(option: &str, why: &str) -> Error {
    Error::unsupported(format!("--security-opt {option} is not supported: {why}"))
}
