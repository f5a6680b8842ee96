//! Connecting to a container's streams, before its start too.

use fs_base::{ContainerId, Result};
use tokio::sync::oneshot;

use super::live::Early;
use crate::app::App;

/// A connection to the streams, or where it will come when the container is started. The latter is closed if the
/// start fails.
#[derive(Debug)]
pub enum Attached {
    /// It runs.
    Now(std::os::unix::net::UnixStream),
    /// It does not run yet.
    Later(oneshot::Receiver<std::os::unix::net::UnixStream>),
}

/// Connects to input, output and errors, those that are wanted; of one that runs, after what its log has if `logs`.
pub fn attach(app: &App, id: &ContainerId, streams: [bool; 3], logs: bool) -> Result<Attached> {
    let live = app.containers.of(id);
    let mut early = live.early();
    if let Some(waiting) = early.as_mut() {
        let (to, from) = oneshot::channel();
        waiting.push(Early { streams, to });
        return Ok(Attached::Later(from));
    }
    drop(early);
    let [stdin, stdout, stderr] = streams;
    let shim = app.shim(id);
    let stream = if logs { shim.attach_with_logs(stdin, stdout, stderr) } else { shim.attach(stdin, stdout, stderr) };
    stream.map(Attached::Now)
}
