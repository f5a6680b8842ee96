//! `/fsd/v1/images/{name}/archive`: what `cp` out of an image asks, in the shape of Docker's container archive.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::Bytes;
use fsd_api::{PATH_STAT_HEADER, PathQuery};
use http::{HeaderName, header};
use layerfs::archive::{PathStat, TarOptions, stat_in_tree, tar_of_tree};
use serde_json::json;
use tokio::sync::mpsc;

use super::blocking;
use super::error::Failure;
use super::own::body_of;
use super::query::Query;
use crate::app::App;
use crate::image::tree;

/// Bytes in one piece on their way out.
const PIECE: usize = 64 << 10;

/// The status of a path as clients read it: base64 of JSON.
pub(super) fn stat_header(stat: &PathStat) -> String {
    let mtime = jiff::Timestamp::new(stat.mtime, stat.mtime_nanos as i32).map_or_else(|_| String::new(), |time| time.to_string());
    let json = json!({
        "name": String::from_utf8_lossy(&stat.name), "size": stat.size, "mode": stat.mode, "mtime": mtime,
        "linkTarget": String::from_utf8_lossy(&stat.link_target),
    });
    base64::engine::general_purpose::STANDARD.encode(json.to_string())
}

/// `GET`; for `HEAD` the server leaves the body out, and nothing is packed.
pub async fn read(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<PathQuery>,
    method: http::Method,
) -> Result<Response, Failure> {
    let path = PathBuf::from(&query.path);
    let wanted = path.clone();
    let (tree, stat) = blocking(move || {
        let tree = tree::of(&app, &name)?;
        let stat = stat_in_tree(&tree, &wanted)?;
        Ok((tree, stat))
    })
    .await?;
    let body = if method == http::Method::HEAD {
        Body::empty()
    } else {
        let (to, from) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            packer(&to, |out| tar_of_tree(&tree, &path, out, TarOptions::default()).map(drop));
        });
        body_of(from)
    };
    let headers = [
        (HeaderName::from_static("x-docker-container-path-stat"), stat_header(&stat)),
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
    ];
    debug_assert!(PATH_STAT_HEADER.eq_ignore_ascii_case(headers[0].0.as_str()));
    Ok((headers, body).into_response())
}

/// Packs an archive into a body. If that breaks off, so does the body.
pub(super) fn packer(to: &mpsc::Sender<std::io::Result<Bytes>>, pack: impl FnOnce(&mut dyn Write) -> fs_base::Result<()>) {
    let mut out = std::io::BufWriter::with_capacity(PIECE, ToChannel(to.clone()));
    let packed = pack(&mut out).and_then(|()| out.flush().map_err(|error| fs_base::Error::io("send", "archive", error)));
    if let Err(error) = packed {
        tracing::warn!(%error, "an archive broke off");
        let _ = to.blocking_send(Err(std::io::Error::other(error.to_string())));
    }
}

/// Hands what is written to the response; a client that has gone away ends the writing.
struct ToChannel(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
