//! The daemon, over HTTP on its unix socket: one connection a request, no round trip to agree on a version.
//!
//! `hyper` is used as it is: `bollard` drops the fields that its types don't know (an `inspect` must show all that the
//! daemon said, in its order), buffers where we stream, and asks for the version first. Paths are sent without a version,
//! which every daemon takes as its newest.

pub mod hijack;
pub mod query;
pub mod stream;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::failure::{Exit, Refused};
pub use query::Query;

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where a daemon listens unless it is told otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/fsd/fsd.sock";

/// The daemon at one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A body that is there as a whole.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Client {
    /// The daemon at `unix://PATH`.
    pub fn new(host: &str) -> Result<Client> {
        let Some(path) = host.strip_prefix("unix://") else {
            bail!("unable to parse daemon host `{host}`: only unix://PATH is supported");
        };
        Ok(Client { socket: PathBuf::from(if path.is_empty() { "/run/fsd/fsd.sock" } else { path }) })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.map_err(|error| no_daemon(&self.socket, &error))
    }

    /// Sends a request; a status of 400 and up is an error, its message taken from the answer.
    pub async fn send(&self, method: Method, path: &str, kind: Option<&'static str>, body: Body) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "fsd");
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let response = self.exchange(request.body(body)?).await?;
        checked(response).await
    }

    /// Posts nothing but a header, if there is one to post.
    pub async fn post_as(&self, path: &str, header: &'static str, value: Option<String>) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(Method::POST).uri(path).header(HOST, "fsd");
        if let Some(value) = value {
            request = request.header(header, value);
        }
        checked(self.exchange(request.body(whole(""))?).await?).await
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let user_agent = concat!("ctl/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().insert(hyper::header::USER_AGENT, HeaderValue::from_static(user_agent));
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.with_context(|| format!("the daemon at {} hung up", self.socket.display()))
    }

    /// The JSON at a path.
    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get_bytes(path).await?)?)
    }

    /// The bytes at a path.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes> {
        let response = self.send(Method::GET, path, None, whole("")).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    /// Posts JSON, or nothing; gives back JSON, or `null` if the daemon has nothing to say.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let response = match body {
            Some(body) => self.send(Method::POST, path, Some("application/json"), whole(serde_json::to_vec(body)?)).await?,
            None => self.send(Method::POST, path, None, whole("")).await?,
        };
        json_or_null(response).await
    }

    /// Deletes; gives back JSON, or `null`.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        json_or_null(self.send(Method::DELETE, path, None, whole("")).await?).await
    }

    /// The API version that the daemon speaks, as (major, minor).
    pub async fn api_version(&self) -> Result<(u32, u32)> {
        let response = self.send(Method::GET, "/_ping", None, whole("")).await?;
        let version = response.headers().get("api-version").and_then(|value| value.to_str().ok()).unwrap_or("1.24");
        let (major, minor) = version.split_once('.').ok_or_else(|| anyhow!("the daemon's API version is {version:?}"))?;
        Ok((major.parse()?, minor.parse()?))
    }
}

async fn json_or_null(response: Response<Incoming>) -> Result<Value> {
    let bytes = response.into_body().collect().await?.to_bytes();
    if bytes.iter().all(u8::is_ascii_whitespace) { Ok(Value::Null) } else { Ok(serde_json::from_slice(&bytes)?) }
}

/// The response, or the error that it is.
pub async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.as_u16() < 400 {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let refused = if let Ok(body) = serde_json::from_slice::<fsd_api::ErrorBody>(&bytes) {
        Refused { status: status.as_u16(), message: body.message.trim_end().to_owned(), hint: body.hint }
    } else {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        let message = if text.is_empty() { status.to_string() } else { text };
        Refused { status: status.as_u16(), message, hint: None }
    };
    Err(refused.into())
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let shown = socket.display();
    let mut text = format!("Cannot connect to the fsd daemon at unix://{shown}: {error}.");
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        text.push_str("\nhint: the socket belongs to root and the group fsd: run this as root, or join that group");
    } else {
        let _ = write!(
            text,
            "\nhint: is it running? Start it with `systemctl start fsd`, or by hand with \
             `fsd --root DIR --run DIR -H unix://{shown}`; say which daemon with -H or FSD_HOST"
        );
    }
    Exit::with(1, text)
}
