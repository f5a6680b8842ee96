//! Reads an index. The bytes are not trusted: every access is checked, and nothing here panics or loops on them.

use std::borrow::Cow;
use std::path::Path;

use fs_base::sys::map::Map;
use fs_base::{Digest, Error, IoContext, Result};

use super::format::{
    BLOCK_BITS_RANGE, CHUNK_BITS_MASK, CHUNK_INDEX, CHUNK_INDEXES, DEVICE_SLOT, DEVICE_SLOT_NUMBER, DIRENT, FORMAT_EXTENDED,
    INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE, INODE_SIZE, INODE_SLOT, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC,
    NULL_BLOCK, SUPER_OFFSET, TAR_DEVICE, VOLUME_NAME, crc32c, decode_device,
};
use super::model::{Extent, FileKind, Source};
use super::xattr;
use crate::metadata::Metadata;

/// Names an inode in one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(pub u64);

/// What an inode says of its file, and where the rest of it lies.
struct Inode {
    metadata: Metadata,
    layout: u16,
    field: u32,
    offset: u64,
    xattr_size: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub nid: Nid,
}

/// One layer's index, mapped.
#[derive(Debug)]
pub struct Index {
    map: Map,
    /// Bytes in a block.
    block: u64,
    root: Nid,
    inodes: u64,
    data_blocks: u32,
    data_digest: Digest,
}

impl Index {
    /// Opens an index and checks its superblock.
    pub fn open(path: &Path) -> Result<Index> {
        let file = std::fs::File::open(path).at("open", path)?;
        if file.metadata().at("stat", path)?.len() < SUPER_OFFSET + 512 {
            return Err(bad("it is too short").context(path.display().to_string()));
        }
        Index::check(Map::of(&file, path)?).map_err(|e| e.context(path.display().to_string()))
    }

    fn check(map: Map) -> Result<Index> {
        let block_bits = map[SUPER_OFFSET as usize + 12];
        if u32_at(&map, SUPER_OFFSET as usize)? != MAGIC || !BLOCK_BITS_RANGE.contains(&block_bits) {
            return Err(bad("its superblock is damaged"));
        }
        let block = 1u64 << block_bits;
        let whole = map.whole();
        let summed = if block > SUPER_OFFSET { block - SUPER_OFFSET } else { block };
        let mut bytes = bytes_at(&map, SUPER_OFFSET, summed)?.to_vec();
        let checksum = u32_at(&bytes, 4)?;
        bytes[4..8].fill(0);
        if crc32c(&bytes) != checksum || map.whole() != whole {
            return Err(bad("its superblock is damaged"));
        }
        if bytes[64..80] != VOLUME_NAME || u32_at(&bytes, 80)? != INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE {
            return Err(bad("it was written by another version"));
        }
        if u64::from(u32_at(&bytes, 36)?) * block != map.len() as u64 {
            return Err(bad("its size is not what its superblock says"));
        }
        let slot = (DEVICE_SLOT_NUMBER * DEVICE_SLOT - SUPER_OFFSET) as usize;
        let tag = std::str::from_utf8(&bytes[slot..slot + 64]).map_err(|_| bad("its superblock is damaged"))?;
        Ok(Index {
            block,
            root: Nid(u64::from(u16_at(&bytes, 14)?)),
            inodes: u64_at(&bytes, 16)?,
            data_blocks: u32_at(&bytes, slot + 64)?,
            data_digest: Digest::from_hex(tag).map_err(|_| bad("its superblock is damaged"))?,
            map,
        })
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.root
    }

    /// How many inodes it says it has.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// Blocks of 512 bytes that the tar must have.
    pub fn tar_blocks(&self) -> u32 {
        (u64::from(self.data_blocks) * self.block / 512) as u32
    }

    /// Whether a tar of this size is one that this index can be for.
    pub fn fits(&self, data_size: u64) -> bool {
        data_size.div_ceil(self.block) == u64::from(self.data_blocks)
    }

    /// The digest of the tar that this index is for.
    pub fn data_digest(&self) -> Digest {
        self.data_digest
    }

    fn bytes(&self, at: u64, length: u64) -> Result<&[u8]> {
        bytes_at(&self.map[..self.map.whole()], at, length)
    }

    /// Runs what reads the mapping. What the file lacks by now reads as zeros: then the answer means nothing.
    fn reading<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.map.whole();
        let answer = read();
        if self.map.whole() == before { answer } else { Err(bad("it was cut off, or its disk fails")) }
    }

    /// Bytes that the caller will read, looked at now.
    fn present(bytes: &[u8]) -> &[u8] {
        // A page is no smaller than this.
        for byte in bytes.iter().step_by(4096).chain(bytes.last()) {
            std::hint::black_box(*byte);
        }
        bytes
    }

    /// The metadata of one file.
    pub fn inode(&self, nid: Nid) -> Result<Metadata> {
        self.reading(|| self.read_inode(nid).map(|inode| inode.metadata))
    }

    fn read_inode(&self, nid: Nid) -> Result<Inode> {
        let offset = nid.0.checked_mul(INODE_SLOT).ok_or_else(|| bad("an inode number is out of range"))?;
        let raw = self.bytes(offset, INODE_SIZE)?;
        let format = u16_at(raw, 0)?;
        let mode = u32::from(u16_at(raw, 4)?);
        let kind = FileKind::of_mode(mode).ok_or_else(|| bad("an inode has no type"))?;
        if format & FORMAT_EXTENDED == 0 {
            return Err(bad("an inode has an unknown format"));
        }
        let field = u32_at(raw, 16)?;
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let metadata = Metadata {
            kind,
            mode,
            uid: u32_at(raw, 24)?,
            gid: u32_at(raw, 28)?,
            links: u32_at(raw, 44)?,
            size: u64_at(raw, 8)?,
            mtime: u64_at(raw, 32)? as i64,
            mtime_nanos: u32_at(raw, 40)?,
            device: if device { decode_device(field) } else { (0, 0) },
        };
        Ok(Inode { metadata, layout: format >> 1 & 7, field, offset, xattr_size: xattr::length(u16_at(raw, 2)?) as u64 })
    }

    /// The bytes of a directory or symlink.
    fn own_bytes(&self, inode: &Inode) -> Result<&[u8]> {
        match inode.layout {
            LAYOUT_INLINE => self.bytes(inode.offset + INODE_SIZE + inode.xattr_size, inode.metadata.size),
            LAYOUT_PLAIN => self.bytes(u64::from(inode.field) * self.block, inode.metadata.size),
            _ => Err(bad("an inode has an unknown layout")),
        }
    }

    fn directory(&self, nid: Nid) -> Result<&[u8]> {
        let inode = self.read_inode(nid)?;
        if inode.metadata.kind != FileKind::Dir {
            return Err(bad("a directory was expected"));
        }
        self.own_bytes(&inode)
    }

    /// The entry of this name. The blocks are searched as the kernel does it, by their first names.
    pub fn lookup(&self, directory: Nid, name: &[u8]) -> Result<Option<Nid>> {
        self.reading(|| self.search(directory, name))
    }

    fn search(&self, directory: Nid, name: &[u8]) -> Result<Option<Nid>> {
        let bytes = self.directory(directory)?;
        let size = self.block as usize;
        let blocks = bytes.len().div_ceil(size);
        let block = |n: usize| DirBlock::of(&bytes[n * size..bytes.len().min((n + 1) * size)]);
        let (mut low, mut high) = (0, blocks);
        while low < high {
            let middle = usize::midpoint(low, high);
            if block(middle)?.entry(0)?.name <= name { low = middle + 1 } else { high = middle }
        }
        let Some(candidate) = low.checked_sub(1) else { return Ok(None) };
        let block = block(candidate)?;
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = block.entry(middle)?;
            match entry.name.cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Some(entry.nid)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The entries of a directory in the order of their bytes, without `.` and `..`.
    pub fn read_dir(&self, directory: Nid) -> Result<Vec<DirEntry<'_>>> {
        self.reading(|| self.entries(directory))
    }

    fn entries(&self, directory: Nid) -> Result<Vec<DirEntry<'_>>> {
        let bytes = self.directory(directory)?;
        let mut entries = Vec::new();
        for chunk in bytes.chunks(self.block as usize) {
            let block = DirBlock::of(chunk)?;
            for number in 0..block.count {
                let entry = block.entry(number)?;
                if entry.name != b"." && entry.name != b".." {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    /// A symlink's target.
    pub fn read_link(&self, nid: Nid) -> Result<Cow<'_, [u8]>> {
        self.reading(|| {
            let inode = self.read_inode(nid)?;
            if inode.metadata.kind != FileKind::Symlink {
                return Err(bad("a symlink was expected"));
            }
            self.own_bytes(&inode).map(Index::present).map(Cow::Borrowed)
        })
    }

    /// All extended attributes by full name.
    pub fn xattrs(&self, nid: Nid) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.reading(|| {
            let inode = self.read_inode(nid)?;
            if inode.xattr_size == 0 {
                return Ok(Vec::new());
            }
            let bytes = self.bytes(inode.offset + INODE_SIZE, inode.xattr_size)?;
            xattr::decode(bytes).ok_or_else(|| bad("extended attributes are out of range"))
        })
    }

    /// One extended attribute by full name.
    pub fn xattr(&self, nid: Nid, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.xattrs(nid)?.into_iter().find(|(n, _)| n == name).map(|(_, value)| value))
    }

    /// Where a regular file's bytes are: pieces in order, holes included, that cover its size.
    pub fn extents(&self, nid: Nid) -> Result<Vec<Extent>> {
        let inode = self.reading(|| self.read_inode(nid))?;
        if inode.metadata.kind != FileKind::File {
            return Err(bad("a regular file was expected"));
        }
        let mut extents: Vec<Extent> = Vec::new();
        self.reading(|| {
            self.for_each_chunk(&inode, |file_offset, length, source| match extents.last_mut() {
                Some(last) if follows(last, source) => last.length += length,
                _ => extents.push(Extent { file_offset, length, source }),
            })
        })?;
        Ok(extents)
    }

    /// A regular file's chunks as they were cut: log2 of the blocks in one, and where each lies.
    pub(crate) fn chunks(&self, nid: Nid) -> Result<(u32, Vec<Source>)> {
        let inode = self.reading(|| self.read_inode(nid))?;
        let mut chunks = Vec::new();
        self.reading(|| self.for_each_chunk(&inode, |_, _, source| chunks.push(source)))?;
        Ok((inode.field & CHUNK_BITS_MASK, chunks))
    }

    /// Calls `each` with every chunk's place in the file, its length and where it lies.
    fn for_each_chunk(&self, inode: &Inode, mut each: impl FnMut(u64, u64, Source)) -> Result<()> {
        if inode.metadata.size == 0 {
            return Ok(());
        }
        if inode.layout != LAYOUT_CHUNKS || inode.field & !(CHUNK_BITS_MASK | CHUNK_INDEXES) != 0 {
            return Err(bad("a file has an unknown layout"));
        }
        let chunk = self.block << (inode.field & CHUNK_BITS_MASK);
        let start = (inode.offset + INODE_SIZE + inode.xattr_size).next_multiple_of(CHUNK_INDEX);
        let count = inode.metadata.size.div_ceil(chunk);
        let table = self.bytes(start, count.checked_mul(CHUNK_INDEX).ok_or_else(|| bad("a file's size is out of range"))?)?;
        for (number, raw) in table.chunks_exact(CHUNK_INDEX as usize).enumerate() {
            let file_offset = number as u64 * chunk;
            let length = chunk.min(inode.metadata.size - file_offset);
            each(file_offset, length, self.source(u16_at(raw, 2)?, u32_at(raw, 4)?, length)?);
        }
        Ok(())
    }

    /// Log2 of the block size.
    pub(crate) fn block_bits(&self) -> u32 {
        self.block.trailing_zeros()
    }

    /// Bytes of the index itself.
    pub(crate) fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn source(&self, device: u16, block: u32, length: u64) -> Result<Source> {
        let at = u64::from(block) * self.block;
        match (device, block) {
            (_, NULL_BLOCK) => Ok(Source::Hole),
            (TAR_DEVICE, _) if at + length <= u64::from(self.data_blocks) * self.block => Ok(Source::Data(at)),
            (0, _) => self.bytes(at, length).map(|_| Source::Index(at)),
            _ => Err(bad("a file's data is out of range")),
        }
    }

    /// Bytes of the index itself, for [`Source::Index`].
    pub fn raw(&self, at: u64, length: u64) -> Result<&[u8]> {
        self.reading(|| self.bytes(at, length).map(Index::present))
    }
}

fn follows(last: &Extent, next: Source) -> bool {
    match (last.source, next) {
        (Source::Hole, Source::Hole) => true,
        (Source::Data(a), Source::Data(b)) | (Source::Index(a), Source::Index(b)) => a + last.length == b,
        _ => false,
    }
}

/// One block of a directory.
struct DirBlock<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> DirBlock<'a> {
    fn of(bytes: &'a [u8]) -> Result<DirBlock<'a>> {
        let first = usize::from(u16_at(bytes, 8)?);
        if first < DIRENT || first % DIRENT != 0 || first > bytes.len() {
            return Err(bad("a directory block is damaged"));
        }
        Ok(DirBlock { bytes, count: first / DIRENT })
    }

    fn entry(&self, number: usize) -> Result<DirEntry<'a>> {
        let at = number * DIRENT;
        let start = usize::from(u16_at(self.bytes, at + 8)?);
        let end = if number + 1 < self.count { usize::from(u16_at(self.bytes, at + DIRENT + 8)?) } else { self.bytes.len() };
        let name = self.bytes.get(start..end).ok_or_else(|| bad("a name is out of range"))?;
        // The last name of a block that is not full ends at a zero.
        let name = name.split(|&b| b == 0).next().unwrap_or(name);
        if name.is_empty() || name.contains(&b'/') {
            return Err(bad("a directory has an impossible name"));
        }
        Ok(DirEntry { name, nid: Nid(u64_at(self.bytes, at)?) })
    }
}

fn bad(what: &str) -> Error {
    Error::corrupt(format!("the layer's index can't be used: {what}")).with_hint("remove the image and load it again")
}

fn bytes_at(bytes: &[u8], at: u64, length: u64) -> Result<&[u8]> {
    let end = at.checked_add(length).ok_or_else(|| bad("an offset is out of range"))?;
    let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
    range.and_then(|(at, end)| bytes.get(at..end)).ok_or_else(|| bad("an offset is out of range"))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or_else(|| bad("it ends too early"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}
