//! `cp`: between a container and here, and out of an image.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use clap::Args;
use hyper::{Method, Response, body::Incoming};
use serde_json::Value;

use crate::client::query::escape;
use crate::client::stream::next_data;
use crate::client::{Client, Query, whole};
use crate::copy::pack::Source;
use crate::copy::plan::{self, Place, Side, decide, means_content, split};
use crate::copy::{pipe, unpack::Unpack};
use crate::failure::status_of;
use crate::format::json::{number, text};
use crate::out;

/// Go's `os.ModeDir`.
const GO_DIR: i64 = 1 << 31;
/// Go's `os.ModeSymlink`.
const GO_SYMLINK: i64 = 1 << 27;

/// Copy files/folders between a container and the local filesystem, or out of an image
///
/// Use '-' as the source to read a tar archive from stdin and extract it to a directory in a container.
/// Use '-' as the destination to stream a tar archive of a source to stdout.
/// Use 'image:NAME:/PATH' as the source to copy out of an image, without a container.
#[derive(Debug, Args)]
#[command(
    override_usage = "ctl cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       ctl cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH\n       ctl cp [OPTIONS] image:NAME:/SRC_PATH DEST_PATH|-"
)]
pub struct Cp {
    #[command(flatten)]
    flags: CpFlags,
    /// Where from
    source: String,
    /// Where to
    dest: String,
}

/// Copy files/folders out of an image
#[derive(Debug, Args)]
pub struct ImageCp {
    #[command(flatten)]
    flags: CpFlags,
    /// Where from
    #[arg(value_name = "IMAGE:/SRC_PATH")]
    source: String,
    /// Where to; '-' for a tar archive on stdout
    dest: String,
}

#[derive(Debug, Clone, Copy, Args)]
struct CpFlags {
    /// Archive mode (copy all uid/gid information)
    #[arg(short = 'a', long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl ImageCp {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some((image, path)) = plan::image_and_path(&self.source) else {
            bail!("the source must read IMAGE:/PATH, not {:?}", self.source);
        };
        let from = Remote { client, path, base: format!("/fsd/v1/images/{}/archive", escape(&image)) };
        from.copy_out(&self.dest, self.flags).await
    }
}

impl Cp {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let container = |name: &str, path: &str| Remote {
            client,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            base: format!("/containers/{}/archive", escape(name)),
        };
        match (plan::side(&self.source), plan::side(&self.dest)) {
            (Side::Container(name, path), Side::Local(dest)) => container(&name, &path).copy_out(&dest, self.flags).await,
            (Side::Image(name, path), Side::Local(dest)) => {
                let from = Remote { client, path, base: format!("/fsd/v1/images/{}/archive", escape(&name)) };
                from.copy_out(&dest, self.flags).await
            }
            (Side::Local(source), Side::Container(name, path)) => {
                container(&name, &path).copy_in(&source, self.flags, &self.dest).await
            }
            (Side::Local(_), Side::Local(_)) => bail!("must specify at least one container source"),
            (_, Side::Image(..)) => bail!("can't copy into an image: images don't change"),
            (_, Side::Container(..)) => bail!("copying between containers is not supported"),
        }
    }
}

/// A path behind one of the daemon's archive endpoints.
struct Remote<'a> {
    client: &'a Client,
    path: String,
    base: String,
}

impl Remote<'_> {
    fn query(&self, path: &str) -> Query {
        Query::new(&self.base).with("path", path)
    }

    async fn stat(&self, path: &str) -> Result<Value> {
        let response = self.client.send(Method::HEAD, &self.query(path).build(), None, whole("")).await;
        // An answer to HEAD has no body to take a message from.
        let response = response.map_err(|error| match status_of(&error) {
            Some(404) => error.context(format!("could not find {path}")),
            _ => error,
        })?;
        path_stat(&response)
    }

    async fn copy_out(&self, dest: &str, flags: CpFlags) -> Result<()> {
        let (mut path, mut base) = (self.path.clone(), split(&self.path).1);
        if flags.follow_link
            && let Ok(stat) = self.stat(&path).await
            && number(&stat, "mode") & GO_SYMLINK != 0
        {
            path = joined(&path, text(&stat, "linkTarget"));
            if base.is_empty() {
                base = split(&path).1;
            }
        }
        if dest != "-" {
            let parent = split(&std::path::absolute(dest)?.display().to_string()).0;
            if !Path::new(dest).exists() && !Path::new(&parent).is_dir() {
                bail!("invalid output path: directory {parent:?} does not exist");
            }
        }
        let response = self.client.send(Method::GET, &self.query(&path).build(), None, whole("")).await?;
        if dest == "-" {
            if out::is_terminal() {
                bail!("cowardly refusing to write a tar archive to a terminal; redirect it");
            }
            let mut body = response.into_body();
            while let Some(data) = next_data(&mut body).await? {
                out::bytes(&data);
            }
            return Ok(());
        }
        let is_dir = number(&path_stat(&response)?, "mode") & GO_DIR != 0;
        let content = means_content(&path) || path.trim_matches('/').is_empty();
        let target = decide(is_dir, &local_place(dest)?)?;
        let name = target.name.or_else(|| (!content).then_some(base));
        let unpack = Unpack { dir: PathBuf::from(target.dir), name, content, archive: flags.archive };
        let mut reader = pipe::Reader::new(response.into_body());
        let (left, count) =
            tokio::task::spawn_blocking(move || unpack.run(&mut reader).map(|left| (left, reader.count))).await??;
        if let Some(warning) = left.warning() {
            out::error_line(format!("WARNING: {warning}"));
        }
        report(flags, count, dest);
        Ok(())
    }

    async fn copy_in(&self, source: &str, flags: CpFlags, shown: &str) -> Result<()> {
        let source = if source == "-" { None } else { Some(Source::open(source, flags.follow_link)?) };
        let place = self.place().await;
        let target = match &source {
            None if place.exists && !place.is_dir => bail!("destination \"{shown}\" must be a directory"),
            None => plan::Target { dir: place.path.clone(), name: None },
            Some(source) => decide(source.is_dir, &place)?,
        };
        let mut path = self.query(&target.dir).with("noOverwriteDirNonDir", "true");
        if flags.archive {
            path = path.with("copyUIDGID", "true");
        }
        let counter = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let seen = counter.clone();
        let body = pipe::tar_body(move |out| {
            let mut out = Counted { out, count: &seen };
            match &source {
                None => std::io::copy(&mut std::io::stdin().lock(), &mut out).map(drop),
                Some(source) => source.write(target.name.as_deref(), &mut out),
            }
        });
        let sent = self.client.send(Method::PUT, &path.build(), Some("application/x-tar"), body).await;
        sent.map_err(|error| if status_of(&error).is_some() { error } else { local_cause(error) })?;
        report(flags, counter.load(std::sync::atomic::Ordering::Relaxed), shown);
        Ok(())
    }

    /// The destination in the container, one link followed. What can't be looked at is taken as not there: the daemon
    /// will say what is wrong when it gets the files.
    async fn place(&self) -> Place {
        let mut path = self.path.clone();
        let mut stat = self.stat(&path).await;
        if let Ok(link) = &stat
            && number(link, "mode") & GO_SYMLINK != 0
        {
            path = joined(&path, text(link, "linkTarget"));
            stat = self.stat(&path).await;
        }
        match stat {
            Ok(stat) => Place { path, exists: true, is_dir: number(&stat, "mode") & GO_DIR != 0 },
            Err(_) => Place { path, exists: false, is_dir: false },
        }
    }
}

/// If our own reading of local files failed, that is what the person needs to know.
fn local_cause(error: anyhow::Error) -> anyhow::Error {
    let cause = error.chain().last().map(ToString::to_string).unwrap_or_default();
    if cause.is_empty() { error } else { anyhow!(cause) }
}

/// Where a link leads, seen from its own directory.
fn joined(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let dir = split(path).0;
    format!("{}/{target}", dir.trim_end_matches('/'))
}

/// The local destination, its links followed.
fn local_place(dest: &str) -> Result<Place> {
    match std::fs::metadata(dest) {
        Ok(meta) if meta.is_dir() => Ok(Place { path: dest.to_owned(), exists: true, is_dir: true }),
        Ok(_) => {
            let path = std::fs::canonicalize(dest).with_context(|| format!("resolve {dest}"))?;
            let path = path.to_str().map(str::to_owned).ok_or_else(|| anyhow!("{dest}: its name is not UTF-8"))?;
            Ok(Place { path, exists: true, is_dir: false })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Place { path: dest.to_owned(), exists: false, is_dir: false })
        }
        Err(error) => Err(anyhow!(error).context(format!("stat {dest}"))),
    }
}

fn path_stat(response: &Response<Incoming>) -> Result<Value> {
    let header = response.headers().get(fsd_api::PATH_STAT_HEADER).context("the daemon did not say what the path is")?;
    let json = base64::engine::general_purpose::STANDARD.decode(header.as_bytes()).context("the daemon's path stat")?;
    serde_json::from_slice(&json).context("the daemon's path stat")
}

fn report(flags: CpFlags, count: u64, to: &str) {
    if !flags.quiet && out::is_terminal() {
        out::error_line(format!("Successfully copied {} to {to}", crate::format::units::size3(count as f64)));
    }
}

struct Counted<'a> {
    out: &'a mut dyn std::io::Write,
    count: &'a std::sync::atomic::AtomicU64,
}

impl std::io::Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let length = self.out.write(data)?;
        self.count.fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
