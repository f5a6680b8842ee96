//! What happened: told to who listens, and kept for a while for who comes late.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::Result;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::container::ContainerRow;

/// How many events are kept for `--since`, and how far a listener may fall behind before it is let go.
const KEPT: usize = 1024;

/// One event, as Docker tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `volume`, …
    pub kind: &'static str,
    /// What happened.
    pub action: String,
    /// To which object.
    pub id: String,
    /// Of which image a container is.
    pub from: Option<String>,
    /// More about the object.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub time: i64,
}

impl Event {
    /// As it goes over the wire. The fields in small letters are the old form, which containers and images still have.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "Type": self.kind, "Action": self.action, "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local", "time": self.time / 1_000_000_000, "timeNano": self.time,
        });
        if matches!(self.kind, "container" | "image") {
            value["status"] = json!(self.action);
            value["id"] = json!(self.id);
            if let Some(from) = &self.from {
                value["from"] = json!(from);
            }
        }
        value
    }
}

/// All events of one daemon.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Events {
        Events { kept: Mutex::default(), listeners: broadcast::Sender::new(KEPT) }
    }
}

impl Events {
    /// How many follow.
    pub fn listeners(&self) -> usize {
        self.listeners.receiver_count()
    }

    fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&event));
        // Under the lock, so that everybody sees one order. That nobody listens is no error.
        let _ = self.listeners.send(event);
    }

    /// Something happened to a container.
    pub fn container(&self, action: &str, row: &ContainerRow, more: &[(&str, String)]) {
        let labels = row.definition.config["Labels"].as_object().into_iter().flatten();
        let mut attributes: BTreeMap<String, String> =
            labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        attributes.insert("image".to_owned(), row.image_name.clone());
        attributes.insert("name".to_owned(), row.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.publish(Event {
            kind: "container",
            action: action.to_owned(),
            id: row.id.to_string(),
            from: Some(row.image_name.clone()),
            attributes,
            time: crate::db::now(),
        });
    }

    /// Something happened to an image or a volume.
    pub fn object(&self, kind: &'static str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        self.publish(Event {
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            from: None,
            attributes: attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            time: crate::db::now(),
        });
    }

    /// All unneeded objects of a kind were removed, which gave back so many bytes.
    pub fn pruned(&self, kind: &'static str, bytes: u64) {
        self.object(kind, "prune", "", &[("reclaimed", &bytes.to_string())]);
    }

    /// A container's volumes came into use (`mount`), or are no longer in use by it (`unmount`).
    pub fn volumes(&self, action: &str, row: &ContainerRow) {
        for mount in row.definition.mounts.iter().filter_map(volumes::MountPoint::shown) {
            let (Some(name), Some(driver)) = (&mount.name, &mount.driver) else { continue };
            let (destination, writable) = (mount.destination.to_string_lossy(), mount.writable.to_string());
            let mut attributes = vec![("container", row.id.as_str()), ("driver", driver)];
            if action == "mount" {
                attributes.extend([
                    ("destination", &*destination),
                    ("propagation", mount.propagation),
                    ("read/write", &writable),
                ]);
            }
            self.object("volume", action, name.as_str(), &attributes);
        }
    }

    /// What was kept, and what comes, without a gap between them.
    pub fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.listeners.subscribe())
    }
}

/// Which events somebody wants.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    filters: HashMap<String, Vec<String>>,
}

impl EventFilter {
    /// From Docker's filters.
    pub fn parse(filters: HashMap<String, Vec<String>>) -> Result<EventFilter> {
        const KNOWN: &[&str] = &[
            "type",
            "event",
            "container",
            "image",
            "volume",
            "network",
            "daemon",
            "label",
            "scope",
            "plugin",
            "service",
            "node",
            "secret",
            "config",
        ];
        match filters.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            Some(key) => Err(fs_base::Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(EventFilter { filters }),
        }
    }

    /// Whether it is wanted: every filter must have a value that fits.
    pub fn matches(&self, event: &Event) -> bool {
        self.filters.iter().all(|(key, values)| values.is_empty() || values.iter().any(|value| fits(key, value, event)))
    }
}

fn fits(key: &str, value: &str, event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    // As in moby: the beginning of an id or a name is enough.
    let named = |kind: &str| {
        event.kind == kind && (event.id.starts_with(value) || attribute("name").is_some_and(|name| name.starts_with(value)))
    };
    match key {
        "type" => event.kind == value,
        // `exec_create: ls` is asked for as `exec_create`.
        "event" => event.action == value || event.action.split(':').next() == Some(value),
        "scope" => value == "local",
        "label" => match value.split_once('=') {
            Some((name, wanted)) => attribute(name) == Some(wanted),
            None => event.attributes.contains_key(value),
        },
        "image" => {
            let of_container = event.kind == "container" && attribute("image").is_some_and(|image| same_image(image, value));
            let itself = || event.id == value || attribute("name").is_some_and(|name| same_image(name, value));
            of_container || event.kind == "image" && itself()
        }
        "container" | "volume" | "network" | "daemon" | "plugin" | "service" | "node" | "secret" | "config" => named(key),
        _ => false,
    }
}

/// A name without a tag means any tag.
fn same_image(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pairs: &[(&str, &str)]) -> EventFilter {
        let mut filters: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in pairs {
            filters.entry((*key).to_owned()).or_default().push((*value).to_owned());
        }
        EventFilter::parse(filters).unwrap()
    }

    #[test]
    fn filters_of_one_kind_are_or_and_of_several_and() {
        let events = Events::default();
        events.object("image", "pull", "busybox:latest", &[("name", "busybox:latest")]);
        let (kept, _) = events.listen();
        let event = &kept[0];
        for yes in
            [&[("type", "image")][..], &[("type", "volume"), ("type", "image")], &[("image", "busybox"), ("event", "pull")]]
        {
            assert!(filter(yes).matches(event), "{yes:?}");
        }
        for no in [&[("type", "volume")][..], &[("type", "image"), ("event", "tag")], &[("label", "a")], &[("image", "busy")]] {
            assert!(!filter(no).matches(event), "{no:?}");
        }
        assert!(EventFilter::parse(HashMap::from([("x".to_owned(), Vec::new())])).is_err());
    }

    #[test]
    fn late_comers_see_what_was_kept_and_then_what_comes() {
        let events = Events::default();
        for number in 0..KEPT + 10 {
            events.object("volume", "create", &number.to_string(), &[]);
        }
        let (kept, mut live) = events.listen();
        assert_eq!((kept.len(), kept[0].id.as_str()), (KEPT, "10"));
        events.object("volume", "destroy", "x", &[]);
        assert_eq!(live.try_recv().unwrap().action, "destroy");
    }
}
