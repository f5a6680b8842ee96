//! What a cgroup uses, in one shape for v1 and v2.

use std::collections::BTreeMap;
use std::path::Path;

use fs_base::Result;
use serde::{Deserialize, Serialize};

use super::{Cgroup, control};

/// What a container uses. A figure that the host doesn't count is 0 or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Vec<BlockIo>,
}

/// Processor time so far, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// All.
    pub total: u64,
    /// Of it, in programs.
    pub user: u64,
    /// Of it, in the kernel.
    pub system: u64,
    /// All, for each processor; v1 alone counts so.
    pub per_cpu: Vec<u64>,
    /// Periods in which it could be throttled.
    pub periods: u64,
    /// Periods in which it was.
    pub throttled_periods: u64,
    /// How long it waited so.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, the page cache with it.
    pub usage: u64,
    /// The most that was in use at once; `None` if the kernel doesn't say (v2 before 5.19).
    pub max_usage: Option<u64>,
    /// What may be used; `None` for no limit.
    pub limit: Option<u64>,
    /// Of the usage, files that were not read lately: what Docker's CLI takes off.
    pub inactive_file: u64,
    /// Of the usage, the page cache.
    pub cache: u64,
    /// How often the limit was met.
    pub failcnt: u64,
    /// All that the kernel says, by its own names. On v1 those with the cgroups inside are `total_…`.
    pub stats: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; `None` for no limit.
    pub limit: Option<u64>,
}

/// What went through one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// Of the device's number.
    pub major: u64,
    /// Of the device's number.
    pub minor: u64,
    /// Bytes.
    pub read: u64,
    /// Bytes.
    pub written: u64,
    /// Requests.
    pub reads: u64,
    /// Requests.
    pub writes: u64,
}

impl Cgroup {
    /// The processor time that it has used.
    pub fn cpu(&self) -> Result<Cpu> {
        match (self.v1_dir("cpuacct"), self.v2_dir()) {
            (Some(dir), _) => cpu_v1(dir, self.v1_dir("cpu")),
            (None, Some(dir)) => cpu_v2(dir),
            (None, None) => Ok(Cpu::default()),
        }
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<Stats> {
        let v2 = self.v2_dir();
        Ok(Stats {
            cpu: self.cpu()?,
            memory: match (self.v1_dir("memory"), v2) {
                (Some(dir), _) => memory_v1(dir)?,
                (None, Some(dir)) => memory_v2(dir)?,
                (None, None) => Memory::default(),
            },
            pids: match self.v1_dir("pids").or(v2) {
                Some(dir) => Pids { current: number(dir, "pids.current")?.unwrap_or(0), limit: number(dir, "pids.max")? },
                None => Pids::default(),
            },
            blkio: match (self.v1_dir("blkio"), v2) {
                (Some(dir), _) => blkio_v1(dir)?,
                (None, Some(dir)) => io_v2(&text(dir, "io.stat")?),
                (None, None) => Vec::new(),
            },
        })
    }
}

/// Nanoseconds of one tick of `cpuacct.stat`. Source: proc(5), USER_HZ is 100 on every architecture that we run on.
const TICK: u64 = 10_000_000;

fn text(dir: &Path, file: &str) -> Result<String> {
    Ok(control::read_if_there(&dir.join(file))?.unwrap_or_default())
}

fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    Ok(control::limit(&text(dir, file)?))
}

fn cpu_v1(dir: &Path, cpu: Option<&Path>) -> Result<Cpu> {
    let list = |file| -> Result<Vec<u64>> { Ok(text(dir, file)?.split_whitespace().filter_map(|n| n.parse().ok()).collect()) };
    let throttling = cpu.map(|dir| text(dir, "cpu.stat")).transpose()?.unwrap_or_default();
    let field = |key| control::field(&throttling, key).unwrap_or(0);
    // In ticks, but brought in line with the whole: `usage_user` and `usage_sys` are sampled, and can add up to more.
    let parts = text(dir, "cpuacct.stat")?;
    let part = |key| control::field(&parts, key).unwrap_or(0) * TICK;
    Ok(Cpu {
        total: number(dir, "cpuacct.usage")?.unwrap_or(0),
        user: part("user"),
        system: part("system"),
        per_cpu: list("cpuacct.usage_percpu")?,
        periods: field("nr_periods"),
        throttled_periods: field("nr_throttled"),
        throttled_time: field("throttled_time"),
    })
}

fn cpu_v2(dir: &Path) -> Result<Cpu> {
    let stat = text(dir, "cpu.stat")?;
    let field = |key| control::field(&stat, key).unwrap_or(0);
    Ok(Cpu {
        total: field("usage_usec") * 1000,
        user: field("user_usec") * 1000,
        system: field("system_usec") * 1000,
        per_cpu: Vec::new(),
        periods: field("nr_periods"),
        throttled_periods: field("nr_throttled"),
        throttled_time: field("throttled_usec") * 1000,
    })
}

fn map(text: &str) -> BTreeMap<String, u64> {
    control::pairs(text).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn memory_v1(dir: &Path) -> Result<Memory> {
    let stats = map(&text(dir, "memory.stat")?);
    let of = |key: &str| stats.get(key).copied().unwrap_or(0);
    Ok(Memory {
        usage: number(dir, "memory.usage_in_bytes")?.unwrap_or(0),
        max_usage: number(dir, "memory.max_usage_in_bytes")?,
        limit: number(dir, "memory.limit_in_bytes")?,
        inactive_file: of("total_inactive_file"),
        cache: of("total_cache"),
        failcnt: number(dir, "memory.failcnt")?.unwrap_or(0),
        stats,
    })
}

fn memory_v2(dir: &Path) -> Result<Memory> {
    let stats = map(&text(dir, "memory.stat")?);
    let of = |key: &str| stats.get(key).copied().unwrap_or(0);
    Ok(Memory {
        usage: number(dir, "memory.current")?.unwrap_or(0),
        max_usage: number(dir, "memory.peak")?,
        limit: number(dir, "memory.max")?,
        inactive_file: of("inactive_file"),
        cache: of("file"),
        failcnt: control::field(&text(dir, "memory.events")?, "max").unwrap_or(0),
        stats,
    })
}

/// The device of `8:0`, as it is in `all`, or a new one there.
fn device<'a>(all: &'a mut Vec<BlockIo>, name: &str) -> Option<&'a mut BlockIo> {
    let (major, minor) = name.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = all.iter().position(|known| (known.major, known.minor) == (major, minor)).unwrap_or_else(|| {
        all.push(BlockIo { major, minor, ..BlockIo::default() });
        all.len() - 1
    });
    all.get_mut(at)
}

/// Lines of `8:0 Read 4096`; what the scheduler counts if it does, or else what the throttling layer counts.
fn blkio_v1(dir: &Path) -> Result<Vec<BlockIo>> {
    let mut all = Vec::new();
    for kind in ["bytes", "requests"] {
        let name = if kind == "bytes" { "io_service_bytes_recursive" } else { "io_serviced_recursive" };
        let mut lines = text(dir, &format!("blkio.bfq.{name}"))?;
        if !lines.lines().any(|line| line.contains(':')) {
            lines = text(dir, &format!("blkio.throttle.{name}"))?;
        }
        for line in lines.lines() {
            let mut words = line.split(' ');
            let (Some(name), Some(operation), Some(Ok(count))) = (words.next(), words.next(), words.next().map(str::parse))
            else {
                continue;
            };
            let Some(device) = device(&mut all, name) else { continue };
            match (kind, operation) {
                ("bytes", "Read") => device.read = count,
                ("bytes", "Write") => device.written = count,
                (_, "Read") => device.reads = count,
                (_, "Write") => device.writes = count,
                _ => {}
            }
        }
    }
    Ok(all)
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io_v2(text: &str) -> Vec<BlockIo> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some(device) = words.next().and_then(|name| device(&mut all, name)) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read = value,
                "wbytes" => device.written = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn v2_is_read_in_nanoseconds_and_bytes() {
        let dir = tree(&[
            ("cpu.stat", "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 9\nnr_throttled 2\nthrottled_usec 5\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "9000\n"),
            ("memory.stat", "anon 1\nfile 4096\ninactive_file 2048\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
        ]);
        let cpu = cpu_v2(dir.path()).unwrap();
        assert_eq!((cpu.total, cpu.user, cpu.system, cpu.throttled_time, cpu.periods), (7000, 4000, 3000, 5000, 9));
        let memory = memory_v2(dir.path()).unwrap();
        assert_eq!((memory.usage, memory.limit, memory.max_usage, memory.failcnt), (8192, None, Some(9000), 3));
        assert_eq!((memory.cache, memory.inactive_file, memory.stats["anon"]), (4096, 2048, 1));
        let io = io_v2("254:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n8:16\n");
        assert_eq!(io[0], BlockIo { major: 254, minor: 0, read: 4096, written: 512, reads: 1, writes: 2 });
    }

    #[test]
    fn v1_says_where_processor_time_went_in_ticks() {
        let dir = tree(&[
            ("cpuacct.usage", "2144271301\n"),
            ("cpuacct.stat", "user 213\nsystem 1\n"),
            ("cpuacct.usage_percpu", "2123513146 20758155 \n"),
            ("cpu.stat", "nr_periods 89\nnr_throttled 11\nthrottled_time 73098247\n"),
        ]);
        let cpu = cpu_v1(dir.path(), Some(dir.path())).unwrap();
        assert_eq!((cpu.total, cpu.user, cpu.system), (2_144_271_301, 2_130_000_000, 10_000_000));
        assert_eq!((cpu.per_cpu, cpu.throttled_periods), (vec![2_123_513_146, 20_758_155], 11));
    }

    #[test]
    fn v1_block_devices_are_those_of_the_layer_that_counts() {
        let dir = tree(&[
            ("blkio.bfq.io_service_bytes_recursive", "Total 0\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n"),
        ]);
        let expected = BlockIo { major: 8, minor: 0, read: 10, written: 20, reads: 1, writes: 2 };
        assert_eq!(blkio_v1(dir.path()).unwrap(), [expected]);
    }
}
