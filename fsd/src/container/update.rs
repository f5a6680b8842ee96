//! Changing a container's limits and its restart policy, while it runs too.

use fs_base::{Class, Error, Result};
use serde_json::{Map, Value};

use super::{Definition, group, resources, restart};
use crate::app::App;

/// Limits that can change. Zero and empty leave them as they are.
const LIMITS: &[&str] = &[
    "BlkioWeight",
    "CpuShares",
    "NanoCpus",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemorySwap",
    "MemoryReservation",
    "PidsLimit",
];
/// What the API's body has room for and only a new container can get.
const FIXED: &[(&str, &str)] = &[
    ("BlkioWeightDevice", "--blkio-weight-device"),
    ("BlkioDeviceReadBps", "--device-read-bps"),
    ("BlkioDeviceWriteBps", "--device-write-bps"),
    ("BlkioDeviceReadIOps", "--device-read-iops"),
    ("BlkioDeviceWriteIOps", "--device-write-iops"),
    ("CgroupParent", "--cgroup-parent"),
    ("CpuRealtimePeriod", "--cpu-rt-period"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime"),
    ("Devices", "--device"),
    ("DeviceCgroupRules", "--device-cgroup-rule"),
    ("DeviceRequests", "--gpus"),
    ("KernelMemory", "--kernel-memory"),
    ("MemorySwappiness", "--memory-swappiness"),
    ("OomKillDisable", "--oom-kill-disable"),
    ("Ulimits", "--ulimit"),
];

/// `POST /containers/{name}/update`; the result is what the person should know.
pub fn update(app: &App, name: &str, body: &[u8]) -> Result<Vec<String>> {
    let wanted: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))?;
    let id = app.db.find_container(name)?.id;
    resources::check_alone(&wanted)?;
    let live = app.containers.of(&id);
    let _alone = live.alone();
    let row = app.db.container(&id)?.ok_or_else(|| Error::not_found(format!("No such container: {name}")))?;
    let mut host_config = merged(&row.definition, &wanted).map_err(|error| match error.class() {
        Class::Conflict => error.context(format!("Cannot update container {id}")),
        _ => error,
    })?;
    let limits = resources::of(&host_config)?;
    let mut warnings = Vec::new();
    if row.state.is_running() {
        let mut cgroup = group::of(&row)?;
        let updated = cgroup.update(&limits).map_err(|error| error.context(format!("Cannot update container {id}")))?;
        if updated.has_grown {
            app.shim(&id).regroup()?;
        }
        warnings = updated.warnings;
        super::discarded::take_out(&mut host_config, &warnings);
    }
    app.db.set_container_definition(&id, &Definition { host_config, ..row.definition.clone() })?;
    app.events.container("update", &row, &[]);
    Ok(warnings)
}

/// The container's `HostConfig` with what is wanted in it.
fn merged(definition: &Definition, wanted: &Map<String, Value>) -> Result<Value> {
    let says = |key: &str| wanted.get(key).filter(|value| says_something(value));
    if let Some((_, flag)) = FIXED.iter().find(|(key, _)| says(key).is_some()) {
        return Err(Error::unsupported(format!("{flag} is not supported: it can't be changed after a container's creation")));
    }
    let mut host = definition.host_config.as_object().cloned().unwrap_or_default();
    let number = |host: &Map<String, Value>, key: &str| host.get(key).and_then(Value::as_i64).unwrap_or(0);
    let asked = |key: &str| wanted.get(key).and_then(Value::as_i64).unwrap_or(0);
    for (new, old, what) in [
        ("NanoCpus", "CpuPeriod", "Nano CPUs cannot be updated as CPU Period has already been set"),
        ("NanoCpus", "CpuQuota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ("CpuPeriod", "NanoCpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
        ("CpuQuota", "NanoCpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ] {
        if asked(new) > 0 && number(&host, old) > 0 {
            return Err(Error::conflict(format!("Conflicting options: {what}")));
        }
    }
    let swap = number(&host, "MemorySwap");
    if asked("Memory") > swap && swap != -1 && asked("MemorySwap") == 0 {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    if let Some(policy) =
        wanted.get("RestartPolicy").filter(|policy| policy["Name"].as_str().is_some_and(|name| !name.is_empty()))
    {
        if definition.auto_remove() && policy["Name"] != "no" {
            return Err(Error::conflict("Restart policy cannot be updated because AutoRemove is enabled for the container"));
        }
        host.insert("RestartPolicy".to_owned(), policy.clone());
        restart::check(&Value::Object(host.clone()))?;
    }
    for key in LIMITS {
        if let Some(value) = says(key) {
            host.insert((*key).to_owned(), value.clone());
        }
    }
    Ok(Value::Object(host))
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
