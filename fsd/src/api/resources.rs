//! `/containers/{name}/…`: what it uses and may use, and who runs in it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs_base::Result;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::error::Failure;
use super::json_body::JsonBody;
use super::own::body_of;
use super::query::Query;
use super::{blocking, flag};
use crate::app::App;
use crate::container::stats::{Sample, sample, to_json};
use crate::container::{ContainerRow, pause, top, update};

type Answer = Result<Response, Failure>;

/// Between two samples.
const STEP: Duration = Duration::from_secs(1);

pub async fn pause(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    blocking(move || pause::pause(&app, &name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub async fn unpause(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    blocking(move || pause::unpause(&app, &name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub async fn update(State(app): State<Arc<App>>, Path(name): Path<String>, JsonBody(body): JsonBody) -> Answer {
    let warnings = blocking(move || update::update(&app, &name, &body)).await?;
    let warnings = if warnings.is_empty() { json!(null) } else { json!(warnings) };
    Ok(Json(json!({"Warnings": warnings})).into_response())
}

#[derive(Deserialize)]
pub struct TopQuery {
    #[serde(default)]
    ps_args: String,
}

pub async fn top(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<TopQuery>) -> Answer {
    Ok(Json(blocking(move || top::top(&app, &name, &query.ps_args)).await?).into_response())
}

#[derive(Deserialize)]
pub struct StatsQuery {
    stream: Option<String>,
    #[serde(rename = "one-shot")]
    one_shot: Option<String>,
}

/// One sample a second, or two of them for one answer. The first of a stream comes at once, as Docker's does.
pub async fn stats(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<StatsQuery>) -> Answer {
    let row = app.db.find_container(&name)?;
    let stream = query.stream.as_deref().is_none_or(|text| flag(Some(text)));
    let one_shot = flag(query.one_shot.as_deref());
    if stream && one_shot {
        return Err(fs_base::Error::invalid("cannot have stream=true and one-shot=true").into());
    }
    if !stream {
        let mut last = None;
        if !one_shot && row.state.is_running() {
            last = look(&app, &row).await?.1;
            tokio::time::sleep(STEP).await;
        }
        let (row, now) = look(&app, &row).await?;
        return Ok(Json(to_json(&row, now.as_ref(), last.as_ref())?).into_response());
    }
    let (to, from) = mpsc::channel::<std::io::Result<Bytes>>(2);
    tokio::spawn(async move {
        let mut last: Option<Sample> = None;
        let mut next = tokio::time::interval(STEP);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { () = to.closed() => return, _ = next.tick() => {} }
            // It is removed.
            let Ok((row, now)) = look(&app, &row).await else { return };
            let Ok(value) = to_json(&row, now.as_ref(), last.as_ref()) else { return };
            if to.send(Ok(Bytes::from(format!("{value}\n")))).await.is_err() {
                return;
            }
            last = now;
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body_of(from)).into_response())
}

/// The container as it is now, and what it uses.
async fn look(app: &Arc<App>, row: &ContainerRow) -> Result<(ContainerRow, Option<Sample>), Failure> {
    let (app, id) = (Arc::clone(app), row.id.clone());
    blocking(move || {
        let gone = || fs_base::Error::not_found(format!("No such container: {id}"));
        let row = app.db.container(&id)?.ok_or_else(gone)?;
        let sample = sample(&row)?;
        Ok((row, sample))
    })
    .await
}
