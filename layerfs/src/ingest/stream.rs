//! Buffers that come one by one, read as one stream.

use std::io::{self, BufRead, Read};

use fs_base::Result;

use super::stages::{Chunk, Pool};

/// Where the next buffer comes from.
pub(super) trait Supply {
    /// The next buffer; an empty one is the end.
    fn supply(&mut self) -> Result<Chunk>;
}

/// Reads the buffers of a supply, and gives back to the pool what has been read.
pub(super) struct Stream<'a, S> {
    supply: S,
    pool: &'a Pool,
    chunk: Chunk,
    used: usize,
}

impl<'a, S: Supply> Stream<'a, S> {
    /// `first` is read before all that comes from the supply.
    pub fn new(supply: S, first: Chunk, pool: &'a Pool) -> Stream<'a, S> {
        Stream { supply, pool, chunk: first, used: 0 }
    }

    /// Reads to the end.
    pub fn drain(&mut self) -> io::Result<&mut S> {
        while !self.fill_buf()?.is_empty() {
            self.used = self.chunk.len();
        }
        Ok(&mut self.supply)
    }
}

impl<S: Supply> BufRead for Stream<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len() {
            self.used = 0;
            self.pool.give(std::mem::take(&mut self.chunk));
            self.chunk = self.supply.supply().map_err(io::Error::other)?;
        }
        Ok(&self.chunk[self.used..])
    }

    fn consume(&mut self, amount: usize) {
        self.used = (self.used + amount).min(self.chunk.len());
    }
}

impl<S: Supply> Read for Stream<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = buffer.len().min(bytes.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}
