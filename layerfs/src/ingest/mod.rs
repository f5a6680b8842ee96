//! From a layer's stream to its `data` and `index`, in one pass.
//!
//! Three stages run side by side: read, hash and inflate; parse and write; hash again. What they hand on are
//! shared buffers, a few at a time, so that memory does not follow the layer's size.

mod source;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fs_base::{Digest, Error, IoContext, LayerId, Result, durable};
use sha2::{Digest as _, Sha256};

use crate::erofs;
use crate::tar::{self, Limits};
pub use source::Media;
pub(crate) use tree::OPAQUE_XATTR;
use tree::TreeBuilder;

/// Buffers between two stages.
const QUEUE: usize = 8;
/// Written bytes after which the kernel is asked to start putting them on the disk.
const WRITEBACK: u64 = 16 << 20;

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
    /// Told how many bytes of the stream have been read, now and then.
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
    /// Bytes of its regular files.
    pub file_bytes: u64,
}

type Chunk = Arc<Vec<u8>>;

/// Reads a layer from `input` and writes `data` and `index` into the empty folder `dir`, synced and verified.
/// Nothing is published: on an error the caller throws the folder away.
pub fn ingest(input: &mut (dyn Read + Send), dir: &Path, options: &IngestOptions<'_>) -> Result<Built> {
    let data_path = dir.join("data");
    let data = File::options().read(true).write(true).create_new(true).open(&data_path).at("create", &data_path)?;
    let (to_writer, from_source) = sync_channel::<Result<Chunk>>(QUEUE);
    let (to_hasher, from_writer) = sync_channel::<Chunk>(QUEUE);
    let (blob, id, parsed) = std::thread::scope(|scope| {
        let source = scope.spawn(move || source::run(input, options, &to_writer));
        let hasher = scope.spawn(move || hash(&from_writer));
        let tee = Tee {
            data: &data,
            path: &data_path,
            source: from_source,
            hasher: to_hasher,
            chunk: Chunk::default(),
            used: 0,
            written: 0,
            failure: None,
        };
        let parsed = parse(tee, options.limits);
        (source.join(), hasher.join(), parsed)
    });
    let died = |_| Error::internal("a stage of ingest panicked");
    let blob = blob.map_err(died)?;
    let (builder, data_size) = parsed?;
    let (blob, blob_size) = blob?;
    let id = LayerId(id.map_err(died)?);
    let blob = blob.unwrap_or(id.0);
    verify(options, id, blob, blob_size)?;
    durable::sync_file(&data, &data_path)?;
    let entries = builder.entries();
    let (index_size, file_bytes) = write_index(builder, &data, data_size, &dir.join("index"))?;
    Ok(Built { id, blob, blob_size, data_size, index_size, entries, file_bytes })
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

/// Builds the index of a layer again from its `data`.
pub fn rebuild_index(data: &File, to: &Path, limits: Limits) -> Result<u64> {
    let size = data.metadata().at("stat", "layer data")?.len();
    let mut reader = tar::Reader::new(io::BufReader::with_capacity(1 << 16, data), limits);
    let mut builder = TreeBuilder::new(limits);
    while let Some(entry) = reader.next_entry()? {
        builder.add(&entry)?;
    }
    write_index(builder, data, size, to).map(|(index_size, _)| index_size)
}

fn write_index(builder: TreeBuilder, data: &File, data_size: u64, path: &Path) -> Result<(u64, u64)> {
    use io::Write;
    let (image, file_bytes) = builder.finish();
    let (bytes, written) = erofs::write(&image, data, data_size)?;
    let mut file = File::options().write(true).create_new(true).open(path).at("create", path)?;
    file.write_all(&bytes).at("write", path)?;
    durable::sync_file(&file, path)?;
    Ok((written.size, file_bytes))
}

fn parse(tee: Tee<'_>, limits: Limits) -> Result<(TreeBuilder, u64)> {
    let mut reader = tar::Reader::new(tee, limits);
    let mut builder = TreeBuilder::new(limits);
    let outcome = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                if let Err(error) = builder.add(&entry) {
                    break Err(error);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let tee = reader.get_mut();
    // What went wrong in the source says more than the parser's "truncated".
    if let Some(failure) = tee.failure.take() {
        return Err(failure);
    }
    outcome?;
    // The bytes behind the end mark belong to the diffID.
    io::copy(tee, &mut io::sink()).map_err(|error| tee.failure.take().unwrap_or_else(|| Error::io("read", "layer", error)))?;
    Ok((builder, tee.written))
}

fn hash(chunks: &Receiver<Chunk>) -> Digest {
    let mut hasher = Sha256::new();
    for chunk in chunks {
        hasher.update(chunk.as_slice());
    }
    Digest::from_bytes(hasher.finalize().into())
}

/// Takes chunks from the source, writes them to `data`, hands them to the hasher, and is read by the parser.
struct Tee<'a> {
    data: &'a File,
    path: &'a Path,
    source: Receiver<Result<Chunk>>,
    hasher: SyncSender<Chunk>,
    chunk: Chunk,
    used: usize,
    written: u64,
    failure: Option<Error>,
}

impl Tee<'_> {
    fn next_chunk(&mut self) -> Result<()> {
        use io::Write;
        self.used = 0;
        self.chunk = match self.source.recv() {
            Ok(chunk) => chunk?,
            // The source is done.
            Err(_) => Chunk::default(),
        };
        if self.chunk.is_empty() {
            return Ok(());
        }
        // A closed channel means that the hasher died; its join reports that.
        let _ = self.hasher.send(self.chunk.clone());
        self.data.write_all(&self.chunk).at("write", self.path)?;
        let before = self.written / WRITEBACK;
        self.written += self.chunk.len() as u64;
        if self.written / WRITEBACK != before {
            durable::start_writeback(self.data);
        }
        Ok(())
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.chunk.len()
            && let Err(error) = self.next_chunk()
        {
            let shown = io::Error::other(error.to_string());
            self.failure = Some(error);
            return Err(shown);
        }
        let length = buffer.len().min(self.chunk.len() - self.used);
        buffer[..length].copy_from_slice(&self.chunk[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}
