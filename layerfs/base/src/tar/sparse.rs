//! From a sparse map to segments that lie in the stream.

use crate::{Error, Result};

use super::reader::Segment;

/// Lays the pairs `(offset, length)` of a file of `size` bytes over data that starts at `data` in the stream and
/// has `stored` bytes. The pairs must be sorted and must not overlap.
pub fn segments(pairs: &[(u64, u64)], size: u64, data: u64, stored: u64) -> Result<Vec<Segment>> {
    let mut segments = Vec::with_capacity(pairs.len());
    let (mut end, mut used) = (0u64, 0u64);
    for &(offset, length) in pairs {
        let bad = || Error::corrupt("sparse map in a tar header runs backwards or past the end of its file");
        if offset < end {
            return Err(bad());
        }
        end = offset.checked_add(length).filter(|&e| e <= size).ok_or_else(bad)?;
        if length > 0 {
            segments.push(Segment { file_offset: offset, length, stream_offset: data + used });
        }
        used = used.checked_add(length).filter(|&u| u <= stored).ok_or_else(bad)?;
    }
    Ok(segments)
}

/// The pairs of a flat list.
pub fn pairs(flat: &[u64]) -> Result<Vec<(u64, u64)>> {
    if !flat.len().is_multiple_of(2) {
        return Err(Error::corrupt("sparse map in a PAX header has an odd count of numbers"));
    }
    Ok(flat.chunks_exact(2).map(|p| (p[0], p[1])).collect())
}
