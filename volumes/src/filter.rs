//! Docker's filters of `volume ls` and `volume prune`.

use std::collections::BTreeMap;

use fs_base::{Error, Result};

use crate::Volume;

/// Filters as the API has them: a key to the values given for it.
pub type Filters = BTreeMap<String, Vec<String>>;

/// Which volumes a list shows: `dangling`, `driver`, `label`, `label!`, `name`.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    dangling: Option<bool>,
    drivers: Vec<String>,
    names: Vec<String>,
    labels: Labels,
}

/// Which volumes a prune takes: `all`, `label`, `label!`.
#[derive(Debug, Clone, Default)]
pub struct PruneFilter {
    all: bool,
    labels: Labels,
}

#[derive(Debug, Clone, Default)]
struct Labels {
    with: Vec<String>,
    without: Vec<String>,
}

impl ListFilter {
    /// Refuses what is no filter of a list.
    pub fn parse(filters: &Filters) -> Result<ListFilter> {
        accept_only(filters, &["dangling", "driver", "label", "label!", "name"])?;
        Ok(ListFilter {
            dangling: boolean(filters, "dangling")?,
            drivers: values(filters, "driver"),
            names: values(filters, "name"),
            labels: Labels::parse(filters),
        })
    }

    /// Whether the volume is shown.
    pub fn matches(&self, volume: &Volume, in_use: bool) -> bool {
        self.dangling.is_none_or(|dangling| dangling != in_use)
            && (self.drivers.is_empty() || self.drivers.contains(&volume.driver))
            && (self.names.is_empty() || self.names.iter().any(|name| name_matches(name, volume.name.as_str())))
            && self.labels.match_volume(volume)
    }
}

impl PruneFilter {
    /// Refuses what is no filter of a prune.
    pub fn parse(filters: &Filters) -> Result<PruneFilter> {
        accept_only(filters, &["all", "label", "label!"])?;
        let all = match filters.get("all").map(Vec::as_slice).unwrap_or_default() {
            [] => false,
            [value] => {
                parse_bool(value).ok_or_else(|| Error::invalid(format!("invalid filter 'all': invalid value {value:?}")))?
            }
            many => {
                return Err(Error::invalid(format!("invalid filter 'all=[{}]': only one value is expected", many.join(" "))));
            }
        };
        Ok(PruneFilter { all, labels: Labels::parse(filters) })
    }

    /// Named volumes too, whatever the filters say: what a prune was before API 1.42.
    #[must_use]
    pub fn including_named(mut self) -> PruneFilter {
        self.all = true;
        self
    }

    /// Whether the volume, which nobody uses, is removed. One with driver options never is: no space of the
    /// store would come back.
    pub fn matches(&self, volume: &Volume) -> bool {
        volume.driver == crate::volume::LOCAL
            && !volume.has_options()
            && (self.all || volume.is_anonymous())
            && self.labels.match_volume(volume)
    }
}

impl Labels {
    fn parse(filters: &Filters) -> Labels {
        Labels { with: values(filters, "label"), without: values(filters, "label!") }
    }

    fn match_volume(&self, volume: &Volume) -> bool {
        let has = |wanted: &String| {
            let (key, value) = wanted.split_once('=').map_or((wanted.as_str(), None), |(key, value)| (key, Some(value)));
            let found = volume.labels.as_ref().and_then(|labels| labels.get(key));
            found.is_some_and(|found| value.is_none_or(|value| value == found))
        };
        self.with.iter().all(has) && (self.without.is_empty() || !self.without.iter().all(has))
    }
}

/// Docker's match of a name: the name itself, or a regular expression found anywhere in it. What is no
/// expression matches nothing.
fn name_matches(wanted: &str, name: &str) -> bool {
    wanted == name || regex_lite::Regex::new(wanted).is_ok_and(|regex| regex.is_match(name))
}

fn accept_only(filters: &Filters, known: &[&str]) -> Result<()> {
    match filters.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
        None => Ok(()),
    }
}

fn values(filters: &Filters, key: &str) -> Vec<String> {
    filters.get(key).cloned().unwrap_or_default()
}

fn boolean(filters: &Filters, key: &str) -> Result<Option<bool>> {
    let values = filters.get(key).map(Vec::as_slice).unwrap_or_default();
    let bad = || Error::invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")));
    match values {
        [] => Ok(None),
        [value] => parse_bool(value).map(Some).ok_or_else(bad),
        _ => Err(bad()),
    }
}

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &[&str])]) -> Filters {
        pairs.iter().map(|(key, values)| ((*key).to_owned(), values.iter().map(|&v| v.to_owned()).collect())).collect()
    }

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Volume { name: name.parse().unwrap(), driver: "local".into(), created: 0, labels: Some(labels), options: None }
    }

    #[test]
    fn a_list_is_narrowed_by_every_key() {
        let (w7, w10) = (volume("w7", &[("a", "b"), ("c", "")]), volume("w10", &[]));
        for (pairs, in_use, want_w7, want_w10) in [
            (&[][..], false, true, true),
            (&[("name", &["w7", "^w1"][..])], false, true, true),
            (&[("name", &["7"])], false, true, false),
            (&[("name", &["w["])], false, false, false),
            (&[("label", &["a"])], false, true, false),
            (&[("label", &["a=b", "c"])], false, true, false),
            (&[("label", &["a=x"])], false, false, false),
            (&[("label!", &["a"])], false, false, true),
            (&[("driver", &["nfs"])], false, false, false),
            (&[("driver", &["local"]), ("name", &["10"])], false, false, true),
            (&[("dangling", &["true"])], true, false, false),
            (&[("dangling", &["0"])], true, true, true),
            (&[("dangling", &["false"])], false, false, false),
        ] {
            let filter = ListFilter::parse(&filters(pairs)).unwrap();
            assert_eq!((filter.matches(&w7, in_use), filter.matches(&w10, in_use)), (want_w7, want_w10), "{pairs:?}");
        }
    }

    #[test]
    fn a_prune_takes_anonymous_volumes_unless_told_all() {
        let anonymous = volume("aa", &[(crate::volume::ANONYMOUS_LABEL, "")]);
        let mut with_options = anonymous.clone();
        with_options.options = Some([("type".to_owned(), "tmpfs".to_owned())].into());
        let named = volume("bb", &[("keep", "")]);
        let taken = |pairs: &[(&str, &[&str])]| {
            let filter = PruneFilter::parse(&filters(pairs)).unwrap();
            (filter.matches(&anonymous), filter.matches(&named), filter.matches(&with_options))
        };
        assert_eq!(taken(&[]), (true, false, false));
        assert_eq!(taken(&[("all", &["true"])]), (true, true, false));
        assert_eq!(taken(&[("all", &["1"]), ("label!", &["keep"])]), (true, false, false));
        assert!(PruneFilter::default().including_named().matches(&named));
    }

    #[test]
    fn unknown_filters_and_values_are_refused() {
        for (pairs, want) in [
            (&[("foo", &["x"][..])][..], "invalid filter 'foo'"),
            (&[("all", &["true"])], "invalid filter 'all'"),
            (&[("dangling", &["x"])], "invalid filter 'dangling=[x]'"),
            (&[("dangling", &["true", "false"])], "invalid filter 'dangling=[true false]'"),
        ] {
            assert_eq!(ListFilter::parse(&filters(pairs)).unwrap_err().to_string(), want);
        }
        for (pairs, want) in [
            (&[("dangling", &["true"][..])][..], "invalid filter 'dangling'"),
            (&[("all", &["x"])], "invalid filter 'all': invalid value \"x\""),
            (&[("all", &["1", "0"])], "invalid filter 'all=[1 0]': only one value is expected"),
        ] {
            assert_eq!(PruneFilter::parse(&filters(pairs)).unwrap_err().to_string(), want);
        }
    }
}
