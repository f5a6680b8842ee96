//! What is said of every line of a container, besides when and where it came.

use std::collections::BTreeMap;

use engine::log::journal;
use fs_base::{Error, Result};

use super::{ContainerRow, Definition, log_tag};

/// Docker's name of what comes from a container in the journal, if it was not asked for another.
const TAG: &str = "{{.ID}}";

/// What is said of every line of a container: the labels and variables that its log options name, and its tag.
pub fn attributes(row: &ContainerRow) -> Result<BTreeMap<String, String>> {
    let mut all = named(&row.definition)?;
    if let Some(template) = row.definition.host_config["LogConfig"]["Config"]["tag"].as_str().filter(|text| !text.is_empty()) {
        all.insert("tag".to_owned(), log_tag::of(template, row)?);
    }
    Ok(all)
}

fn named(definition: &Definition) -> Result<BTreeMap<String, String>> {
    let options = &definition.host_config["LogConfig"]["Config"];
    let option = |key: &str| options[key].as_str().filter(|text| !text.is_empty());
    let labels = definition.config["Labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
    let variables = definition.config_texts("Env").into_iter().filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    let mut all = BTreeMap::new();
    for (names, regex, pairs) in
        [("labels", "labels-regex", labels.collect::<Vec<_>>()), ("env", "env-regex", variables.collect())]
    {
        let named: Vec<&str> = option(names).map(|text| text.split(',').collect()).unwrap_or_default();
        let matched = option(regex).map(pattern).transpose()?;
        let wanted = |key: &str| named.contains(&key) || matched.as_ref().is_some_and(|pattern| pattern.is_match(key));
        all.extend(pairs.into_iter().filter(|(key, _)| wanted(key)));
    }
    Ok(all)
}

/// A regular expression of a log option.
pub fn pattern(text: &str) -> Result<regex_lite::Regex> {
    regex_lite::Regex::new(text).map_err(|error| Error::invalid(format!("invalid regular expression {text:?}: {error}")))
}

/// The fields of every entry of a container in systemd's journal. Source: moby, `daemon/logger/journald/journald.go`.
pub fn fields(row: &ContainerRow) -> Result<BTreeMap<String, String>> {
    let template = row.definition.host_config["LogConfig"]["Config"]["tag"].as_str().filter(|text| !text.is_empty());
    let tag = log_tag::of(template.unwrap_or(TAG), row)?;
    let id = row.id.to_string();
    let epoch = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let own = [
        ("CONTAINER_ID", id[..12].to_owned()),
        (journal::OWNER, id.clone()),
        ("CONTAINER_NAME", row.name.clone()),
        ("CONTAINER_TAG", tag.clone()),
        ("IMAGE_NAME", row.image_name.clone()),
        ("SYSLOG_IDENTIFIER", tag),
        ("CONTAINER_LOG_EPOCH", epoch.trim().replace('-', "")),
    ];
    let asked = named(&row.definition)?.into_iter().map(|(name, value)| (field_name(&name), value));
    let mut all: BTreeMap<String, String> = asked.filter(|(name, _)| !name.is_empty()).collect();
    all.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Ok(all)
}

/// A name that journald takes: capitals, digits and underscores, none of those in front.
fn field_name(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_told_with_what_was_asked_for() {
        let definition = Definition {
            config: json!({"Labels": {"a": "1", "b": "2"}, "Env": ["X=x", "Y=y", "Z=z"]}),
            host_config: json!({"LogConfig": {"Config": {"labels": "b", "env": "X", "env-regex": "^Z"}}}),
            mounts: Vec::new(),
            labels: None,
        };
        let all = named(&definition).unwrap();
        assert_eq!(all.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(), ["X=x", "Z=z", "b=2"]);
    }

    #[test]
    fn names_of_fields_are_what_journald_takes() {
        for (name, expected) in [("com.example.tier", "COM_EXAMPLE_TIER"), ("_x-1", "X_1"), ("é", ""), ("A9", "A9")] {
            assert_eq!(field_name(name), expected, "{name}");
        }
    }
}
