//! Writes a [`Image`] as an EROFS index.
//!
//! The places are settled first ([`super::layout`]); then the bytes go out in one sweep: superblock, inodes with
//! what follows each of them, and the blocks of large directories, long symlinks and copied chunks. Nothing here
//! takes a clock or a random number: the same tar gives the same bytes, which is how a check verifies an index.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_base::{Digest, Error, IoContext, Result};

use super::chunks::{Chunk, chunks};
use super::format::{
    BLOCK_BITS, CHUNK_INDEX, CHUNK_INDEXES, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_SLOT, DEVICE_SLOT_NUMBER, DIRENT,
    FORMAT_EXTENDED, INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE, INODE_SLOT, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC,
    MERGED_VOLUME_NAME, NULL_BLOCK, SUPER_OFFSET, SUPER_SIZE, VOLUME_NAME, crc32c,
};
use super::image::{Image, NodeId, Segment};
use super::layout::{Body, Layout, with_segments};
use super::model::FileKind;
use super::xattr;

/// What an index says of its tar, and how large it may be.
#[derive(Debug, Clone, Copy)]
pub struct Params {
    /// Bytes of the tar.
    pub data_size: u64,
    /// Where the tar begins in the file that holds it. Offsets in the index count from there.
    pub data_start: u64,
    /// The tar's digest: it becomes the device's tag and the image's UUID.
    pub data_digest: Digest,
    /// Most bytes that the index may have.
    pub most: u64,
    /// Log2 of the block size. Always `BLOCK_BITS`, but where a tool is to read the image that knows only 4096.
    pub block_bits: u8,
}

impl Params {
    /// For the tar with this digest and size.
    pub fn new(data_digest: Digest, data_size: u64) -> Params {
        Params { data_size, data_start: 0, data_digest, most: u64::MAX, block_bits: BLOCK_BITS }
    }
}

/// What [`write()`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the index.
    pub size: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of the regular files that can be reached, holes included, hard links once.
    pub file_bytes: u64,
}

/// Writes the index of `image`, whose data lies in `data`, to `out`; `path` is for errors.
pub fn write(image: &Image, params: &Params, data: &File, out: &File, path: &Path) -> Result<Written> {
    let devices = [Device { tag: params.data_digest, size: params.data_size }];
    let Params { most, block_bits, .. } = *params;
    let head = Head { uuid: params.data_digest, volume: VOLUME_NAME, devices: &devices, most, block_bits };
    write_with(image, &head, Some((data, params.data_start)), out, path)
}

/// Writes an index whose files were cut before and lie on `devices`, numbered from 1. `uuid` becomes the image's.
pub(crate) fn write_merged(image: &Image, uuid: Digest, devices: &[Device], out: &File, path: &Path) -> Result<Written> {
    let head = Head { uuid, volume: MERGED_VOLUME_NAME, devices, most: u64::MAX, block_bits: BLOCK_BITS };
    write_with(image, &head, None, out, path)
}

/// A file that an index points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    /// What it is told apart by.
    pub tag: Digest,
    /// Its bytes.
    pub size: u64,
}

/// What stands at the head of an index.
struct Head<'a> {
    uuid: Digest,
    volume: [u8; 16],
    devices: &'a [Device],
    most: u64,
    block_bits: u8,
}

impl Head<'_> {
    /// Where the table of devices ends.
    fn end(&self) -> u64 {
        (DEVICE_SLOT_NUMBER + self.devices.len() as u64) * DEVICE_SLOT
    }
}

fn write_with(image: &Image, head: &Head<'_>, data: Option<(&File, u64)>, out: &File, path: &Path) -> Result<Written> {
    let block = 1u64 << head.block_bits;
    let first_inode = head.end().max(SUPER_OFFSET + 512).next_multiple_of(block);
    if first_inode / INODE_SLOT > u64::from(u16::MAX) {
        return Err(Error::unsupported(format!("an index over {} files can't be written", head.devices.len())));
    }
    let layout = Layout::of(image, first_inode, block)?;
    if layout.end > head.most {
        return Err(too_large(head.most));
    }
    let out = BufWriter::with_capacity(1 << 18, out);
    let mut output = Output { image, layout: &layout, data, out, path, at: 0 };
    output.superblock(head)?;
    output.inodes()?;
    output.blocks()?;
    output.out.flush().at("write", path)?;
    Ok(Written { size: layout.end, inodes: layout.order.len() as u64, file_bytes: output.file_bytes() })
}

/// The error of an index that would pass its bound.
pub(super) fn too_large(most: u64) -> Error {
    Error::invalid(format!("the layer's index would take more than {most} bytes")).with_hint(
        "the layer has very many entries, attributes or pieces of sparse files: if you trust it, raise the daemon's `limits`",
    )
}

fn blocks(bytes: u64, block: u64) -> Result<u32> {
    u32::try_from(bytes.div_ceil(block)).map_err(|_| Error::invalid("a layer of more than 2 TiB can't be indexed"))
}

struct Output<'a> {
    image: &'a Image,
    layout: &'a Layout,
    /// Where copied chunks come from, and where the tar begins there; nothing where all files were cut before.
    data: Option<(&'a File, u64)>,
    out: BufWriter<&'a File>,
    path: &'a Path,
    /// Bytes put out so far.
    at: u64,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).at("write", self.path)
    }

    /// Zeros up to an offset.
    fn pad(&mut self, to: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < to {
            self.put(&ZEROS[..(to - self.at).min(4096) as usize])?;
        }
        Ok(())
    }

    fn superblock(&mut self, head: &Head<'_>) -> Result<()> {
        let layout = self.layout;
        let sum_size = if layout.block > SUPER_OFFSET { layout.block - SUPER_OFFSET } else { layout.block };
        let mut raw = Vec::with_capacity(sum_size as usize);
        raw.extend(MAGIC.to_le_bytes());
        raw.extend([0; 4]);
        raw.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        raw.extend([head.block_bits, 0]);
        raw.extend((layout.nid[0] as u16).to_le_bytes());
        raw.extend((layout.order.len() as u64).to_le_bytes());
        raw.extend([0; 12]);
        raw.extend(blocks(layout.end, layout.block)?.to_le_bytes());
        raw.extend([0; 8]);
        raw.extend(uuid(&head.uuid));
        raw.extend(head.volume);
        raw.extend((INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        raw.extend([0; 2]);
        raw.extend((head.devices.len() as u16).to_le_bytes());
        raw.extend((DEVICE_SLOT_NUMBER as u16).to_le_bytes());
        raw.resize(SUPER_SIZE, 0);
        for device in head.devices {
            let start = raw.len();
            raw.extend(device.tag.hex().as_bytes());
            raw.extend(blocks(device.size, layout.block)?.to_le_bytes());
            raw.resize(start + DEVICE_SLOT as usize, 0);
        }
        raw.resize(raw.len().max(sum_size as usize), 0);
        let checksum = crc32c(&raw[..sum_size as usize]);
        raw[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.pad(SUPER_OFFSET)?;
        self.put(&raw)
    }

    /// All inodes, each with its attributes and its inline data or chunk index.
    fn inodes(&mut self) -> Result<()> {
        // Blocks are given out in the same order in which `blocks` writes them.
        let mut next_block = self.layout.blocks_at;
        for (number, &node) in (1u32..).zip(&self.layout.order) {
            let id = NodeId(node);
            self.pad(u64::from(self.layout.nid[node as usize]) * INODE_SLOT)?;
            let body = self.layout.body(self.image, id);
            let size = match body {
                Body::Inline(length) | Body::Blocks(length) => length,
                Body::Chunks(_) | Body::Ready { .. } | Body::Empty => self.image.inodes[node as usize].size,
            };
            let (layout, field) = match &body {
                Body::Empty => (LAYOUT_PLAIN, self.image.inodes[node as usize].packed_device()),
                Body::Inline(_) => (LAYOUT_INLINE, 0),
                Body::Blocks(_) => (LAYOUT_PLAIN, blocks(next_block, self.layout.block)?),
                Body::Chunks(plan) => (LAYOUT_CHUNKS, CHUNK_INDEXES | plan.bits),
                Body::Ready { bits, .. } => (LAYOUT_CHUNKS, CHUNK_INDEXES | bits),
            };
            self.inode(id, number, layout, field, size)?;
            match body {
                Body::Inline(_) => self.own_bytes(id)?,
                Body::Chunks(plan) => {
                    self.pad(self.at.next_multiple_of(CHUNK_INDEX))?;
                    let (block, device) = (self.layout.block, self.image.inodes[node as usize].device);
                    let index = with_segments(self.image, id, |segments| {
                        chunk_index(chunks(size, segments, block, plan), device, block, next_block)
                    })?;
                    self.put(&index)?;
                    next_block += plan.copied;
                }
                Body::Ready { .. } => self.ready_index(id)?,
                Body::Blocks(length) => next_block += length.next_multiple_of(self.layout.block),
                Body::Empty => {}
            }
        }
        Ok(())
    }

    /// The chunk index that a file came with.
    fn ready_index(&mut self, id: NodeId) -> Result<()> {
        self.pad(self.at.next_multiple_of(CHUNK_INDEX))?;
        let mut index = Vec::new();
        for chunk in self.image.table(id).iter().flat_map(|table| &table.chunks) {
            put_chunk(&mut index, chunk.device, chunk.block);
        }
        self.put(&index)
    }

    fn inode(&mut self, id: NodeId, number: u32, layout: u16, field: u32, size: u64) -> Result<()> {
        let image = self.image;
        let inode = &image.inodes[id.0 as usize];
        let xattrs = image.encoded_xattrs(id);
        let mut raw = Vec::with_capacity(64 + xattrs.len());
        raw.extend((FORMAT_EXTENDED | layout << 1).to_le_bytes());
        raw.extend(xattr::count(xattrs.len()).to_le_bytes());
        raw.extend(inode.mode.to_le_bytes());
        raw.extend([0; 2]);
        raw.extend(size.to_le_bytes());
        raw.extend(field.to_le_bytes());
        raw.extend(number.to_le_bytes());
        raw.extend(inode.uid.to_le_bytes());
        raw.extend(inode.gid.to_le_bytes());
        raw.extend(inode.mtime.to_le_bytes());
        raw.extend(inode.mtime_nanos.to_le_bytes());
        raw.extend(self.layout.links[id.0 as usize].to_le_bytes());
        raw.extend([0; 16]);
        raw.extend_from_slice(xattrs);
        self.put(&raw)
    }

    /// The blocks of what is not kept beside its inode.
    fn blocks(&mut self) -> Result<()> {
        for &node in &self.layout.order {
            let id = NodeId(node);
            match self.layout.body(self.image, id) {
                Body::Blocks(_) => {
                    self.pad(self.at.next_multiple_of(self.layout.block))?;
                    self.own_bytes(id)?;
                }
                Body::Chunks(plan) if plan.copied > 0 => {
                    let size = self.image.inodes[node as usize].size;
                    with_segments(self.image, id, |segments| {
                        for chunk in chunks(size, segments, self.layout.block, plan) {
                            if let Chunk::Copy(start, end) = chunk {
                                self.pad(self.at.next_multiple_of(self.layout.block))?;
                                self.copy(segments, start, end)?;
                            }
                        }
                        Ok::<(), Error>(())
                    })?;
                }
                Body::Empty | Body::Inline(_) | Body::Chunks(_) | Body::Ready { .. } => {}
            }
        }
        self.pad(self.layout.end)
    }

    /// The bytes of a symlink or directory.
    fn own_bytes(&mut self, id: NodeId) -> Result<()> {
        let (image, layout) = (self.image, self.layout);
        if image.kind(id) == FileKind::Symlink {
            return self.put(image.target(id));
        }
        let mut raw: Vec<u8> = Vec::with_capacity(layout.block as usize);
        let mut is_first = true;
        layout.for_each_block(image, id, |names| {
            // Blocks before the last are full; the last is as long as it is.
            if !std::mem::take(&mut is_first) {
                self.pad(self.at.next_multiple_of(layout.block))?;
            }
            raw.clear();
            let mut name_offset = names.len() * DIRENT;
            for (name, child) in names {
                raw.extend(u64::from(layout.nid[*child as usize]).to_le_bytes());
                raw.extend((name_offset as u16).to_le_bytes());
                raw.extend([image.kind(NodeId(*child)).dirent_type(), 0]);
                name_offset += name.len();
            }
            for (name, _) in names {
                raw.extend_from_slice(name);
            }
            self.put(&raw)
        })
    }

    /// What of a file lies between `start` and `end`, holes as zeros.
    fn copy(&mut self, segments: &[Segment], start: u64, end: u64) -> Result<()> {
        let (data, data_start) = self.data.ok_or_else(|| Error::internal("a chunk is to be copied from nowhere"))?;
        let origin = self.at;
        let mut buffer = [0u8; 4096];
        let from = segments.partition_point(|s| s.file_offset + s.length <= start);
        for segment in segments[from..].iter().take_while(|s| s.file_offset < end) {
            let mut at = segment.file_offset.max(start);
            let stop = (segment.file_offset + segment.length).min(end);
            self.pad(origin + (at - start))?;
            while at < stop {
                let part = &mut buffer[..(stop - at).min(4096) as usize];
                let from = data_start + segment.data_offset + (at - segment.file_offset);
                data.read_exact_at(part, from).at("read", "layer data")?;
                at += part.len() as u64;
                self.put(part)?;
            }
        }
        self.pad(origin + (end - start))
    }

    fn file_bytes(&self) -> u64 {
        let sizes = self.layout.order.iter().map(|&node| match self.image.kind(NodeId(node)) {
            FileKind::File => self.image.inodes[node as usize].size,
            _ => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

/// The index of a file's chunks, of which those to be copied go to `next_block` and behind.
fn chunk_index(chunks: impl Iterator<Item = Chunk>, data: u16, block: u64, mut next_block: u64) -> Result<Vec<u8>> {
    let mut index = Vec::new();
    for chunk in chunks {
        let (device, number) = match chunk {
            Chunk::Hole => (0, NULL_BLOCK),
            Chunk::Data(at) => (data, blocks(at, block)?),
            Chunk::Copy(start, end) => {
                let number = blocks(next_block, block)?;
                next_block += (end - start).next_multiple_of(block);
                (0, number)
            }
        };
        put_chunk(&mut index, device, number);
    }
    Ok(index)
}

fn put_chunk(index: &mut Vec<u8>, device: u16, block: u32) {
    index.extend([0; 2]);
    index.extend(device.to_le_bytes());
    index.extend(block.to_le_bytes());
}

/// A UUID of version 8 (RFC 9562: vendor-specific) from a digest. overlayfs tells lower layers apart by it.
fn uuid(digest: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
