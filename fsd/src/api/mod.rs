//! HTTP: decode, call a service, encode. Nothing is decided here.

mod absent;
mod archive;
mod commit;
mod containers;
mod copy;
mod create;
mod error;
mod escape;
mod events;
mod hijack;
mod images;
mod info;
mod json_body;
mod lifecycle;
mod logs;
mod networks;
mod own;
pub mod peer;
mod query;
mod resources;
mod streams;
mod system;
mod upload;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use fs_base::{Error, Result};
use http::{HeaderValue, Uri};

use crate::app::App;
use error::Failure;

/// The newest Docker Engine API version that we answer as.
const API_VERSION: Version = Version(1, 47);
/// The oldest.
const API_OLDEST: Version = Version(1, 24);

/// A version of the Docker Engine API. Handlers that need to know which one was asked for take it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The whole API.
pub fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .merge(system::routes())
        .merge(images::routes())
        .merge(create::routes())
        .merge(volumes::routes())
        .merge(containers::routes())
        .merge(networks::routes())
        .nest("/fsd/v1", own::routes())
        .merge(absent::routes())
        .fallback(|uri: Uri| async move { Failure(absent::page(uri.path())) })
        .method_not_allowed_fallback(|| async { Failure(Error::not_found("page not found")) })
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(app);
    // The version has to go from the path before routes are matched.
    Router::new().fallback_service(tower_layer(routes))
}

fn tower_layer(routes: Router) -> Router {
    Router::new().fallback_service(routes).layer(middleware::from_fn(with_version))
}

/// Takes `/v1.NN` off the path, refuses versions that we don't speak, and says who answers.
async fn with_version(mut request: Request, next: Next) -> Response {
    let mut response = match without_version(request.uri()) {
        Ok((uri, version)) => {
            *request.uri_mut() = with_linked_name(request.method(), &uri).unwrap_or(uri);
            request.extensions_mut().insert(version);
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static("1.47"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("server", HeaderValue::from_static(concat!("fsd/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

/// The path as it is routed, and the version that it asked for; the newest if none.
fn without_version(uri: &Uri) -> Result<(Uri, Version)> {
    let path = uri.path();
    let unversioned = || Ok((uri.clone(), API_VERSION));
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else { return unversioned() };
    let parsed = version.split_once('.').and_then(|(major, minor)| Some(Version(major.parse().ok()?, minor.parse().ok()?)));
    let Some(asked) = parsed else { return unversioned() };
    if asked > API_VERSION {
        return Err(Error::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if asked < API_OLDEST {
        return Err(Error::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {API_OLDEST}"
        )));
    }
    let rest = &uri.path_and_query().map_or("/", |p| p.as_str())[2 + version.len()..];
    let uri = rest.parse().map_err(|_| Error::invalid(format!("bad request path {path:?}")))?;
    Ok((uri, asked))
}

/// The path with a name like `web/db`, by which one container knows another, as one part of it: clients send it as it is.
fn with_linked_name(method: &http::Method, uri: &Uri) -> Option<Uri> {
    let (path, query) = (uri.path(), uri.query().map(|query| format!("?{query}")).unwrap_or_default());
    let (own, rest) = path.strip_prefix("/containers/")?.split_once('/')?;
    let (alias, verb) = match rest.split_once('/') {
        Some((alias, verb)) if !verb.contains('/') => (alias, format!("/{verb}")),
        None if method == http::Method::DELETE => (rest, String::new()),
        _ => return None,
    };
    format!("/containers/{own}%2F{alias}{verb}{query}").parse().ok()
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> std::result::Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Failure),
        Err(_) => Err(Failure(Error::internal("the request's work panicked: see the daemon's log"))),
    }
}

/// Docker's idea of a flag in a query: everything but nothing and no.
fn flag(value: Option<&str>) -> bool {
    !matches!(value.map(str::to_ascii_lowercase).as_deref(), None | Some("" | "0" | "no" | "false" | "none"))
}

/// A body as a blocking reader.
fn reader_of(body: Body) -> impl std::io::Read + Send {
    upload::Upload::new(body)
}
