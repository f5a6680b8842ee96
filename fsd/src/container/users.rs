//! Whose users a container has: the host's, or those of a user namespace of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use engine::config::Users;
use fs_base::sys::ids::IdMap;
use fs_base::{Error, Result};
use layerfs::driver::Owners;
use serde_json::{Map, Value};
use volumes::parse::{BindPropagation, Kind, Request as VolumeRequest};

use super::{ContainerRow, runtimes};
use crate::app::App;
use crate::config::Config;
use crate::network::Mode;
use crate::userns;

/// The user namespaces that trees are mounted for, by their ids.
#[derive(Debug, Default)]
pub struct Mapped(Mutex<HashMap<IdMap, Arc<Owners>>>);

impl Mapped {
    /// The one with these ids.
    pub fn of(&self, ids: &IdMap) -> Result<Arc<Owners>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = all.get(ids) {
            return Ok(Arc::clone(there));
        }
        let made = Arc::new(Owners::new(ids.clone())?);
        all.insert(ids.clone(), Arc::clone(&made));
        Ok(made)
    }
}

/// Whether a container has users of its own.
fn has_own(config: &Config, mode: &str) -> bool {
    match mode {
        "host" => false,
        "private" => true,
        _ => config.userns_remap.is_some(),
    }
}

/// Refuses what can't be had together with users of its own. The texts are dockerd's, where it has one.
pub fn check(config: &Config, own: &Map<String, Value>, host: &Map<String, Value>) -> Result<()> {
    let text = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or_default();
    if !has_own(config, text("UsernsMode")) {
        return Ok(());
    }
    if host.get("Privileged") == Some(&Value::Bool(true)) {
        return Err(Error::invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode",
        )
        .with_hint("add --userns=host"));
    }
    if text("NetworkMode") == "host" {
        return Err(Error::invalid("cannot share the host's network namespace when user namespaces are enabled")
            .with_hint("add --userns=host"));
    }
    if text("PidMode") == "host" {
        return Err(
            Error::invalid("cannot share the host PID namespace when user namespaces are enabled").with_hint("add --userns=host")
        );
    }
    let (domainname, runtime) = (own.get("Domainname").and_then(Value::as_str).unwrap_or_default(), text("Runtime"));
    if !domainname.is_empty() && runtimes::find(config, runtime)?.is_some() {
        let name = runtimes::name(config, runtime);
        return Err(Error::unsupported(format!("--domainname is not supported by --runtime {name} with user namespaces"))
            .with_hint("leave --runtime out, or add --userns=host"));
    }
    Ok(())
}

/// Refuses what another runtime than the built-in one can't do for a container with users of its own: a copy of a mount
/// namespace for other users gives nothing back to the host.
pub fn check_mounts(config: &Config, host: &Value, requests: &[VolumeRequest]) -> Result<()> {
    let text = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or_default();
    let runtime = text("Runtime");
    if !has_own(config, text("UsernsMode")) || runtimes::find(config, runtime)?.is_none() {
        return Ok(());
    }
    let is_shared = |request: &&VolumeRequest| {
        let Kind::Bind { propagation, .. } = &request.kind else { return false };
        matches!(propagation, Some(BindPropagation::Shared | BindPropagation::RShared))
    };
    match requests.iter().find(is_shared) {
        None => Ok(()),
        Some(request) => {
            let (target, name) = (request.target.display(), runtimes::name(config, runtime));
            let message = format!(
                "a mount at {target} that is shared with the host is not supported by --runtime {name} with user namespaces"
            );
            Err(Error::unsupported(message)
                .with_hint("mount it with bind-propagation=rslave, leave --runtime out, or add --userns=host"))
        }
    }
}

/// The ids of a container's user namespace when it is the first to have it; `None` for the host's.
pub fn own(app: &App, row: &ContainerRow) -> Result<Option<IdMap>> {
    match row.definition.host_text("UsernsMode") {
        "host" => Ok(None),
        "private" if app.config.userns_remap.is_none() => userns::default().map(Some),
        _ => Ok(app.config.userns_remap.clone()),
    }
}

/// A container's users, for a start. Who shares another's network, processes or messages shares its users too, because those
/// belong to its user namespace.
pub fn of(app: &App, row: &ContainerRow) -> Result<Users> {
    let Some(own) = own(app, row)? else { return Ok(Users::Host) };
    let network = match Mode::parse(row.definition.host_text("NetworkMode")) {
        Mode::Of(name) => Some(name),
        _ => None,
    };
    let other = |key: &str| row.definition.host_text(key).strip_prefix("container:").map(str::to_owned);
    let mut joined: Option<(std::path::PathBuf, IdMap, std::path::PathBuf)> = None;
    for name in [network, other("PidMode"), other("IpcMode")].into_iter().flatten() {
        let other = app.db.find_container(&name)?;
        if !other.state.is_running() {
            // Whoever joins it says so in its own words.
            continue;
        }
        let ids = IdMap::of_process(other.state.pid)?.ok_or_else(|| {
            Error::conflict(format!("container {name} has the host's users, and its namespaces can't be joined with others"))
                .with_hint("add --userns=host, or run that one with a user namespace")
        })?;
        let path = std::path::PathBuf::from(format!("/proc/{}/ns/user", other.state.pid));
        let which = std::fs::read_link(&path).map_err(|error| Error::io("read", &path, error))?;
        if joined.as_ref().is_some_and(|(_, _, there)| *there != which) {
            return Err(Error::conflict("the containers whose namespaces are shared have different users"));
        }
        joined = Some((path, ids, which));
    }
    Ok(match joined {
        Some((path, ids, _)) => Users::Of(path, ids),
        None => Users::Own(own),
    })
}
