//! From a layer's stream to its `data` and `index`, in one pass.
//!
//! Three stages run side by side: read and inflate; write and parse; hash (the stream as it came, and the tar). What
//! they hand on are shared buffers, used again and a few at a time, so that memory does not follow the layer's
//! size: it is that of the tree ([`crate::erofs::Image`]), the buffers, and the window of the decompressor.

mod archive;
mod estargz;
mod source;
mod stages;
mod stream;
mod tree;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use fs_base::{Digest, Error, IoContext, LayerId, Result, durable};

use crate::erofs;
use crate::tar::{Limits, Reader};
pub use archive::{Archive, Budget};
pub use source::Media;
pub(crate) use tree::OPAQUE_XATTR;
use tree::TreeBuilder;

/// What is known of a layer before it is read, and how far it may go.
#[derive(Default)]
pub struct IngestOptions<'a> {
    /// Its diffID, if an image's config names it.
    pub expected_diff_id: Option<LayerId>,
    /// Digest and size of the stream as it comes in, if a manifest names them.
    pub expected_blob: Option<(Digest, u64)>,
    /// How it is compressed, if a manifest says so. The first bytes must agree.
    pub media: Media,
    /// Bounds on what it may claim.
    pub limits: Limits,
    /// Told how many bytes of the stream have been read, now and then. To stop an ingest, let the input fail.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

/// What [`ingest`] made of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// The digest of the uncompressed tar.
    pub id: LayerId,
    /// The digest of the stream as it came in.
    pub blob: Digest,
    /// And its size.
    pub blob_size: u64,
    /// Bytes of `data`.
    pub data_size: u64,
    /// Bytes of `index`.
    pub index_size: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes of its regular files, holes included, hard links once.
    pub file_bytes: u64,
}

/// Reads a layer from `input` and writes `data` and `index` into the empty folder `dir`, synced and verified.
/// Nothing is published: on an error the caller throws the folder away.
///
/// Damage ([`fs_base::Class::Corrupt`]) and hostile content ([`fs_base::Class::Invalid`]) end it at once; the rest
/// of the input is then not read.
pub fn ingest(input: &mut (dyn Read + Send), dir: &Path, options: &IngestOptions<'_>) -> Result<Built> {
    let data_path = dir.join("data");
    let data = File::options().read(true).write(true).create_new(true).open(&data_path).at("create", &data_path)?;
    let read = stages::run(input, &data, &data_path, options)?;
    let id = LayerId(read.data);
    verify(options, id, read.blob, read.blob_size)?;
    let index_path = dir.join("index");
    let index = File::options().write(true).create_new(true).open(&index_path).at("create", &index_path)?;
    let written = std::thread::scope(|scope| {
        scope.spawn(|| durable::start_writeback(&data));
        write_index(&read.tree, id, &data, read.data_size, (&index, &index_path), options.limits)
    })?;
    // So that the journal has both files in what the first of the two syncs waits for.
    durable::start_writeback(&index);
    durable::sync_file(&data, &data_path)?;
    durable::sync_file(&index, &index_path)?;
    Ok(Built {
        id,
        blob: read.blob,
        blob_size: read.blob_size,
        data_size: read.data_size,
        index_size: written.size,
        entries: read.tree.entries(),
        file_bytes: written.file_bytes,
    })
}

/// Holds what was read against what was promised.
fn verify(options: &IngestOptions<'_>, id: LayerId, blob: Digest, blob_size: u64) -> Result<()> {
    match options.expected_blob {
        Some((_, want)) if want != blob_size => {
            return Err(Error::corrupt(format!("layer blob has {blob_size} bytes, but the manifest says {want}")));
        }
        Some((want, _)) if want != blob => {
            return Err(Error::corrupt(format!("layer blob is {blob}, but the manifest says {want}")));
        }
        _ => {}
    }
    match options.expected_diff_id {
        Some(want) if want != id => Err(Error::corrupt(format!("layer diffID is {id}, but the image's config says {want}"))
            .with_hint("the archive or registry holds wrong bytes: get the image again")),
        _ => Ok(()),
    }
}

/// Builds the index of the layer `id` again from its `data`, into the new file `to`, synced. Only headers are read;
/// whether the data has that digest is not looked at. The bytes are equal to those that [`ingest`] wrote.
pub fn rebuild_index(id: &LayerId, data: &File, to: &Path, limits: Limits) -> Result<u64> {
    let index = File::options().write(true).create_new(true).open(to).at("create", to)?;
    let size = rebuild_index_into(id, data, &index, to, limits)?;
    durable::sync_file(&index, to)?;
    Ok(size)
}

/// Like [`rebuild_index`], into an empty file that is open, not synced. `path` is for errors.
pub(crate) fn rebuild_index_into(id: &LayerId, data: &File, index: &File, path: &Path, limits: Limits) -> Result<u64> {
    let size = data.metadata().at("stat", "layer data")?.len();
    let mut reader = Reader::seekable(std::io::BufReader::with_capacity(1 << 13, data), limits);
    let tree = TreeBuilder::read(&mut reader, limits)?;
    if reader.position() > size {
        return Err(Error::corrupt("the layer's data ends in the middle of a file: it is truncated"));
    }
    write_index(&tree, *id, data, size, (index, path), limits).map(|written| written.size)
}

/// Builds the index of a layer that is a part of a larger file, not compressed: `size` bytes from `start` on. Only headers
/// are read, nothing is copied and no digest is looked at; the index says `id`.
pub fn index_member(id: LayerId, file: &File, start: u64, size: u64, to: &Path, limits: Limits) -> Result<u64> {
    let window = Window { file, start, size, position: 0 };
    let mut reader = Reader::seekable(std::io::BufReader::with_capacity(1 << 13, window), limits);
    let tree = TreeBuilder::read(&mut reader, limits)?;
    if reader.position() > size {
        return Err(Error::corrupt("the layer's data ends in the middle of a file: it is truncated"));
    }
    let out = File::options().write(true).create_new(true).open(to).at("create", to)?;
    let params = erofs::Params { most: limits.index, data_start: start, ..erofs::Params::new(id.0, size) };
    Ok(erofs::write(tree.image(), &params, file, &out, to)?.size)
}

/// A part of a file, read as if it were one.
#[derive(Debug)]
struct Window<'a> {
    file: &'a File,
    start: u64,
    size: u64,
    position: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.size.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        let got = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..left], self.start + self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(step) => self.position.checked_add_signed(step),
            SeekFrom::End(step) => self.size.checked_add_signed(step),
        };
        self.position = position.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

fn write_index(
    tree: &TreeBuilder,
    id: LayerId,
    data: &File,
    data_size: u64,
    (file, path): (&File, &Path),
    limits: Limits,
) -> Result<erofs::Written> {
    let params = erofs::Params { most: limits.index, ..erofs::Params::new(id.0, data_size) };
    erofs::write(tree.image(), &params, data, file, path)
}
