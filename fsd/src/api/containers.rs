//! `/containers`: made, listed, looked at, removed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use fs_base::Error;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::error::Failure;
use super::images::{any_filters, filters};
use super::json_body::JsonBody;
use super::query::Query;
use super::{blocking, copy, events, flag, lifecycle, logs, resources, streams};
use crate::app::App;
use crate::container::filter::ListQuery;
use crate::container::{self, ContainerRow, exec, make, show, size};
use crate::network::linked;
use crate::network::show::Shown;

type Answer = Result<Response, Failure>;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{name}", delete(remove))
        .route("/containers/{name}/json", get(inspect))
        .route("/containers/{name}/rename", post(rename))
        .route("/containers/{name}/start", post(lifecycle::start))
        .route("/containers/{name}/stop", post(lifecycle::stop))
        .route("/containers/{name}/restart", post(lifecycle::restart))
        .route("/containers/{name}/kill", post(lifecycle::kill))
        .route("/containers/{name}/pause", post(resources::pause))
        .route("/containers/{name}/unpause", post(resources::unpause))
        .route("/containers/{name}/update", post(resources::update))
        .route("/containers/{name}/top", get(resources::top))
        .route("/containers/{name}/stats", get(resources::stats))
        .route("/containers/{name}/wait", post(lifecycle::wait))
        .route("/containers/{name}/resize", post(lifecycle::resize))
        .route("/containers/{name}/attach", post(streams::attach))
        .route("/containers/{name}/logs", get(logs::logs))
        .route("/containers/{name}/exec", post(streams::create_exec))
        .route("/exec/{id}/start", post(streams::start_exec))
        .route("/exec/{id}/json", get(streams::inspect_exec))
        .route("/exec/{id}/resize", post(lifecycle::resize_exec))
        .route("/containers/{name}/archive", get(copy::read).put(copy::write))
        .route("/containers/{name}/changes", get(copy::changes))
        .route("/containers/{name}/export", get(copy::export))
        .route("/commit", post(super::commit::commit))
        .route("/events", get(events::events))
}

#[derive(Deserialize)]
struct ContainersQuery {
    all: Option<String>,
    limit: Option<i64>,
    size: Option<String>,
    filters: Option<String>,
}

async fn list(State(app): State<Arc<App>>, Query(query): Query<ContainersQuery>) -> Answer {
    let with_size = flag(query.size.as_deref());
    let wanted = ListQuery {
        all: flag(query.all.as_deref()),
        limit: query.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
        filters: any_filters(query.filters.as_deref())?,
    };
    let listed = blocking(move || {
        let now = crate::db::now();
        let rows = container::filter::list(&app, &wanted)?;
        let networks = Shown::all(&app)?;
        Ok(rows.iter().map(|row| show::summary(row, &networks, now, with_size.then(|| size::of(&app, row)))).collect::<Vec<_>>())
    })
    .await?;
    Ok(Json(listed).into_response())
}

#[derive(Deserialize)]
struct CreateQuery {
    name: Option<String>,
    #[serde(default)]
    platform: String,
}

async fn create(State(app): State<Arc<App>>, Query(query): Query<CreateQuery>, JsonBody(body): JsonBody) -> Answer {
    let here = format!("linux/{}", crate::image::load::architecture());
    if !query.platform.is_empty() && query.platform != here && query.platform != "linux" {
        return Err(Error::unsupported(format!("--platform {} is not supported: this host is {here}", query.platform)).into());
    }
    let made = blocking(move || make::create(&app, query.name.as_deref(), &body)).await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": made.id, "Warnings": made.warnings}))).into_response())
}

#[derive(Deserialize)]
struct InspectQuery {
    size: Option<String>,
}

async fn inspect(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<InspectQuery>) -> Answer {
    let shown = blocking(move || {
        let row = app.db.find_container(&name)?;
        let size = flag(query.size.as_deref()).then(|| size::of(&app, &row));
        show::inspect(&app, &row, &exec::of_container(&app, &row.id), size)
    })
    .await?;
    Ok(Json(shown).into_response())
}

#[derive(Deserialize)]
struct RenameQuery {
    #[serde(default)]
    name: String,
}

async fn rename(State(app): State<Arc<App>>, Path(old): Path<String>, Query(query): Query<RenameQuery>) -> Answer {
    blocking(move || container::rename(&app, &old, &query.name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct RemoveQuery {
    force: Option<String>,
    v: Option<String>,
    link: Option<String>,
}

async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<RemoveQuery>) -> Answer {
    if flag(query.link.as_deref()) {
        blocking(move || linked::remove(&app, &name)).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let options = container::RemoveOptions { force: flag(query.force.as_deref()), volumes: flag(query.v.as_deref()) };
    blocking(move || container::remove(&app, &app.db.find_container(&name)?, options)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct PruneQuery {
    filters: Option<String>,
}

async fn prune(State(app): State<Arc<App>>, Query(query): Query<PruneQuery>) -> Answer {
    let filters = filters(query.filters.as_deref(), &["until", "label", "label!"])?;
    let before = before(&filters)?;
    let wanted = move |row: &ContainerRow| before.is_none_or(|before| row.created < before) && labelled(row, &filters);
    let (removed, bytes) = blocking(move || container::prune(&app, &wanted)).await?;
    let deleted = if removed.is_empty() { json!(null) } else { json!(removed) };
    Ok(Json(json!({"ContainersDeleted": deleted, "SpaceReclaimed": bytes})).into_response())
}

/// The moment before which what is pruned was made, if there is to be one.
pub(super) fn before(filters: &HashMap<String, Vec<String>>) -> fs_base::Result<Option<i64>> {
    match filters.get("until").map(Vec::as_slice) {
        None => Ok(None),
        Some([text]) => until(text).map(Some),
        // Source: moby; the laxer of two would take what the stricter keeps.
        Some(_) => Err(fs_base::Error::invalid("more than one until filter specified")),
    }
}

fn labelled(row: &ContainerRow, filters: &HashMap<String, Vec<String>>) -> bool {
    let labels = &row.definition.config["Labels"];
    let has = |label: &String| match label.split_once('=') {
        Some((key, value)) => labels[key].as_str() == Some(value),
        None => labels.get(label).is_some(),
    };
    filters.get("label").into_iter().flatten().all(has) && !filters.get("label!").into_iter().flatten().any(has)
}

/// `24h`, `10m30s`: so long ago; or a moment.
pub(super) fn until(text: &str) -> fs_base::Result<i64> {
    let unit = |c: char| match c {
        'h' => Some(3600),
        'm' => Some(60),
        's' => Some(1),
        _ => None,
    };
    let (mut seconds, mut digits) = (0i64, String::new());
    for c in text.chars() {
        match unit(c) {
            Some(unit) => {
                let number: i64 = digits.parse().map_err(|_| bad_time(text))?;
                seconds = number.checked_mul(unit).and_then(|n| n.checked_add(seconds)).ok_or_else(|| bad_time(text))?;
                digits.clear();
            }
            None => digits.push(c),
        }
    }
    if digits.is_empty() && !text.is_empty() {
        return Ok(crate::db::now().saturating_sub(seconds.saturating_mul(1_000_000_000)));
    }
    events::instant(text)?.ok_or_else(|| bad_time(text))
}

fn bad_time(text: &str) -> Error {
    Error::invalid(format!("invalid filter 'until={text}'")).with_hint("give an age such as 24h, or a time")
}

#[cfg(test)]
mod tests {
    use super::until;

    #[test]
    fn an_age_or_a_moment_is_read() {
        let ago = |text: &str| (crate::db::now() - until(text).unwrap() + 500_000_000) / 1_000_000_000;
        assert_eq!((ago("24h"), ago("10m30s"), ago("1h0m1s")), (86400, 630, 3601));
        assert_eq!(until("1000").unwrap(), 1000 * 1_000_000_000);
        assert_eq!(until("2026-01-01T00:00:00Z").unwrap() % 1_000_000_000, 0);
        assert!(until("soon").is_err());
    }
}
