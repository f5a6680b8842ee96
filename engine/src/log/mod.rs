//! Docker's json-file log: one JSON object per line, `{"log":"…\n","stream":"stdout","time":"…Z"}`, in a file that is
//! rotated by size; older files may be compressed. The shim writes, the daemon reads, also while it is written.

mod compress;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

pub use reader::{Query, Reader, Record};
pub use writer::{Options, Writer};

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; also all of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The n-th older file of a log.
fn rotated(path: &std::path::Path, number: u32) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests;
