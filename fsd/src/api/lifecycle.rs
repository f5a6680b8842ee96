//! `/containers/{name}/…`: started, waited for, ended.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs_base::Error;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::blocking;
use super::error::Failure;
use super::query::Query;
use crate::app::App;
use crate::container::{self, End, exec, stop};

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
pub struct StartQuery {
    #[serde(rename = "checkpoint", default)]
    checkpoint: String,
}

pub async fn start(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<StartQuery>) -> Answer {
    if !query.checkpoint.is_empty() {
        return Err(Error::unsupported("--checkpoint is not supported: containers can't be checkpointed").into());
    }
    let started = blocking(move || {
        let id = app.db.find_container(&name)?.id;
        container::start(&app, &id)
    })
    .await?;
    Ok(if started { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }.into_response())
}

#[derive(Deserialize)]
pub struct StopQuery {
    t: Option<i64>,
    signal: Option<String>,
}

pub async fn stop(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<StopQuery>) -> Answer {
    let row = app.db.find_container(&name)?;
    let stopped = stop::stop(&app, &row, query.t, query.signal.as_deref()).await?;
    Ok(if stopped { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }.into_response())
}

pub async fn restart(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<StopQuery>) -> Answer {
    let row = app.db.find_container(&name)?;
    stop::restart(&app, &row, query.t, query.signal.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
pub struct KillQuery {
    #[serde(default)]
    signal: String,
}

pub async fn kill(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<KillQuery>) -> Answer {
    blocking(move || stop::kill(&app, &name, &query.signal)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
pub struct WaitQuery {
    #[serde(default)]
    condition: String,
}

/// The headers go out at once: clients start the container only when they have them.
pub async fn wait(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<WaitQuery>) -> Answer {
    let row = app.db.find_container(&name)?;
    let mut ends = app.containers.of(&row.id).ends();
    let before = ends.borrow_and_update().count;
    let running = app.db.container(&row.id)?.is_some_and(|row| row.state.is_up());
    let at_once = match query.condition.as_str() {
        "" | "not-running" if !running => Some(row.state.exit_code),
        "" | "not-running" | "next-exit" | "removed" => None,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}")).into()),
    };
    let until_removed = query.condition == "removed";
    let ended = move |end: &End| end.removed || !until_removed && end.count > before;
    let body = async move {
        let code = match at_once {
            Some(code) => code,
            None => match ends.wait_for(ended).await {
                Ok(end) if end.count > 0 => end.code,
                // It never ran, and is gone.
                _ => row.state.exit_code,
            },
        };
        Ok::<_, std::convert::Infallible>(Bytes::from(format!("{}\n", json!({"StatusCode": code, "Error": null}))))
    };
    let body = Body::from_stream(futures_util::stream::once(body));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

#[derive(Deserialize)]
pub struct SizeQuery {
    h: u16,
    w: u16,
}

pub async fn resize(State(app): State<Arc<App>>, Path(name): Path<String>, Query(size): Query<SizeQuery>) -> Answer {
    blocking(move || {
        let row = app.db.find_container(&name)?;
        if !row.state.is_running() {
            return Err(Error::conflict(format!("container {} is not running", row.id)));
        }
        app.shim(&row.id).resize(None, size.h, size.w)?;
        app.events.container("resize", &row, &[("height", size.h.to_string()), ("width", size.w.to_string())]);
        Ok(())
    })
    .await?;
    Ok(StatusCode::OK.into_response())
}

pub async fn resize_exec(State(app): State<Arc<App>>, Path(id): Path<String>, Query(size): Query<SizeQuery>) -> Answer {
    let exec = exec::find(&app, &id)?;
    // Clients send the size at once, and the process may not be there yet.
    exec::running(&exec).await;
    blocking(move || app.shim(&exec.container).resize(Some(&exec.id), size.h, size.w)).await?;
    Ok(StatusCode::OK.into_response())
}
