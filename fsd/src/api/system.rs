//! `/_ping`, `/version`, `/info`, `/system/df`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use fs_base::Probe;
use http::header;
use layerfs::driver::{Probed, Verdict};
use serde_json::{Value, json};

use super::error::Failure;
use super::{API_OLDEST, API_VERSION, blocking, images};
use crate::app::App;
use crate::image::{Config, load::architecture};
use crate::system::df::{self, Wanted};

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/df", get(df))
}

async fn ping() -> Response {
    ([(header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"), (header::PRAGMA, "no-cache")], "OK").into_response()
}

/// Whether and why something that layers could be served with is in use, for people.
fn shown_verdict(probed: &Probed) -> String {
    let why = probed.why().unwrap_or_default();
    match &probed.verdict {
        Verdict::Taken => "in use".to_owned(),
        Verdict::Passed(_) => format!("not tried: {why}"),
        Verdict::Failed(Probe::Unknown(_)) => format!("unknown: {why}"),
        Verdict::Failed(_) => format!("does not work here: {why}"),
    }
}

fn kernel() -> String {
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
    let answer = blocking(move || {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |line: &str| line.strip_prefix("MemTotal:").and_then(|n| n.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let total = memory.lines().find_map(kib).unwrap_or(0) * 1024;
        let status: Vec<[String; 2]> = app
            .mounter
            .probed()
            .iter()
            .map(|probed| [probed.to_string(), shown_verdict(probed)])
            .collect();
        let containers = app.db.containers()?;
        let paused = containers.iter().filter(|row| row.state.paused).count();
        let running = containers.iter().filter(|row| row.state.is_up()).count() - paused;
        Ok(json!({
            "ID": app.config.root, "Name": rustix::system::uname().nodename().to_string_lossy(), "ServerVersion": env!("CARGO_PKG_VERSION"),
            "Images": app.db.images()?.len(), "Containers": containers.len(), "ContainersRunning": running, "ContainersPaused": paused,
            "ContainersStopped": containers.len() - running - paused,
            "Driver": app.mounter.driver_name().unwrap_or("none"), "DriverStatus": status, "DockerRootDir": app.config.root,
            "KernelVersion": kernel(), "OperatingSystem": "linux", "OSType": "linux", "Architecture": std::env::consts::ARCH,
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from), "MemTotal": total,
            "Plugins": {"Volume": ["local"], "Network": ["none", "host"], "Log": ["json-file", "none"]}, "Swarm": {"LocalNodeState": "inactive"},
            "SecurityOptions": ["name=seccomp,profile=builtin"], "Warnings": warnings(), "RegistryConfig": null,
        }))
    })
    .await?;
    Ok(Json(answer).into_response())
}

/// What whoever looks after this host should know; `null` if there is nothing, as Docker has it.
fn warnings() -> Value {
    if fs_base::durable::is_poisoned() {
        return json!(["WARNING: the store refuses writes: a sync to disk failed. Check the disk, then restart the daemon"]);
    }
    Value::Null
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
    answer.insert("BuilderSize".to_owned(), json!(0));
    Ok(Json(answer).into_response())
}
