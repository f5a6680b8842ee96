//! Numbers of the on-disk format, and how they lie in bytes.

use super::model::FileKind;

/// Log2 of our block size: 512, the alignment of data in a tar.
pub const BLOCK_BITS: u8 = 9;
/// Log2 of the block sizes that we read: up to 4096, the one that old tools know.
pub const BLOCK_BITS_RANGE: std::ops::RangeInclusive<u8> = BLOCK_BITS..=12;
/// Where the superblock starts.
pub const SUPER_OFFSET: u64 = 1024;
/// Its size.
pub const SUPER_SIZE: usize = 128;
/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// The superblock's checksum is valid.
pub const COMPAT_CHECKSUM: u32 = 1;
/// Inode times are modification times.
pub const COMPAT_MTIME: u32 = 2;
/// Files are chunk indexes.
pub const INCOMPAT_CHUNKED_FILE: u32 = 4;
/// There are external devices.
pub const INCOMPAT_DEVICE_TABLE: u32 = 8;
/// Size of a device slot, and the unit of its offset.
pub const DEVICE_SLOT: u64 = 128;
/// The slot lies right behind the superblock, inside its checksummed block.
pub const DEVICE_SLOT_NUMBER: u64 = (SUPER_OFFSET + SUPER_SIZE as u64) / DEVICE_SLOT;
/// An inode is named by its offset in the image, in these units (`meta_blkaddr` is 0, so that no inode has number
/// 0: user space takes that for "no file").
pub const INODE_SLOT: u64 = 32;
/// Size of an extended inode.
pub const INODE_SIZE: u64 = 64;
/// `i_format` bit 0: extended inode; the layout is in bits 1 to 3.
pub const FORMAT_EXTENDED: u16 = 1;
/// Data in consecutive blocks.
pub const LAYOUT_PLAIN: u16 = 0;
/// The last block's data behind the inode.
pub const LAYOUT_INLINE: u16 = 2;
/// A chunk index behind the inode.
pub const LAYOUT_CHUNKS: u16 = 4;
/// `i_u` of chunk layout: chunks are 8-byte indexes, not 4-byte block numbers.
pub const CHUNK_INDEXES: u32 = 0x20;
/// `i_u` of chunk layout: log2 of the blocks in a chunk.
pub const CHUNK_BITS_MASK: u32 = 0x1f;
/// Size of a chunk index.
pub const CHUNK_INDEX: u64 = 8;
/// A chunk that reads as zeros.
pub const NULL_BLOCK: u32 = u32::MAX;
/// The tar's device number.
pub const TAR_DEVICE: u16 = 1;
/// Size of a directory entry without its name.
pub const DIRENT: usize = 12;
/// Header of the attributes behind an inode.
pub const XATTR_HEADER: usize = 12;
/// Header of one attribute.
pub const XATTR_ENTRY: usize = 4;
/// Most blocks in a chunk, log2: five bits in the format.
pub const CHUNK_BITS_MAX: u32 = 31;
/// The longest name the format's users take (`EROFS_NAME_LEN`, NAME_MAX).
pub const NAME_MAX: usize = 255;

/// Our format's version, kept in the volume name: an index with another one is built again.
pub const VOLUME_NAME: [u8; 16] = *b"fsd-index-3\0\0\0\0\0";
/// The same of an index over several layers. It is never read by us, and lives as long as its mount.
pub const MERGED_VOLUME_NAME: [u8; 16] = *b"fsd-merged-1\0\0\0\0";

/// The type that a mode's bits say. Only for modes that were made here from a [`FileKind`].
pub fn kind_of_mode(mode: u16) -> FileKind {
    FileKind::of_mode(u32::from(mode)).unwrap_or(FileKind::File)
}

/// CRC-32C as EROFS computes it: seeded with all ones, not inverted at the end.
pub fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |mut crc, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
        crc
    })
}

/// Linux's packing of device numbers (`new_encode_dev`): 12 bits and 20. `None` if they don't fit.
pub fn encode_device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Takes [`encode_device`] apart.
pub fn decode_device(packed: u32) -> (u32, u32) {
    (packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_and_device_numbers_are_the_kernels() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
        for (major, minor) in [(0, 0), (8, 255), (8, 256), (259, 70000), (4095, 0xf_ffff)] {
            assert_eq!(encode_device(major, minor).map(decode_device), Some((major, minor)));
        }
        assert_eq!((encode_device(4096, 0), encode_device(0, 1 << 20)), (None, None));
    }
}
