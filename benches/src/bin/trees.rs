//! How fast the tree of an image is walked and read with nothing in memory: its layers under overlayfs, the same
//! merged into one index, and the same files unpacked on the disk's file system.
//!
//! Empties the page cache of the whole machine between runs, so it needs root.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use benches::measure::{Samples, time};
use benches::report::Report;
use clap::Parser;
use fs_base::LayerId;
use fs_base::sys::mount::{Mount, unmount};
use layerfs::driver::{Choice, Mounter};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;

/// Measure walks and reads of a whole image
#[derive(Debug, Parser)]
struct Arguments {
    /// An image as `docker save` writes it
    image: PathBuf,
    /// Small layers are put on top until the image has this many
    #[arg(long, default_value_t = 0)]
    layers: usize,
    /// Runs of each measurement; the best counts
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// The driver [default: the first that works here]
    #[arg(long)]
    driver: Option<String>,
    /// Read no file: only mount and walk
    #[arg(long)]
    no_read: bool,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one way of having the tree costs.
#[derive(Debug, Default)]
struct Costs {
    mount: Samples,
    find: Samples,
    read: Samples,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "mounting and emptying the page cache need root");
    let image = arguments.image.canonicalize()?;
    let dir = tempfile::tempdir_in(image.parent().context("a path with a folder is wanted")?)?;
    let store = Arc::new(Store::open(&dir.path().join("store"))?);
    let chain = load(&store, &image, arguments.layers)?;
    let [unpacked, place] = ["unpacked", "place"].map(|name| dir.path().join(name));
    std::fs::create_dir(&place)?;
    let mounter = |merge_above| -> Result<Mounter> {
        let choice = Choice { driver: arguments.driver.as_deref(), merge_above, ..Choice::default() };
        Ok(Mounter::new(Arc::clone(&store), choice)?)
    };
    let shown = Place::over(&place, &mounter(None)?.image(&chain)?)?;
    run(&format!("cp -a {} {}", place.display(), unpacked.display()))?;
    drop(shown);

    let mut report = Report::new("trees", &format!("{}, {} layers", image.display(), chain.len()));
    for (what, merge_above) in [("overlayfs", Some(None)), ("one index", Some(Some(1))), ("unpacked", None)] {
        let mut costs = Costs::default();
        for _ in 0..arguments.rounds {
            let mounter = merge_above.map(&mounter).transpose()?;
            forget_everything()?;
            let shown = match &mounter {
                Some(mounter) => {
                    let (seconds, mount) = time(|| Ok(mounter.image(&chain)?))?;
                    costs.mount.add(seconds);
                    Some(Place::over(&place, &mount)?)
                }
                None => None,
            };
            let tree = if shown.is_some() { &place } else { &unpacked };
            costs.find.add(run(&format!("find {} -size +1000000k", tree.display()))?);
            if !arguments.no_read {
                forget_everything()?;
                costs.read.add(run(&format!("find {} -type f -print0 | xargs -0 cat", tree.display()))?);
            }
        }
        for (step, samples) in [("mount", costs.mount), ("find", costs.find), ("read all", costs.read)] {
            if let Some(seconds) = samples.best() {
                report.seconds(&format!("{what}: {step}, nothing in memory"), seconds);
            }
        }
    }
    report.finish(arguments.json.as_deref())
}

/// A mount that has a place until this value goes.
struct Place(PathBuf);

impl Place {
    fn over(path: &Path, mount: &Mount) -> Result<Place> {
        mount.attach(path)?;
        Ok(Place(path.to_owned()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = unmount(&self.0, true);
    }
}

/// Reads the layers of a saved image in, and small ones on top of them.
fn load(store: &Store, image: &Path, layers: usize) -> Result<Vec<LayerId>> {
    let mut archive = tar::Archive::new(std::fs::File::open(image)?);
    let mut chain = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()?.ends_with("layer.tar") {
            let mut layer = std::fs::File::open(image)?;
            layer.seek(SeekFrom::Start(entry.raw_file_position()))?;
            chain.push(store.ingest(&mut layer.take(entry.size()), &IngestOptions::default())?.id);
        }
    }
    for number in chain.len()..layers {
        let mut builder = tar::Builder::new(Vec::new());
        for file in 0..10 {
            let mut header = tar::Header::new_ustar();
            header.set_size(5);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("usr/layer-{number}/file-{file}"), &b"text\n"[..])?;
        }
        chain.push(store.ingest(&mut &builder.into_inner()?[..], &IngestOptions::default())?.id);
    }
    Ok(chain)
}

/// Takes everything that can be read again out of memory.
fn forget_everything() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("empty the page cache")
}

fn run(command: &str) -> Result<f64> {
    let (seconds, status) = time(|| Ok(Command::new("sh").args(["-ec", command]).stdout(Stdio::null()).status()?))?;
    ensure!(status.success(), "{command}: {status}");
    Ok(seconds)
}
