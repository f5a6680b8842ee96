//! Connections that stop being HTTP: attach and exec.

use std::os::unix::net::UnixStream;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs_base::{Error, IoContext, Result};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::Version;
use super::escape::Escape;

/// From this version on the type says whether output is framed. Source: Docker Engine API history, 1.42.
const TYPED: Version = Version(1, 42);
/// Bytes in one piece.
const PIECE: usize = 32 << 10;

/// A client that wants a connection of its own.
pub struct Hijack {
    upgrade: Option<OnUpgrade>,
    content_type: &'static str,
    /// What it gets before the stream.
    before: Option<mpsc::Receiver<Bytes>>,
    leave: Option<Leave>,
}

/// How it leaves a terminal, and who is told that it did.
struct Leave {
    escape: Escape,
    told: Box<dyn FnOnce() + Send>,
}

impl Hijack {
    /// From the request; `framed` if output and errors are told apart on the connection.
    pub fn new(mut request: Request, framed: bool) -> Hijack {
        let version = request.extensions().get::<Version>().copied();
        let asked = request.headers().contains_key(header::UPGRADE);
        let content_type = match version {
            Some(version) if version >= TYPED && framed => "application/vnd.docker.multiplexed-stream",
            _ => "application/vnd.docker.raw-stream",
        };
        let upgrade = asked.then(|| hyper::upgrade::on(&mut request));
        Hijack { upgrade, content_type, before: None, leave: None }
    }

    /// Refuses an input from a client that asked for no connection of its own: a plain request has no way for it.
    pub fn refuse_input(&self, stdin: bool) -> Result<()> {
        if stdin && self.upgrade.is_none() {
            return Err(Error::invalid("input needs a connection of its own")
                .with_hint("send the headers Connection: Upgrade and Upgrade: tcp"));
        }
        Ok(())
    }

    /// The client gets this first.
    pub fn after(self, before: mpsc::Receiver<Bytes>) -> Hijack {
        Hijack { before: Some(before), ..self }
    }

    /// The client is at a terminal, and these keys let it leave; `told` hears of it.
    pub fn leaving(self, escape: Escape, told: impl FnOnce() + Send + 'static) -> Hijack {
        Hijack { leave: Some(Leave { escape, told: Box::new(told) }), ..self }
    }

    /// Answers, and joins the client with the stream that `from` gives. If it gives none, the connection is closed.
    pub fn join(self, from: impl Future<Output = Option<UnixStream>> + Send + 'static) -> Response {
        let Some(upgrade) = self.upgrade else {
            return ([(header::CONTENT_TYPE, self.content_type)], output_of(self.before, from)).into_response();
        };
        tokio::spawn(async move {
            let Ok(client) = upgrade.await else { return };
            let mut client = TokioIo::new(client);
            if let Some(mut before) = self.before {
                while let Some(bytes) = before.recv().await {
                    if client.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
            match from.await.map(to_tokio) {
                Some(Ok(stream)) => both_ways(client, stream, self.leave).await,
                _ => drop(client.shutdown().await),
            }
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        response
    }
}

impl Hijack {
    /// Says something on the connection, and closes it.
    pub fn tell(self, text: &str, framed: bool) -> Result<Response> {
        let (mut ours, theirs) = UnixStream::pair().at("make", "socket pair")?;
        let mut bytes = Vec::new();
        if framed {
            bytes.extend([1, 0, 0, 0]);
            bytes.extend((text.len() as u32).to_be_bytes());
        }
        bytes.extend(text.as_bytes());
        std::io::Write::write_all(&mut ours, &bytes).at("write to", "socket pair")?;
        Ok(self.join(async move { Some(theirs) }))
    }
}

fn to_tokio(stream: UnixStream) -> Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true).at("configure", "shim socket")?;
    tokio::net::UnixStream::from_std(stream).at("configure", "shim socket")
}

/// Until the output ends, or the client leaves. The end of the client's input is handed on, and output goes on after it.
async fn both_ways(client: TokioIo<hyper::upgrade::Upgraded>, stream: tokio::net::UnixStream, mut leave: Option<Leave>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_shim, mut to_shim) = stream.into_split();
    let (left, mut has_left) = oneshot::channel();
    let input = tokio::spawn(async move {
        let mut piece = vec![0; PIECE];
        // While the client is there, so is this.
        let mut left = Some(left);
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            let mut typed = Vec::new();
            let leaves = match &mut leave {
                Some(leave) => leave.escape.filter(&piece[..count], &mut typed),
                None => false,
            };
            let bytes = if leave.is_some() { &typed[..] } else { &piece[..count] };
            if to_shim.write_all(bytes).await.is_err() {
                break;
            }
            if leaves {
                if let Some(leave) = leave {
                    (leave.told)();
                }
                let _ = left.take().map(|left| left.send(()));
                break;
            }
        }
        // The half that is dropped here is closed, and with it the input.
        (from_client, left)
    });
    let mut piece = vec![0; PIECE];
    loop {
        let count = tokio::select! {
            read = from_shim.read(&mut piece) => read.unwrap_or(0),
            Ok(()) = &mut has_left => 0,
        };
        if count == 0 || to_client.write_all(&piece[..count]).await.is_err() {
            break;
        }
    }
    let _ = to_client.shutdown().await;
    input.abort();
}

/// Output alone, as a body.
fn output_of(before: Option<mpsc::Receiver<Bytes>>, from: impl Future<Output = Option<UnixStream>> + Send + 'static) -> Body {
    let start = async move { from.await.and_then(|stream| to_tokio(stream).ok()) };
    let first = before.unwrap_or_else(|| mpsc::channel(1).1);
    let pieces = futures_util::stream::unfold(Source::Before(first, Box::pin(start)), |source| async move {
        let mut stream = match source {
            Source::Before(mut before, start) => {
                if let Some(bytes) = before.recv().await {
                    return Some((Ok::<_, std::convert::Infallible>(bytes), Source::Before(before, start)));
                }
                start.await?
            }
            Source::Open(stream) => stream,
        };
        let mut piece = vec![0; PIECE];
        let count = stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        piece.truncate(count);
        Some((Ok(Bytes::from(piece)), Source::Open(stream)))
    });
    Body::from_stream(pieces)
}

enum Source<F> {
    Before(mpsc::Receiver<Bytes>, std::pin::Pin<Box<F>>),
    Open(tokio::net::UnixStream),
}
