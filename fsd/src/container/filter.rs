//! Which containers a list shows.

use std::collections::HashMap;

use fs_base::{Error, Result};

use super::{ContainerRow, Status};
use crate::app::App;
use crate::network::show::Shown;

/// What `GET /containers/json` asks for.
#[derive(Debug, Default)]
pub struct ListQuery {
    /// Those that don't run too.
    pub all: bool,
    /// Only so many of the newest, running or not.
    pub limit: Option<usize>,
    /// Docker's filters.
    pub filters: HashMap<String, Vec<String>>,
}

const KNOWN: &[&str] = &[
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", "health", "is-task",
    "publish", "expose",
];
const STATES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

const HEALTH: &[&str] = &["starting", "healthy", "unhealthy", "none"];

/// `80`, `80-90`, each also with a protocol.
fn check_port(text: &str) -> Result<()> {
    let ports = text.split('/').next().unwrap_or_default();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let read = |port: &str| port.parse::<u16>().map_err(|_| Error::invalid(format!("invalid port: {port:?}")));
    if read(first)? > read(last)? {
        return Err(Error::invalid(format!("invalid range: {ports:?}")));
    }
    Ok(())
}

/// The containers that the query means, newest first.
pub fn list(app: &App, query: &ListQuery) -> Result<Vec<ContainerRow>> {
    if let Some(key) = query.filters.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(Error::invalid(format!("invalid filter '{key}'")));
    }
    let check = Check::new(app, query)?;
    let mut rows = app.db.containers()?;
    rows.retain(|row| check.wants(row));
    rows.truncate(query.limit.unwrap_or(usize::MAX));
    Ok(rows)
}

struct Check<'a> {
    filters: &'a HashMap<String, Vec<String>>,
    stopped_too: bool,
    names: Vec<regex_lite::Regex>,
    images: Option<Vec<fs_base::Digest>>,
    before: Option<i64>,
    since: Option<i64>,
    networks: Shown,
}

impl<'a> Check<'a> {
    fn new(app: &App, query: &'a ListQuery) -> Result<Check<'a>> {
        let filters = &query.filters;
        let values = |key: &str| filters.get(key).map(Vec::as_slice).unwrap_or_default();
        for status in values("status") {
            if !STATES.contains(&status.as_str()) {
                return Err(Error::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for code in values("exited") {
            code.parse::<i32>().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}'")))?;
        }
        for word in values("health") {
            if !HEALTH.contains(&word.as_str()) {
                return Err(Error::invalid(format!("unrecognized filter value for health: {word}")));
            }
        }
        if let Some(word) = values("is-task").iter().find(|word| !matches!(word.as_str(), "true" | "1" | "false" | "0")) {
            return Err(Error::invalid(format!("invalid filter 'is-task=[{word}]'")));
        }
        for key in ["publish", "expose"] {
            for port in values(key) {
                check_port(port).map_err(|error| error.context(format!("error while looking up for {key} {port}")))?;
            }
        }
        let pattern = |name: &String| {
            regex_lite::Regex::new(name).map_err(|error| Error::invalid(format!("invalid filter 'name={name}': {error}")))
        };
        let moment = |key: &str| -> Result<Option<i64>> {
            values(key).iter().try_fold(None, |_, name| Ok(Some(app.db.find_container(name)?.created)))
        };
        let images = if filters.contains_key("ancestor") { Some(descendants(app, values("ancestor"))?) } else { None };
        Ok(Check {
            filters,
            stopped_too: query.all
                || query.limit.is_some()
                || ["status", "exited", "before", "since"].iter().any(|key| filters.contains_key(*key)),
            names: values("name").iter().map(pattern).collect::<Result<_>>()?,
            images,
            before: moment("before")?,
            since: moment("since")?,
            networks: Shown::all(app)?,
        })
    }

    fn wants(&self, row: &ContainerRow) -> bool {
        let any = |key: &str, fits: &dyn Fn(&str) -> bool| {
            self.filters.get(key).is_none_or(|values| values.iter().any(|value| fits(value)))
        };
        let all = |key: &str, fits: &dyn Fn(&str) -> bool| {
            self.filters.get(key).is_none_or(|values| values.iter().all(|value| fits(value)))
        };
        let labels = &row.definition.config["Labels"];
        let mounts = || row.definition.mounts.iter().filter_map(volumes::MountPoint::shown);
        (self.stopped_too || row.state.is_up())
            && any("id", &|id| row.id.as_str().starts_with(id))
            && (self.names.is_empty()
                || self.names.iter().any(|name| name.is_match(&row.name) || name.is_match(&format!("/{}", row.name))))
            && any("status", &|status| row.state.word() == status)
            && any("exited", &|code| row.state.status == Status::Exited && code.parse() == Ok(row.state.exit_code))
            && all("label", &|label| match label.split_once('=') {
                Some((key, value)) => labels[key].as_str() == Some(value),
                None => labels.get(label).is_some(),
            })
            && self.images.as_ref().is_none_or(|images| images.contains(&row.image))
            && self.before.is_none_or(|before| row.created < before)
            && self.since.is_none_or(|since| row.created > since)
            && any("volume", &|volume| {
                mounts().any(|mount| {
                    mount.destination.to_str() == Some(volume)
                        || mount.name.as_ref().is_some_and(|name| name.as_str() == volume)
                        || mount.source.to_str() == Some(volume)
                })
            })
            && any("network", &|network| self.networks.is_in(row, network))
            && any("health", &|health| health == row.state.health.map_or("none", super::health::Health::word))
            && any("is-task", &|task| matches!(task, "false" | "0"))
            && any("publish", &|port| self.networks.publishes(row, port))
            && any("expose", &|port| {
                row.definition.config["ExposedPorts"]
                    .as_object()
                    .is_some_and(|ports| ports.keys().any(|exposed| exposed == port || exposed.split('/').next() == Some(port)))
            })
    }
}

/// The images of these names and all that begin with their layers.
fn descendants(app: &App, names: &[String]) -> Result<Vec<fs_base::Digest>> {
    let mut found = Vec::new();
    for name in names {
        let Ok(ancestor) = crate::image::find(app, name) else { continue };
        for image in app.db.images()? {
            if image.id == ancestor.id || image.layers.starts_with(&ancestor.layers) && !ancestor.layers.is_empty() {
                found.push(image.id);
            }
        }
    }
    Ok(found)
}
