//! Images in and out, beside docker, podman, skopeo, and `cp` with `sha256sum`: loading, removing, mounting, idle memory.
//!
//! All run in turns, each on a root of its own below the archive's folder, so that the ratios mean something where other
//! work shares the machine. Needs root, `dockerd` and the `docker` CLI; podman and skopeo are skipped if they are not there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use benches::daemon::{Daemon, built};
use benches::measure::{Samples, run, text};
use benches::podman::Podman;
use benches::report::Report;
use clap::Parser;

/// Measure images in and out
#[derive(Debug, Parser)]
struct Arguments {
    /// A docker-archive
    archive: PathBuf,
    /// The image in it
    image: String,
    /// Runs of each measurement; the best counts, as the others had company
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The times of one way to load and remove.
#[derive(Default)]
struct Times {
    load: Samples,
    remove: Samples,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let archive = arguments.archive.canonicalize()?;
    let dir = tempfile::tempdir_in(archive.parent().context("a path with a folder is wanted")?)?;
    let (path, image) = (text(&archive)?, arguments.image.as_str());
    let ours = Daemon::fsd(dir.path())?;
    let resting = ours.memory()?;
    let docker = Daemon::dockerd(dir.path())?;
    let podman = Podman::new(dir.path()).inspect_err(|error| println!("SKIPPED: podman: {error:#}")).ok();
    let skopeo = podman.as_ref().filter(|_| works("skopeo"));
    let (mut copy, mut by_us, mut by_docker, mut by_podman, mut by_skopeo) =
        (Samples::default(), Times::default(), Times::default(), Times::default(), Samples::default());
    for _ in 0..arguments.rounds {
        copy.add(copy_and_sum(path, dir.path())?);
        by_us.load.add(ours.cli("docker", &["load", "-q", "-i", path])?);
        by_us.remove.add(ours.cli("docker", &["rmi", image])?);
        by_docker.load.add(docker.cli("docker", &["load", "-q", "-i", path])?);
        by_docker.remove.add(docker.cli("docker", &["rmi", image])?);
        if let Some(podman) = &podman {
            by_podman.load.add(podman.cli(&["load", "-q", "-i", path])?);
            by_podman.remove.add(podman.cli(&["rmi", image])?);
        }
        if let Some(podman) = skopeo {
            let to = format!("{}localhost/{image}", podman.storage());
            let from = format!("docker-archive:{path}");
            by_skopeo.add(run("skopeo", &["copy", "-q", "--insecure-policy", &from, &to])?);
            podman.cli(&["rmi", image])?;
        }
    }
    let mount = mount(&ours, path, image, arguments.rounds)?;
    let idle = ours.memory()?;

    let mut report = Report::new("load", image);
    let peers = [
        ("cp + sha256sum", &copy),
        ("docker load", &by_docker.load),
        ("podman load", &by_podman.load),
        ("skopeo copy", &by_skopeo),
    ];
    for (name, samples) in peers {
        if let Some(best) = samples.best() {
            report.seconds(name, best);
        }
    }
    let best = by_us.load.best().context("no run")?;
    let row = report.seconds("load", best);
    row.of_at_most("docker load", by_docker.load.best(), 0.1).of_at_most("cp + sha256sum", copy.best(), 2.0);
    row.of("podman load", by_podman.load.best()).of("skopeo copy", by_skopeo.best());
    for (name, samples) in [("docker rmi", &by_docker.remove), ("podman rmi", &by_podman.remove)] {
        if let Some(best) = samples.best() {
            report.seconds(name, best);
        }
    }
    let best = by_us.remove.best().context("no run")?;
    report.seconds("rmi", best).of("docker rmi", by_docker.remove.best()).of("podman rmi", by_podman.remove.best());
    report.seconds("ctl image mount, the first of an image", mount);
    report.megabytes("memory of the daemon at start", resting.rss).at_most(30.0);
    report.megabytes("memory of the daemon after the above", idle.rss).at_most(30.0);
    report.finish(arguments.json.as_deref())
}

fn works(program: &str) -> bool {
    run(program, &["--version"]).inspect_err(|error| println!("SKIPPED: {program}: {error:#}")).is_ok()
}

fn copy_and_sum(archive: &str, dir: &Path) -> Result<f64> {
    let copy = dir.join("copy");
    let time = run("sh", &["-ec", "cp \"$0\" \"$1\" && sha256sum \"$1\"", archive, text(&copy)?]);
    std::fs::remove_file(copy)?;
    time
}

/// The whole time of `ctl image mount`, the first after the layers came in.
fn mount(ours: &Daemon, archive: &str, image: &str, rounds: usize) -> Result<f64> {
    let ctl = built("ctl")?;
    let seen = tempfile::tempdir()?;
    let target = seen.path().join("tree");
    let target = text(&target)?;
    let mut samples = Samples::default();
    for _ in 0..rounds {
        ours.cli("docker", &["load", "-q", "-i", archive])?;
        samples.add(ours.cli(&ctl, &["image", "mount", image, target])?);
        ours.cli(&ctl, &["umount", target])?;
        ours.cli("docker", &["rmi", image])?;
    }
    samples.best().context("no run")
}
