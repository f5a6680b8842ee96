//! Times, and the memory of processes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Seconds that each run of one thing took.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a run.
    pub fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
        self.0.sort_by(f64::total_cmp);
    }

    /// The shortest: for long work, of which few runs are made and the others had company.
    pub fn best(&self) -> Option<f64> {
        self.0.first().copied()
    }

    /// The middle one: for short work, of which many runs are made.
    pub fn median(&self) -> Option<f64> {
        self.0.get(self.0.len() / 2).copied()
    }
}

/// Runs a program to its end and says how long it took. Fails with what it wrote to standard error.
pub fn run(program: &str, arguments: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(seconds)
}

/// How long `work` takes.
pub fn time<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((start.elapsed().as_secs_f64(), value))
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: a path in UTF-8 is wanted", path.display()))
}

/// What a process takes of memory, in MB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident, what it shares with others counted in full.
    pub rss: f64,
    /// Proportional: what it shares divided by the sharers.
    pub pss: f64,
}

/// The memory of one process.
pub fn memory(pid: u32) -> Result<Memory> {
    let field = |file: &str, name: &str| -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} of {pid}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok(Memory { rss: field("status", "VmRSS:")?, pss: field("smaps_rollup", "Pss:")? })
}

/// The processes whose command line has this path in it.
pub fn processes_of(path: &Path) -> Result<Vec<u32>> {
    let wanted = text(path)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has just ended has no command line.
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        if pid != std::process::id() && String::from_utf8_lossy(&line).contains(wanted) {
            found.push(pid);
        }
    }
    Ok(found)
}
