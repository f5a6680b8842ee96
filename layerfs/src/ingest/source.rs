//! The first stage: the stream as it comes in, hashed and inflated.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use fs_base::{Digest, Error, IoContext, Result};
use sha2::{Digest as _, Sha256};

use super::{Chunk, IngestOptions};
use crate::tar::{Limits, limit};

/// Bytes in one buffer between stages.
const CHUNK: usize = 256 << 10;

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

/// Reads the stream to its end and sends what it inflates to. Returns the stream's size, and its digest unless it
/// is not compressed: then the next stage computes the same.
pub fn run(
    input: &mut (dyn Read + Send),
    options: &IngestOptions<'_>,
    to: &SyncSender<Result<Chunk>>,
) -> Result<(Option<Digest>, u64)> {
    let outcome = pump(input, options, to);
    if let Err(error) = &outcome {
        // The parser must learn of it before it takes the silence for the end.
        let _ = to.send(Err(Error::new(error.class(), error.to_string()).with_hint(error.hint().unwrap_or_default())));
    }
    outcome
}

fn pump(
    input: &mut (dyn Read + Send),
    options: &IngestOptions<'_>,
    to: &SyncSender<Result<Chunk>>,
) -> Result<(Option<Digest>, u64)> {
    let consumed = AtomicU64::new(0);
    let counted = Counted { input, hasher: Some(Sha256::new()), read: &consumed, progress: options.progress, reported: 0 };
    let mut input = BufReader::with_capacity(CHUNK, counted);
    let magic = Media::of_magic(input.fill_buf().at("read", "layer stream")?);
    if options.media != Media::Auto && options.media != magic {
        return Err(Error::corrupt(format!("the layer should be {:?}, but its first bytes say {magic:?}", options.media)));
    }
    match magic {
        Media::Gzip => inflate(&mut GzipMembers::new(&mut input), to, options.limits, Some(&consumed))?,
        Media::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut input).at("start", "zstd decoder")?;
            decoder.window_log_max(27).at("configure", "zstd decoder")?;
            inflate(&mut decoder, to, options.limits, Some(&consumed))?;
        }
        Media::Plain | Media::Auto => {
            input.get_mut().hasher = None;
            inflate(&mut input, to, options.limits, None)?;
        }
    }
    // Bytes behind the compressed data belong to the blob.
    io::copy(&mut input, &mut io::sink()).at("read", "layer stream")?;
    let counted = input.into_inner();
    Ok((counted.hasher.map(|hasher| Digest::from_bytes(hasher.finalize().into())), consumed.load(Ordering::Relaxed)))
}

fn inflate(from: &mut dyn Read, to: &SyncSender<Result<Chunk>>, limits: Limits, consumed: Option<&AtomicU64>) -> Result<()> {
    let mut total = 0u64;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error, consumed.is_some())),
            }
        }
        chunk.truncate(filled);
        total += filled as u64;
        if total > limits.size {
            return Err(limit(format!("more than {} bytes uncompressed", limits.size)));
        }
        let read = consumed.map_or(u64::MAX, |consumed| consumed.load(Ordering::Relaxed));
        if total > Limits::RATIO_FLOOR && total / limits.ratio > read {
            return Err(limit(format!("more than {} bytes uncompressed for each byte compressed", limits.ratio)));
        }
        // A closed channel: the parser has given up, and says why.
        if filled == 0 || to.send(Ok(Arc::new(chunk))).is_err() {
            return Ok(());
        }
    }
}

fn unreadable(error: io::Error, compressed: bool) -> Error {
    if compressed && error.raw_os_error().is_none() {
        return Error::corrupt("the layer's compressed data is damaged or truncated").with_source(error);
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::corrupt("the stream ends in the middle of the layer: it is truncated");
    }
    Error::io("read", "layer stream", error)
}

/// gzip members one after the other; bytes behind the last that are no member are ignored, as gzip(1) does.
struct GzipMembers<R: BufRead> {
    decoder: Option<flate2::bufread::GzDecoder<R>>,
    spare: Option<R>,
}

impl<R: BufRead> GzipMembers<R> {
    fn new(input: R) -> GzipMembers<R> {
        GzipMembers { decoder: Some(flate2::bufread::GzDecoder::new(input)), spare: None }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let got = decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            let Some(mut input) = self.decoder.take().map(flate2::bufread::GzDecoder::into_inner) else { return Ok(0) };
            if Media::of_magic(input.fill_buf()?) == Media::Gzip {
                self.decoder = Some(flate2::bufread::GzDecoder::new(input));
            } else {
                self.spare = Some(input);
            }
        }
    }
}

/// Counts and hashes what is read.
struct Counted<'a, 'b> {
    input: &'a mut (dyn Read + Send),
    hasher: Option<Sha256>,
    read: &'b AtomicU64,
    progress: Option<&'b (dyn Fn(u64) + Sync)>,
    reported: u64,
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        let read = self.read.fetch_add(got as u64, Ordering::Relaxed) + got as u64;
        if let Some(progress) = self.progress
            && (got == 0 || read - self.reported >= 512 << 10)
        {
            self.reported = read;
            progress(read);
        }
        Ok(got)
    }
}
