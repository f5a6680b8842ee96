//! How long a layer takes to come in, beside `cp` and `sha256sum` of the same file and beside inflating it alone, and how
//! much memory a large one takes.
//!
//! `ingest LAYER.tar`: an uncompressed layer. What is written lies beside it, so that all copies are on one file system.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use benches::measure::{Samples, run, text, time};
use benches::report::Report;
use clap::Parser;
use layerfs::erofs::Index;
use layerfs::ingest::{Built, IngestOptions, ingest, rebuild_index};
use layerfs::tar::Limits;

/// Runs of each measurement.
const RUNS: usize = 5;
/// Bytes of a file in the large layer.
const FILE: usize = 100_000;

/// Measures how long a layer takes to come in.
#[derive(Debug, Parser)]
struct Cli {
    /// An uncompressed layer
    layer: PathBuf,
    /// Write the figures here too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Take in a layer of so many gigabytes in a folder beside the layer, and print this process's peak memory in KiB
    #[arg(long, hide = true)]
    large: Option<u64>,
    /// Gigabytes of the large layer
    #[arg(long, default_value_t = 5)]
    gigabytes: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let parent = cli.layer.parent().context("a path with a folder is wanted")?;
    if let Some(gigabytes) = cli.large {
        let dir = tempfile::tempdir_in(parent)?;
        ingest(&mut Large::new(gigabytes << 30), dir.path(), &IngestOptions::default())?;
        println!("{}", peak_memory()?);
        return Ok(());
    }
    let mut report = Report::new("ingest", text(&cli.layer)?);
    plain(&cli.layer, parent, &mut report)?;
    compressed(&cli.layer, parent, &mut report)?;
    memory(&cli, &mut report)?;
    report.finish(cli.json.as_deref())
}

/// An ingest into an empty folder.
fn one(layer: &Path, dir: &Path) -> Result<Built> {
    Ok(ingest(&mut File::open(layer)?, dir, &IngestOptions::default())?)
}

fn plain(layer: &Path, parent: &Path, report: &mut Report) -> Result<()> {
    let (mut copy, mut whole, mut again, mut open) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    for _ in 0..RUNS {
        let dir = tempfile::tempdir_in(parent)?;
        let script = format!("cp {0} {1}/copy && sha256sum {0} > {1}/sum", layer.display(), dir.path().display());
        copy.add(run("sh", &["-ec", &script])?);
        drop(dir);
        let dir = tempfile::tempdir_in(parent)?;
        let (seconds, built) = time(|| Ok(ingest(&mut File::open(layer)?, dir.path(), &IngestOptions::default())?))?;
        whole.add(seconds);
        let data = File::open(dir.path().join("data"))?;
        again.add(time(|| Ok(rebuild_index(&built.id, &data, &dir.path().join("again"), Limits::default())?))?.0);
        open.add(time(|| Ok(Index::open(&dir.path().join("index"))?))?.0);
    }
    let what = "ingest, uncompressed (synced)";
    report.seconds(what, whole.best().context("no run")?).of_at_most("cp + sha256sum", copy.best(), 1.5);
    report.seconds("its index built again", again.best().context("no run")?);
    report.seconds("its index opened", open.best().context("no run")?);
    Ok(())
}

fn compressed(layer: &Path, parent: &Path, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir_in(parent)?;
    let path = dir.path().join("layer.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&path)?, flate2::Compression::default());
    std::io::copy(&mut File::open(layer)?, &mut encoder)?;
    encoder.finish()?;
    let (mut stream, mut memory) = (Samples::default(), Samples::default());
    let (mut whole, mut both) = (Samples::default(), Samples::default());
    let bytes = std::fs::read(&path)?;
    let mut out = vec![1; File::open(layer)?.metadata()?.len() as usize];
    for _ in 0..RUNS {
        stream.add(time(|| inflate(&bytes))?.0);
        memory.add(time(|| Ok(libdeflater::Decompressor::new().gzip_decompress(&bytes, &mut out)?))?.0);
        // What removing them again takes is no part of it.
        let dirs = [tempfile::tempdir_in(parent)?, tempfile::tempdir_in(parent)?, tempfile::tempdir_in(parent)?];
        whole.add(time(|| one(&path, dirs[0].path()))?.0);
        both.add(
            time(|| {
                std::thread::scope(|scope| {
                    let threads: Vec<_> = dirs[1..].iter().map(|dir| scope.spawn(|| one(&path, dir.path()))).collect();
                    threads
                        .into_iter()
                        .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("an ingest panicked"))?.map(drop))
                })
            })?
            .0,
        );
    }
    let alone = whole.best().context("no run")?;
    report
        .seconds("ingest, gzip (synced)", alone)
        .of_at_most("inflating it as a stream (zlib-rs)", stream.best(), 1.2)
        .of("inflating it in memory (libdeflate)", memory.best());
    report.seconds("two of them side by side", both.best().context("no run")?).of("one", Some(alone));
    Ok(())
}

/// Inflates a stream piece by piece and keeps nothing, on this thread.
fn inflate(mut bytes: &[u8]) -> Result<u64> {
    let (mut decoder, mut piece, mut total) = (flate2::bufread::GzDecoder::new(&mut bytes), vec![0; 256 << 10], 0);
    loop {
        match decoder.read(&mut piece)? {
            0 => return Ok(total),
            got => total += got as u64,
        }
    }
}

/// In a process of its own: the peak counts from a process's start.
fn memory(cli: &Cli, report: &mut Report) -> Result<()> {
    let program = std::env::current_exe()?;
    let arguments = ["--large", &cli.gigabytes.to_string()];
    let (seconds, output) = time(|| Ok(std::process::Command::new(program).arg(&cli.layer).args(arguments).output()?))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peak: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let what = format!("peak memory, a layer of {} GB", cli.gigabytes);
    report.megabytes(&what, peak / 1024.0).at_most(100.0);
    report.seconds(&format!("ingest of that layer ({FILE} bytes a file)"), seconds);
    Ok(())
}

/// Peak resident memory of this process in KiB.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// A tar that is made as it is read: files of one size whose bytes don't repeat soon.
struct Large {
    left: u64,
    files: u64,
    noise: Vec<u8>,
    pending: Vec<u8>,
    used: usize,
}

impl Large {
    fn new(size: u64) -> Large {
        let mut state = 1u64;
        let noise = (0..FILE).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        Large { left: size, files: 0, noise: noise.collect(), pending: Vec::new(), used: 0 }
    }

    fn next_file(&mut self) -> std::io::Result<()> {
        self.pending.clear();
        self.used = 0;
        if self.left == 0 {
            return Ok(());
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("d{}/a-file-with-a-name-{}", self.files / 100, self.files))?;
        header.set_size(FILE as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.pending.write_all(header.as_bytes())?;
        self.noise[..8].copy_from_slice(&self.files.to_le_bytes());
        self.pending.write_all(&self.noise)?;
        self.pending.resize(self.pending.len().next_multiple_of(512), 0);
        self.files += 1;
        self.left = self.left.saturating_sub(self.pending.len() as u64);
        Ok(())
    }
}

impl Read for Large {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.used == self.pending.len() {
            self.next_file()?;
        }
        let got = buffer.len().min(self.pending.len() - self.used);
        buffer[..got].copy_from_slice(&self.pending[self.used..][..got]);
        self.used += got;
        Ok(got)
    }
}
