//! Limits in the files of v1. Source: Linux Documentation, admin-guide/cgroup-v1/.

use std::io::Write;
use std::path::Path;

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};

use super::hierarchy::{Hierarchy, inherit_cpuset};

/// Writes what `resources` asks of this hierarchy.
pub fn apply(hierarchy: &Hierarchy, dir: &Path, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
    if hierarchy.has("memory")
        && let Some(limits) = resources.memory()
    {
        memory(dir, limits, warnings)?;
    }
    if hierarchy.has("cpu")
        && let Some(limits) = resources.cpu()
    {
        set(dir, "cpu.shares", limits.shares().map(|shares| shares as i64))?;
        set(dir, "cpu.cfs_period_us", limits.period().map(|period| period as i64))?;
        set(dir, "cpu.cfs_quota_us", limits.quota())?;
    }
    if hierarchy.has("cpuset") {
        inherit_cpuset(dir)?;
        if let Some(limits) = resources.cpu() {
            write(dir, "cpuset.cpus", limits.cpus().as_deref())?;
            write(dir, "cpuset.mems", limits.mems().as_deref())?;
        }
    }
    if hierarchy.has("pids")
        && let Some(limits) = resources.pids()
    {
        let limit = limits.limit();
        write(dir, "pids.max", Some(if limit > 0 { limit.to_string() } else { "max".to_owned() }.as_str()))?;
    }
    if hierarchy.has("devices") {
        for rule in resources.devices().iter().flatten() {
            let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
            write(dir, file, Some(&rule_text(rule)))?;
        }
    }
    Ok(())
}

/// The limit on memory and swap together may never be below that on memory, so their order depends on where they are.
fn memory(dir: &Path, limits: &LinuxMemory, warnings: &mut Vec<String>) -> Result<()> {
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let swap = match limits.swap() {
        Some(_) if !dir.join(BOTH).exists() => {
            warnings.push(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                    .to_owned(),
            );
            None
        }
        other => other,
    };
    let grows = swap.is_some_and(|swap| {
        let now = std::fs::read_to_string(dir.join(BOTH)).ok().and_then(|text| text.trim().parse::<i64>().ok());
        swap == -1 || now.is_some_and(|now| swap > now)
    });
    if grows {
        set(dir, BOTH, swap)?;
    }
    set(dir, "memory.limit_in_bytes", limits.limit().filter(|limit| *limit != 0))?;
    if !grows {
        set(dir, BOTH, swap.filter(|swap| *swap != 0))?;
    }
    set(dir, "memory.soft_limit_in_bytes", limits.reservation())?;
    set(dir, "memory.swappiness", limits.swappiness().map(|value| value as i64))?;
    if limits.disable_oom_killer() == Some(true) {
        write(dir, "memory.oom_control", Some("1"))?;
    }
    Ok(())
}

fn rule_text(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        _ => return "a".to_owned(),
    };
    let number = |value: Option<i64>| value.filter(|value| *value >= 0).map_or("*".to_owned(), |value| value.to_string());
    format!("{kind} {}:{} {}", number(rule.major()), number(rule.minor()), rule.access().as_deref().unwrap_or("rwm"))
}

fn set(dir: &Path, file: &str, value: Option<i64>) -> Result<()> {
    write(dir, file, value.map(|value| value.to_string()).as_deref())
}

/// Writes a setting if there is one to be made. The file's name tells which limit was refused.
pub fn write(dir: &Path, file: &str, value: Option<&str>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    let path = dir.join(file);
    let written = std::fs::File::options().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::unsupported(format!("this host's cgroups have no {file}, so the limit {value} can't be set")))
        }
        other => other.at(&format!("write {value:?} to"), &path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder};

    #[test]
    fn device_rules_are_written_as_the_kernel_reads_them() {
        let texts: Vec<String> = crate::spec::allowed_devices(false).iter().map(rule_text).collect();
        assert_eq!(texts[..4], ["a", "c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(texts.last().unwrap(), "c 136:* rwm");
    }

    #[test]
    fn a_limit_that_the_host_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let memory = LinuxMemoryBuilder::default().limit(1i64 << 20).swap(2i64 << 20).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        let mut warnings = Vec::new();
        let error = super::memory(dir.path(), resources.memory().as_ref().unwrap(), &mut warnings).unwrap_err();
        assert!(error.to_string().contains("memory.limit_in_bytes"), "{error}");
        assert!(warnings[0].contains("swap limit"), "{warnings:?}");
    }
}
