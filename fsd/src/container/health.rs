//! Health checks: a process that runs in the container now and then and says whether it is well.
//!
//! What was found is in the container's folder, unsynced, so that the next daemon goes on from there; its one word is in
//! the database, where lists and filters read it. Source of the rules: moby, `daemon/health.go`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fs_base::{ContainerId, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;

use super::create::read;
use super::exec::{self, Wanted};
use super::{ContainerRow, State, show};
use crate::app::App;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Docker's least length of time that is none, in nanoseconds.
const LEAST: i64 = 1_000_000;
/// How many results are kept.
const KEPT: usize = 5;
/// How much of what a check says is kept.
const OUTPUT_MAX: usize = 4096;
/// The exit code of a check that could not be made, or took too long.
const NO_RESULT: i32 = -1;
/// In a container's folder.
const FILE: &str = "health.json";

/// How a container is, as its checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has succeeded yet.
    Starting,
    /// The last one did.
    Healthy,
    /// Several have failed, or the container has ended.
    Unhealthy,
}

impl Health {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
    }

    /// As `ps` has it.
    pub fn shown(self) -> &'static str {
        match self {
            Health::Starting => "health: starting",
            other => other.word(),
        }
    }
}

/// Docker's `Healthcheck`. Times are in nanoseconds; zero is the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wire {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// How a container is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

/// One result.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Outcome {
    start: i64,
    end: i64,
    code: i32,
    output: String,
}

/// What the checks of one run have found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Found {
    /// When the run began, so that what was found of another is not taken for this one's.
    started: i64,
    streak: u32,
    log: VecDeque<Outcome>,
}

/// What the container says goes over what its image says, field by field.
pub fn merge(config: &mut Map<String, Value>, image: Option<&Value>) {
    let Some(Value::Object(image)) = image else { return };
    let mut own = config.get("Healthcheck").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in image {
        let unset = own.get(key).is_none_or(|own| own.is_null() || *own == json!(0) || *own == json!([]));
        if unset {
            own.insert(key.clone(), value.clone());
        }
    }
    config.insert("Healthcheck".to_owned(), Value::Object(own));
}

/// Whether a container may have this check.
pub fn validate(config: &Value) -> Result<()> {
    check_of(config).map(drop)
}

fn check_of(config: &Value) -> Result<Option<Check>> {
    let wire: Wire = match &config["Healthcheck"] {
        Value::Null => return Ok(None),
        value => read(value, "Healthcheck")?,
    };
    let time = |name: &str, nanos: i64, default: Duration| match nanos {
        0 => Ok(default),
        LEAST.. => Ok(Duration::from_nanos(nanos as u64)),
        _ => Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms"))),
    };
    let check = Check {
        command: Vec::new(),
        interval: time("Interval", wire.interval, INTERVAL)?,
        timeout: time("Timeout", wire.timeout, TIMEOUT)?,
        start_period: time("StartPeriod", wire.start_period, Duration::ZERO)?,
        start_interval: time("StartInterval", wire.start_interval, START_INTERVAL)?,
        retries: match u32::try_from(wire.retries) {
            Ok(0) => RETRIES,
            Ok(count) => count,
            Err(_) => return Err(Error::invalid("Retries in Healthcheck cannot be negative")),
        },
    };
    let test = wire.test.unwrap_or_default();
    let command = match test.split_first() {
        None => return Ok(None),
        Some((kind, _)) if kind == "NONE" => return Ok(None),
        Some((kind, command)) if kind == "CMD" => command.to_vec(),
        Some((kind, command)) if kind == "CMD-SHELL" => [shell(config), command.to_vec()].concat(),
        Some((kind, _)) => {
            return Err(Error::invalid(format!("Unknown healthcheck type '{kind}' (expected 'CMD')")));
        }
    };
    Ok(Some(Check { command, ..check }))
}

fn shell(config: &Value) -> Vec<String> {
    let words = config["Shell"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let words: Vec<String> = words.collect();
    if words.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { words }
}

/// How a container is when it has just been started; `None` if it is not checked.
pub fn at_start(row: &ContainerRow) -> Option<Health> {
    check_of(&row.definition.config).ok().flatten().map(|_| Health::Starting)
}

/// `State.Health` of an inspection.
pub fn inspect(app: &App, row: &ContainerRow) -> Option<Value> {
    let health = row.state.health?;
    let found = load(app, row);
    let log: Vec<Value> = found
        .log
        .iter()
        .map(
            |one| json!({"Start": show::time(one.start), "End": show::time(one.end), "ExitCode": one.code, "Output": one.output}),
        )
        .collect();
    Some(json!({"Status": health.word(), "FailingStreak": found.streak, "Log": log}))
}

fn path(app: &App, id: &ContainerId) -> PathBuf {
    app.container_dir(id).join(FILE)
}

/// What was found of this run of the container.
fn load(app: &App, row: &ContainerRow) -> Found {
    let read = || serde_json::from_slice::<Found>(&std::fs::read(path(app, &row.id)).ok()?).ok();
    let new = Found { started: row.state.started, ..Found::default() };
    read().filter(|found| found.started == row.state.started).unwrap_or(new)
}

fn save(app: &App, id: &ContainerId, found: &Found) {
    let path = path(app, id);
    let new = path.with_extension("new");
    let saved = serde_json::to_vec(found)
        .map_err(|error| Error::internal(format!("encode: {error}")))
        .and_then(|bytes| std::fs::write(&new, bytes).map_err(|error| Error::io("write", &new, error)))
        .and_then(|()| fs_base::durable::replace(&new, &path));
    if let Err(error) = saved {
        tracing::warn!(container = %id, %error, "the result of a health check could not be kept");
    }
}

/// Checks a container that runs until it ends. Must be called on a thread of the runtime's.
pub fn watch(app: &Arc<App>, id: &ContainerId) {
    let Ok(Some(row)) = app.db.container(id) else { return };
    let Ok(Some(check)) = check_of(&row.definition.config) else { return };
    let mut ends = app.containers.of(id).ends();
    ends.mark_unchanged();
    let app = Arc::clone(app);
    tokio::runtime::Handle::current().spawn(async move {
        tokio::select! {
            _ = ends.changed() => {}
            () = look_after(&app, &row, &check) => {}
        }
    });
}

async fn look_after(app: &Arc<App>, row: &ContainerRow, check: &Check) {
    loop {
        let Some(now) = current(app, row) else { return };
        tokio::time::sleep(pause_before_next(&now.state, check)).await;
        let Some(now) = current(app, row) else { return };
        if now.state.paused {
            continue;
        }
        let outcome = probe(app, &now, check).await;
        let (app, row, check) = (Arc::clone(app), now, check.clone());
        let noted = tokio::task::spawn_blocking(move || note(&app, &row, &check, outcome)).await;
        if !matches!(noted, Ok(Ok(true))) {
            return;
        }
    }
}

/// The container as it is, if this run of it goes on.
fn current(app: &App, row: &ContainerRow) -> Option<ContainerRow> {
    let now = app.db.container(&row.id).ok()??;
    (now.state.is_running() && now.state.pid == row.state.pid).then_some(now)
}

fn since_start(state: &State, moment: i64) -> Duration {
    Duration::from_nanos(u64::try_from(moment - state.started).unwrap_or(0))
}

fn pause_before_next(state: &State, check: &Check) -> Duration {
    let starting = state.health == Some(Health::Starting);
    if starting && since_start(state, crate::db::now()) < check.start_period { check.start_interval } else { check.interval }
}

/// Runs the check once.
async fn probe(app: &Arc<App>, row: &ContainerRow, check: &Check) -> Outcome {
    let start = crate::db::now();
    let (code, output) = match run(app, row, check).await {
        Ok(result) => result,
        Err(error) => (NO_RESULT, error.to_string()),
    };
    Outcome { start, end: crate::db::now(), code, output }
}

async fn run(app: &Arc<App>, row: &ContainerRow, check: &Check) -> Result<(i32, String)> {
    let wanted = Wanted { cmd: Some(check.command.clone()), attach_stdout: true, attach_stderr: true, ..Wanted::default() };
    let exec = exec::add(app, row, wanted)?;
    let started = {
        let (app, exec) = (Arc::clone(app), Arc::clone(&exec));
        tokio::task::spawn_blocking(move || exec::start(&app, &exec, false, None)).await
    };
    let result = match started.map_err(|_| Error::internal("starting the check panicked")).flatten() {
        Ok(stream) => {
            let mut output = Output::default();
            let ended = tokio::time::timeout(check.timeout, async {
                output.read(stream).await?;
                exec::ended(&exec).await
            });
            if let Ok(code) = ended.await {
                code.map(|code| (code, output.text()))
            } else {
                exec::kill(&exec);
                Ok((NO_RESULT, timed_out(check.timeout, &output.text())))
            }
        }
        Err(error) => Err(error),
    };
    exec::forget(app, &exec);
    result
}

fn timed_out(timeout: Duration, output: &str) -> String {
    let text = format!("Health check exceeded timeout ({})", go_duration(timeout));
    if output.is_empty() { text } else { format!("{text}: {output}") }
}

/// As Go writes it: `1m30s`, `1.5s`, `500ms`.
fn go_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds == 0 {
        return format!("{}ms", time.as_nanos() as f64 / 1e6);
    }
    let rest = (seconds % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// What a check says, cut.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Output {
    /// Takes Docker's frames until the stream ends.
    async fn read(&mut self, stream: std::os::unix::net::UnixStream) -> Result<()> {
        let failed = |error| Error::io("read from", "shim socket", error);
        stream.set_nonblocking(true).map_err(failed)?;
        let mut stream = tokio::net::UnixStream::from_std(stream).map_err(failed)?;
        let mut head = [0; 8];
        while stream.read_exact(&mut head).await.is_ok() {
            let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let mut piece = [0; 4096];
            while left > 0 {
                let most = left.min(piece.len());
                let count = stream.read(&mut piece[..most]).await.map_err(failed)?;
                if count == 0 {
                    return Ok(());
                }
                left -= count;
                let room = OUTPUT_MAX - self.bytes.len();
                self.truncated |= count > room;
                self.bytes.extend(&piece[..count.min(room)]);
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.truncated { text + "..." } else { text }
    }
}

/// Records a result; `false` if the run that it is of is over.
fn note(app: &App, row: &ContainerRow, check: &Check, outcome: Outcome) -> Result<bool> {
    let live = app.containers.of(&row.id);
    let _alone = live.alone();
    let Some(now) = current(app, row) else { return Ok(false) };
    let old = now.state.health.unwrap_or(Health::Starting);
    let mut found = load(app, &now);
    let health = after(old, &mut found.streak, check, outcome.code, since_start(&now.state, outcome.start));
    if found.log.len() == KEPT {
        found.log.pop_front();
    }
    found.log.push_back(outcome);
    save(app, &row.id, &found);
    if health != old {
        app.db.set_container_state(&row.id, &State { health: Some(health), ..now.state.clone() })?;
        app.events.container(&format!("health_status: {}", health.word()), &now, &[]);
    }
    Ok(true)
}

/// How it is after a result that came so long after the start.
fn after(old: Health, streak: &mut u32, check: &Check, code: i32, age: Duration) -> Health {
    if code == 0 {
        *streak = 0;
        return Health::Healthy;
    }
    if old == Health::Starting && age < check.start_period {
        return old;
    }
    *streak += 1;
    if *streak >= check.retries { Health::Unhealthy } else { old }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_and_refused_in_dockers_words() {
        let check = |value: Value| check_of(&json!({"Healthcheck": value}));
        assert_eq!(check(json!({"Test": ["NONE"]})).unwrap(), None);
        assert_eq!(check(json!({"Interval": 0})).unwrap(), None);
        let shell = check(json!({"Test": ["CMD-SHELL", "a b"], "Interval": 5_000_000, "Retries": 2})).unwrap().unwrap();
        assert_eq!((shell.command, shell.retries), (vec!["/bin/sh".into(), "-c".into(), "a b".into()], 2));
        assert_eq!((shell.interval, shell.timeout), (Duration::from_millis(5), TIMEOUT));
        for (value, text) in [
            (json!({"Test": ["CMD", "x"], "Timeout": 5}), "Timeout in Healthcheck cannot be less than 1ms"),
            (json!({"Test": ["CMD", "x"], "Retries": -1}), "Retries in Healthcheck cannot be negative"),
            (json!({"Test": ["HTTP", "x"]}), "Unknown healthcheck type 'HTTP' (expected 'CMD')"),
        ] {
            assert_eq!(check(value).unwrap_err().to_string(), text);
        }
        let mut config = Map::new();
        config.insert("Healthcheck".to_owned(), json!({"Interval": 7, "Retries": 0}));
        merge(&mut config, Some(&json!({"Test": ["CMD", "x"], "Interval": 5, "Retries": 3})));
        assert_eq!(config["Healthcheck"], json!({"Test": ["CMD", "x"], "Interval": 7, "Retries": 3}));
    }

    #[test]
    fn several_failures_in_a_row_are_needed_and_none_while_it_starts() {
        let check =
            check_of(&json!({"Healthcheck": {"Test": ["CMD", "x"], "StartPeriod": 10_000_000_000_i64}})).unwrap().unwrap();
        let mut streak = 0;
        let mut health = Health::Starting;
        let mut step = |health: Health, code, age| after(health, &mut streak, &check, code, Duration::from_secs(age));
        for _ in 0..5 {
            health = step(health, 1, 5);
        }
        assert_eq!(health, Health::Starting, "it may take its time");
        for expected in [Health::Starting, Health::Starting, Health::Unhealthy] {
            health = step(health, 1, 11);
            assert_eq!(health, expected);
        }
        health = step(health, 0, 12);
        assert_eq!(health, Health::Healthy);
        assert_eq!(step(health, NO_RESULT, 1), Health::Healthy, "one failure is none, in the start period too");
        assert_eq!([go_duration(Duration::from_millis(500)), go_duration(Duration::from_millis(90_500))], ["500ms", "1m30.5s"]);
    }
}
