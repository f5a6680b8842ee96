//! The stream between the person and a container's process.

use std::io::Read;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::keys::Watch;
use super::raw::{self, Raw};
use super::signals;
use crate::client::hijack::Hijacked;
use crate::client::stream::Output;
use crate::client::{Client, Query};

/// What a session is to carry.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// The process has a terminal: bytes as they are, and ours in raw mode.
    pub tty: bool,
    /// Send our standard input.
    pub stdin: bool,
    /// Show standard output.
    pub stdout: bool,
    /// Show standard error.
    pub stderr: bool,
    /// The keys that detach; empty for none.
    pub detach_keys: Vec<u8>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The process closed its output, or the daemon the stream.
    Closed,
    /// The person typed the keys.
    Detached,
}

/// Carries bytes both ways until the output ends or the person detaches. The terminal is raw meanwhile.
pub async fn run(hijacked: Hijacked, wiring: &Wiring) -> Result<Ended> {
    let raw = if wiring.tty && wiring.stdin && crate::client::stream::stdin_is_terminal() { Some(Raw::enter()?) } else { None };
    let (mut from, to) = UnixStream::into_split(hijacked.stream);
    let mut output = Output::new(wiring.tty, wiring.stdout, wiring.stderr);
    output.feed(&hijacked.early).await?;
    let detached = send_input(to, wiring);
    tokio::pin!(detached);
    let mut input_done = false;
    let mut buffer = vec![0; 32 * 1024];
    let ended = loop {
        tokio::select! {
            biased;
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break Ended::Closed,
                Ok(length) => output.feed(&buffer[..length]).await?,
            },
            by_keys = &mut detached, if !input_done => {
                if by_keys {
                    break Ended::Detached;
                }
                input_done = true;
            }
        }
    };
    drop(raw);
    Ok(ended)
}

/// Sends standard input and then its end; true if the keys to detach were typed.
async fn send_input(mut to: OwnedWriteHalf, wiring: &Wiring) -> bool {
    if wiring.stdin {
        let keys = if wiring.tty { wiring.detach_keys.clone() } else { Vec::new() };
        let mut watch = Watch::new(keys);
        let mut input = stdin_chunks();
        while let Some(chunk) = input.recv().await {
            let (send, detach) = watch.feed(&chunk);
            if to.write_all(&send).await.is_err() {
                break;
            }
            if detach {
                return true;
            }
        }
    }
    let _ = to.shutdown().await;
    false
}

/// Standard input, read on a thread that the end of the program need not wait for.
fn stdin_chunks() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        let mut stdin = std::io::stdin().lock();
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Tells the daemon the terminal's size, now and whenever it changes. `target` is `/containers/ID` or `/exec/ID`.
pub fn follow_size(client: &Client, target: &str) -> Result<()> {
    let mut changes = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(signals::WINDOW))?;
    let (client, target) = (client.clone(), target.to_owned());
    tokio::spawn(async move {
        // The process may take a moment to be there.
        for wait in [0, 10, 20, 40, 80, 160, 320] {
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
            if send_size(&client, &target, 0).await.is_ok() {
                break;
            }
        }
        while changes.recv().await.is_some() {
            let _ = send_size(&client, &target, 0).await;
        }
    });
    Ok(())
}

/// Sends the terminal's size, `extra` rows and columns larger.
pub async fn send_size(client: &Client, target: &str, extra: u16) -> Result<()> {
    if let Some((rows, columns)) = raw::size() {
        let path = Query::new(format!("{target}/resize"))
            .with("h", rows.saturating_add(extra).to_string())
            .with("w", columns.saturating_add(extra).to_string());
        client.post(&path.build(), None).await?;
    }
    Ok(())
}
