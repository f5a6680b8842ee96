//! Containers as the API shows them.

use std::path::PathBuf;

use fs_base::Result;
use serde_json::{Value, json};
use volumes::MountPoint;

use super::{ContainerRow, Status, files, health};
use crate::app::App;
use crate::network::show::Shown;

/// Docker's word for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Nanoseconds since the epoch as RFC 3339; 0 is never.
pub fn time(nanos: i64) -> String {
    match nanos {
        0 => NEVER.to_owned(),
        _ => jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| NEVER.to_owned(), |time| time.to_string()),
    }
}

/// What a container takes: its own files, and its image's.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Bytes that its own tree takes on the disk.
    pub own: u64,
    /// That, and the bytes of its image's files.
    pub all: u64,
}

/// `GET /containers/{id}/json`.
pub fn inspect(app: &App, row: &ContainerRow, execs: &[String], size: Option<Size>) -> Result<Value> {
    let definition = &row.definition;
    let command = definition.command();
    let dir = app.container_dir(&row.id);
    let path = |name: &str| dir.join(name);
    let networks = Shown::one(app, row)?;
    let labels = definition.labels.clone().unwrap_or_default();
    let mut value = json!({
        "Id": row.id, "Created": time(row.created), "Path": command.first(), "Args": command.get(1..).unwrap_or_default(),
        "State": state(app, row), "Image": row.image, "Name": format!("/{}", row.name), "RestartCount": row.state.restart_count,
        "ResolvConfPath": path(files::RESOLV_CONF), "HostnamePath": path(files::HOSTNAME), "HostsPath": path(files::HOSTS),
        "LogPath": super::log_options(&definition.host_config)?.filter(|log| log.journal.is_none()).map_or(PathBuf::new(), |_| path(files::LOG)),
        "Driver": app.mounter.driver_name().unwrap_or("none"), "Platform": "linux",
        "MountLabel": labels.mount, "ProcessLabel": labels.process,
        "AppArmorProfile": row.state.apparmor, "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": definition.host_config,
        "GraphDriver": {"Name": app.mounter.driver_name().unwrap_or("none"), "Data": {"UpperDir": path(files::UPPER)}},
        "Mounts": mounts(row), "Config": definition.config, "NetworkSettings": networks.settings(row),
    });
    value["HostConfig"]["Links"] = networks.links(row);
    if let Some(size) = size {
        value["SizeRw"] = json!(size.own);
        value["SizeRootFs"] = json!(size.all);
    }
    Ok(value)
}

fn state(app: &App, row: &ContainerRow) -> Value {
    let state = &row.state;
    let mut value = json!({
        "Status": state.word(), "Running": state.is_up(), "Paused": state.paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed, "Dead": state.status == Status::Dead, "Pid": state.pid, "ExitCode": state.exit_code,
        "Error": state.error, "StartedAt": time(state.started), "FinishedAt": time(state.finished),
    });
    if let Some(health) = health::inspect(app, row) {
        value["Health"] = health;
    }
    value
}

fn mounts(row: &ContainerRow) -> Value {
    json!(row.definition.mounts.iter().filter_map(MountPoint::shown).collect::<Vec<_>>())
}

/// One entry of `GET /containers/json`.
pub fn summary(row: &ContainerRow, networks: &Shown, now: i64, size: Option<Size>) -> Value {
    let mut value = json!({
        "Id": row.id, "Names": networks.all_names(row), "Image": row.image_name, "ImageID": row.image,
        "Command": command(row), "Created": row.created / 1_000_000_000, "Ports": networks.port_list(row),
        "Labels": row.definition.config.get("Labels").filter(|labels| labels.is_object()).unwrap_or(&json!({})),
        "State": row.state.word(), "Status": status(row, now),
        "HostConfig": {"NetworkMode": row.definition.host_text("NetworkMode")},
        "NetworkSettings": {"Networks": networks.networks(row)}, "Mounts": mounts(row),
    });
    if let Some(size) = size {
        value["SizeRw"] = json!(size.own);
        value["SizeRootFs"] = json!(size.all);
    }
    value
}

/// The command on one line, arguments with spaces in quotes.
fn command(row: &ContainerRow) -> String {
    let quoted = |arg: &String| if arg.contains(' ') { format!("'{arg}'") } else { arg.clone() };
    let words: Vec<String> =
        row.definition.command().iter().enumerate().map(|(n, arg)| if n == 0 { arg.clone() } else { quoted(arg) }).collect();
    words.join(" ")
}

/// Docker's sentence about how a container is.
pub fn status(row: &ContainerRow, now: i64) -> String {
    let state = &row.state;
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Running if state.paused => format!("Up {} (Paused)", duration(now - state.started)),
        Status::Running => {
            let health = state.health.map(|health| format!(" ({})", health.shown())).unwrap_or_default();
            format!("Up {}{health}", duration(now - state.started))
        }
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, duration(now - state.finished)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, duration(now - state.finished)),
    }
}

/// A length of time for people.
fn duration(nanos: i64) -> String {
    fsd_api::human_duration(nanos.max(0) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_gos_zero() {
        assert_eq!(time(0), "0001-01-01T00:00:00Z");
    }
}
