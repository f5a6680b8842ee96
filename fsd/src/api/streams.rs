//! Streams of containers: attach, logs, exec.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::log::{Query as LogQuery, Reader, Record, Stream};
use fs_base::{Error, Result};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::error::Failure;
use super::escape::Escape;
use super::hijack::Hijack;
use super::own::body_of;
use super::query::Query;
use super::{blocking, events, flag};
use crate::app::App;
use crate::container::attach::{Attached, attach as attach_to};
use crate::container::follow::Follower;
use crate::container::{ContainerRow, exec, files, log_options, stop};

type Answer = Result<Response, Failure>;

/// Bytes of a log that are read before they are sent.
const PIECE: usize = 64 << 10;

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
    let logged = log_options(&row.definition.host_config)?.is_some();
    if logs && !logged {
        return Err(Error::unsupported("configured logging driver does not support reading").into());
    }
    // Of one that runs, the shim gives the log, so that nothing is missed or told twice where it meets the stream.
    let by_shim = logs && stream && row.state.is_running();
    if logs && !by_shim {
        hijack = hijack.after(whole_log(&app, &row, streams)?);
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

/// All that the log has now, as it goes to a client.
fn whole_log(app: &App, row: &ContainerRow, [_, stdout, stderr]: [bool; 3]) -> Result<mpsc::Receiver<Bytes>> {
    let wanted = LogQuery { stdout, stderr, ..LogQuery::default() };
    let mut reader = Reader::open_as_it_is(&app.container_dir(&row.id).join(files::LOG), wanted)?;
    let shown = Shown { framed: !row.definition.config_flag("Tty"), timestamps: false, details: false };
    let (to, from) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut more = true;
        while more {
            let Some((same, piece, went)) = read_aside(reader, shown).await else { return };
            reader = same;
            more = went.unwrap_or(false);
            if to.send(Bytes::from(piece)).await.is_err() {
                return;
            }
        }
    });
    Ok(from)
}

#[derive(Deserialize)]
pub struct LogsQuery {
    stdout: Option<String>,
    stderr: Option<String>,
    follow: Option<String>,
    timestamps: Option<String>,
    details: Option<String>,
    since: Option<String>,
    until: Option<String>,
    tail: Option<String>,
}

pub async fn logs(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<LogsQuery>) -> Answer {
    let row = app.db.find_container(&name)?;
    let (stdout, stderr) = (flag(query.stdout.as_deref()), flag(query.stderr.as_deref()));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream").into());
    }
    if log_options(&row.definition.host_config)?.is_none() {
        return Err(Error::unsupported("configured logging driver does not support reading").into());
    }
    let tail = match query.tail.as_deref() {
        None | Some("" | "all") => None,
        // What is no number means all, as with dockerd.
        Some(text) => text.parse::<u64>().ok(),
    };
    let moment = |text: Option<&str>| text.map(events::instant).transpose().map(Option::flatten);
    let wanted =
        LogQuery { tail, since: moment(query.since.as_deref())?, until: moment(query.until.as_deref())?, stdout, stderr };
    let shown = Shown {
        framed: !row.definition.config_flag("Tty"),
        timestamps: flag(query.timestamps.as_deref()),
        details: flag(query.details.as_deref()),
    };
    let follow = flag(query.follow.as_deref());
    let dir = app.container_dir(&row.id);
    let log = dir.join(files::LOG);
    let follower = follow.then(|| app.followers.watch(&dir)).transpose()?;
    let reader = if follow { Reader::open(&log, wanted)? } else { Reader::open_as_it_is(&log, wanted)? };
    let (to, from) = mpsc::channel(2);
    tokio::spawn(send_logs(app, row, reader, shown, follower, to));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body_of(from)).into_response())
}

#[derive(Clone, Copy)]
struct Shown {
    framed: bool,
    timestamps: bool,
    details: bool,
}

/// Sends what there is, and what comes until this run of the container has ended, as Docker does: a run that a restart
/// policy begins is another one's. Nothing of it takes a thread while it waits.
async fn send_logs(
    app: Arc<App>,
    row: ContainerRow,
    mut reader: Reader,
    shown: Shown,
    mut follower: Option<Follower>,
    to: mpsc::Sender<std::io::Result<Bytes>>,
) {
    let mut ends = app.containers.of(&row.id).ends();
    let count = ends.borrow_and_update().count;
    // Its end may have come since it was looked up; another run is not what is followed.
    let now = app.db.container(&row.id).ok().flatten();
    let runs = now.is_some_and(|now| now.state.is_running() && now.state.started == row.state.started);
    loop {
        // Asked before reading: what it writes until it ends is in the log by then.
        let more = follower.is_some() && runs && {
            let end = *ends.borrow();
            end.count == count && !end.removed
        };
        let Some((same, piece, went)) = read_aside(reader, shown).await else { return };
        reader = same;
        if !piece.is_empty() && to.send(Ok(Bytes::from(piece))).await.is_err() {
            return;
        }
        match (went, &mut follower) {
            (Ok(true), _) => {}
            (Ok(false), Some(follower)) if more => tokio::select! {
                () = follower.changed() => {}
                _ = ends.changed() => {}
                () = to.closed() => return,
            },
            (Ok(false), _) => return,
            (Err(error), _) => return drop(to.send(Err(std::io::Error::other(error.to_string()))).await),
        }
    }
}

/// Reads some of a log where that may wait for the disk: the reader again, what it gave, and what [`read_some`] said.
async fn read_aside(mut reader: Reader, shown: Shown) -> Option<(Reader, Vec<u8>, Result<bool>)> {
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = Vec::new();
        let went = read_some(&mut reader, shown, &mut piece);
        (reader, piece, went)
    });
    read.await.ok()
}

/// Reads on until there is a piece to send; whether there may be more.
fn read_some(reader: &mut Reader, shown: Shown, piece: &mut Vec<u8>) -> Result<bool> {
    while piece.len() < PIECE {
        match reader.read()? {
            Some(record) => piece.extend(encode(&record, shown)),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// As Go's `url.QueryEscape`.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            // Writing to a string can't fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

fn encode(record: &Record, shown: Shown) -> Bytes {
    let mut text = String::new();
    if shown.timestamps {
        text.push_str(&record.time);
        text.push(' ');
    }
    if shown.details {
        let pairs: Vec<String> =
            record.attributes.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
        text.push_str(&pairs.join(","));
        text.push(' ');
    }
    text.push_str(&record.line);
    if !shown.framed {
        return Bytes::from(text);
    }
    let number = match record.stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    let mut frame = vec![number, 0, 0, 0];
    frame.extend((text.len() as u32).to_be_bytes());
    frame.extend(text.into_bytes());
    Bytes::from(frame)
}

pub async fn create_exec(State(app): State<Arc<App>>, Path(name): Path<String>, body: Bytes) -> Answer {
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
