//! Namespaces of other containers that a container shares.

use engine::config::Namespace;
use fs_base::{Error, Result};

use super::ContainerRow;
use crate::app::App;

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
