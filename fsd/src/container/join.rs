//! Namespaces of other containers that a container shares.

use engine::config::Namespace;
use fs_base::{Error, Result};
use serde_json::Value;

use super::ContainerRow;
use crate::app::App;

/// Names of other containers become their ids, so that they are found under another name too. One whose network is to be
/// had may not be there yet: that is told of at the start. Source: moby, `adaptSharedNamespaceContainer`.
pub fn by_id(app: &App, host_config: &mut Value) -> Result<()> {
    for key in ["PidMode", "IpcMode", "NetworkMode"] {
        let Some(name) = host_config[key].as_str().and_then(|mode| mode.strip_prefix("container:")) else { continue };
        match app.db.find_container(name) {
            Ok(other) => host_config[key] = format!("container:{}", other.id).into(),
            Err(_) if key == "NetworkMode" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whose processes it is among: `None` if it does not say another container's.
pub fn pid(app: &App, row: &ContainerRow) -> Result<Option<Namespace>> {
    let Some(name) = row.definition.host_text("PidMode").strip_prefix("container:") else { return Ok(None) };
    let other = app.db.find_container(name)?;
    if other.id == row.id {
        return Err(Error::invalid("a container can not join its own PID namespace"));
    }
    if !other.state.is_running() {
        return Err(Error::conflict(format!("cannot join PID of a non running container: {}", other.id)));
    }
    Ok(Some(Namespace::Of(format!("/proc/{}/ns/pid", other.state.pid).into())))
}
