//! Answers that go on: lines of JSON, and Docker's frames of output.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The JSON values of a body, one after the other as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl Lines {
    /// Reads from a response's body.
    pub fn new(body: Incoming) -> Lines {
        Lines { body, buffer: BytesMut::new(), ended: false }
    }

    /// The next value; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(value) = self.take()? {
                return Ok(Some(value));
            }
            if self.ended {
                return if self.buffer.iter().all(u8::is_ascii_whitespace) {
                    Ok(None)
                } else {
                    bail!("the daemon's answer broke off in the middle of a line")
                };
            }
            match next_data(&mut self.body).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => self.ended = true,
            }
        }
    }

    fn take(&mut self) -> Result<Option<Value>> {
        let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                let used = values.byte_offset();
                self.buffer.advance(used);
                Ok(Some(value))
            }
            Some(Err(error)) if !error.is_eof() => Err(error.into()),
            _ => Ok(None),
        }
    }
}

/// The next bytes of a body; `None` at its end.
pub async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Sorts a container's output onto standard output and error.
pub struct Output {
    tty: bool,
    buffer: BytesMut,
    stdout: Option<tokio::io::Stdout>,
    stderr: Option<tokio::io::Stderr>,
}

impl Output {
    /// `tty`: the bytes come as they are, not in frames. What isn't wanted is dropped.
    pub fn new(tty: bool, stdout: bool, stderr: bool) -> Output {
        let stdout = stdout.then(tokio::io::stdout);
        let stderr = stderr.then(tokio::io::stderr);
        Output { tty, buffer: BytesMut::new(), stdout, stderr }
    }

    /// Takes what came and writes what is complete.
    pub async fn feed(&mut self, data: &[u8]) -> Result<()> {
        if self.tty {
            write(self.stdout.as_mut(), data).await;
            return Ok(());
        }
        self.buffer.extend_from_slice(data);
        while self.buffer.len() >= 8 {
            let length = u32::from_be_bytes([self.buffer[4], self.buffer[5], self.buffer[6], self.buffer[7]]) as usize;
            if self.buffer.len() < 8 + length {
                break;
            }
            let stream = self.buffer[0];
            self.buffer.advance(8);
            let payload = self.buffer.split_to(length);
            match stream {
                0 | 1 => write(self.stdout.as_mut(), &payload).await,
                2 => write(self.stderr.as_mut(), &payload).await,
                3 => bail!("error from daemon in stream: {}", String::from_utf8_lossy(&payload)),
                other => bail!("unrecognized stream: {other}"),
            }
        }
        Ok(())
    }
}

async fn write<W: AsyncWrite + Unpin>(to: Option<&mut W>, data: &[u8]) {
    let Some(to) = to else { return };
    let done = to.write_all(data).await;
    crate::out::settle(match done {
        Ok(()) => to.flush().await,
        Err(error) => Err(error),
    });
}

/// Whether a person is at standard input.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}
