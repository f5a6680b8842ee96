//! What a container uses, in the shape of Docker's API.

use std::path::Path;
use std::time::{Duration, Instant};

use engine::cgroup::{BlockIo, Stats};
use fs_base::{Error, IoContext, Result};
use serde_json::{Map, Value, json};

use super::{ContainerRow, group, show};

/// Ticks of a second in /proc/stat. Source: proc(5), USER_HZ is 100 on every architecture of Linux that we run on.
const TICKS: u64 = 100;

/// How long a look may take until it is worth another: a percentage is of the time between two looks, a second, and what
/// passes between its figures falsifies it.
const QUICK: Duration = Duration::from_millis(10);
/// How often a look is tried that takes longer, on a host that is overloaded.
const LOOKS: usize = 5;

/// One look at a container; two of them show what it uses in the time between.
#[derive(Debug, Clone)]
pub struct Sample {
    time: i64,
    stats: Stats,
    /// Processor time of the whole host, in nanoseconds.
    system: u64,
    networks: Option<Value>,
}

/// Looks at a container that runs; `None` if it does not.
pub fn sample(row: &ContainerRow) -> Result<Option<Sample>> {
    if !row.state.is_running() {
        return Ok(None);
    }
    let group = group::of(row)?;
    let (time, system, stats) = quickest(|| {
        let system = system_time()?;
        let cpu = group.cpu()?;
        Ok((crate::db::now(), system, cpu))
    })
    .and_then(|(time, system, cpu)| Ok((time, system, Stats { cpu, ..group.stats()? })))?;
    let networks = if row.definition.host_text("NetworkMode") == "host" { None } else { networks(row.state.pid) };
    Ok(Some(Sample { time, stats, system, networks }))
}

/// The result of the quickest of some tries, or of the first that is quick enough.
fn quickest<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..LOOKS {
        let began = Instant::now();
        let seen = look()?;
        let took = began.elapsed();
        if best.as_ref().is_none_or(|(before, _)| took < *before) {
            best = Some((took, seen));
        }
        if took < QUICK {
            break;
        }
    }
    best.map(|(_, seen)| seen).ok_or_else(|| Error::internal("no look was taken"))
}

/// What the API says: the sample, and the one before it.
pub fn to_json(row: &ContainerRow, sample: Option<&Sample>, before: Option<&Sample>) -> Result<Value> {
    let read = |sample: Option<&Sample>| show::time(sample.map_or(0, |sample| sample.time));
    let mut value = json!({
        "read": read(sample), "preread": read(before), "pids_stats": {}, "blkio_stats": blkio(&[], false), "num_procs": 0,
        "storage_stats": {}, "cpu_stats": cpu(sample), "precpu_stats": cpu(before), "memory_stats": {},
        "name": format!("/{}", row.name), "id": row.id,
    });
    let Some(sample) = sample else { return Ok(value) };
    let Stats { memory, pids, blkio: devices, .. } = &sample.stats;
    value["pids_stats"] = json!({"current": pids.current, "limit": pids.limit.unwrap_or(u64::MAX)});
    // Only v1 has this, and its words tell Docker's clients which figure of the page cache is to be taken off.
    let is_v1 = memory.stats.contains_key("total_inactive_file");
    value["blkio_stats"] = blkio(devices, is_v1);
    value["memory_stats"] = json!({
        "usage": memory.usage, "stats": memory.stats, "limit": memory.limit.map_or_else(host_memory, Ok)?,
    });
    if is_v1 {
        value["memory_stats"]["max_usage"] = json!(memory.max_usage);
        value["memory_stats"]["failcnt"] = json!(memory.failcnt);
    }
    if let Some(networks) = &sample.networks {
        value["networks"] = networks.clone();
    }
    Ok(value)
}

fn cpu(sample: Option<&Sample>) -> Value {
    let stats = sample.map(|sample| &sample.stats.cpu).cloned().unwrap_or_default();
    let mut usage = json!({
        "total_usage": stats.total, "usage_in_kernelmode": stats.system, "usage_in_usermode": stats.user,
    });
    if !stats.per_cpu.is_empty() {
        usage["percpu_usage"] = json!(stats.per_cpu);
    }
    let mut value = json!({
        "cpu_usage": usage,
        "throttling_data": {
            "periods": stats.periods, "throttled_periods": stats.throttled_periods, "throttled_time": stats.throttled_time,
        },
    });
    if let Some(sample) = sample {
        value["system_cpu_usage"] = json!(sample.system);
        value["online_cpus"] = json!(std::thread::available_parallelism().map_or(1, usize::from));
    }
    value
}

/// The words are those of the kernel's files, as Docker passes them on: v1's begin with a capital, and it adds them up.
fn blkio(devices: &[BlockIo], is_v1: bool) -> Value {
    let list = |counts: fn(&BlockIo) -> (u64, u64)| -> Value {
        let all = devices.iter().flat_map(|device| {
            let (read, write) = counts(device);
            let lines = if is_v1 {
                vec![("Read", read), ("Write", write), ("Total", read + write)]
            } else {
                vec![("read", read), ("write", write)]
            };
            let entry = |(op, value)| json!({"major": device.major, "minor": device.minor, "op": op, "value": value});
            lines.into_iter().map(entry).collect::<Vec<_>>()
        });
        all.collect()
    };
    json!({
        "io_service_bytes_recursive": list(|device| (device.read, device.written)),
        "io_serviced_recursive": list(|device| (device.reads, device.writes)),
        "io_queue_recursive": [], "io_service_time_recursive": [], "io_wait_time_recursive": [], "io_merged_recursive": [],
        "io_time_recursive": [], "sectors_recursive": [],
    })
}

/// The interfaces of the container's own network, but `lo`; `None` if it has no others, or has just ended.
fn networks(pid: i32) -> Option<Value> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let networks = interfaces(&text);
    (!networks.is_empty()).then_some(Value::Object(networks))
}

/// Source: proc_pid_net(5), /proc/net/dev: two lines of titles, then eight figures in and eight out.
fn interfaces(text: &str) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, rest) in text.lines().skip(2).filter_map(|line| line.split_once(':')) {
        let figures: Vec<u64> = rest.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (name, &[rx, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx, tx_packets, tx_errors, tx_dropped, ..]) =
            (name.trim(), figures.as_slice())
        else {
            continue;
        };
        if name != "lo" {
            let value = json!({
                "rx_bytes": rx, "rx_packets": rx_packets, "rx_errors": rx_errors, "rx_dropped": rx_dropped,
                "tx_bytes": tx, "tx_packets": tx_packets, "tx_errors": tx_errors, "tx_dropped": tx_dropped,
            });
            all.insert(name.to_owned(), value);
        }
    }
    all
}

/// The time that all processors have run, idle time too, as Docker counts it: the first seven figures of /proc/stat.
fn system_time() -> Result<u64> {
    let path = Path::new("/proc/stat");
    let text = std::fs::read_to_string(path).at("read", path)?;
    let figures = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(7);
    let ticks: u64 = figures.filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(ticks * (1_000_000_000 / TICKS))
}

/// The memory that the host has: what a container without a limit may use.
pub fn host_memory() -> Result<u64> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).at("read", path)?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(total.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_and_lo_is_left_out() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
                    eth0:1086 9 1 2 0 0 0 0 70 3 4 5 0 0 0 0\n";
        let all = interfaces(text);
        assert_eq!(all.len(), 1);
        assert_eq!((&all["eth0"]["rx_bytes"], &all["eth0"]["tx_dropped"]), (&json!(1086), &json!(5)));
    }

    #[test]
    fn the_host_has_memory_and_time() {
        assert!(host_memory().unwrap() > 1 << 20);
        assert!(system_time().unwrap() > 0);
    }
}
