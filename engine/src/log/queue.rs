//! Lines that wait for whoever takes them, in a bounded piece of memory.
//!
//! Each is a frame: the length of what follows (32 bits), the stream (0, 1), the time (64 bits), how many lines were
//! dropped before it (64 bits), the line; numbers have their little end first.

use std::collections::VecDeque;

use super::{Message, Stream};

/// Bytes of a frame before its line.
const HEAD: usize = 4 + 1 + 8 + 8;

/// The lines, oldest first. Where there is no room the newest is dropped, as in Docker, and the next one that finds room
/// says how many were.
#[derive(Debug)]
pub struct Queue {
    bytes: VecDeque<u8>,
    /// How many bytes of the first frame are taken already.
    taken: usize,
    /// Bytes that may wait; without a limit whoever fills it looks whether it is empty.
    max: Option<usize>,
    dropped: u64,
    untold: u64,
}

impl Queue {
    /// An empty one.
    pub fn new(max: Option<usize>) -> Queue {
        Queue { bytes: VecDeque::new(), taken: 0, max, dropped: 0, untold: 0 }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many lines found no room, or were lost later.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// So many are lost, with what they told of others: the next one tells of them.
    fn lose(&mut self, lines: u64, told: u64) {
        self.dropped += lines;
        self.untold += lines + told;
    }

    /// Adds a line, if there is room. One alone always finds room.
    pub fn push(&mut self, stream: Stream, nanos: i64, line: &[u8]) {
        let length = HEAD + line.len();
        if !self.is_empty() && self.max.is_some_and(|max| self.bytes.len() + length > max) {
            return self.lose(1, 0);
        }
        self.bytes.extend(((length - 4) as u32).to_le_bytes());
        self.bytes.push_back(stream as u8);
        self.bytes.extend(nanos.to_le_bytes());
        self.bytes.extend(std::mem::take(&mut self.untold).to_le_bytes());
        self.bytes.extend(line);
    }

    /// Bytes of frames, as many as lie in one piece, for who takes them as a stream; none if nothing waits.
    pub fn piece(&self) -> &[u8] {
        let (first, second) = self.bytes.as_slices();
        first
            .get(self.taken..)
            .filter(|rest| !rest.is_empty())
            .unwrap_or_else(|| &second[self.taken.saturating_sub(first.len())..])
    }

    /// So many of those bytes are taken.
    pub fn advance(&mut self, count: usize) {
        self.taken += count;
        let mut whole = 0;
        while let Some(length) = self.length_at(whole).filter(|length| whole + length <= self.taken) {
            whole += length;
        }
        self.bytes.drain(..whole);
        self.taken -= whole;
        if self.is_empty() {
            self.bytes.shrink_to(HEAD + super::lines::LINE_MAX);
        }
    }

    /// Whoever took the beginning of a frame is gone: the next one gets it whole.
    pub fn retake(&mut self) {
        self.taken = 0;
    }

    /// The oldest line, and the length of its frame.
    pub fn first(&mut self) -> Option<(Message<'_>, usize)> {
        if self.length_at(0).is_some_and(|length| self.bytes.as_slices().0.len() < length) {
            self.bytes.make_contiguous();
        }
        decode(self.bytes.as_slices().0)
    }

    /// Gives up all that waits, and counts it: it has nowhere to go.
    pub fn clear(&mut self) {
        self.retake();
        let (mut lines, mut told) = (0, 0);
        while let Some((message, length)) = self.first() {
            lines += 1;
            told += message.dropped;
            self.advance(length);
        }
        self.lose(lines, told);
    }

    /// The length of the frame that begins there.
    fn length_at(&self, at: usize) -> Option<usize> {
        let mut length = [0; 4];
        for (index, byte) in length.iter_mut().enumerate() {
            *byte = *self.bytes.get(at + index)?;
        }
        Some(4 + u32::from_le_bytes(length) as usize)
    }
}

/// The line in front of `bytes` and the length of its frame; `None` if it is not all there.
pub fn decode(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let length = 4 + u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
    let frame = bytes.get(4..length)?;
    let (stream, rest) = frame.split_first()?;
    let (nanos, rest) = rest.split_first_chunk::<8>()?;
    let (dropped, line) = rest.split_first_chunk::<8>()?;
    let stream = if *stream == Stream::Stderr as u8 { Stream::Stderr } else { Stream::Stdout };
    let message = Message { stream, nanos: i64::from_le_bytes(*nanos), dropped: u64::from_le_bytes(*dropped), line };
    Some((message, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        while let Some((message, length)) = queue.first() {
            all.push((String::from_utf8_lossy(message.line).into_owned(), message.dropped));
            queue.advance(length);
        }
        all
    }

    #[test]
    fn the_newest_is_dropped_and_counted_and_one_alone_finds_room() {
        let mut queue = Queue::new(Some(100));
        for number in 0..10 {
            queue.push(Stream::Stdout, number, format!("line {number}\n").as_bytes());
        }
        assert_eq!(queue.dropped(), 7);
        assert_eq!(drain(&mut queue), [("line 0\n".to_owned(), 0), ("line 1\n".to_owned(), 0), ("line 2\n".to_owned(), 0)]);
        queue.push(Stream::Stderr, 1, &[b'x'; 5000]);
        queue.push(Stream::Stdout, 2, b"no room\n");
        assert_eq!(drain(&mut queue), [("x".repeat(5000), 7)]);
        queue.push(Stream::Stdout, 3, b"room\n");
        let (message, _) = queue.first().unwrap();
        assert_eq!((message.stream, message.nanos, message.dropped), (Stream::Stdout, 3, 1));
    }

    #[test]
    fn what_was_begun_is_taken_whole_by_the_next() {
        let mut queue = Queue::new(None);
        queue.push(Stream::Stdout, 1, b"one\n");
        queue.push(Stream::Stdout, 2, b"two\n");
        let length = queue.piece().len() / 2;
        queue.advance(length + 3);
        queue.retake();
        assert_eq!(drain(&mut queue), [("two\n".to_owned(), 0)]);
        queue.push(Stream::Stdout, 1, b"one\n");
        queue.push(Stream::Stdout, 2, b"two\n");
        queue.advance(7);
        queue.clear();
        assert!(queue.is_empty() && queue.dropped() == 2);
    }

    #[test]
    fn what_was_pushed_comes_out_however_it_is_taken() {
        let mut queue = Queue::new(Some(1 << 20));
        let mut bytes = Vec::new();
        for number in 0..2000_usize {
            queue.push(Stream::Stdout, 0, "é".repeat(number % 50).as_bytes());
            let count = queue.piece().len().min(number % 37);
            bytes.extend(&queue.piece()[..count]);
            queue.advance(count);
        }
        while !queue.is_empty() {
            bytes.extend(queue.piece());
            queue.advance(queue.piece().len());
        }
        let mut rest = &bytes[..];
        for number in 0..2000_usize {
            let (message, length) = decode(rest).unwrap();
            assert_eq!(message.line.len(), number % 50 * 2);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    }
}
