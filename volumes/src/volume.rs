//! What is kept of a volume.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use fs_base::{Error, Result, VolumeName};
use serde::{Deserialize, Serialize};

/// The driver that is built in, and the one that is taken where none is named.
pub const LOCAL: &str = "local";

/// Marks a volume that got its name from us. Docker's label, since 23.0; `volume prune` goes by it.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// A volume, as the catalog keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique over all drivers.
    pub name: VolumeName,
    /// The driver that made it.
    pub driver: String,
    /// When, in seconds since 1970.
    pub created: i64,
    /// Labels. `None` is `null` in the API, which clients tell from `{}`.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options, as given.
    pub options: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// Whether its name is one of ours, not a person's.
    pub fn is_anonymous(&self) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.contains_key(ANONYMOUS_LABEL))
    }

    /// Whether a driver option says where its data is, so that it takes no space of the store.
    pub fn has_options(&self) -> bool {
        self.options.as_ref().is_some_and(|options| !options.is_empty())
    }
}

/// What a new volume is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name; anonymous if `None` or empty.
    pub name: Option<String>,
    /// Its driver; [`LOCAL`] if `None` or empty.
    pub driver: Option<String>,
    /// Driver options.
    pub options: Option<BTreeMap<String, String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A volume's name, with Docker's texts for the two ways in which it can be bad.
pub fn parse_name(text: &str) -> Result<VolumeName> {
    if text.len() == 1 {
        return Err(Error::invalid(format!(
            "create {text}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    text.parse()
}

/// Now, in the unit of [`Volume::created`].
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_in_dockers_words() {
        let short = parse_name("x").unwrap_err().to_string();
        assert_eq!(short, "create x: volume name is too short, names should be at least two alphanumeric characters");
        let slash = parse_name("a/b").unwrap_err().to_string();
        assert_eq!(
            slash,
            "create a/b: \"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        );
    }
}
