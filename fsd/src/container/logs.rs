//! Where a container's output is logged, and how.

use std::collections::BTreeMap;

use engine::shim::LogOptions;
use fs_base::{Error, Result};
use serde_json::Value;

use super::create::{LogConfig, read};
use super::{ContainerRow, Definition, files, log_tag};

/// Docker's number of log files, of json-file and of local.
const JSON_FILES: u32 = 1;
const LOCAL_FILES: u32 = 5;
/// Docker's size of a log file of local.
const LOCAL_SIZE: u64 = 20 << 20;
/// The options of each driver.
const OF_JSON_FILE: &[&str] = &["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode"];
const OF_LOCAL: &[&str] = &["max-size", "max-file", "compress", "mode"];

/// Where a container logs; `None` if it does not. The path is that of its folder, relative. `local` is the same format
/// with limits from the start: its own is Docker's affair, and nobody else reads it.
pub fn log_options(host_config: &Value) -> Result<Option<LogOptions>> {
    let log: LogConfig = match &host_config["LogConfig"] {
        Value::Null => LogConfig::default(),
        value => read(value, "LogConfig")?,
    };
    let options = log.config.unwrap_or_default();
    let driver = log.r#type.as_deref().unwrap_or_default();
    let known = match driver {
        "" | "json-file" => OF_JSON_FILE,
        "local" => OF_LOCAL,
        "none" => return Ok(None),
        "journald" => {
            return Err(unsupported("--log-driver journald", "the shim does not write to the journal")
                .with_hint("use json-file or local, and read them with `logs`"));
        }
        other => return Err(unsupported(&format!("--log-driver {other}"), "it can be json-file or local or none")),
    };
    if let Some(key) = options.keys().find(|key| !known.contains(&key.as_str())) {
        let driver = if driver.is_empty() { "json-file" } else { driver };
        return Err(unsupported(&format!("--log-opt {key}"), &format!("{driver} takes {}", known.join(", "))));
    }
    match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => {}
        Some("non-blocking") => {
            return Err(unsupported("--log-opt mode=non-blocking", "no line is dropped: the log is a file on this host"));
        }
        Some(other) => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    }
    let local = driver == "local";
    let max_size = options.get("max-size").filter(|text| *text != "-1").map(|text| bytes(text)).transpose()?;
    let max_size = if local { Some(max_size.unwrap_or(LOCAL_SIZE)) } else { max_size };
    let max_files = match options.get("max-file") {
        None if local => LOCAL_FILES,
        None => JSON_FILES,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| Error::invalid(format!("max-file cannot be less than 1: {text}")))?,
    };
    if max_files > 1 && max_size.is_none() {
        return Err(Error::invalid("max-file cannot be set without max-size"));
    }
    let compress = match options.get("compress").map(String::as_str) {
        None => local && max_files > 1,
        Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(other) => return Err(Error::invalid(format!("invalid compress value: {other:?}: it is true or false"))),
    };
    if compress && (max_size.is_none() || max_files < 2) {
        return Err(Error::invalid("compress cannot be true when max-file is less than 2 or max-size is not set"));
    }
    options.get("tag").map_or(Ok(()), |template| log_tag::check(template))?;
    for key in ["labels-regex", "env-regex"] {
        options.get(key).map(|text| pattern(text)).transpose()?;
    }
    Ok(Some(LogOptions { path: files::LOG.into(), max_size, max_files, compress, attributes: BTreeMap::new() }))
}

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

fn pattern(text: &str) -> Result<regex_lite::Regex> {
    regex_lite::Regex::new(text).map_err(|error| Error::invalid(format!("invalid regular expression {text:?}: {error}")))
}

fn unsupported(flag: &str, why: &str) -> Error {
    Error::unsupported(format!("{flag} is not supported: {why}"))
}

/// `10m`, `1g`, `4096`.
fn bytes(text: &str) -> Result<u64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|size| *size > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(driver: &str, config: &Value) -> Result<Option<LogOptions>> {
        log_options(&json!({"LogConfig": {"Type": driver, "Config": config}}))
    }

    #[test]
    fn each_driver_has_its_options_and_defaults() {
        assert!(options("none", &json!({})).unwrap().is_none());
        let json = options("", &json!({"max-size": "10m", "max-file": "3", "compress": "true"})).unwrap().unwrap();
        assert_eq!((json.max_size, json.max_files, json.compress), (Some(10 << 20), 3, true));
        let local = options("local", &json!({})).unwrap().unwrap();
        assert_eq!((local.max_size, local.max_files, local.compress), (Some(LOCAL_SIZE), 5, true));
        for (driver, config, text) in [
            ("json-file", json!({"compress": "true"}), "compress cannot be true when max-file is less than 2"),
            ("json-file", json!({"max-file": "2"}), "max-file cannot be set without max-size"),
            ("json-file", json!({"tag": "{{.No}}"}), "template: log-tag: {{.No}} is not supported"),
            ("local", json!({"labels": "x"}), "--log-opt labels is not supported"),
            ("json-file", json!({"mode": "non-blocking"}), "--log-opt mode=non-blocking is not supported"),
            ("journald", json!({}), "--log-driver journald is not supported"),
            ("syslog", json!({}), "--log-driver syslog is not supported"),
        ] {
            let error = options(driver, &config).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn lines_are_told_with_what_was_asked_for() {
        let definition = Definition {
            config: json!({"Labels": {"a": "1", "b": "2"}, "Env": ["X=x", "Y=y", "Z=z"]}),
            host_config: json!({"LogConfig": {"Config": {"labels": "b", "env": "X", "env-regex": "^Z"}}}),
            mounts: Vec::new(),
        };
        let all = named(&definition).unwrap();
        assert_eq!(all.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(), ["X=x", "Z=z", "b=2"]);
    }
}
