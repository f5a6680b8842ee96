//! Streams of containers: attach, exec.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use fs_base::{Error, Result};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::error::Failure;
use super::escape::Escape;
use super::hijack::Hijack;
use super::json_body::{self, JsonBody};
use super::logs::{logs_of, whole_log};
use super::query::Query;
use super::{blocking, flag};
use crate::app::App;
use crate::container::attach::{Attached, attach as attach_to};
use crate::container::{exec, stop};

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachQuery {
    stream: Option<String>,
    logs: Option<String>,
    stdin: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    detach_keys: Option<String>,
}

pub async fn attach(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<AttachQuery>,
    request: Request,
) -> Answer {
    let escape = Escape::parse(query.detach_keys.as_deref())?;
    let row = app.db.find_container(&name)?;
    if row.state.paused {
        return Err(Error::conflict(format!("container {name} is paused, unpause the container before attach")).into());
    }
    let streams = [flag(query.stdin.as_deref()), flag(query.stdout.as_deref()), flag(query.stderr.as_deref())];
    let (logs, stream) = (flag(query.logs.as_deref()), flag(query.stream.as_deref()));
    let terminal = row.definition.config_flag("Tty");
    let mut hijack = Hijack::new(request, !terminal);
    hijack.refuse_input(streams[0])?;
    // Of one that runs, the shim gives the log, so that nothing is missed or told twice where it meets the stream. One
    // that keeps lines in a buffer, or sends them away, can't.
    let by_shim = logs && stream && row.state.is_running() && logs_of(&row)?.is_with_shim();
    if logs && !by_shim {
        hijack = hijack.after(whole_log(&app, &row, streams).await?);
    }
    if !stream {
        return Ok(hijack.join(async { None }));
    }
    let attached = {
        let (app, id) = (Arc::clone(&app), row.id.clone());
        blocking(move || attach_to(&app, &id, streams, by_shim)).await?
    };
    app.events.container("attach", &row, &[]);
    if terminal && streams[0] {
        let (app, row) = (Arc::clone(&app), row.clone());
        hijack = hijack.leaving(escape, move || app.events.container("detach", &row, &[]));
    }
    Ok(hijack.join(async move {
        match attached {
            Attached::Now(stream) => Some(stream),
            Attached::Later(stream) => stream.await.ok(),
        }
    }))
}

pub async fn create_exec(State(app): State<Arc<App>>, Path(name): Path<String>, JsonBody(body): JsonBody) -> Answer {
    let id = blocking(move || {
        let wanted = exec::decode(&body)?;
        Escape::parse(wanted.detach_keys.as_deref())?;
        let row = stop::settled(&app, &app.db.find_container(&name)?.id)?;
        exec::add(&app, &row, wanted).map(|exec| exec.id.clone())
    })
    .await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": id}))).into_response())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartExec {
    detach: bool,
    tty: bool,
    console_size: Option<(u16, u16)>,
}

pub async fn start_exec(State(app): State<Arc<App>>, Path(id): Path<String>, mut request: Request) -> Answer {
    let body = std::mem::take(request.body_mut());
    let body = axum::body::to_bytes(body, 1 << 20).await.map_err(|error| Error::invalid(format!("request body: {error}")))?;
    json_body::check(request.headers(), &body)?;
    let wanted: StartExec = if body.is_empty() {
        StartExec::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))?
    };
    let exec = exec::find(&app, &id)?;
    if wanted.tty != exec.wanted.tty && !wanted.detach {
        return Err(Error::invalid("Tty of the start is not that of the exec's creation").into());
    }
    let mut hijack = Hijack::new(request, !exec.wanted.tty);
    if exec.wanted.tty && exec.wanted.attach_stdin {
        let (app, exec) = (Arc::clone(&app), Arc::clone(&exec));
        let escape = Escape::parse(exec.wanted.detach_keys.as_deref())?;
        hijack = hijack.leaving(escape, move || exec::detached(&app, &exec));
    }
    if !wanted.detach {
        hijack.refuse_input(exec.wanted.attach_stdin)?;
    }
    let size = wanted.console_size.filter(|size| *size != (0, 0));
    let started = {
        let (app, exec) = (Arc::clone(&app), Arc::clone(&exec));
        blocking(move || exec::start(&app, &exec, wanted.detach, size)).await
    };
    match started {
        Ok(_) if wanted.detach => Ok(StatusCode::OK.into_response()),
        Ok(stream) => Ok(hijack.join(async move { Some(stream) })),
        // A client that waits for its own connection reads the reason there, and the code from the exec.
        Err(Failure(error)) if exec.has_failed() && !wanted.detach => {
            hijack.tell(&format!("{}\r\n", fsd_api::words::of_system(&error.to_string())), !exec.wanted.tty).map_err(Failure)
        }
        Err(error) => Err(error),
    }
}

pub async fn inspect_exec(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let exec = exec::find(&app, &id)?;
    exec::settled(&exec).await;
    Ok(Json(exec.inspect()).into_response())
}
