//! Output as it comes, cut into the lines that are logged.

use super::Stream;

/// The longest piece of a line that is logged as one, as in Docker.
pub const LINE_MAX: usize = 16 << 10;

/// What has come of each stream and waits for the end of its line.
#[derive(Debug, Default)]
pub struct Lines([Vec<u8>; 2]);

impl Lines {
    /// What waits of a stream.
    pub fn partial(&self, stream: Stream) -> &[u8] {
        &self.0[stream as usize]
    }

    /// Takes output. `each` gets what is whole now: a line with its newline, or a piece of one that is too long.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        let partial = &mut self.0[stream as usize];
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_MAX - partial.len();
            let (end, whole) = match rest.iter().take(room).position(|byte| *byte == b'\n') {
                Some(newline) => (newline + 1, true),
                None => (rest.len().min(room), rest.len() >= room),
            };
            if whole && partial.is_empty() {
                each(&rest[..end]);
            } else {
                partial.extend(&rest[..end]);
                if whole {
                    each(partial);
                    partial.clear();
                }
            }
            rest = &rest[end..];
        }
    }

    /// There is no more to come: `each` gets what still waits.
    pub fn flush(&mut self, mut each: impl FnMut(Stream, &[u8])) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.0[stream as usize]);
            if !partial.is_empty() {
                each(stream, &partial);
            }
        }
    }
}
