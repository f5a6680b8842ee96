//! Image archives: `docker save`'s (old and new layout) and OCI layouts in a tar, read in one pass.
//!
//! Members come in any order, and layers before the manifest that names them. So what looks like a layer is
//! ingested as it streams by, what is small is kept, and only at the end is it decided which images that makes.
//! Layers that no image of the archive needs are unreferenced, and go with the next collection.

use std::collections::HashMap;
use std::io::{self, Read};

use fs_base::{Digest, Error, LayerId, Result};
use layerfs::ingest::{Archive, Budget, Built, IngestOptions, Media};
use layerfs::tar::{Entry, EntryKind, Limits, Links, Reader};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::config::{self, Config};
use crate::reference::Reference;

/// Manifests and configs are kept in memory up to this size each. Source: the distribution spec asks registries
/// to take manifests of 4 MiB.
const SMALL: u64 = 4 << 20;
/// And up to this size altogether.
const SMALL_TOTAL: usize = 64 << 20;
/// Layers in one archive: each is three files, also if no image turns out to need it.
const MOST_IN_ARCHIVE: usize = 10_000;
/// How deep an index may hold indexes.
const NESTED: usize = 4;

/// An image that an archive holds, its layers in the store.
#[derive(Debug)]
pub struct Loaded {
    /// The digest of its config.
    pub id: Digest,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<LayerId>,
    /// Canonical names.
    pub tags: Vec<(String, String)>,
}

/// What one pass over an archive leaves.
#[derive(Default)]
struct Contents {
    small: HashMap<String, Vec<u8>>,
    small_total: usize,
    layers: HashMap<String, Built>,
    links: Links,
    budget: Option<Budget>,
}

/// One entry of `manifest.json`.
#[derive(Deserialize)]
struct SavedImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// A member of an archive that looks like a layer.
pub struct Candidate<'a> {
    /// Its path in the archive.
    pub name: &'a str,
    /// Its bytes.
    pub size: u64,
    /// The first of them.
    pub head: Vec<u8>,
    /// The others.
    pub rest: &'a mut (dyn Read + Send),
}

/// Brings a layer into the store; it stays there for as long as the load goes on.
pub type Bring<'a> = dyn Fn(Candidate<'_>, &IngestOptions<'_>) -> Result<Built> + 'a;

/// Reads an archive, compressed or not. Returns the images it holds for this host's platform.
pub fn load(input: &mut (dyn Read + Send), limits: Limits, bring: &Bring<'_>) -> Result<Vec<Loaded>> {
    // The whole may be compressed too: `docker load` takes that.
    let archive = Archive::open(input, limits)?;
    let mut contents = Contents { budget: Some(archive.budget()), ..Contents::default() };
    let mut reader = Reader::new(archive, Limits { entries: 1_000_000, ..limits });
    let mut seen = false;
    while let Some(entry) = reader.next_entry().map_err(|e| not_an_archive(e, seen))? {
        seen = true;
        contents.take(bring, &mut reader, &entry, limits)?;
    }
    contents.images()
}

fn not_an_archive(error: Error, seen: bool) -> Error {
    if seen {
        return error.context("the image archive is damaged");
    }
    error.context("this is not an image archive").with_hint("load takes what `docker save` writes, or an OCI layout in a tar")
}

impl Contents {
    fn take<R: Read + Send>(&mut self, bring: &Bring<'_>, reader: &mut Reader<R>, entry: &Entry, limits: Limits) -> Result<()> {
        let name = self.links.note(entry);
        if let EntryKind::File(_) = &entry.kind {
            let mut left = entry.size;
            let mut head = vec![0; entry.size.min(512) as usize];
            fill(reader, &mut head, &mut left)?;
            if looks_like_layer(&head) {
                let options = IngestOptions { limits, ..IngestOptions::default() };
                let mut rest = Member { reader, left: &mut left };
                let member = Candidate { name: &name, size: entry.size, head, rest: &mut rest };
                let built = bring(member, &options).map_err(|e| e.context(format!("layer {name}")))?;
                self.layers.insert(name, built);
                self.budget.as_ref().map_or(Ok(()), |budget| budget.spend(built.data_size))?;
                if self.layers.len() > MOST_IN_ARCHIVE {
                    return Err(Error::invalid(format!("the archive has more than {MOST_IN_ARCHIVE} layers"))
                        .with_hint("save its images in several archives"));
                }
            } else if entry.size <= SMALL && self.small_total + entry.size as usize <= SMALL_TOTAL {
                let kept = head.len();
                head.resize(entry.size as usize, 0);
                fill(reader, &mut head[kept..], &mut left)?;
                self.small_total += head.len();
                self.small.insert(name, head);
            }
        }
        Ok(())
    }

    fn images(&self) -> Result<Vec<Loaded>> {
        if let Some(manifest) = self.small.get("manifest.json") {
            let saved: Vec<SavedImage> = serde_json::from_slice(manifest)
                .map_err(|e| Error::corrupt(format!("the archive's manifest.json can't be read: {e}")))?;
            return saved.iter().map(|image| self.saved_image(image)).collect();
        }
        if let Some(index) = self.small.get("index.json") {
            return self.oci_images(index);
        }
        Err(Error::invalid("this is not an image archive: it has neither manifest.json nor index.json").with_hint(
            "load takes what `docker save` writes, or an OCI layout in a tar; a plain root filesystem goes to `import`",
        ))
    }

    /// The bytes of a small member, links followed.
    fn file(&self, name: &str) -> Option<&Vec<u8>> {
        self.links.follow(name, |name| self.small.get(name))
    }

    fn saved_image(&self, image: &SavedImage) -> Result<Loaded> {
        let config = self
            .file(&image.config)
            .ok_or_else(|| Error::corrupt(format!("the archive names the config {:?}, but does not have it", image.config)))?;
        let layers = image.layers.iter().map(|path| {
            self.links
                .follow(path, |name| self.layers.get(name))
                .ok_or_else(|| Error::corrupt(format!("the archive names the layer {path:?}, but does not have it")))
        });
        let tags = image.repo_tags.iter().flatten().map(|text| {
            let reference: Reference = text.parse()?;
            Ok((reference.repository.clone(), reference.tag_or_latest().to_owned()))
        });
        assemble(config, &layers.collect::<Result<Vec<_>>>()?, tags.collect::<Result<_>>()?)
    }

    fn oci_images(&self, index: &[u8]) -> Result<Vec<Loaded>> {
        let index: ImageIndex = parse(index, "index.json")?;
        let mut images = Vec::new();
        for descriptor in index.manifests() {
            let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|a| a.get(key)).cloned();
            let name = annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"));
            // A bare tag (`latest`) as the spec has it names no repository.
            let tags = name.filter(|name| name.contains(['/', ':'])).and_then(|name| name.parse::<Reference>().ok());
            let tags = tags.map(|r| (r.repository.clone(), r.tag_or_latest().to_owned())).into_iter().collect();
            if let Some(manifest) = self.manifest(descriptor, 0)? {
                images.push(self.oci_image(&manifest, tags)?);
            }
        }
        if images.is_empty() {
            return Err(Error::not_found(format!("the archive has no image for this platform (linux/{})", architecture())));
        }
        Ok(images)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<&Vec<u8>> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let bytes = self
            .file(&format!("blobs/sha256/{}", digest.hex()))
            .ok_or_else(|| Error::corrupt(format!("the archive names the blob {digest}, but does not have it")))?;
        if digest_of(bytes) != digest {
            return Err(Error::corrupt(format!("the archive's blob {digest} has another digest: {}", digest_of(bytes))));
        }
        Ok(bytes)
    }

    /// The manifest that a descriptor leads to: itself, or the one for this platform out of an index.
    fn manifest(&self, descriptor: &Descriptor, depth: usize) -> Result<Option<ImageManifest>> {
        let is_index = matches!(descriptor.media_type(), MediaType::ImageIndex)
            || descriptor.media_type().to_string() == "application/vnd.docker.distribution.manifest.list.v2+json";
        if !is_index {
            return parse(self.blob(descriptor)?, "manifest").map(Some);
        }
        if depth == NESTED {
            return Err(Error::corrupt("the archive's indexes are nested too deep"));
        }
        let index: ImageIndex = parse(self.blob(descriptor)?, "index")?;
        let fits = |d: &&Descriptor| {
            d.platform().as_ref().is_none_or(|p| p.os().to_string() == "linux" && p.architecture().to_string() == architecture())
        };
        index.manifests().iter().find(fits).map_or(Ok(None), |d| self.manifest(d, depth + 1))
    }

    fn oci_image(&self, manifest: &ImageManifest, tags: Vec<(String, String)>) -> Result<Loaded> {
        let mut layers = Vec::new();
        for descriptor in manifest.layers() {
            Media::of_type(descriptor.media_type().as_ref())?;
            let digest: Digest = descriptor.digest().to_string().parse()?;
            let built = self.layers.get(&format!("blobs/sha256/{}", digest.hex()));
            let built = built.ok_or_else(|| {
                Error::corrupt(format!("the manifest names the layer {digest}, but the archive does not have it"))
            })?;
            if (built.blob, built.blob_size) != (digest, descriptor.size()) {
                return Err(Error::corrupt(format!("the archive's layer {digest} has other bytes: {}", built.blob)));
            }
            layers.push(built);
        }
        assemble(self.blob(manifest.config())?, &layers, tags)
    }
}

/// An image from its parts, which must agree.
fn assemble(config: &[u8], layers: &[&Built], tags: Vec<(String, String)>) -> Result<Loaded> {
    let id = digest_of(config);
    let wanted = Config::parse(config)?.rootfs.diff_ids;
    config::check_count(wanted.len())?;
    let layers: Vec<LayerId> = layers.iter().map(|built| built.id).collect();
    if wanted.len() != layers.len() {
        return Err(Error::corrupt(format!("image {id} has {} layers, but its config names {}", layers.len(), wanted.len())));
    }
    for (layer, want) in layers.iter().zip(&wanted) {
        if layer != want {
            return Err(Error::corrupt(format!("invalid diffID for layer: expected {want}, got {layer}"))
                .with_hint("the archive holds wrong bytes: save the image again"));
        }
    }
    Ok(Loaded { id, config: config.to_vec(), layers, tags })
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::corrupt(format!("the archive's {what} can't be read: {error}")))
}

/// The sha256 of bytes in memory.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// This host's architecture in Go's words, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// A layer begins with gzip's or zstd's magic, has a tar header's, or is the two empty blocks of an empty tar.
fn looks_like_layer(head: &[u8]) -> bool {
    matches!(Media::of_magic(head), Media::Gzip | Media::Zstd)
        || head.len() == 512 && (&head[257..262] == b"ustar" || head.iter().all(|&b| b == 0))
}

fn fill<R: Read>(reader: &mut Reader<R>, buffer: &mut [u8], left: &mut u64) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        filled += reader.read_data(&mut buffer[filled..], left).map_err(|e| Error::io("read", "image archive", e))?;
    }
    Ok(())
}

/// The rest of the current member.
struct Member<'a, R> {
    reader: &'a mut Reader<R>,
    left: &'a mut u64,
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read_data(buffer, self.left)
    }
}
