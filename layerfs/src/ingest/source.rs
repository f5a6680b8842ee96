//! The first stage: the stream as it comes in, hashed and inflated.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use fs_base::{Error, Result};

use super::IngestOptions;
use super::stages::{Bytes, Chunk, Pool};
use super::stream::{Stream, Supply};
use crate::tar::{Limits, limit, stream_error};

/// Largest zstd window that is taken, log2: 128 MiB, what `zstd --ultra -22` and `--long` make.
pub(super) const ZSTD_WINDOW: u32 = 27;
/// Bytes between two calls of `progress`.
const PROGRESS: u64 = 512 << 10;

/// How a layer's stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Media {
    /// As its first bytes say.
    #[default]
    Auto,
    /// Not at all.
    Plain,
    /// gzip, in one member or several.
    Gzip,
    /// zstd, in one frame or several.
    Zstd,
}

impl Media {
    /// From the media type of a layer. Source: OCI image spec, media-types.md; Docker's image manifest v2.2.
    pub fn of_type(media_type: &str) -> Result<Media> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Media::Plain),
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Ok(Media::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Ok(Media::Zstd)
            }
            other if other.contains("nondistributable") || other.contains("foreign") => {
                Err(Error::unsupported(format!("layers of type {other} can't be fetched: their licence forbids distribution")))
            }
            other => Err(Error::unsupported(format!("unknown layer media type {other:?}"))),
        }
    }

    /// From the first bytes of a stream.
    pub fn of_magic(bytes: &[u8]) -> Media {
        match bytes {
            [0x1f, 0x8b, ..] => Media::Gzip,
            // A frame, or a skippable one: 0x184D2A50 to 5F, little-endian.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Media::Zstd,
            _ => Media::Plain,
        }
    }
}

/// What the first bytes of a stream in a compression say that Docker reads and we don't.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        _ => None,
    }
}

/// The stream as it comes in: counted, bounded, and handed to the hasher where it is compressed.
pub(super) struct Source<'a> {
    input: &'a mut (dyn Read + Send),
    options: &'a IngestOptions<'a>,
    pool: &'a Pool,
    /// Bytes read so far.
    read: &'a AtomicU64,
    hasher: SyncSender<Bytes>,
    reported: u64,
    started: Instant,
}

impl<'a> Source<'a> {
    pub fn new(
        input: &'a mut (dyn Read + Send),
        options: &'a IngestOptions<'a>,
        pool: &'a Pool,
        read: &'a AtomicU64,
        hasher: SyncSender<Bytes>,
    ) -> Source<'a> {
        Source { input, options, pool, read, hasher, reported: 0, started: Instant::now() }
    }

    /// Reads the stream to its end and sends what it inflates to, and an error as the last.
    pub fn run(self, to: &SyncSender<Result<Chunk>>) {
        if let Err(error) = self.pump(to) {
            // A closed channel: the parser has given up, and says why.
            let _ = to.send(Err(error));
        }
    }

    fn pump(mut self, to: &SyncSender<Result<Chunk>>) -> Result<()> {
        let first = Arc::new(self.next_chunk()?);
        let magic = Media::of_magic(&first);
        if let Some(name) = foreign(&first) {
            return Err(Error::unsupported(format!("layers compressed by {name} are not supported"))
                .with_hint("compress the layer with gzip or zstd"));
        }
        if self.options.media != Media::Auto && self.options.media != magic {
            return Err(Error::corrupt(format!(
                "the layer should be {:?}, but its first bytes say {magic:?}",
                self.options.media
            )));
        }
        let inflater = Inflater { options: self.options, pool: self.pool, read: self.read, to };
        if magic == Media::Plain {
            return self.pass(first, to);
        }
        self.hash(&first);
        let pool = self.pool;
        let mut stream = Stream::new(self, first, pool);
        let is_done = if magic == Media::Gzip {
            inflater.run(&mut GzipMembers::new(&mut stream))?
        } else {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut stream).map_err(damaged)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(damaged)?;
            inflater.run(&mut decoder)?
        };
        // Bytes behind the compressed data belong to the blob.
        if is_done {
            stream.drain().map_err(stream_error)?;
        }
        Ok(())
    }

    /// The next bytes of the stream: a whole buffer but at its end, none behind it.
    fn next_chunk(&mut self) -> Result<Vec<u8>> {
        let mut buffer = self.pool.take();
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.count(n as u64)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(stream_error(error)),
            }
        }
        let read = self.read.load(Ordering::Relaxed);
        if let Some(progress) = self.options.progress
            && (filled == 0 || read - self.reported >= PROGRESS)
        {
            self.reported = read;
            progress(read);
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// Counts what came in, and stops a stream that is longer than promised or takes too long.
    fn count(&self, more: u64) -> Result<()> {
        let read = self.read.fetch_add(more, Ordering::Relaxed) + more;
        if let Some((_, want)) = self.options.expected_blob
            && read > want
        {
            return Err(Error::corrupt(format!("layer blob has more than the {want} bytes that the manifest says")));
        }
        check_time(self.started, self.options.limits)
    }

    fn hash(&self, chunk: &Chunk) {
        // A hasher that is gone has panicked, which its join reports.
        let _ = self.hasher.send(Bytes::Blob(Arc::clone(chunk)));
    }

    /// Hands on a stream that is not compressed. Its digest is that of the tar, which the next stage has taken.
    fn pass(&mut self, mut chunk: Chunk, to: &SyncSender<Result<Chunk>>) -> Result<()> {
        while !chunk.is_empty() {
            if self.read.load(Ordering::Relaxed) > self.options.limits.size {
                return Err(too_large(self.options.limits));
            }
            if to.send(Ok(chunk)).is_err() {
                return Ok(());
            }
            chunk = Arc::new(self.next_chunk()?);
        }
        Ok(())
    }
}

impl Supply for Source<'_> {
    fn supply(&mut self) -> Result<Chunk> {
        let chunk = Arc::new(self.next_chunk()?);
        self.hash(&chunk);
        Ok(chunk)
    }
}

/// Hands on what a decoder makes of the stream, within the limits.
struct Inflater<'a> {
    options: &'a IngestOptions<'a>,
    pool: &'a Pool,
    read: &'a AtomicU64,
    to: &'a SyncSender<Result<Chunk>>,
}

impl Inflater<'_> {
    /// To the end of the decoder; `false` if nobody wants the rest.
    fn run(&self, decoder: &mut dyn Read) -> Result<bool> {
        let (limits, started) = (self.options.limits, Instant::now());
        let mut total = 0u64;
        loop {
            let mut chunk = self.pool.take();
            let mut filled = 0;
            while filled < chunk.len() {
                match decoder.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(damaged(error)),
                }
            }
            chunk.truncate(filled);
            total += filled as u64;
            if total > limits.size {
                return Err(too_large(limits));
            }
            limits.check_ratio(total, self.read.load(Ordering::Relaxed))?;
            check_time(started, limits)?;
            if filled == 0 {
                return Ok(true);
            }
            if self.to.send(Ok(Arc::new(chunk))).is_err() {
                return Ok(false);
            }
        }
    }
}

fn check_time(started: Instant, limits: Limits) -> Result<()> {
    if started.elapsed() > limits.time {
        return Err(limit("seconds", format_args!("more than {} seconds", limits.time.as_secs())));
    }
    Ok(())
}

fn too_large(limits: Limits) -> Error {
    limit("bytes", format_args!("more than {} bytes uncompressed", limits.size))
}

/// The error of a decoder: that of the stream below it, or damage.
pub(super) fn damaged(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if error.raw_os_error().is_some() => Error::io("read", "layer stream", error),
        Err(error) => Error::corrupt("the layer's compressed data is damaged or truncated").with_source(error),
    }
}

/// gzip members one after the other; bytes behind the last that are no member are ignored, as gzip(1) does.
pub(super) struct GzipMembers<R: BufRead>(Option<flate2::bufread::GzDecoder<Begun<R>>>);

/// A member whose first byte has been taken to see what it is.
type Begun<R> = io::Chain<&'static [u8], R>;

impl<R: BufRead> GzipMembers<R> {
    /// `input` begins with a member.
    pub fn new(input: R) -> GzipMembers<R> {
        GzipMembers(Some(flate2::bufread::GzDecoder::new((&b""[..]).chain(input))))
    }

    /// The member that follows, if what follows is one. Its two first bytes may lie in two buffers.
    fn next(mut input: R) -> io::Result<GzipMembers<R>> {
        if input.fill_buf()?.first() != Some(&0x1f) {
            return Ok(GzipMembers(None));
        }
        input.consume(1);
        let is_member = input.fill_buf()?.first() == Some(&0x8b);
        Ok(GzipMembers(is_member.then(|| flate2::bufread::GzDecoder::new((&[0x1f][..]).chain(input)))))
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.0 {
            let got = decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            if let Some(done) = self.0.take() {
                *self = GzipMembers::next(done.into_inner().into_inner().1)?;
            }
        }
        Ok(0)
    }
}
