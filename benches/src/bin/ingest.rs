//! How long one layer takes to come in, beside `cp` and `sha256sum` of the same file.
//!
//! `ingest LAYER...`: each is a tar, plain, gzip or zstd. Prints one line of figures per run; the folder is made
//! beside the layer, so that both copies land on the same file system.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use layerfs::erofs::Index;
use layerfs::ingest::{IngestOptions, ingest, rebuild_index};
use layerfs::tar::Limits;

/// Runs of each measurement; the best counts, as the others had company.
const RUNS: usize = 3;

fn main() -> Result<()> {
    for layer in std::env::args().skip(1) {
        measure(Path::new(&layer)).with_context(|| layer.clone())?;
    }
    Ok(())
}

fn measure(layer: &Path) -> Result<()> {
    let parent = layer.parent().context("a path with a folder is wanted")?;
    let (mut best, mut copy, mut index, mut open) = (f64::MAX, f64::MAX, f64::MAX, f64::MAX);
    let mut built = None;
    for _ in 0..RUNS {
        let dir = tempfile::tempdir_in(parent)?;
        copy = copy.min(
            seconds(|| shell(&format!("cp {0} {1}/copy && sha256sum {0} > {1}/sum", layer.display(), dir.path().display())))?.0,
        );
        std::fs::remove_file(dir.path().join("copy"))?;
        let staging = dir.path().join("layer");
        std::fs::create_dir(&staging)?;
        let (time, result) = seconds(|| Ok(ingest(&mut File::open(layer)?, &staging, &IngestOptions::default())?))?;
        best = best.min(time);
        built = Some(result);
        let data = File::open(staging.join("data"))?;
        index = index.min(seconds(|| Ok(rebuild_index(&result.id, &data, &dir.path().join("again"), Limits::default())?))?.0);
        open = open.min(seconds(|| Ok(Index::open(&staging.join("index"))?))?.0);
    }
    let built = built.context("no run")?;
    println!(
        "{}: {} MB in, {} MB data, {} entries, index {} KB | ingest {best:.3} s | cp+sha256sum {copy:.3} s | ratio {:.2} | index again {index:.3} s | open {:.0} µs | peak {} MB",
        layer.display(),
        built.blob_size >> 20,
        built.data_size >> 20,
        built.entries,
        built.index_size >> 10,
        best / copy,
        open * 1e6,
        peak_memory()? >> 10,
    );
    Ok(())
}

fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((start.elapsed().as_secs_f64(), value))
}

fn shell(command: &str) -> Result<()> {
    anyhow::ensure!(std::process::Command::new("sh").args(["-ec", command]).status()?.success(), "{command}");
    Ok(())
}

/// Peak resident memory of this process in KiB.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
