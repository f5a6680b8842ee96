//! Trees that a FUSE session serves: each a process of its own, which survives this one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use fs_base::{Error, IoContext, LayerId, Result};
use layerfs::driver::fuse::option_path;

use crate::app::App;

/// How long a session may take to answer whether it lives.
const ANSWER: Duration = Duration::from_secs(2);

/// Serves a chain of layers, bottom first, at `target`, read-only, or with a writable directory that goes with the mount.
/// It is there when this returns.
pub fn start(app: &App, name: &str, layers: &[LayerId], target: &Path, writable: bool) -> Result<()> {
    let program = &app.config.fuse;
    let dirs: Vec<String> = layers.iter().rev().map(|id| format!("@{}", option_path(&app.store.layer_dir(id)))).collect();
    if dirs.is_empty() {
        return Err(Error::unsupported(format!("image {name} has no layers: FUSE has nothing to serve")));
    }
    let options = format!("nosuid,nodev,fsname={},lowerdir={}", name.replace(',', "\\,"), dirs.join(":"));
    let output = Command::new(program)
        .args(writable.then_some("--rw"))
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .at("run", program)
        .map_err(|error| error.with_hint("fsd-fuse belongs beside fsd: install both, or name it with --fuse"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::unavailable(format!("mount image {name} by FUSE: {}", said.trim().trim_start_matches("fsd-fuse: "))))
}

/// Whether nobody serves what is mounted at `target` any more. A session that is only slow is not dead.
pub fn is_dead(target: &Path) -> bool {
    let (to, from) = mpsc::channel();
    let path = target.to_owned();
    // A session that hangs holds up this thread, and nobody else.
    let asked = std::thread::Builder::new().spawn(move || {
        let _ = to.send(rustix::fs::statfs(&path).err() == Some(rustix::io::Errno::NOTCONN));
    });
    asked.is_ok() && from.recv_timeout(ANSWER).unwrap_or(false)
}
