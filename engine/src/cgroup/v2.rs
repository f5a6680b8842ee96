//! Limits in the files of v2, converted as runc does. Source: Linux Documentation, admin-guide/cgroup-v2.rst.

use std::path::Path;

use fs_base::{Error, Result};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::hierarchy::Hierarchy;
use super::v1::write;

/// The kernel's default period of processor time, in microseconds.
const PERIOD: u64 = 100_000;

/// Writes what `resources` asks of the unified hierarchy. Limits of controllers that it lacks are v1's.
pub fn apply(hierarchy: &Hierarchy, dir: &Path, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
    if hierarchy.has("memory")
        && let Some(limits) = resources.memory()
    {
        memory(dir, limits, warnings)?;
    }
    if hierarchy.has("cpu")
        && let Some(limits) = resources.cpu()
    {
        cpu(dir, limits)?;
    }
    if hierarchy.has("cpuset")
        && let Some(limits) = resources.cpu()
    {
        write(dir, "cpuset.cpus", limits.cpus().as_deref())?;
        write(dir, "cpuset.mems", limits.mems().as_deref())?;
    }
    if hierarchy.has("pids")
        && let Some(limits) = resources.pids()
    {
        write(dir, "pids.max", Some(&number(if limits.limit() > 0 { limits.limit() } else { -1 })))?;
    }
    Ok(())
}

fn memory(dir: &Path, limits: &LinuxMemory, warnings: &mut Vec<String>) -> Result<()> {
    let limit = limits.limit().filter(|limit| *limit != 0);
    write(dir, "memory.max", limit.map(number).as_deref())?;
    if let Some(swap) = swap(limit, limits.swap())? {
        if dir.join("memory.swap.max").exists() {
            write(dir, "memory.swap.max", Some(&number(swap)))?;
        } else {
            warnings.push(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                    .to_owned(),
            );
        }
    }
    write(dir, "memory.low", limits.reservation().filter(|value| *value != 0).map(number).as_deref())?;
    if limits.disable_oom_killer() == Some(true) {
        warnings.push("OomKillDisable is not supported by cgroup v2: it is ignored".to_owned());
    }
    Ok(())
}

/// v1 counts memory and swap together, v2 swap alone.
fn swap(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>> {
    match (limit, both) {
        (_, None | Some(0)) => Ok(None),
        (_, Some(-1)) => Ok(Some(-1)),
        (Some(limit), Some(both)) if limit > 0 && both >= limit => Ok(Some(both - limit)),
        (limit, Some(both)) => Err(Error::invalid(format!(
            "memory and swap together ({both}) can't be limited to less than memory ({})",
            limit.unwrap_or(-1)
        ))),
    }
}

fn cpu(dir: &Path, limits: &LinuxCpu) -> Result<()> {
    let weight = limits.shares().filter(|shares| *shares != 0).map(weight);
    write(dir, "cpu.weight", weight.map(|weight| weight.to_string()).as_deref())?;
    if limits.quota().is_none() && limits.period().is_none() {
        return Ok(());
    }
    let quota = limits.quota().filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
    let period = limits.period().filter(|period| *period > 0).unwrap_or(PERIOD);
    write(dir, "cpu.max", Some(&format!("{quota} {period}")))
}

/// 2..=262144 shares, with 1024 the default, to a weight of 1..=10000, with 100 the default: runc's newer curve,
/// through (2, 1), (1024, 100) and (262144, 10000).
fn weight(shares: u64) -> u64 {
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares.max(2) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// -1 is "no limit".
fn number(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder};

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 100, 10_000));
        assert!(weight(512) < 100 && weight(2048) > 100);
    }

    #[test]
    fn limits_are_converted_and_written() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let limits = LinuxMemoryBuilder::default().limit(100i64).swap(300i64).reservation(50i64).build().unwrap();
        memory(dir.path(), &limits, &mut Vec::new()).unwrap();
        cpu(dir.path(), &LinuxCpuBuilder::default().quota(50_000i64).build().unwrap()).unwrap();
        let text = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!((text("memory.max"), text("memory.swap.max"), text("memory.low")), ("100".into(), "200".into(), "50".into()));
        assert_eq!((text("cpu.max"), text("cpu.weight")), ("50000 100000".into(), String::new()));
        assert!(swap(Some(100), Some(50)).is_err());
        assert_eq!(swap(Some(100), Some(-1)).unwrap(), Some(-1));
    }
}
