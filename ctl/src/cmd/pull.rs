//! `pull`, `load`, `import`: images from elsewhere.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::auth::Logins;
use crate::client::{Body, Client, Query, whole};
use crate::format::names::Reference;
use crate::out;
use crate::progress::{self, To};

/// How much is read from a file at once.
const CHUNK: usize = 256 * 1024;

/// Download an image from a registry
#[derive(Debug, Args)]
pub struct Pull {
    /// Download all tagged images in the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

impl Pull {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let reference = Reference::parse(&self.image);
        if self.all_tags && (reference.tag.is_some() || reference.digest.is_some()) {
            bail!("tag can't be used with --all-tags/-a");
        }
        let named = reference.tag.is_some() || reference.digest.is_some() || self.all_tags;
        if !named && !self.quiet {
            out::line("Using default tag: latest");
        }
        let to = if self.quiet { To::Nowhere } else { To::Stdout };
        if self.all_tags {
            let path = Query::new("/images/create").with("fromImage", reference.canonical_name());
            request(client, &reference.canonical_name(), path, self.platform.as_deref(), to).await?;
            out::line(reference.canonical_name());
            return Ok(());
        }
        fetch(client, &self.image, self.platform.as_deref(), to).await?;
        let name = reference.canonical_name();
        out::line(match (reference.digest, reference.tag) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, tag) => format!("{name}:{}", tag.unwrap_or("latest")),
        });
        Ok(())
    }
}

/// Pulls one image.
pub async fn fetch(client: &Client, image: &str, platform: Option<&str>, to: To) -> Result<()> {
    let reference = Reference::parse(image);
    let tag = reference.digest.or(reference.tag).unwrap_or("latest");
    let path = Query::new("/images/create").with("fromImage", reference.canonical_name()).with("tag", tag);
    request(client, &reference.canonical_name(), path, platform, to).await
}

async fn request(client: &Client, name: &str, path: Query, platform: Option<&str>, to: To) -> Result<()> {
    let path = path.maybe("platform", platform).build();
    let response = client.post_as(&path, "x-registry-auth", Logins::of_user().for_image(name)).await?;
    progress::show(response.into_body(), to).await
}

/// Load an image from a tar archive or STDIN
#[derive(Debug, Args)]
pub struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short = 'i', long, value_name = "string")]
    input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Load only the given platform variant
    #[arg(long, value_name = "string")]
    platform: Option<String>,
}

impl Load {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let quiet = self.quiet || !out::is_terminal();
        let platform = self.platform.as_deref().map(platform_json).transpose()?;
        let path = Query::new("/images/load").with("quiet", if quiet { "1" } else { "0" }).maybe("platform", platform).build();
        let body = match &self.input {
            None if crate::client::stream::stdin_is_terminal() => bail!("requested load from stdin, but stdin is empty"),
            None => upload(tokio::io::stdin(), None, "Loading"),
            Some(file) => {
                let opened = tokio::fs::File::open(file).await.with_context(|| format!("open {}", file.display()))?;
                let meta = opened.metadata().await.with_context(|| format!("stat {}", file.display()))?;
                if meta.is_dir() {
                    directory_as_tar(file.clone())
                } else {
                    upload(opened, meta.is_file().then_some(meta.len()), "Loading")
                }
            }
        };
        let response = client.send(Method::POST, &path, Some("application/x-tar"), body).await?;
        progress::show(response.into_body(), To::Stdout).await
    }
}

/// An image layout in a folder, sent as the tar that a daemon takes.
fn directory_as_tar(dir: PathBuf) -> Body {
    crate::copy::pipe::tar_body(move |out| {
        let mut builder = tar::Builder::new(out);
        builder.append_dir_all(".", &dir)?;
        builder.finish()
    })
}

fn platform_json(text: &str) -> Result<String> {
    let mut parts = text.split('/');
    let (Some(os), Some(architecture)) = (parts.next(), parts.next()) else {
        bail!("invalid platform {text:?}: it should read os/architecture[/variant]");
    };
    let variant = parts.next().unwrap_or_default();
    Ok(serde_json::json!({"os": os, "architecture": architecture, "variant": variant}).to_string())
}

/// A reader as a request's body, with a bar on a terminal.
fn upload(reader: impl AsyncRead + Send + 'static, total: Option<u64>, what: &str) -> Body {
    let bar = progress::upload(total, what);
    let stream = ReaderStream::with_capacity(reader, CHUNK).map(move |chunk: std::io::Result<Bytes>| {
        match &chunk {
            Ok(chunk) => bar.inc(chunk.len() as u64),
            Err(_) => bar.abandon(),
        }
        chunk.map(Frame::data)
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Import the contents from a tarball to create a filesystem image
#[derive(Debug, Args)]
pub struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short = 'm', long, value_name = "string")]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// The tar file, a URL, or - for standard input
    #[arg(value_name = "file|URL|-")]
    source: String,
    /// The name to give it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

impl Import {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let remote = self.source.starts_with("http://") || self.source.starts_with("https://");
        let mut path = Query::new("/images/create")
            .with("fromSrc", if remote { self.source.as_str() } else { "-" })
            .maybe("repo", self.repository.as_deref())
            .maybe("message", self.message.as_deref())
            .maybe("platform", self.platform.as_deref());
        for change in &self.change {
            path = path.with("changes", change);
        }
        let body = if remote {
            whole("")
        } else if self.source == "-" {
            upload(tokio::io::stdin(), None, "Importing")
        } else {
            let file = tokio::fs::File::open(&self.source).await.with_context(|| format!("open {}", self.source))?;
            let total = file.metadata().await.ok().map(|meta| meta.len());
            upload(file, total, "Importing")
        };
        let response = client.send(Method::POST, &path.build(), Some("text/plain"), body).await?;
        progress::show(response.into_body(), To::Stdout).await
    }
}

/// Save one or more images to a tar archive (streamed to STDOUT by default)
#[derive(Debug, Args)]
pub struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<PathBuf>,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Save {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let path = self.images.iter().fold(Query::new("/images/get"), |path, image| path.with("names", image)).build();
        download(client, &path, self.output.as_deref(), "save").await
    }
}

/// Export a container's filesystem as a tar archive
#[derive(Debug, Args)]
pub struct Export {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<PathBuf>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Export {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let path = format!("/containers/{}/export", crate::client::query::escape(&self.container));
        download(client, &path, self.output.as_deref(), "export").await
    }
}

/// Writes an answer's bytes to a file or to standard output, which must not be a terminal.
pub async fn download(client: &Client, path: &str, output: Option<&std::path::Path>, verb: &str) -> Result<()> {
    if output.is_none() && out::is_terminal() {
        bail!("failed to {verb}: cowardly refusing to write to a terminal. Use the -o flag or redirect");
    }
    let mut body = client.send(Method::GET, path, None, whole("")).await?.into_body();
    let mut file = match output {
        Some(path) => Some(tokio::fs::File::create(path).await.with_context(|| format!("create {}", path.display()))?),
        None => None,
    };
    while let Some(data) = crate::client::stream::next_data(&mut body).await? {
        match &mut file {
            Some(file) => tokio::io::AsyncWriteExt::write_all(file, &data).await.context("write the archive")?,
            None => out::bytes(&data),
        }
    }
    if let Some(mut file) = file {
        tokio::io::AsyncWriteExt::flush(&mut file).await.context("write the archive")?;
    }
    Ok(())
}
