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
    NULL_BLOCK, SUPER_OFFSET, SUPER_SIZE, TAR_DEVICE, VOLUME_NAME, crc32c,
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
    let block = 1u64 << params.block_bits;
    let tar_blocks = blocks(params.data_size, block)?;
    let first_inode = (DEVICE_SLOT_NUMBER * DEVICE_SLOT + DEVICE_SLOT).next_multiple_of(block.max(SUPER_OFFSET + 512));
    let layout = Layout::of(image, first_inode, block)?;
    if layout.end > params.most {
        return Err(too_large(params.most));
    }
    let out = BufWriter::with_capacity(1 << 18, out);
    let mut output = Output { image, layout: &layout, data, data_start: params.data_start, out, path, at: 0 };
    output.superblock(params, tar_blocks)?;
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
    data: &'a File,
    data_start: u64,
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

    fn superblock(&mut self, params: &Params, tar_blocks: u32) -> Result<()> {
        let layout = self.layout;
        let sum_size = if layout.block > SUPER_OFFSET { layout.block - SUPER_OFFSET } else { layout.block };
        let mut raw = Vec::with_capacity(sum_size as usize);
        raw.extend(MAGIC.to_le_bytes());
        raw.extend([0; 4]);
        raw.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        raw.extend([params.block_bits, 0]);
        raw.extend((layout.nid[0] as u16).to_le_bytes());
        raw.extend((layout.order.len() as u64).to_le_bytes());
        raw.extend([0; 12]);
        raw.extend(blocks(layout.end, layout.block)?.to_le_bytes());
        raw.extend([0; 8]);
        raw.extend(uuid(&params.data_digest));
        raw.extend(VOLUME_NAME);
        raw.extend((INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        raw.extend([0; 2]);
        raw.extend(1u16.to_le_bytes());
        raw.extend((DEVICE_SLOT_NUMBER as u16).to_le_bytes());
        raw.resize(SUPER_SIZE, 0);
        raw.extend(params.data_digest.hex().as_bytes());
        raw.extend(tar_blocks.to_le_bytes());
        raw.resize(sum_size as usize, 0);
        let checksum = crc32c(&raw);
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
                Body::Chunks(_) | Body::Empty => self.image.inodes[node as usize].size,
            };
            let (layout, field) = match &body {
                Body::Empty => (LAYOUT_PLAIN, self.image.inodes[node as usize].packed_device()),
                Body::Inline(_) => (LAYOUT_INLINE, 0),
                Body::Blocks(_) => (LAYOUT_PLAIN, blocks(next_block, self.layout.block)?),
                Body::Chunks(plan) => (LAYOUT_CHUNKS, CHUNK_INDEXES | plan.bits),
            };
            self.inode(id, number, layout, field, size)?;
            match body {
                Body::Inline(_) => self.own_bytes(id)?,
                Body::Chunks(plan) => {
                    self.pad(self.at.next_multiple_of(CHUNK_INDEX))?;
                    let index = with_segments(self.image, id, |segments| {
                        chunk_index(chunks(size, segments, self.layout.block, plan), self.layout.block, next_block)
                    })?;
                    self.put(&index)?;
                    next_block += plan.copied;
                }
                Body::Blocks(length) => next_block += length.next_multiple_of(self.layout.block),
                Body::Empty => {}
            }
        }
        Ok(())
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
                Body::Empty | Body::Inline(_) | Body::Chunks(_) => {}
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
        let origin = self.at;
        let mut buffer = [0u8; 4096];
        let from = segments.partition_point(|s| s.file_offset + s.length <= start);
        for segment in segments[from..].iter().take_while(|s| s.file_offset < end) {
            let mut at = segment.file_offset.max(start);
            let stop = (segment.file_offset + segment.length).min(end);
            self.pad(origin + (at - start))?;
            while at < stop {
                let part = &mut buffer[..(stop - at).min(4096) as usize];
                let from = self.data_start + segment.data_offset + (at - segment.file_offset);
                self.data.read_exact_at(part, from).at("read", "layer data")?;
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
fn chunk_index(chunks: impl Iterator<Item = Chunk>, block: u64, mut next_block: u64) -> Result<Vec<u8>> {
    let mut index = Vec::new();
    for chunk in chunks {
        let (device, number) = match chunk {
            Chunk::Hole => (0, NULL_BLOCK),
            Chunk::Data(at) => (TAR_DEVICE, blocks(at, block)?),
            Chunk::Copy(start, end) => {
                let number = blocks(next_block, block)?;
                next_block += (end - start).next_multiple_of(block);
                (0, number)
            }
        };
        index.extend([0; 2]);
        index.extend(device.to_le_bytes());
        index.extend(number.to_le_bytes());
    }
    Ok(index)
}

/// A UUID of version 8 (RFC 9562: vendor-specific) from a digest. overlayfs tells lower layers apart by it.
fn uuid(digest: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
