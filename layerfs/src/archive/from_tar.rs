//! A tar stream that somebody sent.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use fs_base::{Error, IoContext, Result};

use super::dir_writer::checked;
use super::item::{Body, Data, Item, Sink};
use crate::erofs::FileKind;
use crate::ingest::Media;
use crate::metadata::Metadata;
use crate::tar::{Entry, EntryKind, Limits, Reader};

/// Brings the entries of a stream, which may be compressed, to a sink. `to` is what refusals call the target.
pub fn read(input: &mut dyn Read, limits: Limits, to: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 17, input);
    let magic = input.fill_buf().at("read", "archive")?;
    if magic.starts_with(b"BZh") || magic.starts_with(b"\xfd7zXZ\0") {
        let name = if magic[0] == b'B' { "bzip2" } else { "xz" };
        return Err(Error::unsupported(format!("the archive is compressed with {name}"))
            .with_hint("send it plain, or compressed with gzip or zstd"));
    }
    match Media::of_magic(magic) {
        Media::Gzip => entries(&mut flate2::bufread::MultiGzDecoder::new(input), limits, to, sink),
        Media::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).at("start", "zstd decoder")?;
            decoder.window_log_max(27).at("configure", "zstd decoder")?;
            entries(&mut decoder, limits, to, sink)
        }
        Media::Plain | Media::Auto => entries(&mut input, limits, to, sink),
    }
}

fn entries(input: &mut dyn Read, limits: Limits, to: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let mut reader = Reader::new(input, limits);
    while let Some(entry) = reader.next_entry()? {
        let path = checked(&entry.path, to)?;
        let first = match &entry.kind {
            EntryKind::HardLink(first) => Some(checked(first, to)?),
            _ => None,
        };
        one(&mut reader, &path, first.as_deref(), entry, sink)?;
    }
    // The sender may still be writing the padding behind the end mark.
    io::copy(reader.get_mut(), &mut io::sink()).at("read", "archive").map(drop)
}

fn one<R: Read>(reader: &mut Reader<R>, path: &[u8], first: Option<&[u8]>, mut entry: Entry, sink: &mut dyn Sink) -> Result<()> {
    let metadata = metadata_of(&entry);
    let attributes = std::mem::take(&mut entry.xattrs);
    match &entry.kind {
        EntryKind::File(segments) => {
            let segments: Vec<_> = segments.iter().map(|s| (s.file_offset, s.length)).collect();
            let left = segments.iter().map(|(_, length)| length).sum();
            let mut data = Stream { reader, segments, left };
            sink.put(Item { path, metadata, attributes, body: Body::File(&mut data) })
        }
        EntryKind::Symlink(target) => {
            if target.is_empty() {
                return Err(Error::invalid(format!("symbolic link {:?} has no target", String::from_utf8_lossy(path))));
            }
            sink.put(Item { path, metadata, attributes, body: Body::Symlink(target) })
        }
        EntryKind::HardLink(_) => sink.put(Item { path, metadata, attributes, body: Body::HardLink(first.unwrap_or_default()) }),
        _ => sink.put(Item { path, metadata, attributes, body: Body::None }),
    }
}

fn metadata_of(entry: &Entry) -> Metadata {
    let (kind, device) = match entry.kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => (FileKind::File, (0, 0)),
        EntryKind::Symlink(_) => (FileKind::Symlink, (0, 0)),
        EntryKind::CharDevice(major, minor) => (FileKind::CharDevice, (major, minor)),
        EntryKind::BlockDevice(major, minor) => (FileKind::BlockDevice, (major, minor)),
        EntryKind::Dir => (FileKind::Dir, (0, 0)),
        EntryKind::Fifo => (FileKind::Fifo, (0, 0)),
    };
    Metadata {
        kind,
        mode: kind.mode_bits() | entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        links: 1,
        size: entry.size,
        mtime: entry.mtime,
        mtime_nanos: entry.mtime_nanos,
        device,
    }
}

/// The current entry's data.
struct Stream<'a, R> {
    reader: &'a mut Reader<R>,
    segments: Vec<(u64, u64)>,
    left: u64,
}

impl<R: Read> Data for Stream<'_, R> {
    fn segments(&self) -> &[(u64, u64)] {
        &self.segments
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read_data(buffer, &mut self.left)
    }

    fn on_disk(&self, _offset: u64, _length: u64) -> Option<(&File, u64)> {
        None
    }

    fn skip(&mut self, _length: u64) {}
}
