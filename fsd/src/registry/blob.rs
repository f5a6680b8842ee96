//! A layer on its way in: one stream for the reader, however often the connection breaks.

use std::io::{self, Read};
use std::time::Duration;

use fs_base::{Digest, Result};
use reqwest::blocking::Response;

use super::client::Repository;

/// Connections in a row that may bring nothing before we give up.
const BARREN: u32 = 4;

/// The bytes of a blob, fetched again from where they broke off. Whoever reads them verifies the digest.
pub struct Blob<'a> {
    repository: &'a Repository,
    digest: Digest,
    size: u64,
    offset: u64,
    response: Option<Response>,
    barren: u32,
}

impl<'a> Blob<'a> {
    pub fn new(repository: &'a Repository, digest: Digest, size: u64) -> Blob<'a> {
        Blob { repository, digest, size, offset: 0, response: None, barren: 0 }
    }

    fn connect(&self) -> Result<Response> {
        let (mut response, partial) = self.repository.blob_from(&self.digest, self.offset)?;
        if !partial && self.offset > 0 {
            // The registry starts over: what we have is passed over.
            io::copy(&mut (&mut response).take(self.offset), &mut io::sink())
                .map_err(|error| fs_base::Error::unavailable("the registry broke off its answer").with_source(error))?;
        }
        Ok(response)
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if buffer.is_empty() {
                return Ok(0);
            }
            let response = match &mut self.response {
                Some(response) => response,
                None => self.response.insert(self.connect().map_err(io::Error::other)?),
            };
            let broken = match response.read(buffer) {
                Ok(0) if self.offset >= self.size => return Ok(0),
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(got) => {
                    self.offset += got as u64;
                    self.barren = 0;
                    return Ok(got);
                }
                Err(error) => error,
            };
            self.barren += 1;
            if self.barren == BARREN {
                return Err(io::Error::other(format!(
                    "the connection to the registry broke at byte {} of {}: {broken}",
                    self.offset, self.size
                )));
            }
            tracing::debug!(blob = %self.digest, offset = self.offset, error = %broken, "connection broken, fetching the rest");
            self.response = None;
            std::thread::sleep(Duration::from_millis(100) * self.barren);
        }
    }
}
