//! Limits in the words of cgroup v2. Source: the kernel's `Documentation/admin-guide/cgroup-v2.rst`; the conversions
//! from the spec's words, which are v1's, are those that runc documents.

use std::os::fd::BorrowedFd;
use std::path::Path;

use fs_base::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};

use super::control::{self, Setting, warn};
use super::{Cgroup, device, warnings as w};

/// What the kernel takes for a period where there is none, in microseconds.
const PERIOD: u64 = 100_000;

/// What v2 calls the controller of a v1 name.
fn name_here(controller: &str) -> &str {
    if controller == "blkio" { "io" } else { controller }
}

/// Whether the v2 hierarchy limits this for the cgroup.
pub(super) fn has(cgroup: &Cgroup, controller: &str) -> bool {
    let list = |dir: &Path| control::read_if_there(&dir.join("cgroup.controllers")).ok().flatten().unwrap_or_default();
    let there = cgroup.v2_dir().map(list).unwrap_or_default();
    there.split(' ').any(|name| name == name_here(controller))
}

/// Sets those limits whose controller is in the v2 hierarchy.
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
    let here = |controller: &str| cgroup.v1_dir(controller).is_none() && has(cgroup, controller);
    let dir = cgroup.v2_dir();
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        if here("memory") {
            check_before_update(dir, memory)?;
        }
        memory_settings(memory, &mut all)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut all);
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        all.push(Setting::new("pids", "pids.max", number(limit), w::PIDS));
    }
    if let Some(io) = resources.block_io() {
        let is_bfq = dir.is_some_and(|dir| dir.join("io.bfq.weight").exists());
        io_settings(io, is_bfq, &mut all);
    }
    for setting in &all {
        if here(setting.controller) {
            setting.write(dir, warnings)?;
        } else if cgroup.is_pure_v2() {
            warn(warnings, setting.discarded);
        }
    }
    if let (true, Some(rules), Some(fd)) = (cgroup.is_pure_v2(), resources.devices(), cgroup.unified_dir()) {
        limit_devices(fd, rules)?;
    }
    apply_unified(dir.filter(|_| cgroup.is_pure_v2()), resources)
}

/// Rules that are given again are held beside those in force: what both allow is allowed.
pub(super) fn limit_devices(cgroup: BorrowedFd<'_>, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    // Rules that forbid nothing need no program: a privileged container runs where the kernel takes none.
    if rules.iter().all(LinuxDeviceCgroup::allow) {
        return Ok(());
    }
    fs_base::sys::bpf::limit_devices(cgroup, &device::compile(rules)?)
}

/// The spec's own v2 files, as they are.
fn apply_unified(dir: Option<&Path>, resources: &LinuxResources) -> Result<()> {
    for (file, value) in resources.unified().iter().flatten() {
        let Some(dir) = dir else {
            return Err(Error::unsupported(format!("the resource limit {file} is not supported: this host has cgroup v1")));
        };
        if file.contains('/') || file.starts_with("cgroup.") || !file.contains('.') {
            return Err(Error::invalid(format!("unified resource {file:?} must be the name of a controller's file")));
        }
        control::write(&dir.join(file), value)?;
    }
    Ok(())
}

/// `max` for none.
fn number(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory_settings(memory: &LinuxMemory, all: &mut Vec<Setting>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = given(memory.limit());
    if let Some(swap) = swap_alone(limit, given(memory.swap()))? {
        // A kernel without swap accounting limits swap neither to none nor at all.
        let warning = if swap > 0 { w::SWAP } else { "" };
        all.push(Setting::new("memory", "memory.swap.max", number(swap), warning));
    }
    all.extend(limit.map(|limit| Setting::new("memory", "memory.max", number(limit), w::MEMORY)));
    let reservation = given(memory.reservation());
    all.extend(reservation.map(|value| Setting::new("memory", "memory.low", number(value), w::MEMORY_RESERVATION)));
    // These are of v1 alone: the file is one that no kernel has.
    #[allow(deprecated)] // users still ask for it
    let of_v1 = [
        (given(memory.kernel()).is_some(), w::KERNEL_MEMORY),
        (given(memory.kernel_tcp()).is_some(), w::KERNEL_MEMORY_TCP),
        (memory.swappiness().is_some(), w::SWAPPINESS),
        (memory.disable_oom_killer() == Some(true), w::OOM_KILLER),
    ];
    all.extend(of_v1.iter().filter(|(given, _)| *given).map(|(_, text)| Setting::new("memory", "memory.(v1)", "", text)));
    Ok(())
}

/// v1 limits memory and swap together, v2 swap alone.
fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>> {
    match (limit, both) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (None, Some(_)) => Err(Error::invalid("unable to set swap limit without memory limit")),
        (Some(limit), Some(_)) if limit < 0 => Err(Error::invalid(format!("invalid memory value: {limit}"))),
        (Some(limit), Some(both)) if both < limit => {
            Err(Error::invalid(format!("memory+swap limit should be >= memory limit ({both} < {limit})")))
        }
        (Some(limit), Some(both)) => Ok(Some(both - limit)),
    }
}

/// v2 takes a limit below what is in use, and ends processes to get there; who asks for it is told instead.
fn check_before_update(dir: Option<&Path>, memory: &LinuxMemory) -> Result<()> {
    let (Some(dir), Some(true), Some(limit @ 1..)) = (dir, memory.check_before_update(), memory.limit()) else {
        return Ok(());
    };
    let usage = control::read_if_there(&dir.join("memory.current"))?.and_then(|text| control::limit(&text)).unwrap_or(0);
    if usage > limit as u64 {
        return Err(Error::busy(format!("rejecting memory limit {limit} < usage {usage}")));
    }
    Ok(())
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    let mut file = |controller, name: &str, value: Option<String>, warning| {
        all.extend(value.map(|value| Setting::new(controller, name, value, warning)));
    };
    if let Some(idle) = cpu.idle() {
        file("cpu", "cpu.idle", Some(idle.to_string()), w::CPU_IDLE);
    }
    // An idle cgroup has no weight.
    let shares = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1));
    file("cpu", "cpu.weight", shares.map(|shares| weight_of_shares(shares).to_string()), w::CPU_SHARES);
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { PERIOD } else { period };
        file("cpu", "cpu.max", Some(format!("{quota} {period}")), w::CPU_CFS);
    }
    file("cpu", "cpu.max.burst", cpu.burst().map(|burst| burst.to_string()), w::CPU_BURST);
    let realtime = cpu.realtime_period().unwrap_or(0) != 0 || cpu.realtime_runtime().unwrap_or(0) != 0;
    file("cpu", "cpu.(v1)", realtime.then(String::new), w::CPU_REALTIME);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    file("cpuset", "cpuset.cpus", given(cpu.cpus()), w::CPUSET);
    file("cpuset", "cpuset.mems", given(cpu.mems()), w::CPUSET);
}

/// cpu.shares (2 to 262144, 1024 by default) as cpu.weight (1 to 10000, 100 by default): the curve through these three
/// points that runc 1.3.2 and crun 1.23 went over to.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// blkio.weight (10 to 1000) as io.weight (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

fn io_settings(io: &LinuxBlockIo, is_bfq: bool, all: &mut Vec<Setting>) {
    let (file, convert): (_, fn(u16) -> u64) = if is_bfq { ("io.bfq.weight", u64::from) } else { ("io.weight", io_weight) };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        all.push(Setting::new("io", file, convert(weight), w::IO_WEIGHT));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), convert(weight));
            all.push(Setting::new("io", file, value, w::IO_WEIGHT_DEVICE));
        }
    }
    let throttles = [
        ("rbps", io.throttle_read_bps_device(), w::IO_READ_BPS),
        ("wbps", io.throttle_write_bps_device(), w::IO_WRITE_BPS),
        ("riops", io.throttle_read_iops_device(), w::IO_READ_IOPS),
        ("wiops", io.throttle_write_iops_device(), w::IO_WRITE_IOPS),
    ];
    for (key, devices, warning) in throttles {
        for device in devices.iter().flatten() {
            // 0 is none in the words of v1.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            all.push(Setting::new("io", "io.max", value, warning));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(resources: serde_json::Value) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let mut all = Vec::new();
        resources.memory().iter().for_each(|memory| memory_settings(memory, &mut all).unwrap());
        resources.cpu().iter().for_each(|cpu| cpu_settings(cpu, &mut all));
        resources.block_io().iter().for_each(|io| io_settings(io, false, &mut all));
        all.iter().filter(|set| !set.file.ends_with("(v1)")).map(|set| format!("{}={}", set.file, set.value)).collect()
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight_of_shares(2), weight_of_shares(1024), weight_of_shares(262_144)), (1, 100, 10_000));
        assert!(weight_of_shares(512) < 100 && weight_of_shares(2048) > 100);
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn limits_are_converted() {
        let memory = json!({ "limit": 100, "swap": 300, "reservation": 50 });
        let expected = ["memory.swap.max=200", "memory.max=100", "memory.low=50"];
        assert_eq!(written(json!({ "memory": memory })), expected);
        assert_eq!(written(json!({ "memory": { "limit": -1 } })), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(written(json!({ "memory": { "limit": 0, "swap": 0, "reservation": 0 } })), Vec::<String>::new());
        assert_eq!(written(json!({ "cpu": { "quota": 50_000 } })), ["cpu.max=50000 100000"]);
        assert_eq!(written(json!({ "cpu": { "quota": -1, "period": 1000 } })), ["cpu.max=max 1000"]);
        assert_eq!(written(json!({ "cpu": { "shares": 0, "quota": 0, "cpus": "" } })), Vec::<String>::new());
        let io = json!({ "weight": 10, "throttleReadBpsDevice": [{ "major": 8, "minor": 1, "rate": 7 }] });
        assert_eq!(written(json!({ "blockIO": io })), ["io.weight=1", "io.max=8:1 rbps=7"]);
    }

    #[test]
    fn swap_that_makes_no_sense_is_refused() {
        for (limit, both) in [(None, Some(5)), (Some(100), Some(50)), (Some(-1), Some(50))] {
            assert_eq!(swap_alone(limit, both).unwrap_err().class(), fs_base::Class::Invalid);
        }
        assert_eq!((swap_alone(Some(100), Some(-1)).unwrap(), swap_alone(Some(5), Some(5)).unwrap()), (Some(-1), Some(0)));
    }
}
