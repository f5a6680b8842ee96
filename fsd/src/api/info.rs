//! `/info`: what this daemon and its host are.

use std::fs;

use engine::apparmor::AppArmor;
use fs_base::{Probe, Result};
use layerfs::driver::{Probed, Verdict};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::container;
use crate::registry::Settings;

/// Docker's answer, with what is ours in its place.
pub fn describe(app: &App) -> Result<Value> {
    let status: Vec<[String; 2]> =
        app.mounter.probed().iter().map(|probed| [probed.to_string(), shown_verdict(probed)]).collect();
    let containers = app.db.containers()?;
    let paused = containers.iter().filter(|row| row.state.paused).count();
    let running = containers.iter().filter(|row| row.state.is_up()).count() - paused;
    let mut answer = json!({
        "ID": id(&app.config.root.to_string_lossy()), "Name": rustix::system::uname().nodename().to_string_lossy(),
        "Images": app.db.images()?.len(), "Containers": containers.len(), "ContainersRunning": running,
        "ContainersPaused": paused, "ContainersStopped": containers.len() - running - paused,
        "Driver": app.mounter.driver_name().unwrap_or("none"), "DriverStatus": status, "DockerRootDir": app.config.root,
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "null"], "Log": container::logs::DRIVERS, "Authorization": null,
        },
        "Runtimes": runtimes(app), "DefaultRuntime": app.config.default_runtime, "InitBinary": "builtin",
        "LoggingDriver": app.config.log_driver, "CgroupDriver": "cgroupfs", "LiveRestoreEnabled": true, "Debug": false,
        "NFd": entries("/proc/self/fd"), "NGoroutines": entries("/proc/self/task"),
        "NEventsListener": app.events.listeners(), "RegistryConfig": registries(&app.config.registries),
    });
    if let Value::Object(answer) = &mut answer {
        host(answer);
        answer.insert("SecurityOptions".to_owned(), json!(security(app)));
        limits(answer)?;
    }
    Ok(answer)
}

/// What holds containers by default, in Docker's words.
fn security(app: &App) -> Vec<&'static str> {
    let all = [
        (AppArmor::of_host().confines(), "name=apparmor"),
        (true, "name=seccomp,profile=builtin"),
        (app.selinux.is_some(), "name=selinux"),
        (app.config.userns_remap.is_some(), "name=userns"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

/// The machine, and what of Docker's there is no more than one answer to.
fn host(answer: &mut Map<String, Value>) {
    let (name, version) = os_release();
    let host = json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"), "SystemTime": jiff::Timestamp::now().to_string(), "Labels": [],
        "KernelVersion": super::system::kernel(), "OSType": "linux", "Architecture": std::env::consts::ARCH,
        "OperatingSystem": name, "OSVersion": version, "MemTotal": container::stats::host_memory().unwrap_or(0),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from), "Isolation": "", "ExperimentalBuild": false,
        "GenericResources": null,
        "Swarm": {"LocalNodeState": "inactive"}, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "IndexServerAddress": "https://index.docker.io/v1/", "IPv4Forwarding": is_on("ipv4/ip_forward"),
        "BridgeNfIptables": is_on("bridge/bridge-nf-call-iptables"),
        "BridgeNfIp6tables": is_on("bridge/bridge-nf-call-ip6tables"),
    });
    if let Value::Object(host) = host {
        answer.extend(host);
    }
}

/// What can be limited, and what whoever looks after this host should know.
fn limits(answer: &mut Map<String, Value>) -> Result<()> {
    let support = engine::cgroup::support()?;
    answer.insert("CgroupVersion".to_owned(), json!(support.version.to_string()));
    let mut warnings = Vec::new();
    for (keys, has, what) in [
        (&["MemoryLimit"][..], support.memory, Some("memory limit")),
        (&["SwapLimit"], support.swap, Some("swap limit")),
        (&["OomKillDisable"], support.oom_kill_disable, (support.version == 1).then_some("oom kill disable")),
        (&["CpuCfsPeriod", "CpuCfsQuota"], support.cpu, Some("cpu cfs")),
        (&["CPUShares"], support.cpu, Some("cpu shares")),
        (&["CPUSet"], support.cpuset, Some("cpuset")),
        (&["PidsLimit"], support.pids, Some("pids limit")),
        (&["KernelMemory", "KernelMemoryTCP"], false, None),
    ] {
        answer.extend(keys.iter().map(|&key| (key.to_owned(), json!(has))));
        if let (false, Some(what)) = (has, what) {
            warnings.push(format!("WARNING: No {what} support"));
        }
    }
    if let Some(why) = AppArmor::of_host().missing() {
        warnings.push(format!("WARNING: AppArmor is enabled, but containers are not confined by it: {why}"));
    }
    if fs_base::durable::is_poisoned() {
        warnings.push("WARNING: the store refuses writes: a sync to disk failed. Check the disk, then restart the daemon".into());
    }
    // `null` if there is nothing, as Docker has it, makes old clients guess warnings of their own.
    answer.insert("Warnings".to_owned(), json!(warnings));
    Ok(())
}

/// Whether and why something that layers could be served with is in use, for people.
fn shown_verdict(probed: &Probed) -> String {
    let why = probed.why().unwrap_or_default();
    match &probed.verdict {
        Verdict::Taken => "in use".to_owned(),
        Verdict::Passed(_) => format!("not tried: {why}"),
        Verdict::Failed(Probe::Unknown(_)) => format!("unknown: {why}"),
        Verdict::Failed(_) => format!("does not work here: {why}"),
    }
}

/// The same for as long as the store stays where it is on this machine, and another for every other.
fn id(root: &str) -> String {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let digest = Sha256::digest(format!("{}\n{root}", machine.trim()));
    let hex = fs_base::Digest::from_bytes(digest.into()).to_string();
    let hex = hex.trim_start_matches("sha256:");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

/// Name and version. Source: os-release(5).
fn os_release() -> (String, String) {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release")).unwrap_or_default();
    let field = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    (field("PRETTY_NAME").unwrap_or_else(|| "linux".to_owned()), field("VERSION_ID").unwrap_or_default())
}

fn runtimes(app: &App) -> Value {
    let mut all = container::runtimes::all(&app.config);
    all.insert(container::runtimes::BUILTIN.to_owned(), app.config.shim.clone());
    all.into_iter().map(|(name, path)| (name, json!({"path": path}))).collect::<Map<_, _>>().into()
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

fn is_on(setting: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/{setting}")).is_ok_and(|text| text.trim() == "1")
}

fn registries(settings: &Settings) -> Value {
    let mut indexes = Map::new();
    for name in &settings.insecure {
        indexes.insert(name.clone(), json!({"Name": name, "Mirrors": [], "Secure": false, "Official": false}));
    }
    let hub = json!({"Name": "docker.io", "Mirrors": settings.mirrors, "Secure": true, "Official": true});
    indexes.insert("docker.io".to_owned(), hub);
    json!({
        "AllowNondistributableArtifactsCIDRs": null, "AllowNondistributableArtifactsHostnames": null,
        "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "IndexConfigs": indexes, "Mirrors": settings.mirrors,
    })
}
