//! `/_ping`, `/version`, `/info`, `/system/df`.

use std::sync::Arc;

use axum::extract::{Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fs_base::Error;
use http::header;
use serde_json::{Value, json};

use super::error::Failure;
use super::{API_OLDEST, API_VERSION, blocking, images, info};
use crate::app::App;
use crate::image::{Config, load::architecture};
use crate::mounts;
use crate::system::df::{self, Wanted};

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/df", get(df))
        .route("/build", post(build))
        .route("/build/prune", post(prune_builds))
}

async fn build() -> Failure {
    Failure(
        Error::unsupported("build is not supported").with_hint("build with another tool and load the image: ctl load -i FILE"),
    )
}

/// `docker system prune` asks for it: there is no builder here, so its cache is empty. Docker knows no mounts on the host,
/// so what was written to those that are gone goes with it, unless only some things are meant.
async fn prune_builds(State(app): State<Arc<App>>, Query(query): Query<PruneQuery>) -> Result<Response, Failure> {
    let only_some = query.filters.is_some_and(|filters| !matches!(filters.as_str(), "" | "{}"));
    let bytes = if only_some { 0 } else { blocking(move || Ok(mounts::scratch::prune(&app)?.1)).await? };
    Ok(Json(json!({"CachesDeleted": null, "SpaceReclaimed": bytes})).into_response())
}

/// The query of a prune.
#[derive(serde::Deserialize)]
struct PruneQuery {
    filters: Option<String>,
}

async fn ping() -> Response {
    ([(header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"), (header::PRAGMA, "no-cache")], "OK").into_response()
}

/// The kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

async fn version() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    let (newest, oldest) = (API_VERSION, API_OLDEST);
    Json(json!({
        "Platform": {"Name": "fsd"},
        "Components": [{"Name": "Engine", "Version": version, "Details": {
            "ApiVersion": newest.to_string(), "MinAPIVersion": oldest.to_string(),
            "Os": "linux", "Arch": architecture(), "KernelVersion": kernel(), "GitCommit": "", "GoVersion": "", "BuildTime": "", "Experimental": "false",
        }}],
        "Version": version, "ApiVersion": newest.to_string(), "MinAPIVersion": oldest.to_string(),
        "Os": "linux", "Arch": architecture(), "KernelVersion": kernel(), "GitCommit": "", "GoVersion": "", "BuildTime": "",
    }))
}

async fn info(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let answer = blocking(move || info::describe(&app)).await?;
    Ok(Json(answer).into_response())
}

/// `?type=` may come several times, which is more than a typed query can say.
async fn df(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let types = query.as_deref().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("type="));
    let wanted = Wanted::parse(types)?;
    let used = blocking(move || df::usage(&app, wanted)).await?;
    let mut answer = serde_json::Map::new();
    if let Some(images) = used.images {
        let mut list = Vec::with_capacity(images.len());
        for used in &images {
            let mut image = images::summary(&used.row, &Config::parse(&used.row.config)?);
            image["SharedSize"] = json!(used.shared);
            image["Containers"] = json!(used.containers);
            list.push(image);
        }
        answer.insert("Images".to_owned(), json!(list));
    }
    answer.insert("LayersSize".to_owned(), json!(used.layers));
    for (key, list) in [("Containers", used.containers), ("Volumes", used.volumes), ("BuildCache", used.build_cache)] {
        if let Some(list) = list {
            answer.insert(key.to_owned(), json!(list));
        }
    }
    if let Some(mounts) = used.mounts {
        answer.insert("Mounts".to_owned(), json!(mounts));
    }
    answer.insert("BuilderSize".to_owned(), json!(0));
    Ok(Json(answer).into_response())
}
