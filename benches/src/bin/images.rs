//! What a daemon takes to mount an image on the host and to remove it, asked over its socket, beside dockerd and podman.
//!
//! The image is the one given, with small layers on top until it has ten. Cold is a daemon that has just started, with
//! the layers' files out of memory; everything forgotten is the same with the page cache, names and inodes of the whole
//! machine dropped. dockerd mounts no images; podman is measured by its command line, which is all that it has.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use benches::daemon::Daemon;
use benches::measure::{Samples, text, time};
use benches::podman::Podman;
use benches::report::Report;
use clap::Parser;
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use serde_json::{Value, json};

/// Measure mounts and removals of images in a daemon
#[derive(Debug, Parser)]
struct Arguments {
    /// A docker-archive of one image
    archive: PathBuf,
    /// Runs of each mount; the median counts
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Removals; the median counts. Each needs the image loaded again
    #[arg(long, default_value_t = 3)]
    removals: usize,
    /// Leave dockerd and podman out
    #[arg(long)]
    no_peers: bool,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Layers of the image that is measured.
const LAYERS: usize = 10;
/// Its name.
const IMAGE: &str = "ten:1";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "mounting and emptying the page cache need root");
    let archive = arguments.archive.canonicalize()?;
    let dir = tempfile::tempdir_in(archive.parent().context("a path with a folder is wanted")?)?;
    let ten = dir.path().join("ten.tar");
    make_archive(&archive, &ten, dir.path())?;
    let path = text(&ten)?;
    let mut report = Report::new("images", &format!("{}, {LAYERS} layers", archive.display()));

    let mut removed = [Samples::default(), Samples::default()];
    if !arguments.no_peers {
        let docker = Daemon::dockerd(dir.path())?;
        for _ in 0..arguments.removals {
            docker.cli("docker", &["load", "-q", "-i", path])?;
            let socket = dir.path().join("docker.sock");
            removed[1].add(time(|| ask(&socket, "DELETE", &format!("/v1.40/images/{IMAGE}")))?.0);
        }
    }
    ours(&mut report, dir.path(), path, &arguments, &mut removed[0])?;
    let row = report.seconds("removal", removed[0].median().context("no run")?);
    row.at_most(0.02).of("dockerd", removed[1].median());
    if let Some(seconds) = removed[1].median() {
        report.seconds("dockerd: removal", seconds);
    }
    if !arguments.no_peers {
        match Podman::new(dir.path()) {
            Ok(podman) => by_podman(&mut report, &podman, path)?,
            Err(error) => println!("SKIPPED: podman: {error:#}"),
        }
    }
    report.finish(arguments.json.as_deref())
}

fn ours(report: &mut Report, dir: &Path, archive: &str, arguments: &Arguments, removed: &mut Samples) -> Result<()> {
    let home = dir.join("fsd");
    let [mut cold, mut forgotten, mut warm] = std::array::from_fn(|_| Samples::default());
    let socket = home.join("run/fsd.sock");
    let mount = || ask(&socket, "POST", &format!("/fsd/v1/images/{IMAGE}/mount"));
    let unmount = |mounted: &Value| {
        let id = mounted["id"].as_str().context("a mount without an id")?;
        ask(&socket, "DELETE", &format!("/fsd/v1/mounts/{id}")).map(drop)
    };
    Daemon::fsd(dir)?.cli("docker", &["load", "-q", "-i", archive])?;
    for round in 0..arguments.rounds {
        let daemon = Daemon::fsd_again(dir)?;
        rustix::fs::sync();
        if round % 2 == 0 {
            forget_layers(&home.join("root/layers"))?;
        } else {
            std::fs::write("/proc/sys/vm/drop_caches", "3").context("empty the page cache")?;
        }
        let (seconds, first) = time(mount)?;
        let samples = if round % 2 == 0 { &mut cold } else { &mut forgotten };
        samples.add(seconds);
        let (seconds, second) = time(mount)?;
        warm.add(seconds);
        unmount(&first)?;
        unmount(&second)?;
        drop(daemon);
    }
    report.seconds("mount, cold: layers out of memory", cold.median().context("no run")?).at_most(0.005);
    report.seconds("mount, cold: everything forgotten", forgotten.median().context("no run")?);
    report.seconds("mount, warm: layers mounted already", warm.median().context("no run")?).at_most(0.001);
    let daemon = Daemon::fsd_again(dir)?;
    for round in 0..arguments.removals {
        if round > 0 {
            daemon.cli("docker", &["load", "-q", "-i", archive])?;
        }
        removed.add(time(|| ask(&socket, "DELETE", &format!("/images/{IMAGE}")))?.0);
    }
    Ok(())
}

fn by_podman(report: &mut Report, podman: &Podman, archive: &str) -> Result<()> {
    podman.cli(&["load", "-q", "-i", archive])?;
    let image = format!("localhost/{IMAGE}");
    let (mut mount, mut again) = (Samples::default(), Samples::default());
    for _ in 0..3 {
        mount.add(podman.cli(&["image", "mount", &image])?);
        again.add(podman.cli(&["image", "mount", &image])?);
        podman.cli(&["image", "unmount", "--force", &image])?;
    }
    report.seconds("podman image mount", mount.median().context("no run")?);
    report.seconds("podman image mount, mounted already", again.median().context("no run")?);
    report.seconds("podman version, for what its start alone takes", podman.cli(&["version"])?);
    report.seconds("podman rmi", podman.cli(&["rmi", &image])?);
    Ok(())
}

/// Asks on a socket, on a connection of its own.
fn ask(socket: &Path, method: &str, path: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {head}: {body}");
    let json = body.find(['{', '[']).zip(body.rfind(['}', ']']));
    Ok(json.map_or(Ok(Value::Null), |(from, to)| serde_json::from_str(&body[from..=to]))?)
}

/// Takes the layers' files out of the page cache.
fn forget_layers(layers: &Path) -> Result<()> {
    for layer in std::fs::read_dir(layers)? {
        for name in ["index", "data"] {
            let file = std::fs::File::open(layer.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?.path().join(name))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// The image with small layers on top, as a docker-archive.
fn make_archive(from: &Path, to: &Path, dir: &Path) -> Result<()> {
    let scratch = Store::open(&dir.join("scratch"))?;
    let mut builder = tar::Builder::new(std::fs::File::create(to)?);
    let (mut layers, mut ids) = (Vec::new(), Vec::new());
    let (manifest, members) = members_of(from)?;
    let member = |name: &Value| -> Result<std::io::Take<std::fs::File>> {
        let (at, size) = members.iter().find(|(path, ..)| Some(&**path) == name.as_str()).context("no such member")?.1;
        let mut file = std::fs::File::open(from)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(file.take(size))
    };
    let config: Value = serde_json::from_reader(member(&manifest[0]["Config"])?)?;
    ids.extend(config["rootfs"]["diff_ids"].as_array().context("a config without layers")?.iter().cloned());
    for (number, name) in manifest[0]["Layers"].as_array().context("a manifest without layers")?.iter().enumerate() {
        let layer = member(name)?;
        add(&mut builder, &format!("{number}.tar"), layer.limit(), layer)?;
        layers.push(format!("{number}.tar"));
    }
    for number in layers.len()..LAYERS {
        let layer = small_layer(number)?;
        ids.push(json!(scratch.ingest(&mut &layer[..], &IngestOptions::default())?.id.to_string()));
        add(&mut builder, &format!("{number}.tar"), layer.len() as u64, &layer[..])?;
        layers.push(format!("{number}.tar"));
    }
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
    }))?;
    add(&mut builder, "config.json", config.len() as u64, &config[..])?;
    let manifest = serde_json::to_vec(&json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": layers}]))?;
    add(&mut builder, "manifest.json", manifest.len() as u64, &manifest[..])?;
    builder.finish()?;
    Ok(std::fs::remove_dir_all(dir.join("scratch"))?)
}

/// A member's path, and where it lies.
type Member = (String, (u64, u64));

fn members_of(archive: &Path) -> Result<(Value, Vec<Member>)> {
    let (mut manifest, mut members) = (Value::Null, Vec::new());
    for entry in tar::Archive::new(std::fs::File::open(archive)?).entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        members.push((path.clone(), (entry.raw_file_position(), entry.size())));
        if path == "manifest.json" {
            manifest = serde_json::from_reader(entry)?;
        }
    }
    Ok((manifest, members))
}

fn small_layer(number: usize) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in 0..10 {
        add(&mut builder, &format!("usr/layer-{number}/file-{file}"), 5, &b"text\n"[..])?;
    }
    Ok(builder.into_inner()?)
}

fn add(builder: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    Ok(builder.append_data(&mut header, name, content)?)
}
