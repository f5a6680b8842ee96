//! What writer and reader both speak of.

/// The types of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device. Number 0:0 is a whiteout.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
}

impl FileKind {
    /// The type bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Fifo => 0o010_000,
            FileKind::CharDevice => 0o020_000,
            FileKind::Dir => 0o040_000,
            FileKind::BlockDevice => 0o060_000,
            FileKind::File => 0o100_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Socket => 0o140_000,
        }
    }

    /// From `st_mode`; `None` for bits that name no type.
    pub fn of_mode(mode: u32) -> Option<FileKind> {
        use FileKind::{BlockDevice, CharDevice, Dir, Fifo, File, Socket, Symlink};
        [Fifo, CharDevice, Dir, BlockDevice, File, Symlink, Socket].into_iter().find(|k| k.mode_bits() == mode & 0o170_000)
    }

    /// `EROFS_FT_*`, the same numbers as ext2's.
    pub(super) fn dirent_type(self) -> u8 {
        match self {
            FileKind::File => 1,
            FileKind::Dir => 2,
            FileKind::CharDevice => 3,
            FileKind::BlockDevice => 4,
            FileKind::Fifo => 5,
            FileKind::Socket => 6,
            FileKind::Symlink => 7,
        }
    }
}

/// Where a piece of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: zeros.
    Hole,
    /// At this offset of the tar.
    Data(u64),
    /// At this offset of the index itself (pieces whose place in the tar is not aligned).
    Index(u64),
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub file_offset: u64,
    /// Bytes, not zero.
    pub length: u64,
    /// Where they are.
    pub source: Source,
}
