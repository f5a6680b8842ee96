//! The three stages of an ingest and what runs between them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::{Digest, Error, IoContext, Result, durable};
use sha2::{Digest as _, Sha256};

use super::IngestOptions;
use super::source::Source;
use super::stream::{Stream, Supply};
use super::tree::TreeBuilder;
use crate::tar::{Limits, Reader};

/// Bytes in one buffer: large enough that handing it on costs nothing, small enough to stay in a cache.
pub(super) const CHUNK: usize = 256 << 10;
/// Buffers between two stages: what a stage has ready while the next waits for the disk or for a processor.
const QUEUE: usize = 16;
/// Written bytes after which the kernel is asked to start putting them on the disk.
const WRITEBACK: u64 = 16 << 20;

/// A buffer that stages share.
pub(super) type Chunk = Arc<Vec<u8>>;

/// Buffers that nobody holds any more, to be filled again.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// A buffer of [`CHUNK`] bytes with anything in it.
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        buffer
    }

    /// Lets go of a buffer; its last holder gives it back.
    pub fn give(&self, chunk: Chunk) {
        if let Some(buffer) = Arc::into_inner(chunk).filter(|buffer| buffer.capacity() >= CHUNK) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// What the hasher is given.
pub(super) enum Bytes {
    /// Of the stream as it came in, where that is not the tar.
    Blob(Chunk),
    /// Of the tar.
    Data(Chunk),
}

/// What the stages found out.
pub(super) struct Outcome {
    pub tree: TreeBuilder,
    pub data: Digest,
    pub data_size: u64,
    pub blob: Digest,
    pub blob_size: u64,
}

/// Runs all stages to the end of `input`. What they write is not synced.
pub(super) fn run(input: &mut (dyn Read + Send), data: &File, path: &Path, options: &IngestOptions<'_>) -> Result<Outcome> {
    let pool = Pool::default();
    let (to_writer, from_source) = sync_channel::<Result<Chunk>>(QUEUE);
    let (to_hasher, for_hasher) = sync_channel::<Bytes>(2 * QUEUE);
    let blob_size = AtomicU64::new(0);
    let (source, digests, parsed) = std::thread::scope(|scope| {
        let source = Source::new(input, options, &pool, &blob_size, to_hasher.clone());
        let source = scope.spawn(move || source.run(&to_writer));
        let hasher = scope.spawn(|| hash(for_hasher, &pool));
        let tee = Tee { data, path, source: from_source, hasher: to_hasher, written: 0 };
        let parsed = parse(Stream::new(tee, Chunk::default(), &pool), options.limits);
        (source.join(), hasher.join(), parsed)
    });
    let died = |_| Error::internal("a stage of ingest panicked");
    source.map_err(died)?;
    let (tree, data_size) = parsed?;
    let (blob, data) = digests.map_err(died)?;
    Ok(Outcome { tree, data, data_size, blob: blob.unwrap_or(data), blob_size: blob_size.into_inner() })
}

/// Reads the tar to its end, and what is behind that too: it belongs to the diffID.
fn parse(stream: Stream<'_, Tee<'_>>, limits: Limits) -> Result<(TreeBuilder, u64)> {
    let mut reader = Reader::buffered(stream, limits);
    let tree = TreeBuilder::read(&mut reader, limits)?;
    let tee = reader.get_mut().drain().map_err(crate::tar::stream_error)?;
    Ok((tree, tee.written))
}

/// The digests of the stream, if it was given, and of the tar.
fn hash(chunks: Receiver<Bytes>, pool: &Pool) -> (Option<Digest>, Digest) {
    let (mut blob, mut data) = (None, Sha256::new());
    for bytes in chunks {
        let (hasher, chunk) = match bytes {
            Bytes::Blob(chunk) => (blob.get_or_insert_with(Sha256::new), chunk),
            Bytes::Data(chunk) => (&mut data, chunk),
        };
        hasher.update(chunk.as_slice());
        pool.give(chunk);
    }
    let digest = |hasher: Sha256| Digest::from_bytes(hasher.finalize().into());
    (blob.map(digest), digest(data))
}

/// Takes chunks from the source, writes them to `data`, and hands them to the hasher and to the parser.
struct Tee<'a> {
    data: &'a File,
    path: &'a Path,
    source: Receiver<Result<Chunk>>,
    hasher: SyncSender<Bytes>,
    written: u64,
}

impl Supply for Tee<'_> {
    fn supply(&mut self) -> Result<Chunk> {
        // A closed channel is the end: the source sends an error before it closes for one.
        let Ok(chunk) = self.source.recv() else { return Ok(Chunk::default()) };
        let chunk = chunk?;
        // A hasher that is gone has panicked, which its join reports.
        let _ = self.hasher.send(Bytes::Data(Arc::clone(&chunk)));
        self.data.write_all(&chunk).at("write", self.path)?;
        let before = self.written / WRITEBACK;
        self.written += chunk.len() as u64;
        if self.written / WRITEBACK != before {
            durable::start_writeback(self.data);
        }
        Ok(chunk)
    }
}
