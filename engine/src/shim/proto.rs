//! What daemon and shim say to each other: one request and one answer per connection, each a length (32 bits, big
//! end first) and JSON. After the answer to `Attach` and `Exec` the connection carries the streams: input raw, output
//! in Docker's frames, or raw where there is a terminal.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::Process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A longer message is not one of ours.
const MESSAGE_MAX: u32 = 4 << 20;

/// How a shim is to run its container, besides the spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether the standard input is kept open for clients.
    pub open_stdin: bool,
    /// Whether it ends with the first client that had it.
    pub stdin_once: bool,
    /// Whether a small init is the first process.
    pub init: bool,
    /// The program of an OCI runtime that is to run it; the built-in one if `None`.
    #[serde(default)]
    pub runtime: Option<PathBuf>,
    /// Where the output is logged; nowhere if `None`.
    pub log: Option<LogOptions>,
}

/// The log of a container: a file, unless there is a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// The file; older ones have `.1`, `.2`, … after its name.
    pub path: PathBuf,
    /// Bytes after which a new file is begun; never if `None`.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub max_files: u32,
    /// Whether the older ones are compressed.
    #[serde(default)]
    pub compress: bool,
    /// What is said of every line in a file.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The fields of every entry, if it is systemd's journal and no file.
    #[serde(default)]
    pub journal: Option<BTreeMap<String, String>>,
    /// How many bytes may wait for the disk or the journal until lines are dropped; `None`: the container waits.
    #[serde(default)]
    pub buffer: Option<u64>,
}

/// What a shim can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Let the container's program run.
    Start,
    /// Answer when the container has ended.
    Wait,
    /// How it is.
    State,
    /// Its "/", as a descriptor beside the answer.
    Root,
    /// Send its first process a signal.
    Kill {
        /// The signal's number.
        signal: i32,
    },
    /// Connect to its streams.
    Attach {
        /// Its standard input.
        stdin: bool,
        /// Its standard output.
        stdout: bool,
        /// Its standard error.
        stderr: bool,
        /// First what its log has; then what comes, without a gap between them.
        #[serde(default)]
        logs: bool,
    },
    /// Run a further process.
    Exec(Box<ExecRequest>),
    /// Answer when that process has ended.
    ExecWait {
        /// Its name.
        id: String,
    },
    /// Answer when the kernel has ended more of its processes for want of memory than these; at once if it does not say.
    OutOfMemory {
        /// How many are known of.
        known: Option<u64>,
    },
    /// Its cgroup is in more hierarchies than it was: look at it again.
    Regroup,
    /// Set the size of a terminal.
    Resize {
        /// A further process's, or the container's if `None`.
        exec: Option<String>,
        /// Lines.
        rows: u16,
        /// Characters in a line.
        cols: u16,
    },
}

/// A further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Its name.
    pub id: String,
    /// What it is.
    pub process: Process,
    /// Whether the container's system call filter does not hold for it.
    pub unconfined: bool,
    /// Whether this connection is to carry its streams; if not, they go nowhere.
    pub attach: bool,
    /// Whether its standard input is this connection's.
    pub stdin: bool,
    /// The size of its terminal, lines and characters in a line.
    pub size: Option<(u16, u16)>,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done; for `Attach`: the streams follow.
    Done,
    /// A process runs.
    Started {
        /// Its number on the host.
        pid: i32,
        /// What could not be done and was left.
        warnings: Vec<String>,
    },
    /// It has ended.
    Exit(Exit),
    /// How it is.
    State(State),
    /// How many of its processes the kernel has ended for want of memory.
    OutOfMemory {
        /// Since the container was made.
        kills: u64,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, or 128 plus the signal that ended it.
    pub code: i32,
    /// Whether the kernel ended a process of the container for want of memory.
    pub oom_killed: bool,
    /// When, in nanoseconds since the epoch.
    pub finished: i64,
    /// How many lines of its output its log does not have: there was no room, or they could not be written. As far as
    /// was known at its end: lines that still waited then are not among them. They may be logged yet; if they never are,
    /// the shim's own log says so.
    #[serde(default)]
    pub unlogged: u64,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Its first process, on the host.
    pub pid: i32,
}

/// The stations of a container's life in its shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Made, and waiting to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended, and the rest of its output is on its way.
    Ended,
}

/// Writes one message.
pub fn write(to: &mut dyn Write, message: &impl Serialize) -> Result<()> {
    let bytes = encode(message)?;
    to.write_all(&bytes).at("write to", "shim socket")
}

/// One message as it goes over the wire.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|error| Error::internal(format!("encode: {error}")))?;
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// Reads one message.
pub fn read<T: DeserializeOwned>(from: &mut dyn Read) -> Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).at("read from", "shim socket")?;
    let length = checked_length(length)?;
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).at("read from", "shim socket")?;
    serde_json::from_slice(&bytes).map_err(|error| Error::internal(format!("decode: {error}")))
}

/// The message in front of `bytes`, and how many bytes it takes; `None` if it is not all there yet.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = checked_length(*head)?;
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(|error| Error::invalid(format!("decode: {error}")))?;
    Ok(Some((message, 4 + length)))
}

fn checked_length(bytes: [u8; 4]) -> Result<usize> {
    match u32::from_be_bytes(bytes) {
        length @ ..=MESSAGE_MAX => Ok(length as usize),
        length => Err(Error::invalid(format!("a message of {length} bytes"))),
    }
}

/// An answer: what was asked for, or why not.
pub type Answer = std::result::Result<Reply, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_whole_or_not_yet() {
        let bytes = encode(&Request::Kill { signal: 15 }).unwrap();
        for end in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..end]).unwrap().is_none(), "{end}");
        }
        let (request, length) = decode::<Request>(&[&bytes[..], b"more"].concat()).unwrap().unwrap();
        assert!(matches!(request, Request::Kill { signal: 15 }));
        assert_eq!(length, bytes.len());
        assert!(decode::<Request>(&[255; 8]).is_err());
    }
}
