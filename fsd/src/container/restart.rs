//! Restart policies: what happens after the end of a container by itself, and when the daemon starts.
//!
//! ```text
//! running ──ended──► restarting ──back-off──► running …
//!                        └─ stop, kill, rm ─► exited
//! ```
//!
//! The waits are 100 ms and twice as long each time, up to a minute; a container that ran for 10 seconds begins anew.
//! A container that a person ended is left alone until it is started, but for `always`, which is started with the
//! daemon. Source: moby, `restartmanager` and `Daemon.restore`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_base::{ContainerId, Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::create::read;
use super::live::Live;
use super::{ContainerRow, State, Status, run};
use crate::app::App;
use crate::network::Mode;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// A container that ran for so long is thought to be well.
const WELL: Duration = Duration::from_secs(10);
/// How many containers are started at once when the daemon starts.
const AT_ONCE: usize = 4;
/// How long one of these waits for others that it needs. Source: moby, `Daemon.restore`.
const NEEDED: Duration = Duration::from_secs(5);

/// Docker's `RestartPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Policy {
    name: String,
    maximum_retry_count: i64,
}

/// What this process knows of a container's restarts.
#[derive(Debug, Default)]
pub struct Restarts {
    /// A person ended it: its next end is its last.
    cancelled: bool,
    /// It is stopped to be started again, so it is not removed in between.
    kept: bool,
    wait: Duration,
    /// Which wait is under way; an older one finds that it is no longer meant.
    round: u64,
}

fn policy(host_config: &Value) -> Result<Policy> {
    match &host_config["RestartPolicy"] {
        Value::Null => Ok(Policy::default()),
        value => read(value, "RestartPolicy"),
    }
}

/// Whether a container may have this policy.
pub fn check(host_config: &Value) -> Result<()> {
    let Policy { name, maximum_retry_count } = policy(host_config)?;
    let bad = |why: String| Err(Error::invalid(format!("invalid restart policy: {why}")));
    match name.as_str() {
        "" | "no" | "always" | "unless-stopped" if maximum_retry_count != 0 => {
            let negative = if maximum_retry_count < 0 { " and cannot be negative" } else { "" };
            bad(format!("maximum retry count can only be used with 'on-failure'{negative}"))
        }
        "on-failure" if maximum_retry_count < 0 => bad("maximum retry count cannot be negative".to_owned()),
        "always" | "unless-stopped" | "on-failure" if host_config["AutoRemove"] == true => {
            Err(Error::invalid("can't create 'AutoRemove' container with restart policy"))
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        _ => bad(format!("unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'")),
    }
}

/// Whether a container that ended so is started again.
fn wanted(row: &ContainerRow, state: &State) -> bool {
    let Ok(policy) = policy(&row.definition.host_config) else { return false };
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !state.stopped_by_hand,
        "on-failure" => {
            let most = policy.maximum_retry_count;
            state.exit_code != 0 && (most == 0 || i64::from(state.restart_count) < most)
        }
        _ => false,
    }
}

/// A person starts it: what was before counts no more.
pub fn reset(live: &Live) {
    let mut restarts = live.restarts();
    *restarts = Restarts { round: restarts.round + 1, ..Restarts::default() };
}

/// After an end: how long to wait until it is started again, if it is.
pub fn after_end(row: &ContainerRow, live: &Live, state: &State) -> Option<Duration> {
    let mut restarts = live.restarts();
    if restarts.cancelled || !wanted(row, state) {
        return None;
    }
    let ran = Duration::from_nanos(u64::try_from(state.finished - state.started).unwrap_or(0));
    restarts.wait = if restarts.wait.is_zero() || ran >= WELL { FIRST } else { (restarts.wait * 2).min(LONGEST) };
    Some(restarts.wait)
}

/// Starts it after a while, unless it is cancelled meanwhile. Must be called on a thread of the runtime's.
pub fn later(app: &Arc<App>, id: &ContainerId, wait: Duration) {
    let round = {
        let live = app.containers.of(id);
        let mut restarts = live.restarts();
        restarts.round += 1;
        restarts.round
    };
    let (app, id) = (Arc::clone(app), id.clone());
    tokio::runtime::Handle::current().spawn(async move {
        tokio::time::sleep(wait).await;
        let started = tokio::task::spawn_blocking(move || {
            await_needed(&app, &id, &[]);
            if let Err(error) = run::start_again(&app, &id, round) {
                tracing::warn!(container = %id, %error, "a container could not be started again");
            }
        });
        let _ = started.await;
    });
}

/// Whether this wait is the one that is under way.
pub fn is_due(live: &Live, round: u64) -> bool {
    live.restarts().round == round
}

/// A person ends it, or lets a signal do so: its policy is not applied to its next end. One that waits to be started
/// again ends now. The caller keeps other changes out.
pub fn cancel(app: &App, live: &Live, row: &ContainerRow) -> Result<()> {
    {
        let mut restarts = live.restarts();
        restarts.cancelled = true;
        restarts.round += 1;
    }
    let is_waiting = row.state.status == Status::Restarting;
    if !is_waiting && matches!(policy(&row.definition.host_config)?.name.as_str(), "" | "no") {
        return Ok(());
    }
    let status = if is_waiting { Status::Exited } else { row.state.status };
    app.db.set_container_state(&row.id, &State { status, stopped_by_hand: true, ..row.state.clone() })
}

/// While it lives, the container is not removed at its end although it was made so.
#[derive(Debug)]
pub struct Kept(Arc<Live>);

/// For a stop that a start follows.
pub fn keep(live: &Arc<Live>) -> Kept {
    live.restarts().kept = true;
    Kept(Arc::clone(live))
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.restarts().kept = false;
    }
}

/// Whether it is kept at its end.
pub fn is_kept(live: &Live) -> bool {
    live.restarts().kept
}

/// When the daemon starts, after it has found what runs on. Must be called on a thread of the runtime's.
pub fn with_daemon(app: &Arc<App>) -> Result<()> {
    let mut due = Vec::new();
    for row in app.db.containers()? {
        // One whose end was found just now waits already.
        if row.state.started == 0 || row.state.is_running() || app.containers.of(&row.id).restarts().round > 0 {
            continue;
        }
        if wanted(&row, &row.state) {
            due.push(row.id);
        } else if row.state.status == Status::Restarting {
            app.db.set_container_state(&row.id, &State { status: Status::Exited, ..row.state.clone() })?;
        }
    }
    let due = needed_first(due, &|id| needs(app, id));
    let app = Arc::clone(app);
    tokio::runtime::Handle::current().spawn(async move {
        let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let all: Arc<[ContainerId]> = due.clone().into();
        for id in due {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (app, all) = (Arc::clone(&app), Arc::clone(&all));
            tokio::task::spawn_blocking(move || {
                let _place = place;
                await_needed(&app, &id, &all);
                tracing::info!(container = %id, "started by its restart policy");
                if let Err(error) = run::start(&app, &id) {
                    tracing::warn!(container = %id, %error, "a container could not be started by its restart policy");
                }
            });
        }
    });
    Ok(())
}

/// Those that must run for a container to be started: whom it knows by `--link`, and whose network it is in.
fn needs(app: &App, id: &ContainerId) -> Vec<ContainerId> {
    let links = app.db.links_of(id).unwrap_or_default().into_iter().map(|link| link.linked);
    let row = app.db.container(id).ok().flatten();
    let network = row.and_then(|row| match Mode::of(&row) {
        Mode::Of(name) => app.db.find_container(&name).ok().map(|other| other.id),
        _ => None,
    });
    links.chain(network).collect()
}

/// In an order in which each comes after those that it needs, as far as there is one.
fn needed_first(mut due: Vec<ContainerId>, needs: &dyn Fn(&ContainerId) -> Vec<ContainerId>) -> Vec<ContainerId> {
    let mut ordered: Vec<ContainerId> = Vec::new();
    while !due.is_empty() {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            due.iter().cloned().partition(|id| needs(id).iter().all(|other| other == id || !due.contains(other)));
        // They need each other: Docker starts them in any order too.
        let (ready, waiting) = if ready.is_empty() { (waiting, ready) } else { (ready, waiting) };
        ordered.extend(ready);
        due = waiting;
    }
    ordered
}

/// Gives those that a container needs some time to run, if they are started too, or again.
fn await_needed(app: &App, id: &ContainerId, due: &[ContainerId]) {
    let end = Instant::now() + NEEDED;
    for other in needs(app, id).into_iter().filter(|other| other != id) {
        let is_coming = |state: &State| match state.status {
            Status::Running => false,
            Status::Restarting => true,
            _ => due.contains(&other),
        };
        while Instant::now() < end && app.db.container(&other).is_ok_and(|row| row.is_some_and(|row| is_coming(&row.state))) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_needed_comes_first() {
        let id = |digit: char| digit.to_string().repeat(64).parse::<ContainerId>().unwrap();
        let needs = |from: &ContainerId| match from.as_str().as_bytes()[0] {
            b'a' => vec![id('b'), id('e')],
            b'b' => vec![id('c')],
            b'd' => vec![id('d')],
            b'1' => vec![id('2')],
            b'2' => vec![id('1')],
            _ => Vec::new(),
        };
        let ids = |digits: &str| digits.chars().map(id).collect::<Vec<_>>();
        assert_eq!(needed_first(ids("abcd"), &needs), ids("cdba"));
        assert_eq!(needed_first(ids("12"), &needs), ids("12"), "a ring");
    }

    #[test]
    fn policies_are_checked_in_dockers_words() {
        let check = |policy: Value, auto_remove: bool| {
            check(&json!({"RestartPolicy": policy, "AutoRemove": auto_remove})).map_err(|error| error.to_string())
        };
        assert!(check(json!({"Name": "on-failure", "MaximumRetryCount": 3}), false).is_ok());
        assert!(check(json!({"Name": "no", "MaximumRetryCount": 0}), true).is_ok());
        for (policy, auto_remove, text) in [
            (json!({"Name": "always", "MaximumRetryCount": 1}), false, "maximum retry count can only be used with 'on-failure'"),
            (json!({"Name": "on-failure", "MaximumRetryCount": -1}), false, "maximum retry count cannot be negative"),
            (json!({"Name": "often"}), false, "unknown policy 'often'; use one of 'no', 'always', 'on-failure', or"),
            (json!({"Name": "always"}), true, "can't create 'AutoRemove' container with restart policy"),
        ] {
            let error = check(policy, auto_remove).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn waits_grow_and_begin_anew_after_a_good_run() {
        let row = |name: &str, most: i64| ContainerRow {
            id: "a".repeat(64).parse().unwrap(),
            name: String::new(),
            image: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
            image_name: String::new(),
            created: 0,
            definition: super::super::Definition {
                config: json!({}),
                host_config: json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": most}}),
                mounts: Vec::new(),
                labels: None,
            },
            state: State::created(),
        };
        let live = Live::default();
        let ended = |seconds: i64, code| {
            State { started: 1, exit_code: code, ..State::created() }.exited(code, false, 1 + seconds * 1_000_000_000)
        };
        let always = row("always", 0);
        let waits: Vec<u128> =
            (0..12).filter_map(|_| after_end(&always, &live, &ended(1, 0))).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits.last(), Some(&60_000));
        assert_eq!(after_end(&always, &live, &ended(10, 0)), Some(FIRST));
        let failure = row("on-failure", 2);
        assert_eq!(after_end(&failure, &live, &ended(1, 0)), None);
        assert!(after_end(&failure, &live, &ended(1, 3)).is_some());
        assert_eq!(after_end(&failure, &live, &State { restart_count: 2, ..ended(1, 3) }), None);
        let unless = row("unless-stopped", 0);
        assert_eq!(after_end(&unless, &live, &State { stopped_by_hand: true, ..ended(1, 0) }), None);
        live.restarts().cancelled = true;
        assert_eq!(after_end(&always, &live, &ended(1, 0)), None);
        reset(&live);
        assert_eq!(after_end(&always, &live, &ended(1, 0)), Some(FIRST));
    }
}
