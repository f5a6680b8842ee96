//! Reading tar streams that strangers wrote: ustar, GNU and PAX, with their sparse forms.
//!
//! The parser reads headers and says where in the stream an entry's data lies; it never keeps data. Every length
//! that a header claims is bounded by [`Limits`] before anything is allocated for it.
//! Source: POSIX.1-2017 pax(1), "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and "Sparse Formats".

mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::limit;
pub use reader::{Entry, EntryKind, Reader, Segment};

/// Bounds on what one layer may claim. Reported by name when one is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one layer.
    pub entries: u64,
    /// Bytes of one path or link target. The kernel's own bound is 4,096.
    pub path: usize,
    /// Uncompressed bytes of one layer.
    pub size: u64,
    /// Uncompressed bytes per compressed byte, looked at once [`Limits::RATIO_FLOOR`] bytes have come out.
    pub ratio: u64,
    /// Bytes of all extended attributes of one entry, and of one PAX header.
    pub attributes: usize,
    /// Data segments of one sparse entry.
    pub segments: usize,
    /// Components of one path.
    pub depth: usize,
}

impl Limits {
    /// Output below this size is never called a bomb: 64 MiB.
    pub const RATIO_FLOOR: u64 = 64 << 20;
}

impl Default for Limits {
    /// Wide enough for every layer seen in the wild, narrow enough to stop a bomb: a deflate stream can't pass
    /// 1,032 to 1, and real layers stay under 100 to 1.
    fn default() -> Limits {
        Limits { entries: 10_000_000, path: 4096, size: 1 << 40, ratio: 900, attributes: 1 << 20, segments: 1 << 20, depth: 1024 }
    }
}
