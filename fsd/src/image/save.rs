//! `docker save`: images as an archive that is both an OCI layout and a docker-archive. The layers are the store's own
//! tars, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_base::{IoContext, LayerId, Result};
use layerfs::store::Layer;
use serde_json::{Value, json};

use super::find;
use super::load::digest_of;
use crate::app::App;
use crate::db::images::ImageRow;
use crate::reference::{Reference, familiar};

/// Bytes in one piece of a layer.
const PIECE: usize = 256 << 10;

/// What is to be saved, with its layers held open: removing them meanwhile does no harm.
#[derive(Debug)]
pub struct Save {
    images: Vec<Saved>,
    layers: BTreeMap<LayerId, Arc<Layer>>,
}

#[derive(Debug)]
struct Saved {
    row: ImageRow,
    /// The names that it goes by, canonical repository and tag.
    tags: BTreeSet<(String, String)>,
}

/// Finds the images. A repository's name alone stands for all its tags, an id for the image without a name.
pub fn open(app: &App, names: &[String]) -> Result<Save> {
    let mut images: Vec<Saved> = Vec::new();
    for name in names {
        for (row, tag) in meant(app, name)? {
            let place = images.iter().position(|image| image.row.id == row.id).unwrap_or_else(|| {
                images.push(Saved { row, tags: BTreeSet::new() });
                images.len() - 1
            });
            images[place].tags.extend(tag);
        }
    }
    let mut layers = BTreeMap::new();
    for id in images.iter().flat_map(|image| &image.row.layers) {
        layers.insert(*id, app.store.layer(id)?);
    }
    Ok(Save { images, layers })
}

type Meant = (ImageRow, Option<(String, String)>);

fn meant(app: &App, name: &str) -> Result<Vec<Meant>> {
    let reference: Option<Reference> = name.parse().ok();
    if let Some(reference) = reference.filter(|reference| reference.tag.is_none() && reference.digest.is_none()) {
        let of_it = |row: ImageRow| {
            let tags: Vec<_> = row.tags.iter().filter(|(repository, _)| *repository == reference.repository).cloned().collect();
            tags.into_iter().map(move |tag| (row.clone(), Some(tag)))
        };
        let all: Vec<Meant> = app.db.images()?.into_iter().flat_map(of_it).collect();
        if !all.is_empty() {
            return Ok(all);
        }
    }
    let row = find(app, name)?;
    let reference: Option<Reference> = name.parse().ok();
    let tag = reference.map(|reference| (reference.repository.clone(), reference.tag_or_latest().to_owned()));
    let tag = tag.filter(|tag| row.tags.contains(tag));
    Ok(vec![(row, tag)])
}

impl Save {
    /// Writes the archive.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut archive = Archive { tar: tar::Builder::new(out) };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        for (id, layer) in &self.layers {
            archive.layer(id, layer)?;
        }
        let (mut manifests, mut listed, mut written) = (Vec::new(), Vec::new(), BTreeSet::new());
        for image in &self.images {
            let manifest = self.manifest(image)?;
            let digest = digest_of(&manifest);
            for (digest, bytes) in [(image.row.id, &image.row.config), (digest, &manifest)] {
                if written.insert(digest) {
                    archive.file(&blob(digest), bytes)?;
                }
            }
            let names: Vec<String> =
                image.tags.iter().map(|(repository, tag)| format!("{}:{tag}", familiar(repository))).collect();
            let layers: Vec<String> = image.row.layers.iter().map(blob).collect();
            let tags = if names.is_empty() { Value::Null } else { json!(names) };
            listed.push(json!({"Config": blob(image.row.id), "RepoTags": tags, "Layers": layers}));
            let descriptor = json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            });
            if image.tags.is_empty() {
                manifests.push(descriptor.clone());
            }
            for (repository, tag) in &image.tags {
                let mut named = descriptor.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": format!("{repository}:{tag}"), "org.opencontainers.image.ref.name": tag,
                });
                manifests.push(named);
            }
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        });
        archive.file("index.json", index.to_string().as_bytes())?;
        archive.file("manifest.json", json!(listed).to_string().as_bytes())?;
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.tar.finish().at("write", "archive")
    }

    /// The OCI manifest of an image whose layers are not compressed.
    fn manifest(&self, image: &Saved) -> Result<Vec<u8>> {
        let mut layers = Vec::new();
        for id in &image.row.layers {
            let size = size_of(id, &self.layers[id])?;
            layers.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": id, "size": size}));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": image.row.id, "size": image.row.config.len(),
            },
            "layers": layers,
        });
        Ok(manifest.to_string().into_bytes())
    }
}

fn size_of(id: &LayerId, layer: &Layer) -> Result<u64> {
    Ok(layer.data.metadata().at("stat", layer.dir.join("data")).map_err(|error| error.context(format!("layer {id}")))?.len())
}

/// The path of a blob, of whatever has a digest.
fn blob(digest: impl std::fmt::Display) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}

/// The archive, with the same owner and time for everything, so that the same images are the same archive.
struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
}

impl Archive<'_> {
    fn directory(&mut self, path: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.tar.append_data(&mut header, path, std::io::empty()).at("write", "archive")
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        self.tar.append_data(&mut header, path, bytes).at("write", "archive")
    }

    fn layer(&mut self, id: &LayerId, layer: &Layer) -> Result<()> {
        let size = size_of(id, layer)?;
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        let data = std::io::BufReader::with_capacity(PIECE, FromStart { layer, place: 0 });
        self.tar.append_data(&mut header, blob(id), data.take(size)).at("write", format!("layer {id}"))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

/// Reads a layer's tar without moving the place that others read it at.
struct FromStart<'a> {
    layer: &'a Layer,
    place: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.layer.data.read_at(buffer, self.place)?;
        self.place += count as u64;
        Ok(count)
    }
}
