//! What a container's cgroup allows: from Docker's `HostConfig` to the engine's value, with Docker's checks.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use fs_base::{Error, Result};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDevice, LinuxWeightDeviceBuilder,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::create::read;

/// Docker's least memory limit.
const MEMORY_LEAST: i64 = 6 << 20;
/// The least of `--cpus`: a hundredth of one.
const NANOS_LEAST: i64 = 10_000_000;
/// Docker's period for `--cpus`, in microseconds.
const PERIOD: i64 = 100_000;

/// The fields of `HostConfig` that limit resources.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Limits {
    cpu_shares: Option<i64>,
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
    blkio_weight: Option<u16>,
    blkio_weight_device: Option<Vec<DeviceWeight>>,
    blkio_device_read_bps: Option<Vec<DeviceRate>>,
    blkio_device_write_bps: Option<Vec<DeviceRate>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Option<Vec<DeviceRate>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Option<Vec<DeviceRate>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceWeight {
    path: String,
    weight: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceRate {
    path: String,
    rate: u64,
}

/// The engine's value.
pub fn of(host_config: &Value) -> Result<LinuxResources> {
    let limits: Limits = read(host_config, "HostConfig")?;
    let mut resources = LinuxResources::default();
    resources.set_memory(memory(&limits)?);
    resources.set_cpu(cpu(&limits)?);
    if let Some(limit) = limits.pids_limit.filter(|limit| *limit != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources.set_block_io(block_io(&limits)?);
    Ok(resources)
}

/// Checks what an update asks for by itself, before it is held against what the container has: what makes no sense is
/// told first. That swap needs a memory limit is known only then.
pub fn check_alone(wanted: &Map<String, Value>) -> Result<()> {
    let mut alone = wanted.clone();
    if set(alone.get("Memory").and_then(Value::as_i64)).is_none() {
        alone.remove("MemorySwap");
    }
    of(&Value::Object(alone)).map(drop)
}

/// What is in force although nobody asked for it, and `inspect` shows: as much swap again as there is memory. What the
/// CLI sends for "not given" is shown as not given.
pub fn defaults(host: &mut Map<String, Value>) {
    let not_given = [("MemorySwappiness", -1..=-1), ("PidsLimit", i64::MIN..=0)];
    for (key, values) in not_given {
        if host.get(key).and_then(Value::as_i64).is_some_and(|value| values.contains(&value)) {
            host.insert(key.to_owned(), Value::Null);
        }
    }
    let number = |key: &str| host.get(key).and_then(Value::as_i64).unwrap_or(0);
    let memory = number("Memory");
    if memory > 0 && number("MemorySwap") == 0 {
        host.insert("MemorySwap".to_owned(), json!(memory.saturating_mul(2)));
    }
}

/// What the person should know of these limits: those that this host can't keep, in Docker's words.
pub fn warnings(host_config: &Value) -> Result<Vec<String>> {
    let resources = of(host_config)?;
    let mut warnings = Vec::new();
    let unlimited = host_config["Memory"].as_i64().unwrap_or(0) == 0;
    if unlimited && host_config["OomKillDisable"] == true {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out \
             of resources."
                .to_owned(),
        );
    }
    if resources != LinuxResources::default() {
        warnings.extend(engine::cgroup::warnings(&resources)?);
    }
    Ok(warnings)
}

fn set(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn memory(limits: &Limits) -> Result<Option<LinuxMemory>> {
    let (limit, swap, reservation) = (set(limits.memory), set(limits.memory_swap), set(limits.memory_reservation));
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
    if reservation.is_some_and(|reservation| (1..MEMORY_LEAST).contains(&reservation)) {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if let (Some(limit), Some(reservation)) = (limit, reservation)
        && reservation > limit
    {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    if let Some(swappiness) = limits.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
        return Err(Error::invalid(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100")));
    }
    let disabled = limits.oom_kill_disable == Some(true);
    let swappiness = limits.memory_swappiness.filter(|value| *value >= 0).map(|value| value as u64);
    if limit.is_none() && reservation.is_none() && swap.is_none() && !disabled && swappiness.is_none() {
        return Ok(None);
    }
    let mut memory = LinuxMemory::default();
    let swap = swap.or(limit.map(|limit| limit.saturating_mul(2)));
    memory.set_limit(limit).set_swap(swap).set_reservation(reservation).set_swappiness(swappiness);
    memory.set_disable_oom_killer(disabled.then_some(true));
    Ok(Some(memory))
}

fn cpu(limits: &Limits) -> Result<Option<LinuxCpu>> {
    let (mut quota, mut period) = (set(limits.cpu_quota), set(limits.cpu_period));
    if let Some(nanos) = set(limits.nano_cpus) {
        if nanos > 0 && period.is_some_and(|period| period > 0) {
            return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
        }
        if nanos > 0 && quota.is_some_and(|quota| quota > 0) {
            return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
        }
        let most = std::thread::available_parallelism().map_or(1, usize::from) as i64;
        if !(NANOS_LEAST..=most * 1_000_000_000).contains(&nanos) {
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
    let shares = set(limits.cpu_shares);
    if let Some(negative @ ..0) = shares {
        return Err(Error::invalid(format!("invalid CPU shares ({negative}): value must be a positive integer")));
    }
    let shares = shares.map(|shares| shares as u64);
    let (cpus, mems) = (text(&limits.cpuset_cpus), text(&limits.cpuset_mems));
    check_set(cpus.as_deref(), "/sys/devices/system/cpu/online", "CPUs", "cpus")?;
    check_set(mems.as_deref(), "/sys/devices/system/node/online", "memory nodes", "mems")?;
    if shares.is_none() && quota.is_none() && period.is_none() && cpus.is_none() && mems.is_none() {
        return Ok(None);
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(shares).set_quota(quota).set_period(period.map(|period| period as u64)).set_cpus(cpus).set_mems(mems);
    Ok(Some(cpu))
}

/// Whether all of a list such as `0-2,7` is there.
fn check_set(wanted: Option<&str>, online: &str, what: &str, kind: &str) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let bad = || Error::invalid(format!("Invalid value {wanted} for cpuset {kind}: invalid format: {wanted}"));
    let numbers = ranges(wanted).ok_or_else(bad)?;
    let text = std::fs::read_to_string(online).unwrap_or_else(|_| "0".to_owned());
    let there = ranges(text.trim()).unwrap_or_default();
    let has = |number: u32| there.iter().any(|(first, last)| (*first..=*last).contains(&number));
    if numbers.iter().any(|(first, last)| !has(*first) || !has(*last)) {
        let available = text.trim();
        return Err(Error::invalid(format!("Requested {what} are not available - requested {wanted}, available: {available}")));
    }
    Ok(())
}

/// `0-2,7` as first and last of each.
fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

fn block_io(limits: &Limits) -> Result<Option<LinuxBlockIo>> {
    let weight = limits.blkio_weight.filter(|weight| *weight != 0);
    if weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    let mut io = LinuxBlockIo::default();
    let weights = limits.blkio_weight_device.iter().flatten().map(weight_of).collect::<Result<Vec<_>>>()?;
    let rates = |list: &Option<Vec<DeviceRate>>| list.iter().flatten().map(rate_of).collect::<Result<Vec<_>>>();
    io.set_weight(weight);
    io.set_weight_device((!weights.is_empty()).then_some(weights));
    io.set_throttle_read_bps_device(not_empty(rates(&limits.blkio_device_read_bps)?));
    io.set_throttle_write_bps_device(not_empty(rates(&limits.blkio_device_write_bps)?));
    io.set_throttle_read_iops_device(not_empty(rates(&limits.blkio_device_read_iops)?));
    io.set_throttle_write_iops_device(not_empty(rates(&limits.blkio_device_write_iops)?));
    Ok((io != LinuxBlockIo::default()).then_some(io))
}

fn not_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The numbers of a block device.
fn device(path: &str) -> Result<(i64, i64)> {
    let found = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(format!("stat {path}: no such file or directory")),
        _ => Error::io("stat", path, error),
    })?;
    if !found.file_type().is_block_device() {
        return Err(Error::invalid(format!("{path} is not a block device")));
    }
    let number = found.rdev();
    Ok((i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number))))
}

fn weight_of(weight: &DeviceWeight) -> Result<LinuxWeightDevice> {
    let (major, minor) = device(&weight.path)?;
    let bad = |error| Error::internal(format!("weight of {}: {error}", weight.path));
    LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight.weight).build().map_err(bad)
}

fn rate_of(rate: &DeviceRate) -> Result<LinuxThrottleDevice> {
    let (major, minor) = device(&rate.path)?;
    let bad = |error| Error::internal(format!("rate of {}: {error}", rate.path));
    LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate.rate).build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(host: &Value) -> String {
        of(host).unwrap_err().to_string()
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_in_dockers_words() {
        for (host, text) in [
            (json!({"BlkioWeight": 5}), "Range of blkio weight is from 10 to 1000"),
            (json!({"CpusetCpus": "0-9999"}), "Requested CPUs are not available - requested 0-9999, available: "),
            (json!({"CpusetCpus": "a"}), "Invalid value a for cpuset cpus"),
            (json!({"MemorySwappiness": 101}), "Invalid value: 101, valid memory swappiness range is 0-100"),
            (json!({"MemorySwap": 8 << 20}), "You should always set the Memory limit when using Memoryswap limit"),
            (
                json!({"NanoCpus": 500_000_000, "CpuQuota": 5000}),
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (
                json!({"NanoCpus": 500_000_000, "CpuPeriod": 5000}),
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (json!({"NanoCpus": -1, "CpuQuota": 5000}), "Range of CPUs is from 0.01 to "),
            (json!({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}]}), "/dev/null is not a block device"),
            (json!({"BlkioDeviceReadBps": [{"Path": "/no", "Rate": 1}]}), "stat /no: no such file or directory"),
        ] {
            assert!(error(&host).starts_with(text), "{host}: {}", error(&host));
        }
        assert!(of(&json!({"NanoCpus": 500_000_000, "CpuQuota": -1})).is_ok(), "no quota is no conflict");
    }

    #[test]
    fn nothing_asked_is_nothing_limited_and_swap_is_shown() {
        assert_eq!(of(&json!({"MemorySwappiness": -1, "PidsLimit": 0})).unwrap(), LinuxResources::default());
        let Value::Object(mut host) = json!({"Memory": 64 << 20, "MemorySwappiness": -1, "PidsLimit": -1}) else { return };
        defaults(&mut host);
        let shown = json!({"Memory": 64 << 20, "MemorySwap": 128 << 20, "MemorySwappiness": null, "PidsLimit": null});
        assert_eq!(Value::Object(host), shown);
    }
}
