//! Flags for limits that few people set, and the fields of `HostConfig` that they make.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::format::units::parse_bytes;

/// Limits on block devices, on the processor, on memory, and rules for devices.
#[derive(Debug, Args)]
pub struct Limits {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", allow_hyphen_values = true)]
    blkio_weight: Option<u16>,
    /// Block IO weight (relative device weight)
    #[arg(long, value_name = "list")]
    blkio_weight_device: Vec<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_name = "string")]
    cgroupns: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "list")]
    device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "list")]
    device_read_bps: Vec<String>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "list")]
    device_read_iops: Vec<String>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "list")]
    device_write_bps: Vec<String>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "list")]
    device_write_iops: Vec<String>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
}

impl Limits {
    /// Puts what was given into a `HostConfig`.
    pub fn fill(&self, host: &mut Value) -> Result<()> {
        for (key, number) in [
            ("BlkioWeight", self.blkio_weight.map(i64::from)),
            ("CpuPeriod", self.cpu_period),
            ("CpuQuota", self.cpu_quota),
            ("MemorySwappiness", self.memory_swappiness),
        ] {
            if let Some(number) = number {
                host[key] = number.into();
            }
        }
        for (key, text) in [("CpusetMems", &self.cpuset_mems), ("CgroupnsMode", &self.cgroupns)] {
            if let Some(text) = text {
                host[key] = text.as_str().into();
            }
        }
        for (key, list, read) in [
            ("BlkioWeightDevice", &self.blkio_weight_device, weight as Reader),
            ("BlkioDeviceReadBps", &self.device_read_bps, bytes_rate),
            ("BlkioDeviceWriteBps", &self.device_write_bps, bytes_rate),
            ("BlkioDeviceReadIOps", &self.device_read_iops, count_rate),
            ("BlkioDeviceWriteIOps", &self.device_write_iops, count_rate),
        ] {
            if !list.is_empty() {
                host[key] = list.iter().map(|text| read(text)).collect::<Result<Vec<_>>>()?.into();
            }
        }
        if !self.device_cgroup_rule.is_empty() {
            host["DeviceCgroupRules"] = json!(self.device_cgroup_rule);
        }
        Ok(())
    }
}

type Reader = fn(&str) -> Result<Value>;

/// `/dev/sda:` and what comes after it.
fn device(text: &str) -> Result<(&str, &str)> {
    let (path, rest) = text.rsplit_once(':').ok_or_else(|| anyhow!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        bail!("bad format for device path: {text}");
    }
    Ok((path, rest))
}

fn weight(text: &str) -> Result<Value> {
    let (path, weight) = device(text)?;
    match weight.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok(json!({"Path": path, "Weight": weight})),
        _ => bail!("invalid weight for device: {text}"),
    }
}

fn bytes_rate(text: &str) -> Result<Value> {
    let (path, rate) = device(text)?;
    let rate = parse_bytes(rate).map_err(|_| {
        anyhow!("invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb")
    })?;
    Ok(json!({"Path": path, "Rate": rate}))
}

fn count_rate(text: &str) -> Result<Value> {
    let (path, rate) = device(text)?;
    let rate: u64 = rate.parse().map_err(|_| {
        anyhow!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    })?;
    Ok(json!({"Path": path, "Rate": rate}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_weights_are_read() {
        assert_eq!(bytes_rate("/dev/sda:1mb").unwrap(), json!({"Path": "/dev/sda", "Rate": 1 << 20}));
        assert_eq!(count_rate("/dev/sda:5").unwrap(), json!({"Path": "/dev/sda", "Rate": 5}));
        assert_eq!(weight("/dev/sda:200").unwrap(), json!({"Path": "/dev/sda", "Weight": 200}));
        for (result, error) in [
            (weight("/dev/sda:5"), "invalid weight for device"),
            (bytes_rate("/dev/sda"), "bad format: /dev/sda"),
            (count_rate("/x:1"), "bad format for device path"),
            (count_rate("/dev/x:1kb"), "invalid rate for device"),
        ] {
            assert!(result.unwrap_err().to_string().starts_with(error), "{error}");
        }
    }
}
