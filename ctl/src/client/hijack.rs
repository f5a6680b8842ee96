//! A request that becomes a two-way stream of bytes: attach and exec.

use anyhow::{Result, bail};
use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Client, checked, whole};

/// The connection after the daemon agreed.
#[derive(Debug)]
pub struct Hijacked {
    /// Both directions; shutting down the writing side is the end of the container's input.
    pub stream: UnixStream,
    /// What the daemon sent right behind its headers.
    pub early: Bytes,
}

impl Client {
    /// Asks for the upgrade and waits for the daemon's yes.
    pub async fn hijack(&self, path: &str, body: Option<&Value>) -> Result<Hijacked> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "fsd")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "tcp")
            .header(CONTENT_TYPE, if body.is_some() { "application/json" } else { "text/plain" });
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let response = checked(self.exchange(request.body(whole(bytes))?).await?).await?;
        if response.status().as_u16() != 101 {
            bail!("unable to upgrade to tcp, received {}", response.status().as_u16());
        }
        let upgraded = hyper::upgrade::on(response).await?;
        match upgraded.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => Ok(Hijacked { stream: parts.io.into_inner(), early: parts.read_buf }),
            Err(_) => bail!("the daemon's connection is not a unix socket"),
        }
    }
}
