//! Reading tar streams that strangers wrote: ustar, GNU and PAX, with their sparse forms.
//!
//! The parser reads headers and says where in the stream an entry's data lies; it never keeps data. Every length
//! that a header claims is bounded by [`Limits`] before anything is allocated for it.
//!
//! Where dialects leave a choice, it is that of the tools that made and read all layers so far (Go's `archive/tar`):
//! the size of a link, device or directory counts as 0 and no data follows; global PAX headers are read past, not
//! applied; the user and group names are ignored. One block of zeros ends the archive, as for GNU tar.
//! Source: POSIX.1-2017 pax(1), "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and "Sparse Formats".

pub mod acl;
mod header;
mod links;
mod pax;
mod reader;
mod sparse;

use std::time::Duration;

use crate::{Error, Result};

pub use links::{Links, clean};
pub use pax::{append_attribute, append_record};
pub use reader::stream_error;
pub use reader::{Entry, EntryKind, Reader, Segment};

/// Whether a block is a header whose checksum is right.
pub fn is_header(block: &[u8; 512]) -> bool {
    header::Header::parse(block, 0).is_ok_and(|header| header.is_some())
}

/// Bounds on what one layer may claim. Reported by name when one is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one layer, extension headers included.
    pub entries: u64,
    /// Bytes of one path or link target. The kernel's own bound is 4,096 with the final zero.
    pub path: usize,
    /// Components of one path.
    pub depth: usize,
    /// Uncompressed bytes of one layer.
    pub size: u64,
    /// Uncompressed bytes per compressed byte, looked at once `ratio_floor` bytes have come out.
    pub ratio: u64,
    /// Uncompressed bytes below which nothing is called a bomb.
    pub ratio_floor: u64,
    /// Bytes of one file, holes included.
    pub file_size: u64,
    /// Bytes of all extended attributes of one entry, and of one PAX header.
    pub attributes: usize,
    /// Data segments of one sparse entry.
    pub segments: usize,
    /// Bytes of the index, and about as many of memory while a layer comes in.
    pub index: u64,
    /// How long one layer may take.
    pub time: Duration,
}

impl Default for Limits {
    /// Wide enough for every layer that people make, narrow enough to stop a bomb before it fills the disk.
    ///
    /// A gigabyte of zeros, which compresses 1,000 to 1, is a layer that Dockerfiles do make, so the ratio counts
    /// only from 4 GiB on. 16 TiB is the longest file that ext4 has; a `lastlog` for large user ids is sparse and
    /// has more than one of them.
    fn default() -> Limits {
        Limits {
            entries: 10_000_000,
            path: 4095,
            depth: 1024,
            size: 1 << 40,
            ratio: 200,
            ratio_floor: 4 << 30,
            file_size: 16 << 40,
            attributes: 1 << 20,
            segments: 1 << 20,
            index: 1 << 30,
            time: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Limits {
    /// Whether `uncompressed` bytes may have come out of `compressed` ones, of a layer or of an archive of many.
    pub fn check_ratio(&self, uncompressed: u64, compressed: u64) -> Result<()> {
        if uncompressed > self.ratio_floor && uncompressed / self.ratio > compressed {
            return Err(limit("ratio", format_args!("more than {} bytes uncompressed for each byte compressed", self.ratio)));
        }
        Ok(())
    }

    /// For a layer that has been taken in: what the configuration said then, which may be more than the defaults, is
    /// not asked again, so that its index can always be made again.
    pub fn of_stored() -> Limits {
        const MOST: u64 = 1 << 62;
        Limits { entries: MOST, size: MOST, file_size: MOST, index: MOST, ..Limits::default() }
    }
}

/// Those of the [`Limits`] that the daemon's configuration has, by the names that they have there.
const CONFIGURED: [&str; 6] = ["entries", "bytes", "ratio", "file_bytes", "index_bytes", "seconds"];

/// The error of a layer that passes one of the [`Limits`].
pub fn limit(name: &str, what: impl std::fmt::Display) -> Error {
    let suspicion = "this looks like a decompression bomb or a broken archive";
    let remedy = if CONFIGURED.contains(&name) { "; if you trust it, raise the daemon's `limits`" } else { "" };
    Error::invalid(format!("the tar passes the limit `{name}`: {what}")).with_hint(format!("{suspicion}{remedy}"))
}
