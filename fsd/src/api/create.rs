//! `POST /images/create`: pull and import.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, http::HeaderMap};
use bytes::Bytes;
use fs_base::Error;
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::Failure;
use super::query::Query;
use super::{blocking, reader_of};
use crate::app::App;
use crate::image;
use crate::registry::{Credentials, Request, pull};

pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/images/create", post(create))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateQuery {
    #[serde(default)]
    from_image: String,
    #[serde(default)]
    from_src: String,
    #[serde(default)]
    repo: String,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    platform: String,
    #[serde(default)]
    changes: String,
}

async fn create(
    State(app): State<Arc<App>>,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    match (query.from_image.is_empty(), query.from_src.as_str()) {
        (false, _) => pull_image(app, &query, &headers).await,
        (true, "-") => import(app, query, body).await,
        (true, "") => Err(Failure(Error::invalid("neither fromImage nor fromSrc is given"))),
        (true, _) => Err(Failure(
            Error::unsupported("importing from a URL is not supported")
                .with_hint("fetch it first, and import from standard input"),
        )),
    }
}

async fn import(app: Arc<App>, query: CreateQuery, body: Body) -> Result<Response, Failure> {
    if !query.changes.is_empty() {
        return Err(Failure(Error::unsupported("import with changes (-c) is not supported")));
    }
    let mut reader = reader_of(body);
    let name = if query.tag.is_empty() { query.repo } else { format!("{}:{}", query.repo, query.tag) };
    let id = blocking(move || image::import(&app, &mut reader, &name, &query.message)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], format!("{}\r\n", json!({"status": id}))).into_response())
}

async fn pull_image(app: Arc<App>, query: &CreateQuery, headers: &HeaderMap) -> Result<Response, Failure> {
    if query.tag.is_empty()
        && !query.from_image.contains(['@'])
        && !query.from_image.rsplit('/').next().unwrap_or_default().contains(':')
    {
        return Err(Failure(Error::unsupported("pulling all tags of a repository is not supported").with_hint("name the tag")));
    }
    let separator = if query.tag.contains(':') { '@' } else { ':' };
    let name =
        if query.tag.is_empty() { query.from_image.clone() } else { format!("{}{separator}{}", query.from_image, query.tag) };
    let auth = headers.get("x-registry-auth").and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let credentials = auth.map(Credentials::from_header).transpose()?.flatten();
    let request = Request { reference: name.parse()?, platform: query.platform.clone(), credentials };
    let (to, mut from) = mpsc::channel::<Result<Value, Error>>(64);
    tokio::task::spawn_blocking(move || {
        // A client that has gone away does not stop a pull: what is fetched stays useful.
        let tell = |line: Value| drop(to.blocking_send(Ok(line)));
        if let Err(error) = pull(&app, &request, &tell) {
            drop(to.blocking_send(Err(error)));
        }
    });
    // What fails before the first line is a plain error; after it, an error is a line too.
    let first = match from.recv().await {
        Some(Ok(line)) => line_of(&line),
        Some(Err(error)) => return Err(Failure(error)),
        None => return Err(Failure(Error::internal("the pull ended without a word: see the daemon's log"))),
    };
    let rest = futures_util::stream::unfold(from, |mut from| async move {
        let line = match from.recv().await? {
            Ok(line) => line_of(&line),
            Err(error) => line_of(&json!({"errorDetail": {"message": error.to_string()}, "error": error.to_string()})),
        };
        Some((line, from))
    });
    let lines = futures_util::StreamExt::chain(futures_util::stream::iter([first]), rest);
    let body = Body::from_stream(futures_util::StreamExt::map(lines, Ok::<Bytes, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn line_of(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}
