//! How a file is cut into chunks: all of one size, a power of two of blocks, each a hole, a place in the tar, or a
//! copy in the index.

use super::format::{CHUNK_BITS_MAX, CHUNK_INDEX};
use super::image::Segment;

/// The cut of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// A chunk is `block << bits` bytes.
    pub bits: u32,
    /// How many there are.
    pub count: u64,
    /// Bytes that must be copied into the index, in whole blocks.
    pub copied: u64,
}

/// One chunk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Hole,
    /// At this offset of the tar.
    Data(u64),
    /// From the first to before the second of these offsets in the file: partly holes, or not aligned in the tar.
    Copy(u64, u64),
}

/// The cut that makes the index smallest. Fine chunks cost an entry each; coarse ones hold data and holes
/// together, and are then copied whole.
pub(super) fn plan(size: u64, segments: &[Segment], block: u64) -> Plan {
    let mut best: Option<(u64, Plan)> = None;
    for bits in 0..=CHUNK_BITS_MAX {
        let chunk = block << bits;
        let count = size.div_ceil(chunk);
        let copied = copied(size, segments, block, chunk);
        let cost = count.saturating_mul(CHUNK_INDEX).saturating_add(copied);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, Plan { bits, count, copied }));
        }
        if chunk >= size {
            break;
        }
    }
    best.map_or(Plan { bits: 0, count: 0, copied: 0 }, |(_, plan)| plan)
}

/// The cut of a file that is one aligned piece, or one hole: a single chunk as long as the format has them.
pub(super) fn plan_whole(size: u64, block: u64) -> Plan {
    let bits = size.div_ceil(block).next_power_of_two().trailing_zeros().min(CHUNK_BITS_MAX);
    Plan { bits, count: size.div_ceil(block << bits), copied: 0 }
}

fn is_aligned(segment: &Segment, block: u64) -> bool {
    segment.data_offset.wrapping_sub(segment.file_offset).is_multiple_of(block)
}

/// Bytes in chunks that are neither a hole nor one aligned piece.
fn copied(size: u64, segments: &[Segment], block: u64, chunk: u64) -> u64 {
    let (mut bytes, mut next) = (0u64, 0u64);
    let mut copy = |from: u64, to: u64| {
        let from = from.max(next);
        if from < to {
            let end = to.saturating_mul(chunk).min(size.next_multiple_of(block));
            bytes = bytes.saturating_add(end - from * chunk);
            next = to;
        }
    };
    for segment in segments {
        let end = segment.file_offset + segment.length;
        let (first, behind) = (segment.file_offset / chunk, end.div_ceil(chunk));
        let whole_from = segment.file_offset.div_ceil(chunk);
        let whole_to = if end == size { behind } else { end / chunk };
        if is_aligned(segment, block) && whole_from < whole_to {
            copy(first, whole_from);
            copy(whole_to, behind);
        } else {
            copy(first, behind);
        }
    }
    bytes
}

/// The chunks of a file in order.
pub(super) fn chunks(size: u64, segments: &[Segment], block: u64, plan: Plan) -> impl Iterator<Item = Chunk> {
    let chunk = block << plan.bits;
    let mut rest = segments;
    (0..plan.count).map(move |number| {
        let (start, end) = (number * chunk, (number * chunk).saturating_add(chunk).min(size));
        while let [segment, tail @ ..] = rest
            && segment.file_offset + segment.length <= start
        {
            rest = tail;
        }
        match rest.first() {
            Some(segment) if segment.file_offset < end => {
                let covers = segment.file_offset <= start && segment.file_offset + segment.length >= end;
                if covers && is_aligned(segment, block) {
                    Chunk::Data(segment.data_offset + (start - segment.file_offset))
                } else {
                    Chunk::Copy(start, end)
                }
            }
            _ => Chunk::Hole,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(file_offset: u64, length: u64, data_offset: u64) -> Segment {
        Segment { file_offset, length, data_offset }
    }

    /// The plan's count of copied bytes is what the chunks say, and no chunk shows bytes of another place.
    fn check(size: u64, segments: &[Segment]) -> Plan {
        let plan = plan(size, segments, 512);
        let mut copied = 0;
        for (number, chunk) in (0u64..).zip(chunks(size, segments, 512, plan)) {
            match chunk {
                Chunk::Copy(start, end) => copied += (end - start).next_multiple_of(512),
                Chunk::Data(at) => assert_eq!(at % 512, 0, "chunk {number}"),
                Chunk::Hole => {}
            }
        }
        assert_eq!(copied, plan.copied);
        plan
    }

    #[test]
    fn one_piece_is_one_chunk() {
        for size in [1, 511, 512, 513, 1 << 20, (1 << 30) + 5] {
            assert_eq!(check(size, &[segment(0, size, 1024)]), plan_whole(size, 512));
        }
        assert_eq!(plan_whole(512, 512).bits, 0);
        assert_eq!(plan_whole(1 << 41, 512).count, 2);
    }

    #[test]
    fn a_large_hole_with_a_little_data_stays_small() {
        // A lastlog of 1.2 TB with one user's record in it.
        let plan = check(1_200_000_000_000, &[segment(0, 4096, 512), segment(999_999_995_904, 4096, 4608)]);
        assert!(plan.count * 8 + plan.copied < 16 << 20, "{plan:?}");
        assert_eq!(check(1 << 44, &[]).count, 16);
    }

    #[test]
    fn pieces_that_are_not_aligned_are_copied_and_the_others_are_not() {
        assert_eq!(check(3000, &[segment(0, 3000, 100)]).copied, 3072);
        assert_eq!(check(4096, &[segment(1024, 1024, 512), segment(3072, 512, 1536)]).copied, 0);
        assert_eq!(check(10_000, &[segment(1000, 10, 512)]).copied, 512);
        assert_eq!(check(2000, &[segment(0, 700, 512), segment(700, 1300, 1212)]).copied, 512);
    }
}
