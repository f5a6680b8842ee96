//! How long the mount of an image and of a container takes, without a daemon: chains of one layer and of ten.
//!
//! The layer that is given lies at the bottom; those above it are made here, a hundred files each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use benches::measure::{Samples, time};
use benches::report::Report;
use clap::Parser;
use fs_base::LayerId;
use layerfs::driver::{Choice, Mounter, Writable};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;

/// Measure mounts
#[derive(Debug, Parser)]
struct Arguments {
    /// The tar of a layer
    layer: PathBuf,
    /// Runs of each measurement; the median counts
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// The driver [default: each that works here]
    #[arg(long)]
    driver: Option<String>,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Layers of the longer chain.
const LAYERS: usize = 10;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let layer = arguments.layer.canonicalize()?;
    let dir = tempfile::tempdir_in(layer.parent().context("a path with a folder is wanted")?)?;
    let store = Arc::new(Store::open(&dir.path().join("store"))?);
    let mut file = std::fs::File::open(&layer)?;
    let mut chain = vec![store.ingest(&mut file, &IngestOptions::default())?.id];
    for number in 1..LAYERS {
        chain.push(store.ingest(&mut &small_layer(number)?[..], &IngestOptions::default())?.id);
    }
    let drivers = if let Some(name) = arguments.driver {
        vec![name]
    } else {
        layerfs::driver::names().into_iter().map(str::to_owned).collect()
    };
    let mut report = Report::new("mounts", &arguments.layer.display().to_string());
    for driver in drivers {
        match Mounter::new(Arc::clone(&store), named(&driver)) {
            Ok(_) => {
                for count in [1, LAYERS] {
                    measure(&mut report, &store, &driver, &chain[..count], dir.path(), arguments.rounds)?;
                }
            }
            Err(error) => println!("SKIPPED: driver {driver}: {error}"),
        }
    }
    report.finish(arguments.json.as_deref())
}

/// This driver, and the best way of stacking.
fn named(driver: &str) -> Choice<'_> {
    Choice { driver: Some(driver), ..Choice::default() }
}

fn small_layer(number: usize) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in 0..100 {
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("layer-{number}/file-{file}"), &b"text\n"[..])?;
    }
    Ok(builder.into_inner()?)
}

fn measure(report: &mut Report, store: &Arc<Store>, driver: &str, chain: &[LayerId], dir: &Path, rounds: usize) -> Result<()> {
    let [mut cold, mut warm, mut shared, mut container] = std::array::from_fn(|_| Samples::default());
    let fresh = || Mounter::new(Arc::clone(store), named(driver));
    for round in 0..rounds {
        let mounter = fresh()?;
        forget_pages(store, chain)?;
        cold.add(time(|| Ok(mounter.image(chain)?))?.0);
        let mounter = fresh()?;
        let (seconds, image) = time(|| Ok(mounter.image(chain)?))?;
        warm.add(seconds);
        shared.add(time(|| Ok(mounter.image(chain)?))?.0);
        let (upper, work) = (dir.join(format!("upper-{round}")), dir.join(format!("work-{round}")));
        container.add(time(|| Ok(mounter.container(chain, Writable::new(&upper, &work))?))?.0);
        drop(image);
    }
    let layers = if chain.len() == 1 { "1 layer".to_owned() } else { format!("{} layers", chain.len()) };
    let figures = [
        ("image, nothing in memory", cold),
        ("image, indexes in memory", warm),
        ("image, layers mounted already", shared),
        ("container, layers mounted already", container),
    ];
    for (what, samples) in figures {
        report.seconds(&format!("{driver}, {layers}: {what}"), samples.median().context("no run")?);
    }
    Ok(())
}

/// Takes the layers' files out of the page cache.
fn forget_pages(store: &Store, chain: &[LayerId]) -> Result<()> {
    for id in chain {
        for name in ["index", "data"] {
            let file = std::fs::File::open(store.layer(id)?.dir.join(name))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}
