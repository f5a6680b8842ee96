//! Limits in the words of cgroup v1. Source: the kernel's `Documentation/admin-guide/cgroup-v1/`.

use std::path::Path;

use fs_base::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};
use rustix::io::Errno;

use super::control::{self, Setting, warn};
use super::{Cgroup, warnings as w};

/// Sets those limits whose controller is in a v1 hierarchy.
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
    // Where v2 is all there is, it speaks for every controller.
    if cgroup.is_pure_v2() {
        return Ok(());
    }
    let on_v2 = |controller: &str| cgroup.v1_dir(controller).is_none() && super::v2::has(cgroup, controller);
    if let Some(memory) = resources.memory().as_ref().filter(|_| !on_v2("memory")) {
        apply_memory(cgroup.v1_dir("memory"), memory, warnings)?;
    }
    for setting in settings(resources, cgroup.v1_dir("blkio")).iter().filter(|setting| !on_v2(setting.controller)) {
        setting.write(cgroup.v1_dir(setting.controller), warnings)?;
    }
    let shares = resources.cpu().as_ref().and_then(LinuxCpu::shares).filter(|shares| *shares != 0);
    if let (Some(wanted), Some(dir)) = (shares, cgroup.v1_dir("cpu")) {
        check_shares(dir, wanted)?;
    }
    if let (Some(rules), Some(dir)) = (resources.devices(), cgroup.v1_dir("devices")) {
        for rule in rules {
            let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
            control::write(&dir.join(file), &device_rule(rule)?)?;
        }
    }
    Ok(())
}

/// The kernel takes the nearest that it knows, in silence. The texts are runc's.
fn check_shares(dir: &Path, wanted: u64) -> Result<()> {
    let Some(taken) = control::limit(&control::read(&dir.join("cpu.shares"))?) else { return Ok(()) };
    match wanted.cmp(&taken) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(Error::invalid(format!("the minimum allowed cpu-shares is {taken}"))),
        std::cmp::Ordering::Greater => Err(Error::invalid(format!("the maximum allowed cpu-shares is {taken}"))),
    }
}

/// Everything but memory, whose order depends on what is in force, and devices.
fn settings(resources: &LinuxResources, blkio: Option<&Path>) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut all);
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        all.push(Setting::new("pids", "pids.max", value, w::PIDS));
    }
    if let Some(io) = resources.block_io() {
        let is_bfq = blkio.is_some_and(|dir| dir.join("blkio.bfq.weight").exists());
        io_settings(io, if is_bfq { "blkio.bfq." } else { "blkio." }, &mut all);
    }
    all
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    let mut cpu_file = |file: &str, value: Option<i64>, warning: &'static str| {
        all.extend(value.filter(|value| *value != 0).map(|value| Setting::new("cpu", file, value, warning)));
    };
    cpu_file("cpu.shares", cpu.shares().map(|shares| shares as i64), w::CPU_SHARES);
    // The period first: a quota is checked against it. A burst must not pass the quota.
    cpu_file("cpu.cfs_period_us", cpu.period().map(|period| period as i64), w::CPU_CFS);
    cpu_file("cpu.cfs_quota_us", cpu.quota(), w::CPU_CFS);
    cpu_file("cpu.cfs_burst_us", cpu.burst().map(|burst| burst as i64), w::CPU_BURST);
    cpu_file("cpu.rt_period_us", cpu.realtime_period().map(|period| period as i64), w::CPU_REALTIME);
    cpu_file("cpu.rt_runtime_us", cpu.realtime_runtime(), w::CPU_REALTIME);
    cpu_file("cpu.idle", cpu.idle(), w::CPU_IDLE);
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let given = value.as_ref().filter(|value| !value.is_empty());
        all.extend(given.map(|value| Setting::new("cpuset", file, value, w::CPUSET)));
    }
}

fn io_settings(io: &LinuxBlockIo, weights: &str, all: &mut Vec<Setting>) {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        all.push(Setting::new("blkio", format!("{weights}weight"), weight, w::IO_WEIGHT));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            all.push(Setting::new("blkio", format!("{weights}weight_device"), value, w::IO_WEIGHT_DEVICE));
        }
    }
    let throttles = [
        ("read_bps", io.throttle_read_bps_device(), w::IO_READ_BPS),
        ("write_bps", io.throttle_write_bps_device(), w::IO_WRITE_BPS),
        ("read_iops", io.throttle_read_iops_device(), w::IO_READ_IOPS),
        ("write_iops", io.throttle_write_iops_device(), w::IO_WRITE_IOPS),
    ];
    for (kind, devices, warning) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            all.push(Setting::new("blkio", format!("blkio.throttle.{kind}_device"), value, warning));
        }
    }
}

fn apply_memory(dir: Option<&Path>, memory: &LinuxMemory, warnings: &mut Vec<String>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let Some(dir) = dir else {
        if given(memory.limit()).is_some() {
            warn(warnings, w::MEMORY);
        }
        if given(memory.reservation()).is_some() {
            warn(warnings, w::MEMORY_RESERVATION);
        }
        return Ok(());
    };
    apply_limits(dir, given(memory.limit()), given(memory.swap()), warnings)?;
    let mut rest = Vec::new();
    let mut file = |name: &str, value: Option<i64>, warning| {
        rest.extend(value.map(|value| Setting::new("memory", name, value, warning)));
    };
    file("memory.soft_limit_in_bytes", given(memory.reservation()), w::MEMORY_RESERVATION);
    file("memory.kmem.tcp.limit_in_bytes", given(memory.kernel_tcp()), w::KERNEL_MEMORY_TCP);
    // Containers run with what the host has set where Docker says -1, which the spec can only leave out.
    file("memory.swappiness", memory.swappiness().map(|value| value as i64), w::SWAPPINESS);
    file("memory.oom_control", memory.disable_oom_killer().filter(|disable| *disable).map(i64::from), w::OOM_KILLER);
    rest.iter().try_for_each(|setting| setting.write(Some(dir), warnings))?;
    #[allow(deprecated)] // users still ask for it
    if given(memory.kernel()).is_some() {
        warn(warnings, w::KERNEL_MEMORY);
    }
    Ok(())
}

/// The limit of memory, and that of memory and swap together. The kernel refuses a moment in which the first is above
/// the second, so which is written first depends on what is in force.
fn apply_limits(dir: &Path, limit: Option<i64>, swap: Option<i64>, warnings: &mut Vec<String>) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let can_swap = dir.join(SWAP).exists();
    // Without a limit of memory, one of both together would still hold it.
    let swap = if limit == Some(-1) && swap.is_none() && can_swap { Some(-1) } else { swap };
    if swap.is_some() && !can_swap {
        if swap != Some(-1) {
            warn(warnings, w::SWAP);
        }
    } else if let Some(swap) = swap {
        let now = control::limit(&control::read(&dir.join(LIMIT))?);
        // Raising, or from "no limit": then whatever is above `now` must make room first.
        let raises = swap == -1 || now.is_some_and(|now| now < swap as u64);
        if raises {
            control::write(&dir.join(SWAP), &swap.to_string())?;
        }
        if let Some(limit) = limit {
            write_limit(dir, LIMIT, limit)?;
        }
        if !raises {
            write_limit(dir, SWAP, swap)?;
        }
        return Ok(());
    }
    limit.map_or(Ok(()), |limit| write_limit(dir, LIMIT, limit))
}

fn write_limit(dir: &Path, file: &str, limit: i64) -> Result<()> {
    let error = match control::write(&dir.join(file), &limit.to_string()) {
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => error,
        other => return other,
    };
    let value = |file: &str| control::read(&dir.join(file)).unwrap_or_default();
    let (now, peak) = (value("memory.usage_in_bytes"), value("memory.max_usage_in_bytes"));
    Err(Error::busy(format!("unable to set memory limit to {limit} (current usage: {now}, peak usage: {peak})"))
        .with_source(error))
}

/// A rule as the devices controller reads it. A rule for all kinds of devices is one for all devices.
fn device_rule(rule: &LinuxDeviceCgroup) -> Result<String> {
    let number = |number: Option<i64>| match number {
        None | Some(-1) => "*".to_owned(),
        Some(number) => number.to_string(),
    };
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    let bad = || Error::invalid(format!("invalid device rule {rule}"));
    if !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A if major == "*" && minor == "*" => Ok("a".to_owned()),
        LinuxDeviceType::B => Ok(format!("b {major}:{minor} {access}")),
        LinuxDeviceType::C | LinuxDeviceType::U => Ok(format!("c {major}:{minor} {access}")),
        LinuxDeviceType::A | LinuxDeviceType::P => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_rules_are_written_as_the_kernel_reads_them() {
        let texts: Vec<String> = crate::spec::allowed_devices(false).iter().map(|rule| device_rule(rule).unwrap()).collect();
        assert_eq!(texts[..4], ["a", "c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(texts.last().unwrap(), "c 136:* rwm");
        let rule: LinuxDeviceCgroup = serde_json::from_value(serde_json::json!({ "allow": true, "type": "p" })).unwrap();
        assert_eq!(device_rule(&rule).unwrap_err().class(), fs_base::Class::Invalid);
    }
}
