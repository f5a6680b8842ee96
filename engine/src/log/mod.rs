//! What containers say, kept. The shim writes, the daemon reads, also while it is written.
//!
//! Docker's json-file log is one JSON object per line, `{"log":"…\n","stream":"stdout","time":"…Z"}`, in a file that is
//! rotated by size ([`Writer`], [`Reader`]); older files may be compressed. The other place is systemd's journal
//! ([`journal`], and [`Export`] to read what `journalctl` says of it). [`Log`] is one of them, perhaps behind a buffer:
//!
//! ```text
//! output ─► lines ─┬──────────────────────────────► file        blocking: the container waits for the disk
//!                  ├─► queue ─► process of its own ─► file      non-blocking: what finds no room is dropped and counted
//!                  └─► queue ─► journald                        either: the container waits, or lines are dropped
//! ```

mod aside;
mod compress;
mod export;
pub mod journal;
mod lines;
mod queue;
mod reader;
mod sink;
mod writer;

use serde::{Deserialize, Serialize};

pub use export::{Entry, Export};
pub use reader::{Query, Reader, Record};
pub use sink::{Log, Wish};
pub use writer::{Options, Writer};

/// The attribute of a line that says how many before it were dropped.
pub const DROPPED: &str = "dropped";

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; also all of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line on its way, with its newline unless it is a piece of a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message<'a> {
    stream: Stream,
    /// When it came, in nanoseconds since the epoch.
    nanos: i64,
    /// How many lines before it were dropped and not told of.
    dropped: u64,
    line: &'a [u8],
}

/// The n-th older file of a log.
fn rotated(path: &std::path::Path, number: u32) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests;
