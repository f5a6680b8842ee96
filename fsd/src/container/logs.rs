//! Where a container's output is logged, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;

use engine::log::journal;
use engine::shim::LogOptions;
use fs_base::units::{BINARY, DECIMAL, parse_size};
use fs_base::{Error, Result};
use serde_json::{Map, Value, json};

use super::create::{LogConfig, read};
use super::{files, log_attributes, log_tag};
use crate::config::Config;

/// Docker's number of log files, of json-file and of local.
const JSON_FILES: u32 = 1;
const LOCAL_FILES: u32 = 5;
/// Docker's size of a log file of local.
const LOCAL_SIZE: u64 = 20 << 20;
/// Docker's bytes that wait for a log in its non-blocking mode.
const BUFFER: u64 = 1_000_000;
/// A `max-size` that says nothing: of json-file, and of local in what earlier versions made.
const DEFAULT_SIZE: &str = "-1";
/// The drivers that there are, as `/info` tells them.
pub const DRIVERS: &[&str] = &["journald", "json-file", "local", "none"];
/// Docker's others.
const OTHERS: &[&str] = &["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk", "syslog"];
/// The options of every driver, of every one but `none`, and of those that are files.
const OF_ALL: &[&str] = &["mode", "max-buffer-size"];
const OF_LINES: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const OF_FILES: &[&str] = &["max-size", "max-file", "compress"];

/// A driver with its options.
type Options = BTreeMap<String, String>;

/// Checks and notes the log of a container that is made: the daemon's driver where none was asked for, and the daemon's
/// options of that driver where they were not given.
pub fn choose(config: &Config, host: &mut Map<String, Value>) -> Result<()> {
    let asked = host.get("LogConfig").filter(|value| !value.is_null());
    let asked: LogConfig = asked.map_or(Ok(LogConfig::default()), |value| read(value, "LogConfig"))?;
    let driver = asked.r#type.filter(|name| !name.is_empty()).unwrap_or_else(|| config.log_driver.clone());
    let mut options = asked.config.unwrap_or_default();
    if driver == config.log_driver {
        for (key, value) in &config.log_opts {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    check(&driver, &options)?;
    if driver == "journald" {
        journal::check()?;
    }
    host.insert("LogConfig".to_owned(), json!({"Type": driver, "Config": options}));
    Ok(())
}

/// Whether there is such a driver that takes such options.
pub fn check(driver: &str, options: &Options) -> Result<()> {
    let Some(log) = of(driver, options)? else { return Ok(()) };
    if driver == "local" {
        if options.get("max-size").is_some_and(|text| text == DEFAULT_SIZE) {
            return Err(Error::invalid(format!("invalid value for max-size: {DEFAULT_SIZE}: invalid size: '{DEFAULT_SIZE}'")));
        }
        if log.compress && log.max_files < 2 {
            return Err(Error::invalid("compression cannot be enabled when max file count is 1"));
        }
    } else if log.compress && (log.max_size.is_none() || log.max_files < 2) {
        return Err(Error::invalid("compress cannot be true when max-file is less than 2 or max-size is not set"));
    }
    Ok(())
}

/// Where a container that is there logs; `None` if it does not. The path is that of its folder, relative. `local` is the
/// same format with limits from the start: its own is Docker's affair, and nobody else reads it.
///
/// What only [`check`] refuses is taken: an earlier version may have made it so.
pub fn log_options(host_config: &Value) -> Result<Option<LogOptions>> {
    let log: LogConfig = match &host_config["LogConfig"] {
        Value::Null => LogConfig::default(),
        value => read(value, "LogConfig")?,
    };
    let driver = log.r#type.filter(|name| !name.is_empty()).unwrap_or_else(|| "json-file".to_owned());
    let mut options = of(&driver, &log.config.unwrap_or_default())?;
    if let Some(log) = &mut options {
        log.compress &= log.max_files > 1;
    }
    Ok(options)
}

fn of(driver: &str, options: &Options) -> Result<Option<LogOptions>> {
    if driver == "none" {
        return Ok(None);
    }
    let buffer = buffer(options)?;
    let is_file = match driver {
        "json-file" | "local" => true,
        "journald" => false,
        other if OTHERS.contains(&other) => {
            let why = "it can be json-file, local, journald or none";
            return Err(Error::unsupported(format!("--log-driver {other} is not supported: {why}")));
        }
        other => return Err(Error::invalid(format!("logger: no log driver named '{other}' is registered"))),
    };
    let knows = |key: &str| OF_ALL.contains(&key) || OF_LINES.contains(&key) || (is_file && OF_FILES.contains(&key));
    if let Some(key) = options.keys().find(|key| !knows(key)) {
        let whose = if driver == "local" { "log driver local".to_owned() } else { format!("{driver} log driver") };
        return Err(Error::invalid(format!("unknown log opt '{key}' for {whose}")));
    }
    options.get("tag").map_or(Ok(()), |template| log_tag::check(template))?;
    for key in ["labels-regex", "env-regex"] {
        options.get(key).map(|text| log_attributes::pattern(text)).transpose()?;
    }
    let mut log = match driver {
        "json-file" => json_file(options)?,
        "local" => local(options)?,
        _ => LogOptions { path: PathBuf::new(), journal: Some(BTreeMap::new()), ..in_file(None, 1, false) },
    };
    log.buffer = buffer;
    Ok(Some(log))
}

/// How many bytes may wait until lines are dropped; `None` if the container waits.
fn buffer(options: &Options) -> Result<Option<u64>> {
    let is_blocking = match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => true,
        Some("non-blocking") => false,
        Some(other) => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    };
    let size = match options.get("max-buffer-size") {
        Some(_) if is_blocking => {
            return Err(Error::invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'"));
        }
        Some(text) => parse_size(text, BINARY).map_err(|error| error.context("error parsing option max-buffer-size"))?,
        None => BUFFER,
    };
    Ok((!is_blocking).then_some(size))
}

fn json_file(options: &Options) -> Result<LogOptions> {
    let max_size =
        options.get("max-size").filter(|text| *text != DEFAULT_SIZE).map(|text| parse_size(text, DECIMAL)).transpose()?;
    if max_size == Some(0) {
        return Err(Error::invalid("max-size must be a positive number"));
    }
    let max_files = options.get("max-file").map_or(Ok(JSON_FILES), |text| count(text))?;
    if max_files < 1 {
        return Err(Error::invalid("max-file cannot be less than 1"));
    }
    let compress = options.get("compress").map_or(Ok(false), |text| truth(text))?;
    Ok(in_file(max_size, max_files, compress))
}

fn local(options: &Options) -> Result<LogOptions> {
    let bad = |key: &str, text: &str, error: &Error| Error::invalid(format!("invalid value for {key}: {text}: {error}"));
    let max_size = match options.get("max-size").filter(|text| *text != DEFAULT_SIZE) {
        Some(text) => parse_size(text, DECIMAL).map_err(|error| bad("max-size", text, &error))?,
        None => LOCAL_SIZE,
    };
    let max_files = match options.get("max-file") {
        Some(text) => count(text).map_err(|error| bad("max-file", text, &error))?,
        None => LOCAL_FILES,
    };
    let compress = match options.get("compress") {
        Some(text) => truth(text).map_err(|error| error.context("invalid boolean value for compress"))?,
        None => true,
    };
    Ok(in_file(Some(max_size).filter(|size| *size > 0), max_files.max(1), compress))
}

fn in_file(max_size: Option<u64>, max_files: u32, compress: bool) -> LogOptions {
    let attributes = BTreeMap::new();
    LogOptions { path: files::LOG.into(), max_size, max_files, compress, attributes, journal: None, buffer: None }
}

fn count(text: &str) -> Result<u32> {
    let number: i64 = text.parse().map_err(|_| Error::invalid(format!("strconv.Atoi: parsing \"{text}\": invalid syntax")))?;
    if number < 0 {
        return Err(Error::invalid("max-file cannot be less than 1"));
    }
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Source: Go's `strconv.ParseBool`.
fn truth(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(driver: &str, config: &Value) -> Result<Option<LogOptions>> {
        log_options(&json!({"LogConfig": {"Type": driver, "Config": config}}))
    }

    #[test]
    fn each_driver_has_its_options_and_defaults() {
        assert!(options("none", &json!({"anything": "x"})).unwrap().is_none());
        let json = options("", &json!({"max-size": "10m", "max-file": "3", "compress": "true"})).unwrap().unwrap();
        assert_eq!((json.max_size, json.max_files, json.compress, json.buffer), (Some(10_000_000), 3, true, None));
        let local = options("local", &json!({"labels": "x", "mode": "blocking"})).unwrap().unwrap();
        assert_eq!((local.max_size, local.max_files, local.compress, local.buffer), (Some(LOCAL_SIZE), 5, true, None));
        let lossy = options("journald", &json!({"mode": "non-blocking", "tag": "{{.Name}}"})).unwrap().unwrap();
        assert_eq!((lossy.buffer, lossy.journal), (Some(1_000_000), Some(BTreeMap::new())));
        let lossy = options("local", &json!({"mode": "non-blocking", "max-buffer-size": "4m"})).unwrap().unwrap();
        assert_eq!(lossy.buffer, Some(4 << 20));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_dockers_words() {
        for (driver, config, text) in [
            ("json-file", json!({"compress": "true"}), "compress cannot be true when max-file is less than 2"),
            ("json-file", json!({"tag": "{{.No}}"}), "template: log-tag: {{.No}} is not supported"),
            ("json-file", json!({"max-size": "0"}), "max-size must be a positive number"),
            ("json-file", json!({"max-size": "x"}), "invalid size: 'x'"),
            ("json-file", json!({"max-file": "0"}), "max-file cannot be less than 1"),
            ("json-file", json!({"max-file": "x"}), "strconv.Atoi: parsing \"x\": invalid syntax"),
            ("json-file", json!({"color": "x"}), "unknown log opt 'color' for json-file log driver"),
            ("local", json!({"color": "x"}), "unknown log opt 'color' for log driver local"),
            ("local", json!({"max-file": "1"}), "compression cannot be enabled when max file count is 1"),
            ("local", json!({"max-size": "-1"}), "invalid value for max-size: -1: invalid size: '-1'"),
            ("local", json!({"compress": "x"}), "invalid boolean value for compress: strconv.ParseBool: parsing \"x\""),
            ("journald", json!({"max-size": "1m"}), "unknown log opt 'max-size' for journald log driver"),
            ("json-file", json!({"mode": "fast"}), "logger: logging mode not supported: fast"),
            (
                "json-file",
                json!({"max-buffer-size": "1m"}),
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "json-file",
                json!({"mode": "non-blocking", "max-buffer-size": "1q"}),
                "error parsing option max-buffer-size: invalid suffix: 'q'",
            ),
            ("syslog", json!({}), "--log-driver syslog is not supported"),
            ("nosuch", json!({}), "logger: no log driver named 'nosuch' is registered"),
        ] {
            let error = check(driver, &read(&config, "Config").unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn what_an_earlier_version_made_is_still_read() {
        for (config, max_size, max_files, compress) in [
            (json!({"max-file": "1"}), LOCAL_SIZE, 1, false),
            (json!({"max-file": "1", "max-size": "1m"}), 1_000_000, 1, false),
            (json!({"max-size": "-1"}), LOCAL_SIZE, LOCAL_FILES, true),
        ] {
            let log = options("local", &config).unwrap().unwrap();
            assert_eq!((log.max_size, log.max_files, log.compress), (Some(max_size), max_files, compress), "{config}");
            assert!(check("local", &read(&config, "Config").unwrap()).is_err(), "{config}");
        }
    }
}
