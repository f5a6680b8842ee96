//! Writes an [`Image`] as an EROFS index.
//!
//! Two passes over the tree: the first gives every inode its place (a directory's children lie side by side, so
//! that a `find` reads ahead), the second fills the bytes in. The image is built in memory: its size follows the
//! count of entries, never the size of files.

use std::os::unix::fs::FileExt;

use fs_base::{Error, IoContext, Result};

use super::format::{
    BLOCK, BLOCK_BITS, CHUNK_INDEX, CHUNK_INDEXES, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_SLOT, DEVICE_SLOT_NUMBER, DIRENT,
    FORMAT_EXTENDED, INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE, INODE_SIZE, INODE_SLOT, LAYOUT_CHUNKS, LAYOUT_INLINE,
    LAYOUT_PLAIN, MAGIC, META_BLOCK, NAME_MAX, NULL_BLOCK, SUPER_OFFSET, TAR_DEVICE, VOLUME_NAME, XATTR_ENTRY, XATTR_HEADER,
    XATTR_PREFIXES, crc32c, encode_device,
};
use super::model::{FileKind, Image, Node, NodeId};

/// Chunks of one file at most: 128 MiB of index. Only a sparse file of fine grain and immense size passes it.
const MOST_CHUNKS: u64 = 1 << 24;
/// A piece whose place in the tar is not aligned is copied into the index in chunks of this size.
const COPY_CHUNK: u64 = 4096;

/// What [`write`] made.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Bytes of the index.
    pub size: u64,
    /// Inodes in it.
    pub inodes: u64,
}

/// Makes the bytes of the index of `image`, whose data lies in `tar` (of `tar_size` bytes).
pub fn write(image: &Image, tar: &std::fs::File, tar_size: u64) -> Result<(Vec<u8>, Written)> {
    let tar_blocks =
        u32::try_from(tar_size.div_ceil(BLOCK)).map_err(|_| Error::invalid("a layer of more than 2 TiB can't be indexed"))?;
    let plan = Plan::of(image)?;
    let mut out = Output { bytes: vec![0; plan.end as usize], plan: &plan, image, tar };
    for (position, id) in plan.order.iter().enumerate() {
        out.inode(*id, position as u32 + 1)?;
    }
    let size = (out.bytes.len() as u64).next_multiple_of(BLOCK);
    out.bytes.resize(size as usize, 0);
    out.superblock(tar_blocks)?;
    let bytes = out.bytes;
    Ok((bytes, Written { size, inodes: plan.order.len() as u64 }))
}

/// Where everything goes.
struct Plan {
    /// Nodes in the order of their inodes.
    order: Vec<NodeId>,
    /// By node: the inode's offset in the image.
    offset: Vec<u64>,
    /// By node: its parent directory (the root is its own).
    parent: Vec<NodeId>,
    /// Where inodes end and blocks of directories begin.
    end: u64,
}

impl Plan {
    fn of(image: &Image) -> Result<Plan> {
        let root = NodeId(0);
        let mut plan = Plan {
            order: Vec::with_capacity(image.nodes.len()),
            offset: vec![0; image.nodes.len()],
            parent: vec![root; image.nodes.len()],
            end: META_BLOCK * BLOCK,
        };
        plan.place(image, root)?;
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            let first = directories.len();
            for (_, child) in &image.nodes[directory.0 as usize].children {
                if plan.offset[child.0 as usize] == 0 {
                    plan.place(image, *child)?;
                    plan.parent[child.0 as usize] = directory;
                    if image.nodes[child.0 as usize].kind == FileKind::Dir {
                        directories.push(*child);
                    }
                }
            }
            directories[first..].reverse();
        }
        plan.end = plan.end.next_multiple_of(BLOCK);
        Ok(plan)
    }

    fn place(&mut self, image: &Image, id: NodeId) -> Result<()> {
        let node = &image.nodes[id.0 as usize];
        let head = INODE_SIZE + xattr_size(node)? as u64;
        let mut at = self.end.next_multiple_of(INODE_SLOT);
        let tail = match Body::of(node)? {
            Body::Inline(bytes) => {
                // The kernel wants the tail in the block in which it begins.
                let start = (at + head) % BLOCK;
                if start + bytes as u64 > BLOCK || at % BLOCK + INODE_SIZE > BLOCK {
                    at = at.next_multiple_of(BLOCK);
                }
                bytes as u64
            }
            Body::Chunks { count, .. } => (at + head).next_multiple_of(CHUNK_INDEX) - (at + head) + count * CHUNK_INDEX,
            Body::Blocks | Body::Empty => 0,
        };
        self.offset[id.0 as usize] = at;
        self.order.push(id);
        self.end = at + head + tail;
        Ok(())
    }

    fn nid(&self, id: NodeId) -> u64 {
        (self.offset[id.0 as usize] - META_BLOCK * BLOCK) / INODE_SLOT
    }
}

/// How a node's data is kept.
enum Body {
    /// No data.
    Empty,
    /// This many bytes behind the inode.
    Inline(usize),
    /// In blocks of its own.
    Blocks,
    /// In the tar, or (`copied`) in pieces copied into the index.
    Chunks { bits: u32, count: u64, copied: bool },
}

impl Body {
    fn of(node: &Node) -> Result<Body> {
        let room = BLOCK as usize - INODE_SIZE as usize;
        let length = match node.kind {
            FileKind::File if node.size > 0 => return chunks(node),
            FileKind::Dir => directory_size(node),
            FileKind::Symlink => node.target.len(),
            _ => return Ok(Body::Empty),
        };
        // The attributes may end anywhere in a block; a tail that fits with all of them in one block always fits.
        let fits = length + xattr_size(node)? <= room;
        Ok(if fits { Body::Inline(length) } else { Body::Blocks })
    }
}

fn chunks(node: &Node) -> Result<Body> {
    let aligned = node.data.iter().all(|&(_, _, tar)| tar % BLOCK == 0);
    let whole = matches!(node.data[..], [(0, length, _)] if length == node.size) || node.data.is_empty();
    // The finest power of two that every piece begins and ends on; the last may end with the file.
    let mut grain = if whole { node.size.next_power_of_two() } else { 1 << 40 };
    for &(offset, length, _) in &node.data {
        grain = grain.min(lowest_bit(offset));
        if offset + length != node.size {
            grain = grain.min(lowest_bit(offset + length));
        }
    }
    let copied = !aligned || grain < BLOCK && !whole;
    let size = if copied { COPY_CHUNK } else { grain.clamp(BLOCK, 1 << 40) };
    let count = node.size.div_ceil(size);
    if count > MOST_CHUNKS {
        return Err(Error::invalid(format!("a sparse file of {} bytes in pieces of {size} can't be indexed", node.size)));
    }
    Ok(Body::Chunks { bits: size.trailing_zeros() - BLOCK_BITS, count, copied })
}

fn lowest_bit(n: u64) -> u64 {
    if n == 0 { 1 << 40 } else { n & n.wrapping_neg() }
}

struct Output<'a> {
    bytes: Vec<u8>,
    plan: &'a Plan,
    image: &'a Image,
    tar: &'a std::fs::File,
}

impl Output<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds `bytes` in blocks of their own and returns the first block's number.
    fn add_blocks(&mut self, bytes: &[u8]) -> Result<u32> {
        let start = (self.bytes.len() as u64).next_multiple_of(BLOCK);
        self.bytes.resize(start as usize, 0);
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize((self.bytes.len() as u64).next_multiple_of(BLOCK) as usize, 0);
        u32::try_from(start / BLOCK).map_err(|_| Error::invalid("a layer's index would pass 2 TiB"))
    }

    fn inode(&mut self, id: NodeId, number: u32) -> Result<()> {
        let (image, plan) = (self.image, self.plan);
        let node = &image.nodes[id.0 as usize];
        let at = plan.offset[id.0 as usize];
        let xattrs = xattr_bytes(node)?;
        let tail = at + INODE_SIZE + xattrs.len() as u64;
        let mut size = node.size;
        let (layout, field) = match Body::of(node)? {
            Body::Empty => (LAYOUT_PLAIN, special(node)),
            Body::Inline(_) => {
                let bytes = self.own_bytes(id);
                size = bytes.len() as u64;
                self.put(tail, &bytes);
                (LAYOUT_INLINE, 0)
            }
            Body::Blocks => {
                let bytes = self.own_bytes(id);
                size = bytes.len() as u64;
                (LAYOUT_PLAIN, self.add_blocks(&bytes)?)
            }
            Body::Chunks { bits, count, copied } => {
                let index = self.chunk_index(node, bits, count, copied)?;
                self.put(tail.next_multiple_of(CHUNK_INDEX), &index);
                (LAYOUT_CHUNKS, CHUNK_INDEXES | bits)
            }
        };
        self.put(at + INODE_SIZE, &xattrs);
        let count = if xattrs.is_empty() { 0 } else { 1 + (xattrs.len() - XATTR_HEADER) / 4 };
        let mut raw = Vec::with_capacity(INODE_SIZE as usize);
        raw.extend((FORMAT_EXTENDED | layout << 1).to_le_bytes());
        raw.extend((count as u16).to_le_bytes());
        raw.extend(((node.kind.mode_bits() | node.mode) as u16).to_le_bytes());
        raw.extend([0; 2]);
        raw.extend(size.to_le_bytes());
        raw.extend(field.to_le_bytes());
        raw.extend(number.to_le_bytes());
        raw.extend(node.uid.to_le_bytes());
        raw.extend(node.gid.to_le_bytes());
        raw.extend(node.mtime.to_le_bytes());
        raw.extend(node.mtime_nanos.to_le_bytes());
        raw.extend(node.links.to_le_bytes());
        raw.extend([0; 16]);
        self.put(at, &raw);
        Ok(())
    }

    /// The bytes of a symlink or directory.
    fn own_bytes(&self, id: NodeId) -> Vec<u8> {
        let node = &self.image.nodes[id.0 as usize];
        if node.kind == FileKind::Symlink {
            return node.target.clone();
        }
        let parent = self.plan.parent[id.0 as usize];
        let mut bytes = Vec::with_capacity(directory_size(node));
        for block in directory_blocks(node) {
            // Blocks before the last are full; the last is as long as it is.
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
            let mut name_offset = block.len() * DIRENT;
            let mut names = Vec::new();
            for (name, child) in &block {
                let target = child.unwrap_or(if *name == b"." { id } else { parent });
                bytes.extend(self.plan.nid(target).to_le_bytes());
                bytes.extend((name_offset as u16).to_le_bytes());
                bytes.extend([self.image.nodes[target.0 as usize].kind.dirent_type(), 0]);
                name_offset += name.len();
                names.extend_from_slice(name);
            }
            bytes.extend(names);
        }
        bytes
    }

    fn chunk_index(&mut self, node: &Node, bits: u32, count: u64, copied: bool) -> Result<Vec<u8>> {
        let chunk = BLOCK << bits;
        let mut index = Vec::with_capacity((count * CHUNK_INDEX) as usize);
        let mut pieces = node.data.iter().copied().peekable();
        for number in 0..count {
            let (start, end) = (number * chunk, ((number + 1) * chunk).min(node.size));
            while pieces.next_if(|&(offset, length, _)| offset + length <= start).is_some() {}
            let (device, block) = match pieces.peek() {
                Some(&(offset, ..)) if offset < end && copied => (0, self.copy_chunk(node, start, end)?),
                Some(&(offset, _, tar)) if offset < end => (TAR_DEVICE, ((tar + (start - offset)) / BLOCK) as u32),
                _ => (0, NULL_BLOCK),
            };
            index.extend([0; 2]);
            index.extend(device.to_le_bytes());
            index.extend(block.to_le_bytes());
        }
        Ok(index)
    }

    /// Copies what of a file lies between `start` and `end` into blocks of the index.
    fn copy_chunk(&mut self, node: &Node, start: u64, end: u64) -> Result<u32> {
        let mut bytes = vec![0; COPY_CHUNK as usize];
        for &(offset, length, tar) in &node.data {
            let (from, to) = (offset.max(start), (offset + length).min(end));
            if from < to {
                let part = &mut bytes[(from - start) as usize..(to - start) as usize];
                self.tar.read_exact_at(part, tar + (from - offset)).at("read", "layer data")?;
            }
        }
        self.add_blocks(&bytes)
    }

    fn superblock(&mut self, tar_blocks: u32) -> Result<()> {
        let blocks =
            u32::try_from(self.bytes.len() as u64 / BLOCK).map_err(|_| Error::invalid("a layer's index would pass 2 TiB"))?;
        let mut raw = Vec::with_capacity(128);
        raw.extend(MAGIC.to_le_bytes());
        raw.extend([0; 4]);
        raw.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        raw.extend([BLOCK_BITS as u8, 0]);
        raw.extend((self.plan.nid(NodeId(0)) as u16).to_le_bytes());
        raw.extend((self.plan.order.len() as u64).to_le_bytes());
        raw.extend([0; 12]);
        raw.extend(blocks.to_le_bytes());
        raw.extend((META_BLOCK as u32).to_le_bytes());
        raw.extend([0; 4]);
        raw.extend([0; 16]);
        raw.extend(VOLUME_NAME);
        raw.extend((INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        raw.extend([0; 2]);
        raw.extend(1u16.to_le_bytes());
        raw.extend((DEVICE_SLOT_NUMBER as u16).to_le_bytes());
        self.put(SUPER_OFFSET, &raw);
        self.put(DEVICE_SLOT_NUMBER * DEVICE_SLOT + 64, &tar_blocks.to_le_bytes());
        let block = SUPER_OFFSET as usize..(SUPER_OFFSET + BLOCK) as usize;
        let checksum = crc32c(&self.bytes[block]);
        self.put(SUPER_OFFSET + 4, &checksum.to_le_bytes());
        Ok(())
    }
}

/// What `i_u` holds for a file without data.
fn special(node: &Node) -> u32 {
    match node.kind {
        FileKind::CharDevice | FileKind::BlockDevice => encode_device(node.device.0, node.device.1),
        _ => 0,
    }
}

/// The names of a directory with `.` and `..` in their places, cut into blocks.
fn directory_blocks(node: &Node) -> Vec<Vec<(&[u8], Option<NodeId>)>> {
    let mut names: Vec<(&[u8], Option<NodeId>)> = Vec::with_capacity(node.children.len() + 2);
    names.extend(node.children.iter().map(|(name, id)| (name.as_slice(), Some(*id))));
    for dots in [b".".as_slice(), b".."] {
        let at = names.partition_point(|(name, _)| *name < dots);
        names.insert(at, (dots, None));
    }
    let mut blocks = vec![Vec::new()];
    let mut used = 0;
    for (name, id) in names {
        let need = DIRENT + name.len();
        if used + need > BLOCK as usize {
            blocks.push(Vec::new());
            used = 0;
        }
        used += need;
        if let Some(block) = blocks.last_mut() {
            block.push((name, id));
        }
    }
    blocks
}

/// The size of a directory's bytes: all blocks full but the last.
fn directory_size(node: &Node) -> usize {
    let blocks = directory_blocks(node);
    let last: usize = blocks.last().map_or(0, |block| block.iter().map(|(name, _)| DIRENT + name.len()).sum());
    (blocks.len() - 1) * BLOCK as usize + last
}

fn xattr_size(node: &Node) -> Result<usize> {
    if node.xattrs.is_empty() {
        return Ok(0);
    }
    let mut size = XATTR_HEADER;
    for (name, value) in &node.xattrs {
        let (_, rest) = split_name(name)?;
        size += (XATTR_ENTRY + rest.len() + value.len()).next_multiple_of(4);
    }
    if (size - XATTR_HEADER) / 4 >= usize::from(u16::MAX) {
        return Err(Error::invalid("a file has more than 256 KiB of extended attributes"));
    }
    Ok(size)
}

fn xattr_bytes(node: &Node) -> Result<Vec<u8>> {
    if node.xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; XATTR_HEADER];
    // No filter: all ones would say that no name is there, zero that any may be.
    for (name, value) in &node.xattrs {
        let (prefix, rest) = split_name(name)?;
        let value_size = u16::try_from(value.len()).map_err(|_| Error::invalid("an extended attribute of more than 64 KiB"))?;
        bytes.extend([rest.len() as u8, prefix]);
        bytes.extend(value_size.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Ok(bytes)
}

/// The number of a name's prefix, and the rest. Names that the kernel has no namespace for are an error: the
/// caller drops them first.
fn split_name(name: &[u8]) -> Result<(u8, &[u8])> {
    XATTR_PREFIXES
        .iter()
        .find_map(|&(number, prefix)| name.strip_prefix(prefix).map(|rest| (number, rest)))
        .filter(|(_, rest)| rest.len() <= NAME_MAX)
        .ok_or_else(|| Error::invalid(format!("extended attribute {:?} can't be stored", String::from_utf8_lossy(name))))
}
