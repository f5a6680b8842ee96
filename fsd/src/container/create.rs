//! The body of a container's creation: read, checked, merged with the image's defaults. What this version can't do is
//! refused by its name.

use std::collections::BTreeMap;

use fs_base::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use volumes::parse::HostMounts;

use super::{logs, refuse, runtimes, types, users};
use crate::config::Config;
use crate::image::Config as ImageConfig;
use crate::network::{Mode, request};

/// A container that was asked for.
#[derive(Debug)]
pub struct New {
    /// The image as it was given.
    pub image: String,
    /// Docker's `Config`, not merged yet.
    config: Map<String, Value>,
    host_config: Map<String, Value>,
    networking: Value,
}

/// What of it is settled once the image is known.
#[derive(Debug)]
pub struct Settled {
    /// Docker's `Config`, the image's defaults merged in.
    pub config: Value,
    /// Docker's `HostConfig`, defaults filled in.
    pub host_config: Value,
    /// Docker's `NetworkingConfig`, as it was asked for.
    pub networking: Value,
    /// Its mounts, as they were asked for.
    pub mounts: HostMounts,
    /// Where the image or the container wants volumes.
    pub volumes: Vec<String>,
    /// What the person should know.
    pub warnings: Vec<String>,
}

/// Reads the body.
pub fn decode(body: &[u8]) -> Result<New> {
    let bad = |error: serde_json::Error| Error::invalid(format!("invalid JSON: {error}"));
    let mut config: Map<String, Value> = serde_json::from_slice(body).map_err(bad)?;
    let mut host_config = match config.remove("HostConfig") {
        Some(Value::Object(host)) => host,
        _ => Map::new(),
    };
    let networking = config.remove("NetworkingConfig").unwrap_or_default();
    let image = config.get("Image").and_then(Value::as_str).unwrap_or_default().to_owned();
    if image.is_empty() {
        return Err(Error::invalid("no image specified"));
    }
    types::config(&mut config)?;
    types::host_config(&mut host_config)?;
    refuse::config(&config)?;
    refuse::host_config(&host_config)?;
    let mode = Mode::parse(host_config.get("NetworkMode").and_then(Value::as_str).unwrap_or_default());
    request::check_config(&mode, &config, &host_config)?;
    Ok(New { image, config, host_config, networking })
}

impl New {
    /// Checks and notes the runtime, and checks what goes with the users that it will have.
    pub fn choose_runtime(&mut self, config: &Config) -> Result<()> {
        let asked = self.host_config.get("Runtime").and_then(Value::as_str).unwrap_or_default();
        let name = runtimes::name(config, asked).to_owned();
        let has_init = self.host_config.get("Init") == Some(&json!(true));
        if runtimes::find(config, &name)?.is_some() && has_init {
            return Err(Error::unsupported(format!("--init is not supported with --runtime {name}"))
                .with_hint("the init is the built-in runtime's: leave --runtime out"));
        }
        self.host_config.insert("Runtime".to_owned(), json!(name));
        users::check(config, &self.config, &self.host_config)
    }

    /// Checks and notes where it logs.
    pub fn choose_log(&mut self, config: &Config) -> Result<()> {
        logs::choose(config, &mut self.host_config)
    }

    /// Merges it with its image. `id` gives the host name where none was asked for.
    pub fn settle(mut self, image: &ImageConfig, id: &fs_base::ContainerId) -> Result<Settled> {
        merge_config(&mut self.config, &image.defaults, &id.as_str()[..12], &self.host_config);
        let mut warnings = Vec::new();
        let mounts: HostMounts = read(&Value::Object(self.host_config.clone()), "HostConfig")?;
        default_host_config(&mut self.host_config);
        let config = Value::Object(self.config);
        let command = config["Entrypoint"].as_array().into_iter().chain(config["Cmd"].as_array()).flatten().count();
        if command == 0 {
            return Err(Error::invalid("no command specified"));
        }
        let volumes = config["Volumes"].as_object().into_iter().flatten().map(|(target, _)| target.clone()).collect();
        let mut host_config = Value::Object(self.host_config);
        // Whatever can't be read is refused now, not at the start.
        super::to_engine::check(&config, &host_config)?;
        warnings.extend(super::resources::warnings(&host_config)?);
        super::discarded::take_out(&mut host_config, &warnings);
        Ok(Settled { config, host_config, networking: self.networking, mounts, volumes, warnings })
    }
}

/// Reads a typed part of a JSON value.
pub fn read<T: for<'a> Deserialize<'a>>(value: &Value, what: &str) -> Result<T> {
    T::deserialize(value).map_err(|error| Error::invalid(format!("{what}: {error}")))
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Docker's rules: what the container says wins, lists of names are joined. Source: moby `runconfig` merge.
fn merge_config(config: &mut Map<String, Value>, image: &Value, short_id: &str, host_config: &Map<String, Value>) {
    let own_entrypoint = !is_empty(config.get("Entrypoint"));
    for key in ["User", "WorkingDir", "StopSignal", "Entrypoint", "Shell", "StopTimeout"] {
        if is_empty(config.get(key)) && !is_empty(image.get(key)) {
            config.insert(key.to_owned(), image[key].clone());
        }
    }
    super::health::merge(config, image.get("Healthcheck"));
    // An entrypoint of one's own does not take the image's arguments.
    if is_empty(config.get("Cmd")) && !own_entrypoint && !is_empty(image.get("Cmd")) {
        config.insert("Cmd".to_owned(), image["Cmd"].clone());
    }
    // `--entrypoint ""` takes the image's away.
    if config.get("Entrypoint").and_then(Value::as_array).is_some_and(|list| list.len() == 1 && list[0] == "") {
        config.insert("Entrypoint".to_owned(), Value::Null);
    }
    for key in ["Labels", "Volumes", "ExposedPorts"] {
        let mut both = image.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        both.extend(config.get(key).and_then(Value::as_object).cloned().unwrap_or_default());
        // As Docker has it: labels are always a map, volumes may be null, ports are there or not.
        match key {
            "ExposedPorts" if both.is_empty() => config.remove(key),
            "Volumes" if both.is_empty() => config.insert(key.to_owned(), Value::Null),
            _ => config.insert(key.to_owned(), Value::Object(both)),
        };
    }
    config.insert("Env".to_owned(), json!(merge_env(image.get("Env"), config.get("Env"))));
    if is_empty(config.get("Hostname")) {
        // Who has the host's network has its name too, because tools look the one up in the other.
        let is_hosts = |key: &str| host_config.get(key).and_then(Value::as_str) == Some("host");
        let name = if is_hosts("UTSMode") || is_hosts("NetworkMode") {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            short_id.to_owned()
        };
        config.insert("Hostname".to_owned(), json!(name));
    }
}

fn merge_env(image: Option<&Value>, own: Option<&Value>) -> Vec<String> {
    let list = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut env = list(own);
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    for pair in list(image) {
        if !env.iter().any(|own| name(own) == name(&pair)) {
            env.push(pair);
        }
    }
    if !env.iter().any(|pair| pair.starts_with("PATH=") || pair == "PATH") {
        env.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    env
}

/// Fills in what `inspect` shows although nobody asked for it.
fn default_host_config(host: &mut Map<String, Value>) {
    let mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or_default().to_owned();
    if matches!(mode.as_str(), "" | "default") {
        host.insert("NetworkMode".to_owned(), json!("bridge"));
    }
    super::resources::defaults(host);
    // Programs that look after other cgroups run privileged, and find them on v1 only by the host's paths.
    let has_hosts_cgroups =
        host.get("Privileged") == Some(&json!(true)) && engine::cgroup::support().is_ok_and(|support| support.version == 1);
    let cgroupns = if has_hosts_cgroups { "host" } else { "private" };
    let fill = [("ShmSize", json!(64 << 20)), ("IpcMode", json!("private")), ("CgroupnsMode", json!(cgroupns))];
    for (key, default) in fill {
        let unset = is_empty(host.get(key)) || host.get(key) == Some(&json!(0));
        if unset {
            host.insert(key.to_owned(), default);
        }
    }
    // An empty list is `systempaths=unconfined`.
    for (key, paths) in [("MaskedPaths", engine::spec::MASKED), ("ReadonlyPaths", engine::spec::READ_ONLY)] {
        if host.get(key).is_none_or(Value::is_null) {
            let privileged = host.get("Privileged") == Some(&json!(true));
            host.insert(key.to_owned(), if privileged { Value::Null } else { json!(paths) });
        }
    }
}

/// Docker's `LogConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// The driver.
    pub r#type: Option<String>,
    /// Its options.
    pub config: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests;
