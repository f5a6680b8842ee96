//! Containers: the service behind the API's handlers.
//!
//! What a container is and how it is are in the database ([`ContainerRow`]). What only this process knows is in
//! [`Containers`]: who waits, who attached before the start, which layers are held mounted. The processes belong to
//! the container's shim, which outlives this process; [`recover()`] finds it again.
//!
//! ```text
//! create ──► created ──start──► running ──ended──► exited ──start──► running …
//!               └────────────── remove ───────────────┘
//! ```
//!
//! Every change of that kind holds the container's own lock (`Live::alone`), so that two requests never act on one
//! container at the same time; none holds it while it waits for the container to end.

pub mod attach;
pub mod commit;
pub mod copy;
pub mod create;
pub mod diff;
pub mod exec;
pub mod files;
pub mod filter;
pub mod group;
mod health;
mod live;
pub mod make;
mod names;
pub mod pause;
mod recover;
mod refuse;
mod remove;
pub mod resources;
mod restart;
mod row;
mod run;
pub mod runtimes;
pub mod show;
pub mod signal;
pub mod size;
pub mod stats;
pub mod stop;
mod to_engine;
pub mod top;
pub mod update;

use engine::shim::LogOptions;
use fs_base::{Error, Result};
use serde_json::Value;

pub use live::{Containers, End};
pub use recover::recover;
pub use remove::{Options as RemoveOptions, prune, remove, rename};
pub use row::{ContainerRow, Definition, State, Status};
pub use run::start;

/// Docker's default number of log files.
const LOG_FILES: u32 = 1;

/// Where a container logs; `None` if it does not. The path is that of its folder, relative.
pub fn log_options(host_config: &Value) -> Result<Option<LogOptions>> {
    let log: create::LogConfig = match &host_config["LogConfig"] {
        Value::Null => create::LogConfig::default(),
        value => create::read(value, "LogConfig")?,
    };
    if log.r#type.as_deref() == Some("none") {
        return Ok(None);
    }
    let options = log.config.unwrap_or_default();
    let max_size = options.get("max-size").map(|text| bytes(text)).transpose()?;
    let max_files = match options.get("max-file") {
        None => LOG_FILES,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| Error::invalid(format!("max-file cannot be less than 1: {text}")))?,
    };
    if max_files > 1 && max_size.is_none() {
        return Err(Error::invalid("max-file cannot be set without max-size"));
    }
    Ok(Some(LogOptions { path: files::LOG.into(), max_size, max_files }))
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
