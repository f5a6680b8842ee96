//! Between blocking tar code and asynchronous bodies.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use crate::client::Body;
use crate::client::stream::next_data;

/// Chunks under way at once.
const DEPTH: usize = 8;
/// What is gathered before it is sent.
const CHUNK: usize = 128 * 1024;

/// A body that a thread writes.
pub fn tar_body(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(DEPTH);
    std::thread::spawn(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, Chunks(sender.clone()));
        let done = write(&mut out).and_then(|()| out.flush());
        if let Err(error) = done {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let frames =
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|chunk| (chunk.map(Frame::data), receiver)) });
    StreamBody::new(frames).boxed_unsync()
}

struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(data);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body as something that blocking code reads; the bytes that went by are counted.
pub struct Reader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    /// Bytes read so far.
    pub count: u64,
}

impl Reader {
    /// Reads a response's body.
    pub fn new(mut body: Incoming) -> Reader {
        let (sender, receiver) = mpsc::channel(DEPTH);
        tokio::spawn(async move {
            loop {
                let item = match next_data(&mut body).await {
                    Ok(Some(data)) => Ok(data),
                    Ok(None) => break,
                    Err(error) => Err(io::Error::other(error.to_string())),
                };
                let failed = item.is_err();
                if sender.send(item).await.is_err() || failed {
                    break;
                }
            }
        });
        Reader { receiver, current: Bytes::new(), count: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        self.count += length as u64;
        Ok(length)
    }
}
