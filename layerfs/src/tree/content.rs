//! The bytes of a file in a tree.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_base::sys::copy::next_data;
use fs_base::{Error, Result};

use crate::erofs::{Extent, Source};
use crate::store::Layer;

/// A file opened for reading. Holes read as zeros; [`Content::segments`] says where there are none.
#[derive(Debug)]
pub struct Content {
    source: Bytes,
    size: u64,
    position: u64,
}

#[derive(Debug)]
enum Bytes {
    Layer(Arc<Layer>, Vec<Extent>),
    File(File),
}

impl Content {
    pub(crate) fn in_layer(layer: Arc<Layer>, extents: Vec<Extent>, size: u64) -> Content {
        Content { source: Bytes::Layer(layer, extents), size, position: 0 }
    }

    /// A file outside of layers, `size` bytes of it: it reads as that long even if it shrinks meanwhile.
    pub(crate) fn of_file(file: File, size: u64) -> Content {
        Content { source: Bytes::File(file), size, position: 0 }
    }

    /// The file's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges that hold data, as offset and length, in order; what is between them is zeros.
    pub fn segments(&self) -> Vec<(u64, u64)> {
        let mut segments: Vec<(u64, u64)> = Vec::new();
        let mut push = |offset: u64, length: u64| match segments.last_mut() {
            Some((at, so_far)) if *at + *so_far == offset => *so_far += length,
            _ => segments.push((offset, length)),
        };
        match &self.source {
            Bytes::Layer(_, extents) => {
                extents.iter().filter(|e| e.source != Source::Hole).for_each(|e| push(e.file_offset, e.length));
            }
            Bytes::File(file) => {
                let mut offset = 0;
                while let Some((start, end)) = next_data(file, offset, self.size) {
                    push(start, end - start);
                    offset = end;
                }
            }
        }
        segments
    }

    /// The file on the disk that holds the bytes from `offset` on, where in it, and how many in one piece.
    pub(crate) fn on_disk(&self, offset: u64) -> Option<(&File, u64, u64)> {
        match &self.source {
            Bytes::File(file) => Some((file, offset, self.size.saturating_sub(offset))),
            Bytes::Layer(layer, extents) => {
                let extent = extent_at(extents, offset)?;
                let within = offset - extent.file_offset;
                match extent.source {
                    Source::Data(at) => Some((&layer.data, at + within, extent.length - within)),
                    _ => None,
                }
            }
        }
    }

    /// Reads at `offset`, without moving the position; 0 only at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let length = (buffer.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let buffer = &mut buffer[..length];
        if buffer.is_empty() {
            return Ok(0);
        }
        match &self.source {
            Bytes::File(file) => match file.read_at(buffer, offset)? {
                // It has shrunk: the rest of what was promised is zeros.
                0 => {
                    buffer.fill(0);
                    Ok(length)
                }
                got => Ok(got),
            },
            Bytes::Layer(layer, extents) => read_layer(layer, extents, buffer, offset),
        }
    }

    /// Fills the buffer as far as the file goes.
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", self.shown(), error)),
            }
        }
        Ok(filled)
    }

    fn shown(&self) -> String {
        match &self.source {
            Bytes::Layer(layer, _) => format!("layer {}", layer.id),
            Bytes::File(_) => "file".to_owned(),
        }
    }

    /// Whether two files hold the same bytes. Equal places in one layer, and ranges that are holes in both, are not read.
    pub(crate) fn same(&self, other: &Content) -> Result<bool> {
        if self.size != other.size {
            return Ok(false);
        }
        if let (Bytes::Layer(a, ours), Bytes::Layer(b, theirs)) = (&self.source, &other.source)
            && a.id == b.id
            && ours == theirs
        {
            return Ok(true);
        }
        let (mut left, mut right) = (vec![0; 1 << 17], vec![0; 1 << 17]);
        for (offset, length) in union(&self.segments(), &other.segments()) {
            let mut done = 0;
            while done < length {
                let step = (length - done).min(left.len() as u64) as usize;
                let got = self.fill_at(&mut left[..step], offset + done)?;
                if got != other.fill_at(&mut right[..step], offset + done)? || left[..got] != right[..got] {
                    return Ok(false);
                }
                done += step as u64;
            }
        }
        Ok(true)
    }
}

fn extent_at(extents: &[Extent], offset: u64) -> Option<&Extent> {
    let next = extents.partition_point(|extent| extent.file_offset + extent.length <= offset);
    extents.get(next).filter(|extent| extent.file_offset <= offset)
}

fn read_layer(layer: &Layer, extents: &[Extent], buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let Some(extent) = extent_at(extents, offset) else { return Ok(0) };
    let within = offset - extent.file_offset;
    let length = buffer.len().min((extent.length - within) as usize);
    let buffer = &mut buffer[..length];
    match extent.source {
        Source::Hole => buffer.fill(0),
        Source::Data(at) => layer.data.read_exact_at(buffer, at + within)?,
        Source::Index(at) => {
            let bytes = layer.index.raw(at + within, length as u64).map_err(|e| io::Error::other(e.to_string()))?;
            buffer.copy_from_slice(bytes);
        }
    }
    Ok(length)
}

/// The ranges that are in either list; both are sorted.
fn union(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut all: Vec<_> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    let mut union: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in all {
        match union.last_mut() {
            Some((at, so_far)) if *at + *so_far >= offset => *so_far = (*so_far).max(offset + length - *at),
            _ => union.push((offset, length)),
        }
    }
    union
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.read_at(buffer, self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(step) => self.position.checked_add_signed(step),
            SeekFrom::End(step) => self.size.checked_add_signed(step),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        assert_eq!(union(&[(0, 10), (20, 5)], &[(5, 10), (40, 1)]), [(0, 15), (20, 5), (40, 1)]);
        assert_eq!(union(&[(0, 100)], &[(10, 10)]), [(0, 100)]);
    }
}
