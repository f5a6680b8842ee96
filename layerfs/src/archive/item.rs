//! What flows from a source to a sink: one file at a time.

use std::fs::File;
use std::io;

use fs_base::Result;

use crate::metadata::Metadata;
use crate::tree::Content;

/// Full attribute names and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One file on its way.
pub struct Item<'a> {
    /// Its path below the top that is copied; empty for the top itself.
    pub path: &'a [u8],
    /// Its metadata.
    pub metadata: Metadata,
    /// Its attributes.
    pub attributes: Attributes,
    /// What it holds.
    pub body: Body<'a>,
}

/// What a file holds.
pub enum Body<'a> {
    /// Directories, devices, pipes, sockets.
    None,
    /// A regular file's bytes.
    File(&'a mut dyn Data),
    /// A symlink's target.
    Symlink(&'a [u8]),
    /// Nothing of its own: it is one more name of the item that came with this path.
    HardLink(&'a [u8]),
}

/// The bytes of a regular file, read once from start to end, holes left out.
pub trait Data {
    /// The ranges that hold data, as offset and length, in order.
    fn segments(&self) -> &[(u64, u64)];

    /// The next bytes of the segments, one after the other. As many as they have in all can be read.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// If the segment at this offset of the file lies in one piece in a file on the disk: that file, and where in it.
    fn on_disk(&self, offset: u64, length: u64) -> Option<(&File, u64)>;

    /// Passes over the next segment, which was copied by way of [`Data::on_disk`].
    fn skip(&mut self, length: u64);
}

/// Takes what a source brings, in an order in which a directory comes before what is in it, and the first name of
/// a file before its further ones.
pub trait Sink {
    /// Takes one.
    fn put(&mut self, item: Item<'_>) -> Result<()>;
}

/// The data of a file in a tree or below a root.
pub struct Seekable {
    content: Content,
    segments: Vec<(u64, u64)>,
    /// The segment that is read now, and how much of it has been.
    at: (usize, u64),
}

impl Seekable {
    pub fn new(content: Content) -> Seekable {
        let segments = content.segments();
        Seekable { content, segments, at: (0, 0) }
    }
}

impl Data for Seekable {
    fn segments(&self) -> &[(u64, u64)] {
        &self.segments
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (number, done) = self.at;
        let Some(&(offset, length)) = self.segments.get(number) else { return Ok(0) };
        let want = (buffer.len() as u64).min(length - done) as usize;
        let got = self.content.read_at(&mut buffer[..want], offset + done)?;
        self.at = if done + got as u64 == length { (number + 1, 0) } else { (number, done + got as u64) };
        Ok(got)
    }

    fn on_disk(&self, offset: u64, length: u64) -> Option<(&File, u64)> {
        self.content.on_disk(offset).filter(|(_, _, there)| *there >= length).map(|(file, at, _)| (file, at))
    }

    fn skip(&mut self, _length: u64) {
        self.at = (self.at.0 + 1, 0);
    }
}
