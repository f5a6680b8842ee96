//! A request's body, read by code that blocks.

use std::collections::VecDeque;
use std::io::{self, Read};

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes that are handed over at once. The `docker` CLI sends 32 KiB at a time; waking a thread for each of them takes
/// longer than the rest of the way from the socket to here.
const BATCH: usize = 256 << 10;
/// Batches under way.
const QUEUE: usize = 4;

type Batch = io::Result<VecDeque<Bytes>>;

/// Reads a body. To be read off the runtime's own threads only.
pub struct Upload {
    batches: Receiver<Batch>,
    batch: VecDeque<Bytes>,
}

impl Upload {
    /// Starts to take the body in, as far ahead as the queue is long; dropped, it stops.
    pub fn new(body: Body) -> Upload {
        let (to, batches) = channel(QUEUE);
        tokio::spawn(pump(body, to));
        Upload { batches, batch: VecDeque::new() }
    }
}

async fn pump(body: Body, to: Sender<Batch>) {
    let mut stream = body.into_data_stream();
    let (mut batch, mut size) = (VecDeque::new(), 0);
    // An error of sending: nobody reads any more.
    while let Some(part) = stream.next().await {
        match part {
            Ok(bytes) => {
                size += bytes.len();
                batch.push_back(bytes);
            }
            Err(error) => {
                let _ = to.send(Ok(batch)).await;
                let _ = to.send(Err(io::Error::other(error))).await;
                return;
            }
        }
        if size >= BATCH {
            size = 0;
            if to.send(Ok(std::mem::take(&mut batch))).await.is_err() {
                return;
            }
        }
    }
    let _ = to.send(Ok(batch)).await;
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(bytes) = self.batch.front_mut() else {
                if filled > 0 {
                    break;
                }
                match self.batches.blocking_recv() {
                    Some(batch) => self.batch = batch?,
                    None => break,
                }
                continue;
            };
            let part = bytes.split_to(bytes.len().min(buffer.len() - filled));
            buffer[filled..filled + part.len()].copy_from_slice(&part);
            filled += part.len();
            if bytes.is_empty() {
                self.batch.pop_front();
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step fails the test
mod tests {
    use super::*;

    fn body_of(parts: Vec<io::Result<Bytes>>) -> Body {
        Body::from_stream(futures_util::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_comes_whole_and_in_order_whatever_its_parts() {
        for size in [1, 7, 1000, BATCH, 3 * BATCH + 1] {
            let whole: Vec<u8> = (0..900_000u32).map(|n| (n % 251) as u8).collect();
            let parts = whole.chunks(size).take(900_000 / size + 1).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let mut upload = Upload::new(body_of(parts));
            let mut got = Vec::new();
            let got = tokio::task::spawn_blocking(move || upload.read_to_end(&mut got).map(|_| got)).await.unwrap().unwrap();
            assert!(got == whole, "{size}");
        }
        let mut empty = Upload::new(Body::empty());
        assert_eq!(tokio::task::spawn_blocking(move || empty.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_end_but_an_error_behind_what_came() {
        let parts = vec![Ok(Bytes::from_static(b"first")), Err(io::Error::other("hung up")), Ok(Bytes::from_static(b"never"))];
        let mut upload = Upload::new(body_of(parts));
        let (got, error) = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            let error = upload.read_to_end(&mut got).unwrap_err();
            (got, error)
        })
        .await
        .unwrap();
        assert_eq!(got, b"first");
        assert!(error.to_string().contains("hung up"), "{error}");
    }
}
