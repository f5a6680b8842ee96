//! Limits that this host can't keep: a container that is told so has none, and `inspect` says so. Source: moby,
//! `verifyPlatformContainerResources`.

use serde_json::{Map, Value, json};

/// By what is said of a limit: the fields of `HostConfig` that ask for it, and what they are without.
const FIELDS: &[(&str, &[&str])] = &[
    ("memory limit capabilities", &["Memory"]),
    ("memory soft limit capabilities", &["MemoryReservation"]),
    ("memory swappiness capabilities", &["MemorySwappiness"]),
    ("OomKillDisable", &["OomKillDisable"]),
    ("PIDs limit capabilities", &["PidsLimit"]),
    ("CPU shares", &["CpuShares"]),
    ("CPU CFS scheduler", &["CpuPeriod", "CpuQuota", "NanoCpus"]),
    ("cpuset", &["CpusetCpus", "CpusetMems"]),
    ("Block I/O weight_device", &["BlkioWeightDevice"]),
    ("Block I/O weight", &["BlkioWeight"]),
    ("BPS Block I/O read limit", &["BlkioDeviceReadBps"]),
    ("BPS Block I/O write limit", &["BlkioDeviceWriteBps"]),
    ("IOPS Block read limit", &["BlkioDeviceReadIOps"]),
    ("IOPS Block write limit", &["BlkioDeviceWriteIOps"]),
];

/// Takes out of a `HostConfig` what these warnings say is not kept.
pub fn take_out(host_config: &mut Value, warnings: &[String]) {
    let Value::Object(host) = host_config else { return };
    for warning in warnings {
        let Some(about) = warning.strip_prefix("Your kernel does not support ") else { continue };
        if about.starts_with("memory limit capabilities") || about.starts_with("swap limit capabilities") {
            host.insert("MemorySwap".to_owned(), json!(-1));
        }
        let found = FIELDS.iter().find(|(what, _)| about.strip_prefix(what).is_some_and(|rest| rest.starts_with([' ', '.'])));
        for key in found.into_iter().flat_map(|(_, keys)| *keys) {
            clear(host, key);
        }
    }
}

fn clear(host: &mut Map<String, Value>, key: &str) {
    let nothing = match host.get(key) {
        None => return,
        Some(Value::String(_)) => json!(""),
        Some(Value::Array(_)) => json!([]),
        // These three may be absent in Docker's type.
        Some(_) if matches!(key, "MemorySwappiness" | "OomKillDisable" | "PidsLimit") => Value::Null,
        Some(_) => json!(0),
    };
    host.insert(key.to_owned(), nothing);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_warned_about_is_not_asked_for_any_more() {
        let mut host = json!({
            "Memory": 1 << 26, "MemorySwap": 1 << 27, "BlkioWeight": 300, "BlkioWeightDevice": [1], "CpusetCpus": "0",
            "PidsLimit": 5, "NanoCpus": 5, "CpuShares": 7,
        });
        let warnings = [
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
        ];
        take_out(&mut host, &warnings.map(str::to_owned));
        assert_eq!(
            host,
            json!({
                "Memory": 1 << 26, "MemorySwap": -1, "BlkioWeight": 0, "BlkioWeightDevice": [1], "CpusetCpus": "0",
                "PidsLimit": null, "NanoCpus": 0, "CpuShares": 7,
            })
        );
    }
}
