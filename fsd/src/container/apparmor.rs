//! The AppArmor profile of a container.

use engine::apparmor::AppArmor;
use engine::config::Container;
use fs_base::{Class, ContainerId, Error, Result};
use serde_json::Value;

use crate::app::App;

/// Whether the profile that was asked for can be had.
pub fn check(wanted: &str) -> Result<()> {
    AppArmor::of_host().check(wanted).map_err(|error| match error.class() {
        Class::Unsupported => Error::unsupported(format!("--security-opt apparmor={wanted} is not supported: {error}")),
        _ => error,
    })
}

/// Settles which one a container that is about to start gets, and has it loaded.
pub fn settle(container: &mut Container) -> Result<()> {
    container.apparmor = AppArmor::of_host().choose(container.apparmor.as_deref(), container.privileged)?;
    Ok(())
}

/// The one that a container was started with, by what its runtime was told; empty if none.
pub fn of_running(app: &App, id: &ContainerId) -> String {
    if !AppArmor::of_host().is_enabled() {
        return String::new();
    }
    let spec = std::fs::read(app.run_dir(id).join("config.json")).ok();
    let spec: Option<Value> = spec.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    spec.and_then(|spec| spec["process"]["apparmorProfile"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Tells whoever reads the log that containers are not confined, where that may not be meant.
pub fn warn_if_missing() {
    if let Some(why) = AppArmor::of_host().missing() {
        tracing::warn!("AppArmor is enabled, but containers are not confined by it: {why}");
    }
}
