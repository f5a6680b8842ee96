//! A chain of layers as one index: an EROFS image of the merged tree, whose files lie in the tars of many layers.
//!
//! Whiteouts and opaque directories have done their work here, so the tree can be mounted by itself. Nothing of a
//! layer is read but its index: a file keeps the chunks into which it was cut, each told anew on which device it
//! lies. A layer's tar is a device; so is its index, where a file has bytes in that (pieces whose place in the tar
//! is not aligned).
//!
//! A file shows as many names as it has in its layer, as it does under overlayfs.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::{Digest, Error, Result};
use sha2::{Digest as _, Sha256};

use crate::erofs::{Body, ChunkAt, ChunkTable, Device, FileKind, Image, Meta, Nid, NodeId, Source, write_merged};
use crate::metadata::Metadata;
use crate::store::Layer;
use crate::tree::{Entry, Tree};

/// Log2 of the block size that layers have in common.
const BLOCK_BITS: u32 = 9;
/// A hole, on whatever device.
const HOLE: ChunkAt = ChunkAt { device: 0, block: u32::MAX };

/// What names a chain: the digest of its layers' names in order.
pub(crate) fn chain_digest<'a>(layers: impl IntoIterator<Item = &'a fs_base::LayerId>) -> Digest {
    let mut sum = Sha256::new();
    for layer in layers {
        sum.update(layer.0.as_bytes());
    }
    Digest::from_bytes(sum.finalize().into())
}

/// Writes the index of a chain, bottom first, to `out`; `path` is for errors. Returns the files that it points into,
/// in the order in which the kernel must be given them.
pub(crate) fn merge(chain: &[Arc<Layer>], out: &File, path: &Path) -> Result<Vec<PathBuf>> {
    let top_first = chain.iter().rev().cloned().collect();
    let mut merge = Merge { layers: top_first, devices: Devices::default(), nodes: HashMap::new() };
    let tree = Tree::new(chain.to_vec());
    let root = tree.root()?.ok_or_else(|| Error::invalid("a chain of no layers has no tree"))?;
    let image = merge.image(&tree, &root)?;
    write_merged(&image, chain_digest(chain.iter().map(|layer| &layer.id)), &merge.devices.slots, out, path)?;
    Ok(merge.devices.paths)
}

struct Merge {
    /// Top first.
    layers: Vec<Arc<Layer>>,
    devices: Devices,
    /// Files with several names, by layer and inode.
    nodes: HashMap<(usize, Nid), NodeId>,
}

impl Merge {
    fn image(&mut self, tree: &Tree, root: &Entry) -> Result<Image> {
        let mut image = Image::new(meta(&root.metadata));
        image.set_xattrs(image.root(), tree.xattrs(root)?)?;
        let mut todo = vec![(root.clone(), image.root())];
        while let Some((directory, node)) = todo.pop() {
            for (name, entry) in tree.read_dir(&directory)? {
                let child = self.node(&mut image, tree, &entry)?;
                image.put(node, &name, child)?;
                if entry.is_dir() {
                    todo.push((entry, child));
                }
            }
        }
        Ok(image)
    }

    fn node(&mut self, image: &mut Image, tree: &Tree, entry: &Entry) -> Result<NodeId> {
        let place = entry.place_in_layer().ok_or_else(|| Error::internal("a file of a chain lies in no layer"))?;
        let shared = !entry.is_dir() && entry.metadata.links > 1;
        if let Some(node) = self.nodes.get(&place).filter(|_| shared) {
            return Ok(*node);
        }
        let (metadata, body) = (entry.metadata, meta(&entry.metadata));
        let (major, minor) = metadata.device;
        let node = match metadata.kind {
            FileKind::File if metadata.size > 0 => self.file(image, &metadata, place)?,
            FileKind::File => image.add(body, Body::File { size: 0, segments: &[] })?,
            FileKind::Dir => image.add(body, Body::Dir)?,
            FileKind::Symlink => image.add(body, Body::Symlink(&tree.read_link(entry)?))?,
            FileKind::CharDevice => image.add(body, Body::CharDevice(major, minor))?,
            FileKind::BlockDevice => image.add(body, Body::BlockDevice(major, minor))?,
            FileKind::Fifo => image.add(body, Body::Fifo)?,
            FileKind::Socket => image.add(body, Body::Socket)?,
        };
        image.set_xattrs(node, tree.xattrs(entry)?)?;
        if shared {
            image.set_links(node, metadata.links);
            self.nodes.insert(place, node);
        }
        Ok(node)
    }

    fn file(&mut self, image: &mut Image, metadata: &Metadata, (number, nid): (usize, Nid)) -> Result<NodeId> {
        let layer = Arc::clone(&self.layers[number]);
        if layer.index.block_bits() != BLOCK_BITS {
            return Err(Error::unsupported(format!("layer {} has blocks of another size than 512", layer.id)));
        }
        let (bits, sources) = layer.index.chunks(nid)?;
        let chunks = sources.iter().map(|source| self.devices.at(number, &layer, *source)).collect::<Result<Box<[_]>>>()?;
        match *chunks {
            [only] if only != HOLE => image.add_piece(meta(metadata), metadata.size, only),
            _ => image.add_table(meta(metadata), metadata.size, ChunkTable { bits, chunks }),
        }
    }
}

fn meta(metadata: &Metadata) -> Meta {
    Meta {
        mode: metadata.permissions(),
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime,
        mtime_nanos: metadata.mtime_nanos,
    }
}

/// The files that the index points into, in the order in which they were needed.
#[derive(Default)]
struct Devices {
    numbers: HashMap<(usize, bool), u16>,
    slots: Vec<Device>,
    paths: Vec<PathBuf>,
}

impl Devices {
    fn at(&mut self, layer_number: usize, layer: &Layer, source: Source) -> Result<ChunkAt> {
        let (offset, in_index) = match source {
            Source::Hole => return Ok(HOLE),
            Source::Data(offset) => (offset, false),
            Source::Index(offset) => (offset, true),
        };
        let block = u32::try_from(offset >> BLOCK_BITS).map_err(|_| Error::invalid("a file lies behind 2 TiB of its layer"))?;
        Ok(ChunkAt { device: self.number(layer_number, layer, in_index)?, block })
    }

    fn number(&mut self, layer_number: usize, layer: &Layer, in_index: bool) -> Result<u16> {
        if let Some(number) = self.numbers.get(&(layer_number, in_index)) {
            return Ok(*number);
        }
        let size = if in_index { layer.index.size() } else { u64::from(layer.index.tar_blocks()) << BLOCK_BITS };
        self.slots.push(Device { tag: layer.id.0, size });
        self.paths.push(layer.dir.join(if in_index { "index" } else { "data" }));
        let number = u16::try_from(self.slots.len()).map_err(|_| Error::unsupported("a chain of more than 65,535 layers"))?;
        self.numbers.insert((layer_number, in_index), number);
        Ok(number)
    }
}
