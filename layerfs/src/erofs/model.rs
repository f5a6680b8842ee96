//! A tree in memory, ready to be written as an index.

/// Position in [`Image::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

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

/// One file.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
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
    /// Names that refer to it; of a directory: 2 and its subdirectories.
    pub links: u32,
    /// Device number.
    pub device: (u32, u32),
    /// Size of a regular file.
    pub size: u64,
    /// `(file offset, length, tar offset)` of its data, sorted.
    pub data: Vec<(u64, u64, u64)>,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Full names and values, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names in a directory, sorted by bytes, without `.` and `..`.
    pub children: Vec<(Vec<u8>, NodeId)>,
}

impl Node {
    /// A node with nothing in it.
    pub fn new(kind: FileKind, mode: u32) -> Node {
        Node {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            links: if kind == FileKind::Dir { 2 } else { 1 },
            device: (0, 0),
            size: 0,
            data: Vec::new(),
            target: Vec::new(),
            xattrs: Vec::new(),
            children: Vec::new(),
        }
    }
}

/// A whole tree; the root is node 0.
#[derive(Debug, Clone)]
pub struct Image {
    /// All nodes. Each is reached from the root; a hard link is a second name for one node.
    pub nodes: Vec<Node>,
}
