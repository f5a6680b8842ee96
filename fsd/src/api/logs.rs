//! `GET /containers/{id}/logs`, and the log that comes before what is attached to.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::log::{Query as LogQuery, Reader, Record, Stream};
use fs_base::{Error, Result};
use http::header;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use super::error::Failure;
use super::own::body_of;
use super::query::Query;
use super::{events, flag};
use crate::app::App;
use crate::container::follow::Follower;
use crate::container::journal::JournalReader;
use crate::container::{ContainerRow, End, files, log_options};

type Answer = Result<Response, Failure>;

/// Bytes of a log that are read before they are sent.
const PIECE: usize = 64 << 10;

/// Where a container's log is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its folder, where all that it said is.
    File,
    /// The same, behind a buffer.
    BufferedFile,
    /// In systemd's journal.
    Journal,
}

impl Place {
    /// Whether its shim can read it to a client.
    pub fn is_with_shim(self) -> bool {
        self == Place::File
    }
}

/// Where a container's log is, unless it has none.
pub fn logs_of(row: &ContainerRow) -> Result<Place> {
    match log_options(&row.definition.host_config)? {
        None => Err(Error::unsupported("configured logging driver does not support reading")),
        Some(log) if log.journal.is_some() => Ok(Place::Journal),
        Some(log) if log.buffer.is_some() => Ok(Place::BufferedFile),
        Some(_) => Ok(Place::File),
    }
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
    let place = logs_of(&row)?;
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
    let (to, from) = mpsc::channel(2);
    if place == Place::Journal {
        let run = Run::of(&app, &row, follow);
        let reader = JournalReader::open(&row.id, wanted, run.goes_on()).await?;
        tokio::spawn(send_journal(reader, run, shown, to));
    } else {
        let dir = app.container_dir(&row.id);
        let log = dir.join(files::LOG);
        let follower = follow.then(|| app.followers.watch(&dir)).transpose()?;
        let reader = if follow { Reader::open(&log, wanted)? } else { Reader::open_as_it_is(&log, wanted)? };
        let run = Run::of(&app, &row, follow);
        tokio::spawn(send_logs(reader, run, follower, shown, to));
    }
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body_of(from)).into_response())
}

/// All that the log has now, as it goes to a client.
pub async fn whole_log(app: &App, row: &ContainerRow, [_, stdout, stderr]: [bool; 3]) -> Result<mpsc::Receiver<Bytes>> {
    let wanted = LogQuery { stdout, stderr, ..LogQuery::default() };
    let shown = Shown { framed: !row.definition.config_flag("Tty"), timestamps: false, details: false };
    let (to, from) = mpsc::channel(2);
    if logs_of(row)? == Place::Journal {
        let mut reader = JournalReader::open(&row.id, wanted, false).await?;
        tokio::spawn(async move {
            while let Ok(Some(records)) = reader.read().await {
                if to.send(encode_all(&records, shown)).await.is_err() {
                    return;
                }
            }
        });
        return Ok(from);
    }
    let mut reader = Reader::open_as_it_is(&app.container_dir(&row.id).join(files::LOG), wanted)?;
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

#[derive(Clone, Copy)]
struct Shown {
    framed: bool,
    timestamps: bool,
    details: bool,
}

/// The run of a container that is followed to its end, as Docker does: a run that a restart policy begins is another
/// one's.
struct Run {
    ends: watch::Receiver<End>,
    count: u64,
    /// Whether it is followed, and ran when that began.
    follows: bool,
}

impl Run {
    fn of(app: &App, row: &ContainerRow, follow: bool) -> Run {
        let mut ends = app.containers.of(&row.id).ends();
        let count = ends.borrow_and_update().count;
        // Its end may have come since it was looked up; another run is not what is followed.
        let now = app.db.container(&row.id).ok().flatten();
        let runs = now.is_some_and(|now| now.state.is_running() && now.state.started == row.state.started);
        Run { ends, count, follows: follow && runs }
    }

    /// Whether more is to come of it.
    fn goes_on(&self) -> bool {
        let end = *self.ends.borrow();
        self.follows && end.count == self.count && !end.removed
    }
}

type Sender = mpsc::Sender<std::io::Result<Bytes>>;

async fn send_error(to: &Sender, error: &Error) {
    // Who has gone meanwhile need not hear it.
    let _ = to.send(Err(std::io::Error::other(error.to_string()))).await;
}

/// Sends what there is, and what comes until the end of the run. Nothing of it takes a thread while it waits.
async fn send_logs(mut reader: Reader, mut run: Run, mut follower: Option<Follower>, shown: Shown, to: Sender) {
    loop {
        // Asked before reading: what it writes until it ends is in the log by then.
        let more = run.goes_on();
        let Some((same, piece, went)) = read_aside(reader, shown).await else { return };
        reader = same;
        if !piece.is_empty() && to.send(Ok(Bytes::from(piece))).await.is_err() {
            return;
        }
        match (went, &mut follower) {
            (Ok(true), _) => {}
            (Ok(false), Some(follower)) if more => tokio::select! {
                () = follower.changed() => {}
                _ = run.ends.changed() => {}
                () = to.closed() => return,
            },
            (Ok(false), _) => return,
            (Err(error), _) => return send_error(&to, &error).await,
        }
    }
}

/// The same from the journal.
async fn send_journal(mut reader: JournalReader, mut run: Run, shown: Shown, to: Sender) {
    let mut follows = run.follows;
    loop {
        let went = tokio::select! {
            records = reader.read() => records,
            _ = run.ends.changed(), if follows => {
                follows = run.goes_on();
                if follows { Ok(Some(Vec::new())) } else { reader.finish().await.map(|()| Some(Vec::new())) }
            }
            () = to.closed() => return,
        };
        match went {
            Ok(Some(records)) if records.is_empty() => {}
            Ok(Some(records)) if to.send(Ok(encode_all(&records, shown))).await.is_ok() => {}
            Ok(_) => return,
            Err(error) => return send_error(&to, &error).await,
        }
    }
}

fn encode_all(records: &[Record], shown: Shown) -> Bytes {
    records.iter().flat_map(|record| encode(record, shown)).collect()
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
