//! Containers that start, do nothing, and are gone: `run --rm IMAGE true`, `exec CONTAINER true`, `rm -f`, beside docker and
//! podman; what they and the daemon take of memory.
//!
//! All take turns, so that other work on the machine hits them alike. A peer that can't run containers here is skipped
//! loudly, with its own words.

use std::path::PathBuf;

use anyhow::{Context, Result};
use benches::daemon::{Daemon, built};
use benches::measure::{Memory, Samples, run, text};
use benches::podman::Podman;
use benches::report::Report;
use clap::Parser;

/// Measure containers that start and end
#[derive(Debug, Parser)]
struct Arguments {
    /// A docker-archive
    archive: PathBuf,
    /// The image in it, which has `true` and `sleep`
    image: String,
    /// Runs of each measurement, after one that does not count; the median counts
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Containers that run and are removed one after the other.
const REMOVED: usize = 21;
/// Containers that run while the daemon's memory is looked at.
const MANY: usize = 100;
/// Containers side by side whose shims are looked at.
const SHIMS: usize = 5;
/// How long they are let alone before: what is asked for is their memory while they wait.
const IDLE: std::time::Duration = std::time::Duration::from_secs(3);

/// Runs a command line, and says how long it took.
type Cli<'a> = Box<dyn Fn(&[&str]) -> Result<f64> + 'a>;

/// Something that runs containers, by its command line.
struct Peer<'a> {
    name: &'static str,
    cli: Cli<'a>,
    run: Samples,
    exec: Samples,
    /// Seconds for [`REMOVED`] of them.
    removal: Option<f64>,
}

impl<'a> Peer<'a> {
    /// `None`, and a loud word, if a first container does not run.
    fn new(name: &'static str, image: &str, cli: impl Fn(&[&str]) -> Result<f64> + 'a) -> Option<Peer<'a>> {
        let peer = Peer { name, cli: Box::new(cli), run: Samples::default(), exec: Samples::default(), removal: None };
        match peer.once(image) {
            Ok(_) => Some(peer),
            Err(error) => {
                println!("SKIPPED: {name}: {error:#}");
                None
            }
        }
    }

    fn once(&self, image: &str) -> Result<f64> {
        (self.cli)(&["run", "--rm", "--network", "none", image, "true"])
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let archive = arguments.archive.canonicalize()?;
    let dir = tempfile::tempdir_in(archive.parent().context("a path with a folder is wanted")?)?;
    let (path, image) = (text(&archive)?, arguments.image.as_str());
    let load = ["load", "-q", "-i", path];
    let ours = Daemon::fsd(dir.path())?;
    let resting = ours.memory()?;
    ours.cli("docker", &load)?;
    let docker = Daemon::dockerd(dir.path())?;
    docker.cli("docker", &load)?;
    let podman = Podman::new(dir.path()).and_then(|podman| podman.cli(&load).map(|_| podman));
    let podman = podman.inspect_err(|error| println!("SKIPPED: podman: {error:#}")).ok();
    // Its own runc first; where root may not raise limits, one that leaves them.
    let podman = match podman {
        Some(podman) if podman.cli(&["run", "--rm", "--network", "none", image, "true"]).is_err() => {
            Some(podman.without_limits()?)
        }
        other => other,
    };
    let ctl = built("ctl")?;
    let mut peers: Vec<Peer<'_>> = [
        Peer::new("ctl", image, |words| ours.cli(&ctl, words)),
        Peer::new("docker CLI on fsd", image, |words| ours.cli("docker", words)),
        Peer::new("docker", image, |words| docker.cli("docker", words)),
        podman.as_ref().and_then(|podman| Peer::new("podman", image, |words| podman.cli(words))),
    ]
    .into_iter()
    .flatten()
    .collect();
    measure(&mut peers, image, arguments.rounds)?;

    let mut report = Report::new("run", image);
    rows(&mut report, &peers, "run --rm", |peer| peer.run.median());
    rows(&mut report, &peers, "exec true", |peer| peer.exec.median());
    rows(&mut report, &peers, &format!("{REMOVED} x rm -f"), |peer| peer.removal);
    if let Some(ctl) = peers.iter().find(|peer| peer.name == "ctl") {
        let docker = Daemon::dockerd_with_network(dir.path()).and_then(|docker| docker.cli("docker", &load).map(|_| docker));
        let docker = docker.inspect_err(|error| println!("SKIPPED: docker's default network: {error:#}")).ok();
        network(&mut report, ctl, docker.as_ref(), image, arguments.rounds)?;
    }
    report.megabytes("memory of the daemon at start", resting.rss).at_most(30.0);
    report.megabytes("memory of the daemon after the above", ours.memory()?.rss).at_most(30.0);
    if peers.iter().any(|peer| peer.name == "ctl") {
        shims(&mut report, "a shim of ours", &ours, image, Some((4.0, 2.0)))?;
        many(&mut report, &ours, image)?;
    }
    shims(&mut report, "a shim of docker's", &docker, image, None)?;
    drop(peers);
    report.finish(arguments.json.as_deref())
}

fn measure(peers: &mut [Peer<'_>], image: &str, rounds: usize) -> Result<()> {
    for _ in 0..rounds {
        for peer in &mut *peers {
            let time = peer.once(image).context(peer.name)?;
            peer.run.add(time);
        }
    }
    // Two peers share a daemon, so that each has a container of its own.
    let name = |peer: &Peer<'_>| format!("bench-{}", peer.name.replace(' ', "-"));
    for peer in &*peers {
        (peer.cli)(&["run", "-d", "--name", &name(peer), "--network", "none", image, "sleep", "1000"]).context(peer.name)?;
    }
    for round in 0..=rounds {
        for peer in &mut *peers {
            let time = (peer.cli)(&["exec", &name(peer), "true"]).context(peer.name)?;
            if round > 0 {
                peer.exec.add(time);
            }
        }
    }
    peers.iter().try_for_each(|peer| (peer.cli)(&["rm", "-f", &name(peer)]).map(drop).context(peer.name))?;
    peers.iter_mut().try_for_each(|peer| remove(peer, image).context(peer.name))
}

fn remove(peer: &mut Peer<'_>, image: &str) -> Result<()> {
    // podman's gives the container ten seconds to end by itself; docker's and ours end it.
    let words: &[&str] = if peer.name == "podman" { &["rm", "-f", "-t", "0"] } else { &["rm", "-f"] };
    peer.removal = Some(removal(&peer.cli, words, &["--network", "none"], image)?);
    Ok(())
}

/// Seconds that it takes to remove [`REMOVED`] containers that run, one after the other.
fn removal(cli: impl Fn(&[&str]) -> Result<f64>, words: &[&str], flags: &[&str], image: &str) -> Result<f64> {
    let names: Vec<String> = (0..REMOVED).map(|number| format!("removed-{number}")).collect();
    for name in &names {
        cli(&[&["run", "-d", "--name", name], flags, &[image, "sleep", "1000"]].concat())?;
    }
    names.iter().map(|name| cli(&[words, &[name.as_str()]].concat())).sum()
}

/// What a network adds to a run: a bridge that is there, a wire, addresses, and with `-p` two ports and their rules. And
/// how much of all that is the kernel's, whoever asks for it: namespaces made and a wire, by the tools that do just that.
fn network(report: &mut Report, ctl: &Peer<'_>, docker: Option<&Daemon>, image: &str, rounds: usize) -> Result<()> {
    let kinds: [(&str, &[&str]); 3] = [
        ("without a network", &["--network", "none"]),
        ("with the default network", &[]),
        ("with a published port", &["-p", "80"]),
    ];
    let mut samples = kinds.map(|_| Samples::default());
    let (mut peer, mut kernel) = (Samples::default(), Samples::default());
    // The first makes the bridge.
    for round in 0..=rounds {
        for ((_, flags), samples) in kinds.iter().zip(&mut samples) {
            let time = (ctl.cli)(&[&["run", "--rm"], *flags, &[image, "true"]].concat())?;
            if round > 0 {
                samples.add(time);
            }
        }
        if let Some(docker) = docker {
            peer.add(docker.cli("docker", &["run", "--rm", image, "true"])?);
        }
        kernel.add(run("unshare", &["-mnpiuC", "--fork", "sh", "-c", "ip link add type veth && ip link set veth0 up"])?);
    }
    let removed = |cli: &dyn Fn(&[&str]) -> Result<f64>| removal(cli, &["rm", "-f"], &[], image);
    let (ours, theirs) = (removed(&ctl.cli)?, docker.map(|docker| removed(&|words| docker.cli("docker", words))).transpose()?);
    report.seconds(&format!("{REMOVED} x rm -f with the default network, ctl"), ours).of_at_most("docker's", theirs, 0.1);
    if let Some(theirs) = theirs {
        report.seconds(&format!("{REMOVED} x rm -f with the default network, docker"), theirs);
    }
    let without = samples[0].median();
    for ((kind, _), samples) in kinds.iter().zip(&samples).skip(1) {
        if let Some(median) = samples.median() {
            let row = report.seconds(&format!("run --rm {kind}, ctl"), median);
            row.of_at_most("without a network", without, 1.5);
            if kind.contains("default") {
                row.of_at_most("docker's", peer.median(), 1.0 / 6.0);
            }
        }
    }
    if let Some(median) = peer.median() {
        report.seconds("run --rm with the default network, docker", median);
    }
    if let Some(median) = kernel.median() {
        report.seconds("of it the kernel's: namespaces and a wire, by unshare and ip", median);
    }
    Ok(())
}

fn rows(report: &mut Report, peers: &[Peer<'_>], what: &str, figure: impl Fn(&Peer<'_>) -> Option<f64>) {
    let of = |name: &str| peers.iter().find(|peer| peer.name == name).and_then(&figure);
    for peer in peers {
        let Some(value) = figure(peer) else { continue };
        let row = report.seconds(&format!("{what}, {}", peer.name), value);
        match peer.name {
            "ctl" if what.starts_with("run") => row.of_at_most("docker", of("docker"), 0.33).of("podman", of("podman")),
            "ctl" if what.starts_with("exec") => row.of_at_most("docker", of("docker"), 0.25).of("podman", of("podman")),
            "ctl" => row.of_at_most("docker", of("docker"), 0.1).of("podman", of("podman")),
            "docker CLI on fsd" => row.of("docker", of("docker")).of("podman", of("podman")),
            _ => row,
        };
    }
}

/// What the daemon takes while many containers run.
fn many(report: &mut Report, daemon: &Daemon, image: &str) -> Result<()> {
    let names: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
    for name in &names {
        daemon.cli("docker", &["run", "-d", "--name", name, "--network", "none", image, "sleep", "1000"])?;
    }
    std::thread::sleep(IDLE);
    report.megabytes(&format!("memory of the daemon with {MANY} containers"), daemon.memory()?.rss).at_most(60.0);
    let shares: f64 = daemon.shims()?.iter().map(|memory| memory.pss).sum();
    report.megabytes("all of ours beside one of them, its share", shares / MANY as f64).at_most(2.0);
    names.iter().try_for_each(|name| daemon.cli("docker", &["rm", "-f", name]).map(drop))
}

/// What the shims of some idle containers take, in the middle, and the most that they may take: resident, and their share.
fn shims(report: &mut Report, what: &str, daemon: &Daemon, image: &str, most: Option<(f64, f64)>) -> Result<()> {
    let names: Vec<String> = (0..SHIMS).map(|n| format!("shim-{n}")).collect();
    for name in &names {
        daemon.cli("docker", &["run", "-d", "--name", name, "--network", "none", image, "sleep", "1000"])?;
    }
    std::thread::sleep(IDLE);
    let mut seen: Vec<Memory> = daemon.shims()?;
    for name in &names {
        daemon.cli("docker", &["rm", "-f", name])?;
    }
    seen.sort_by(|a, b| a.rss.total_cmp(&b.rss));
    let Some(middle) = seen.get(seen.len() / 2) else {
        println!("SKIPPED: {what}: no such process was found");
        return Ok(());
    };
    let row = report.megabytes(&format!("{what}, resident ({} of them)", seen.len()), middle.rss);
    if let Some((most, _)) = most {
        row.at_most(most);
    }
    let share = report.megabytes(&format!("{what}, its share"), middle.pss);
    if let Some((_, most)) = most {
        share.at_most(most);
    }
    Ok(())
}
