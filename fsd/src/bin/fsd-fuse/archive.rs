//! The layers of an image file. Layers that are not compressed are served from where they lie.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::{Digest, Error, IoContext, LayerId, Result, id};
use layerfs::driver::fuse::{Indexed, Lower};
use layerfs::ingest::Media;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use super::layout::{Layout, Member};

/// How deep an index may hold indexes.
const NESTED: usize = 4;

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// The part of an image's config that counts here.
#[derive(Debug, Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The layers of an image, top first: the one called `name`, or else the only one.
pub fn layers(path: &Path, name: Option<&str>) -> Result<Vec<Lower>> {
    let layout = Layout::open(path)?;
    let (config, members) = if let Some(manifest) = layout.small("manifest.json")? {
        saved(&manifest, name)?
    } else if let Some(index) = layout.small("index.json")? {
        oci(&layout, &index, name)?
    } else {
        return Err(Error::invalid(format!("{} is not an image: it has neither manifest.json nor index.json", path.display()))
            .with_hint("it takes what `docker save` writes, and OCI layouts, in a tar or as a directory"));
    };
    let config = layout.small(&config)?.ok_or_else(|| missing("config", &config))?;
    let ids: Vec<LayerId> = parse::<Config>(&config, "config")?
        .rootfs
        .diff_ids
        .iter()
        .map(|text| text.parse::<Digest>().map(LayerId))
        .collect::<Result<_>>()?;
    if ids.len() != members.len() {
        return Err(Error::corrupt(format!("the image has {} layers, but its config names {}", members.len(), ids.len())));
    }
    let scratch = Scratch::new()?;
    let mut lowers = Vec::new();
    for (name, id) in members.iter().zip(ids).rev() {
        let member = layout.member(name)?.ok_or_else(|| missing("layer", name))?;
        let layer = open_layer(&member, id, &scratch.path).map_err(|error| error.context(format!("layer {id}")))?;
        lowers.push(Lower::Indexed(Arc::new(layer)));
    }
    Ok(lowers)
}

fn missing(what: &str, name: &str) -> Error {
    Error::corrupt(format!("the image names the {what} {name:?}, but does not have it"))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::corrupt(format!("the image's {what} can't be read: {error}")))
}

/// Config and layers of what `docker save` wrote.
fn saved(manifest: &[u8], name: Option<&str>) -> Result<(String, Vec<String>)> {
    let images: Vec<Saved> = parse(manifest, "manifest.json")?;
    let tags = |image: &Saved| image.tags.iter().flatten().cloned().collect::<Vec<_>>();
    let all: Vec<String> = images.iter().flat_map(&tags).collect();
    let mut fitting = images.into_iter().filter(|image| name.is_none_or(|name| tags(image).iter().any(|tag| same(tag, name))));
    let image = only(fitting.next(), fitting.next().is_some(), name, &all)?;
    Ok((image.config, image.layers))
}

fn same(tag: &str, name: &str) -> bool {
    let full = |text: &str| {
        if text.rsplit('/').next().unwrap_or(text).contains(':') { text.to_owned() } else { format!("{text}:latest") }
    };
    full(tag) == full(name) || full(tag) == format!("docker.io/library/{}", full(name))
}

fn only<T>(first: Option<T>, more: bool, name: Option<&str>, all: &[String]) -> Result<T> {
    match (first, name) {
        (None, Some(name)) => Err(Error::not_found(format!("the file has no image {name}; it has: {}", all.join(", ")))),
        (None, None) => Err(Error::not_found("the file has no image for this platform")),
        (Some(_), None) if more => {
            Err(Error::invalid(format!("the file has several images: {}", all.join(", "))).with_hint("say which one with --name"))
        }
        (Some(image), _) => Ok(image),
    }
}

/// Config and layers of an OCI layout.
fn oci(layout: &Layout, index: &[u8], name: Option<&str>) -> Result<(String, Vec<String>)> {
    let index: ImageIndex = parse(index, "index.json")?;
    let names = |descriptor: &Descriptor| -> Vec<String> {
        let annotations = descriptor.annotations().iter().flatten();
        let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        annotations.filter(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| value.clone()).collect()
    };
    let all: Vec<String> = index.manifests().iter().flat_map(&names).collect();
    let mut fitting = Vec::new();
    for descriptor in index.manifests() {
        if name.is_none_or(|name| names(descriptor).iter().any(|known| known == name || same(known, name))) {
            fitting.extend(manifest(layout, descriptor, 0)?);
        }
    }
    let more = fitting.len() > 1;
    let manifest = only(fitting.into_iter().next(), more, name, &all)?;
    let layers = manifest.layers().iter().map(blob).collect::<Result<_>>()?;
    Ok((blob(manifest.config())?, layers))
}

fn blob(descriptor: &Descriptor) -> Result<String> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    Ok(format!("blobs/sha256/{}", digest.hex()))
}

/// The manifest that a descriptor leads to: itself, or the one for this platform out of an index.
fn manifest(layout: &Layout, descriptor: &Descriptor, depth: usize) -> Result<Option<ImageManifest>> {
    let name = blob(descriptor)?;
    let bytes = layout.small(&name)?.ok_or_else(|| missing("manifest", &name))?;
    let is_index = matches!(descriptor.media_type(), MediaType::ImageIndex)
        || descriptor.media_type().to_string() == "application/vnd.docker.distribution.manifest.list.v2+json";
    if !is_index {
        return parse(&bytes, "manifest").map(Some);
    }
    if depth == NESTED {
        return Err(Error::corrupt("the image's indexes are nested too deep"));
    }
    let index: ImageIndex = parse(&bytes, "index")?;
    let fits = |d: &&Descriptor| {
        d.platform().as_ref().is_none_or(|p| p.os().to_string() == "linux" && p.architecture().to_string() == architecture())
    };
    index.manifests().iter().find(fits).map_or(Ok(None), |d| manifest(layout, d, depth + 1))
}

/// This host's architecture in Go's words, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn open_layer(member: &Member, id: LayerId, scratch: &Path) -> Result<Indexed> {
    let mut head = [0; 4];
    let got = member.file.read_at(&mut head, member.start).at("read", "layer")?.min(member.size as usize);
    if matches!(Media::of_magic(&head[..got]), Media::Plain | Media::Auto) {
        return Indexed::of_member(&member.file, member.start, member.size, id, scratch);
    }
    Indexed::of_stream(&mut Stream { member, done: 0 }, id, scratch)
}

/// A member read from its start.
struct Stream<'a> {
    member: &'a Member,
    done: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = (self.member.size - self.done).min(buffer.len() as u64) as usize;
        let got = self.member.file.read_at(&mut buffer[..left], self.member.start + self.done)?;
        self.done += got as u64;
        Ok(got)
    }
}

/// Where large temporary files go.
pub fn scratch_dir() -> PathBuf {
    let dir = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    // The session changes its working directory.
    std::path::absolute(&dir).unwrap_or(dir)
}

/// A folder that goes away with all that is in it, if it is ours.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_ours: bool,
}

impl Scratch {
    /// A new one, for nobody else to look into.
    pub fn new() -> Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = scratch_dir().join(format!("fsd-fuse-{}", id::random_hex::<8>()?));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).at("make directory", &dir)?;
        Ok(Scratch { path: dir, is_ours: true })
    }

    /// One that is there already, with what was written to it: it stays unless it is served.
    pub fn of(path: &Path) -> Scratch {
        Scratch { path: path.to_owned(), is_ours: false }
    }

    /// It is served: from now on it goes away.
    pub fn take_over(&mut self) {
        self.is_ours = true;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_its_latest_tag() {
        assert!(same("debian:latest", "debian") && same("docker.io/library/debian:12", "debian:12"));
        assert!(!same("debian:12", "debian") && !same("x/debian:latest", "debian"));
    }
}
