//! What a container may not ask for yet, each by its name: nothing is ignored.

use fs_base::{Error, Result};
use serde_json::{Map, Value};

/// Fields of the host config that must not say anything, with the flag that people know them by and the reason.
const HOST: &[(&str, &str, &str)] = &[
    ("DeviceRequests", "--gpus", "devices can't be requested"),
    ("CpuRealtimePeriod", "--cpu-rt-period", "real-time processor time can't be set"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime", "real-time processor time can't be set"),
    ("KernelMemory", "--kernel-memory", "Linux has it no more"),
    ("KernelMemoryTCP", "--kernel-memory-tcp", "Linux has it no more"),
    ("CpuCount", "--cpu-count", "it is an option of Windows"),
    ("CpuPercent", "--cpu-percent", "it is an option of Windows"),
    ("IOMaximumIOps", "--io-maxiops", "it is an option of Windows"),
    ("IOMaximumBandwidth", "--io-maxbandwidth", "it is an option of Windows"),
    ("StorageOpt", "--storage-opt", "the size of a container's tree can't be limited yet"),
    ("Cgroup", "HostConfig.Cgroup", "another container's cgroup can't be joined"),
    ("Annotations", "--annotation", "annotations are not kept"),
];

/// The fields of the host config that are honoured, or are their client's own affair. A newer client may send others.
const KNOWN: &[&str] = &[
    "AutoRemove",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeight",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "CgroupParent",
    "CgroupnsMode",
    "ConsoleSize",
    "ContainerIDFile",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "DeviceCgroupRules",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Init",
    "IpcMode",
    "Isolation",
    "Links",
    "LogConfig",
    "MaskedPaths",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "Mounts",
    "NanoCpus",
    "NetworkMode",
    "OomKillDisable",
    "OomScoreAdj",
    "PidMode",
    "PidsLimit",
    "PortBindings",
    "Privileged",
    "PublishAllPorts",
    "ReadonlyPaths",
    "ReadonlyRootfs",
    "RestartPolicy",
    "Runtime",
    "SecurityOpt",
    "ShmSize",
    "Sysctls",
    "Tmpfs",
    "UTSMode",
    "Ulimits",
    "UsernsMode",
    "VolumeDriver",
    "VolumesFrom",
];

/// Refuses what the config asks for in vain.
pub fn config(config: &Map<String, Value>) -> Result<()> {
    names(config)?;
    if config.get("NetworkDisabled") == Some(&Value::Bool(true)) {
        return Err(unsupported("NetworkDisabled", "--network none does that"));
    }
    if says_something(config.get("OnBuild")) {
        return Err(unsupported("OnBuild", "it has no meaning without a builder"));
    }
    Ok(())
}

/// Refuses what the host config asks for in vain.
pub fn host_config(host: &Map<String, Value>) -> Result<()> {
    for (key, flag, why) in HOST {
        if says_something(host.get(*key)) {
            return Err(unsupported(flag, why));
        }
    }
    let unknown = host.iter().find(|(key, value)| !KNOWN.contains(&key.as_str()) && says_something(Some(value)));
    if let Some((key, _)) = unknown {
        return Err(unsupported(&format!("HostConfig.{key}"), "this version does not know it"));
    }
    let text = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("Isolation").to_ascii_lowercase().as_str(), "" | "default") {
        let isolation = text("Isolation");
        return Err(Error::invalid(format!("Invalid isolation: \"{isolation}\" - linux only supports 'default'")));
    }
    one_of("--userns", text("UsernsMode"), &["", "host", "private"])?;
    if !text("PidMode").starts_with("container:") {
        one_of("--pid", text("PidMode"), &["", "host", "container:NAME"])?;
    }
    super::ipc::check(text("IpcMode"))?;
    one_of("--uts", text("UTSMode"), &["", "host"])?;
    one_of("--cgroupns", text("CgroupnsMode"), &["", "private", "host"])?;
    sysctls(host)?;
    Ok(())
}

/// Longest host name. Source: gethostname(2), `HOST_NAME_MAX`.
const HOST_NAME_MAX: usize = 64;

/// Refuses names that the kernel would refuse at the start.
fn names(config: &Map<String, Value>) -> Result<()> {
    for (key, flag) in [("Hostname", "--hostname"), ("Domainname", "--domainname")] {
        let text = config.get(key).and_then(Value::as_str).unwrap_or_default();
        if text.len() > HOST_NAME_MAX {
            return Err(Error::invalid(format!("{flag} {text}: invalid argument: it has more than {HOST_NAME_MAX} bytes")));
        }
    }
    Ok(())
}

/// Kernel settings are a container's own only as far as its namespaces are: with the host's, they would be the host's.
/// The texts are runc's.
fn sysctls(host: &Map<String, Value>) -> Result<()> {
    let of_host = |key: &str| host.get(key).and_then(Value::as_str) == Some("host");
    let kinds: [(&str, &str, &[&str]); 3] = [
        ("NetworkMode", "network", &["net/"]),
        ("IpcMode", "ipc", &["fs/mqueue/", "kernel/msg", "kernel/sem", "kernel/shm"]),
        ("UTSMode", "uts", &["kernel/domainname", "kernel/hostname"]),
    ];
    for (name, _) in host.get("Sysctls").and_then(Value::as_object).into_iter().flatten() {
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        let shared =
            kinds.iter().find(|(key, _, prefixes)| of_host(key) && prefixes.iter().any(|prefix| path.starts_with(prefix)));
        if let Some((_, namespace, _)) = shared {
            return Err(Error::invalid(match *namespace {
                "ipc" => format!("sysctl \"{name}\" is not allowed in the hosts ipc namespace"),
                _ => format!("sysctl \"{name}\" not allowed in host {namespace} namespace"),
            }));
        }
    }
    Ok(())
}

fn one_of(flag: &str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) {
        return Ok(());
    }
    let known: Vec<_> = known.iter().filter(|word| !word.is_empty()).copied().collect();
    Err(unsupported(&format!("{flag} {value}"), &format!("it can be {}", known.join(" or "))))
}

fn unsupported(flag: &str, why: &str) -> Error {
    Error::unsupported(format!("{flag} is not supported: {why}"))
}

/// Clients send every field; zero, empty and false say nothing.
fn says_something(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        let refused = |host: Value| host_config(host.as_object().unwrap()).map_err(|error| error.to_string());
        assert!(refused(json!({"Binds": ["a:/b"], "LxcConf": [], "Anything": 0, "Other": null})).is_ok());
        let error = refused(json!({"TimeMachine": true})).unwrap_err();
        assert_eq!(error, "HostConfig.TimeMachine is not supported: this version does not know it");
        let error = refused(json!({"StorageOpt": {"size": "1g"}})).unwrap_err();
        assert!(error.starts_with("--storage-opt is not supported: "), "{error}");
        assert!(config(json!({"NetworkDisabled": true}).as_object().unwrap()).is_err());
    }
}
