//! One layer's tree in memory, small per entry: what [`super::write`] makes an index from.
//!
//! About 64 bytes and the name for an entry, so that a layer of a million files still fits in 100 MB. A directory
//! has no list of its own: entries are `(parent, name) → inode` in one hash table, and are sorted when the index is
//! written. A name that is replaced, or whose directory is, just stays behind unreached.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use fs_base::{Error, Result};

use super::format::{encode_device, kind_of_mode};
use super::model::FileKind;
use super::xattr::{self, Xattr};

/// Names one inode of a [`Image`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

/// What every inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
}

/// Bytes of a file that lie in one piece in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub file_offset: u64,
    /// How many bytes, not zero.
    pub length: u64,
    /// Where in the tar.
    pub data_offset: u64,
}

/// What an inode is and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A regular file of `size` bytes; what is between its segments, which are sorted, reads as zeros.
    File {
        /// Size in bytes, holes included.
        size: u64,
        /// Where its data is.
        segments: &'a [Segment],
    },
    /// A directory.
    Dir,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A character device's major and minor number.
    CharDevice(u32, u32),
    /// A block device's major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// A tree; node 0 is its root directory.
#[derive(Debug)]
pub struct Image {
    pub(super) inodes: Vec<Packed>,
    pub(super) entries: Vec<PackedEntry>,
    /// Open addressing: index into `entries` plus one, or 0.
    slots: Vec<u32>,
    hasher: RandomState,
    /// Names and link targets.
    bytes: Vec<u8>,
    sparse: Vec<Sparse>,
    tables: Vec<ChunkTable>,
    /// Counts of names that are not those of this tree.
    links: HashMap<u32, u32>,
    xattrs: Vec<Box<[u8]>>,
    xattr_ids: HashMap<Box<[u8]>, u32>,
    weight: u64,
}

/// An inode.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub size: u64,
    pub mtime: i64,
    pub uid: u32,
    pub gid: u32,
    pub mtime_nanos: u32,
    content: Content,
    xattrs: u32,
    /// With the type bits.
    pub mode: u16,
    /// The device on which a file of one piece lies.
    pub device: u16,
}

/// A chunk of a file that has been cut already: the device that it is on, and its block there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkAt {
    pub device: u16,
    pub block: u32,
}

/// A file that has been cut already.
#[derive(Debug)]
pub(crate) struct ChunkTable {
    /// Log2 of the blocks in a chunk.
    pub bits: u32,
    /// All chunks in order.
    pub chunks: Box<[ChunkAt]>,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Nothing,
    /// The file is one piece at this block of 512 bytes of its device.
    Block(u32),
    Sparse(u32),
    /// Number of a ready chunk index in `tables`.
    Table(u32),
    /// Offset of a target in `bytes`; its length is the inode's size.
    Target(u32),
    Device(u32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PackedEntry {
    pub parent: u32,
    pub child: u32,
    name: u32,
    length: u8,
}

#[derive(Debug)]
struct Sparse {
    segments: Box<[Segment]>,
}

/// Data in a tar is aligned to this.
const TAR_BLOCK: u64 = 512;
/// No attributes.
const NONE: u32 = u32::MAX;

impl Image {
    /// A tree of a root directory.
    pub fn new(root: Meta) -> Image {
        let mut tree = Image {
            inodes: Vec::new(),
            entries: Vec::new(),
            slots: vec![0; 64],
            hasher: RandomState::new(),
            bytes: Vec::new(),
            sparse: Vec::new(),
            tables: Vec::new(),
            links: HashMap::new(),
            xattrs: Vec::new(),
            xattr_ids: HashMap::new(),
            weight: 0,
        };
        tree.inodes.push(Packed::new(root, FileKind::Dir, Content::Nothing, 0));
        tree
    }

    /// The root directory.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Bytes that this tree takes, about, and that its index will: for a bound on both.
    pub fn weight(&self) -> u64 {
        self.weight + 96 * self.inodes.len() as u64 + 32 * self.entries.len() as u64 + self.bytes.len() as u64
    }

    /// A new inode, as yet without a name.
    pub fn add(&mut self, meta: Meta, body: Body<'_>) -> Result<NodeId> {
        let (kind, size, content) = match body {
            Body::File { size, segments } => (FileKind::File, size, self.file_content(size, segments)?),
            Body::Dir => (FileKind::Dir, 0, Content::Nothing),
            Body::Symlink(target) => {
                let at = self.keep(target)?;
                (FileKind::Symlink, target.len() as u64, Content::Target(at))
            }
            Body::CharDevice(major, minor) => (FileKind::CharDevice, 0, device(major, minor)?),
            Body::BlockDevice(major, minor) => (FileKind::BlockDevice, 0, device(major, minor)?),
            Body::Fifo => (FileKind::Fifo, 0, Content::Nothing),
            Body::Socket => (FileKind::Socket, 0, Content::Nothing),
        };
        self.push(Packed::new(meta, kind, content, size))
    }

    fn push(&mut self, inode: Packed) -> Result<NodeId> {
        let id = u32::try_from(self.inodes.len()).ok().filter(|&id| id != u32::MAX);
        let id = id.ok_or_else(|| Error::invalid("a layer of more than 4,294,967,294 files can't be indexed"))?;
        self.inodes.push(inode);
        Ok(NodeId(id))
    }

    /// A new regular file whose bytes are one piece on a device.
    pub(crate) fn add_piece(&mut self, meta: Meta, size: u64, at: ChunkAt) -> Result<NodeId> {
        self.push(Packed { device: at.device, ..Packed::new(meta, FileKind::File, Content::Block(at.block), size) })
    }

    /// A new regular file that has been cut already.
    pub(crate) fn add_table(&mut self, meta: Meta, size: u64, table: ChunkTable) -> Result<NodeId> {
        self.tables.push(table);
        self.push(Packed::new(meta, FileKind::File, Content::Table(self.tables.len() as u32 - 1), size))
    }

    /// The chunk index that a file came with.
    pub(super) fn table(&self, id: NodeId) -> Option<&ChunkTable> {
        match self.inodes[id.0 as usize].content {
            Content::Table(number) => Some(&self.tables[number as usize]),
            _ => None,
        }
    }

    /// Says how many names a file has, whatever this tree has of them.
    pub(crate) fn set_links(&mut self, id: NodeId, links: u32) {
        self.links.insert(id.0, links);
    }

    /// What [`Image::set_links`] said.
    pub(super) fn set_counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.links.iter().map(|(node, links)| (*node, *links))
    }

    fn file_content(&mut self, size: u64, segments: &[Segment]) -> Result<Content> {
        if size > i64::MAX as u64 {
            return Err(Error::invalid(format!("a file of {size} bytes can't be indexed")));
        }
        match segments {
            [] if size == 0 => Ok(Content::Nothing),
            [Segment { file_offset: 0, length, data_offset }] if *length == size && data_offset.is_multiple_of(TAR_BLOCK) => {
                let block = u32::try_from(data_offset / TAR_BLOCK);
                block.map(Content::Block).map_err(|_| Error::invalid("a layer of more than 2 TiB can't be indexed"))
            }
            _ => {
                self.weight += size_of_val(segments) as u64 + 32;
                self.sparse.push(Sparse { segments: segments.into() });
                Ok(Content::Sparse(self.sparse.len() as u32 - 1))
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = u32::try_from(self.bytes.len())
            .map_err(|_| Error::invalid("a layer with more than 4 GiB of names can't be indexed"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    /// What has this name.
    pub fn get(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let entry = self.slots[self.slot(directory.0, name)].checked_sub(1)?;
        Some(NodeId(self.entries[entry as usize].child))
    }

    /// Gives `child` a name, which must be 1 to 255 bytes; what had it before loses it.
    pub fn put(&mut self, directory: NodeId, name: &[u8], child: NodeId) -> Result<()> {
        let length = u8::try_from(name.len()).map_err(|_| Error::invalid("a name is longer than 255 bytes"))?;
        let slot = self.slot(directory.0, name);
        if let Some(entry) = self.slots[slot].checked_sub(1) {
            self.entries[entry as usize].child = child.0;
            return Ok(());
        }
        let name = self.keep(name)?;
        self.entries.push(PackedEntry { parent: directory.0, child: child.0, name, length });
        self.slots[slot] = self.entries.len() as u32;
        if self.entries.len() * 4 > self.slots.len() * 3 {
            self.grow();
        }
        Ok(())
    }

    /// The slot that holds this name, or the empty one where it belongs.
    fn slot(&self, parent: u32, name: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one((parent, name)) as usize & mask;
        loop {
            match self.slots[slot].checked_sub(1).map(|entry| self.entries[entry as usize]) {
                Some(entry) if entry.parent != parent || self.name(entry) != name => slot = (slot + 1) & mask,
                _ => return slot,
            }
        }
    }

    fn grow(&mut self) {
        self.slots = vec![0; self.slots.len() * 2];
        for (number, entry) in self.entries.iter().enumerate() {
            let slot = self.slot(entry.parent, self.name(*entry));
            self.slots[slot] = number as u32 + 1;
        }
    }

    pub(super) fn name(&self, entry: PackedEntry) -> &[u8] {
        &self.bytes[entry.name as usize..entry.name as usize + usize::from(entry.length)]
    }

    /// What it is.
    pub fn kind(&self, id: NodeId) -> FileKind {
        kind_of_mode(self.inodes[id.0 as usize].mode)
    }

    /// Its metadata.
    pub fn meta(&self, id: NodeId) -> Meta {
        let inode = &self.inodes[id.0 as usize];
        let mode = u32::from(inode.mode) & 0o7777;
        Meta { mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, mtime_nanos: inode.mtime_nanos }
    }

    /// Replaces its metadata.
    pub fn set_meta(&mut self, id: NodeId, meta: Meta) {
        let kind = self.kind(id);
        let inode = &mut self.inodes[id.0 as usize];
        *inode = Packed { xattrs: inode.xattrs, device: inode.device, ..Packed::new(meta, kind, inode.content, inode.size) };
    }

    /// What it holds.
    pub fn body(&self, id: NodeId) -> Body<'_> {
        let inode = &self.inodes[id.0 as usize];
        match self.kind(id) {
            FileKind::File => Body::File { size: inode.size, segments: self.segments(id) },
            FileKind::Dir => Body::Dir,
            FileKind::Symlink => Body::Symlink(self.target(id)),
            FileKind::CharDevice => Body::CharDevice(inode.device().0, inode.device().1),
            FileKind::BlockDevice => Body::BlockDevice(inode.device().0, inode.device().1),
            FileKind::Fifo => Body::Fifo,
            FileKind::Socket => Body::Socket,
        }
    }

    /// The target of a symbolic link; empty for all else.
    pub fn target(&self, id: NodeId) -> &[u8] {
        let inode = &self.inodes[id.0 as usize];
        match inode.content {
            Content::Target(at) => &self.bytes[at as usize..at as usize + inode.size as usize],
            _ => &[],
        }
    }

    /// Segments of a file that is not one aligned piece; see [`Packed::block`] for the others.
    pub(super) fn segments(&self, id: NodeId) -> &[Segment] {
        match self.inodes[id.0 as usize].content {
            Content::Sparse(number) => &self.sparse[number as usize].segments,
            _ => &[],
        }
    }

    /// Replaces its extended attributes, given by full name. Equal sets are kept once.
    pub fn set_xattrs(&mut self, id: NodeId, xattrs: Vec<Xattr>) -> Result<()> {
        let encoded: Box<[u8]> = xattr::encode(xattrs)?.into();
        let known = if encoded.is_empty() { Some(NONE) } else { self.xattr_ids.get(&encoded).copied() };
        self.weight += if known.is_some() { encoded.len() as u64 } else { 3 * encoded.len() as u64 + 64 };
        self.inodes[id.0 as usize].xattrs = known.unwrap_or_else(|| {
            let number = self.xattrs.len() as u32;
            self.xattrs.push(encoded.clone());
            self.xattr_ids.insert(encoded, number);
            number
        });
        Ok(())
    }

    /// Its extended attributes by full name, sorted.
    pub fn xattrs(&self, id: NodeId) -> Vec<Xattr> {
        xattr::decode(self.encoded_xattrs(id)).unwrap_or_default()
    }

    pub(super) fn encoded_xattrs(&self, id: NodeId) -> &[u8] {
        self.xattrs.get(self.inodes[id.0 as usize].xattrs as usize).map_or(&[], |bytes| bytes)
    }
}

impl Packed {
    fn new(meta: Meta, kind: FileKind, content: Content, size: u64) -> Packed {
        Packed {
            size,
            mtime: meta.mtime,
            uid: meta.uid,
            gid: meta.gid,
            mtime_nanos: meta.mtime_nanos,
            content,
            xattrs: NONE,
            device: super::format::TAR_DEVICE,
            mode: (kind.mode_bits() | meta.mode & 0o7777) as u16,
        }
    }

    /// Where in the tar, in blocks of 512 bytes, a file lies that is one piece.
    pub(super) fn block(&self) -> Option<u32> {
        match self.content {
            Content::Block(block) => Some(block),
            _ => None,
        }
    }

    /// The device number as the kernel packs it; 0 for what is no device.
    pub(super) fn packed_device(&self) -> u32 {
        match self.content {
            Content::Device(device) => device,
            _ => 0,
        }
    }

    fn device(&self) -> (u32, u32) {
        super::format::decode_device(self.packed_device())
    }
}

fn device(major: u32, minor: u32) -> Result<Content> {
    encode_device(major, minor)
        .map(Content::Device)
        .ok_or_else(|| Error::invalid(format!("device number {major}:{minor} is out of the kernel's range")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };

    #[test]
    fn an_entry_is_as_small_as_promised() {
        assert_eq!(size_of::<Packed>() + size_of::<PackedEntry>(), 48 + 16);
    }

    #[test]
    fn the_table_finds_every_name_and_the_latest_child() {
        let mut tree = Image::new(META);
        let dirs: Vec<_> = (0..3).map(|_| tree.add(META, Body::Dir).unwrap()).collect();
        for n in 0..3000u32 {
            let file = tree.add(META, Body::Fifo).unwrap();
            tree.put(dirs[n as usize % 3], format!("name-{}", n / 3).as_bytes(), file).unwrap();
        }
        assert_eq!(tree.get(dirs[1], b"name-7"), Some(NodeId(1 + 3 + 22)));
        tree.put(dirs[1], b"name-7", dirs[0]).unwrap();
        assert_eq!(tree.get(dirs[1], b"name-7"), Some(dirs[0]));
        assert_eq!(tree.get(dirs[1], b"name-1000"), None);
        assert_eq!(tree.entries.len(), 3000);
        assert!(tree.put(dirs[0], &[b'x'; 256], dirs[1]).is_err());
    }
}
