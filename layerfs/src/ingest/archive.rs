//! A stream around layers, an archive of images, that may be compressed as a whole.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_base::Result;

use super::source::{GzipMembers, Media, ZSTD_WINDOW, damaged};
use crate::tar::{Limits, limit, stream_error};

/// What an archive reads as: inflated if it is compressed, by its first bytes, and within the limits on ratio and time.
pub struct Archive<'a> {
    decoder: Box<dyn Read + Send + 'a>,
    budget: Budget,
    /// Bytes that have come out.
    inflated: u64,
    started: std::time::Instant,
}

/// How many bytes an archive has cost so far; clones see the same archive.
#[derive(Debug, Clone)]
pub struct Budget {
    read: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
    limits: Limits,
}

impl Budget {
    /// For an archive of which nothing has been read.
    fn new(limits: Limits) -> Budget {
        Budget { read: Arc::default(), made: Arc::default(), limits }
    }

    /// Takes note of a layer of so many bytes that came out of the archive. A layer may be compressed inside a compressed
    /// archive, and each may stay below the ratio where all of them together don't.
    pub fn spend(&self, bytes: u64) -> Result<()> {
        let made = self.made.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.limits.check_ratio(made, self.read.load(Ordering::Relaxed))
    }
}

/// The bytes as they come in, counted.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(buffer)?;
        self.1.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl<'a> Archive<'a> {
    /// Looks at the first bytes of `input`.
    pub fn open(input: &'a mut (dyn Read + Send), limits: Limits) -> Result<Archive<'a>> {
        let budget = Budget::new(limits);
        let mut input = BufReader::with_capacity(1 << 17, Counted(input, Arc::clone(&budget.read)));
        let mut magic = Vec::new();
        input.by_ref().take(4).read_to_end(&mut magic).map_err(stream_error)?;
        let media = Media::of_magic(&magic);
        let input = io::Cursor::new(magic).chain(input);
        let decoder: Box<dyn Read + Send + 'a> = match media {
            Media::Gzip => Box::new(GzipMembers::new(input)),
            Media::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(damaged)?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(damaged)?;
                Box::new(decoder)
            }
            Media::Plain | Media::Auto => Box::new(input),
        };
        Ok(Archive { decoder, budget, inflated: 0, started: std::time::Instant::now() })
    }

    /// What bounds the layers in it together.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    fn check(&self) -> Result<()> {
        let limits = self.budget.limits;
        if self.started.elapsed() > limits.time {
            return Err(limit("seconds", format_args!("more than {} seconds", limits.time.as_secs())));
        }
        limits.check_ratio(self.inflated, self.budget.read.load(Ordering::Relaxed))
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.decoder.read(buffer)?;
        self.inflated += got as u64;
        self.check().map_err(io::Error::other)?;
        Ok(got)
    }
}
