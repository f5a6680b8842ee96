//! systemd's journal, by its native protocol: a datagram for each entry, fields as `NAME=value\n`, or, where the value
//! has a newline in it, `NAME\n`, its length in 64 bits, little end first, the value, `\n`. An entry that is too long for a
//! datagram is in a sealed memfd, sent beside an empty one. The fields are those of Docker's journald driver.
//!
//! Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>; moby, `daemon/logger/journald/journald.go`.

use std::collections::BTreeMap;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use fs_base::{Error, IoContext, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Message, Stream};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// The field that says whose output an entry is, by the container's whole id.
pub const OWNER: &str = "CONTAINER_ID_FULL";
/// The field of [`super::DROPPED`].
pub(super) const DROPPED: &str = "CONTAINER_LOG_DROPPED";
/// The field of a line that is a piece of a longer one.
pub(super) const PARTIAL: &str = "CONTAINER_PARTIAL_MESSAGE";
/// The field that says when a line came, to the nanosecond.
pub(super) const TIME: &str = "SYSLOG_TIMESTAMP";
/// syslog's numbers of what is said, and of what is wrong. Source: syslog(3).
pub(super) const INFO: &str = "6";
/// See [`INFO`].
pub(super) const ERROR: &str = "3";

/// Whether there is a journal on this host, and what to do if there is none.
pub fn check() -> Result<()> {
    if Path::new(SOCKET).exists() {
        return Ok(());
    }
    Err(Error::unsupported("journald is not enabled on this host")
        .with_hint(format!("start systemd-journald, which listens on {SOCKET}, or use --log-driver json-file or local")))
}

/// A connection to journald.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    socket: Option<OwnedFd>,
    /// What every entry has, as it is sent.
    fields: Vec<u8>,
    /// How many entries were sent.
    ordinal: u64,
    /// Of each stream the line that is sent in pieces: its name, and how many pieces were sent.
    partial: [Option<(String, u64)>; 2],
}

impl Journal {
    /// Connects. `fields` are in every entry.
    pub fn open(path: &Path, fields: &BTreeMap<String, String>) -> Result<Journal> {
        let mut bytes = Vec::new();
        for (name, value) in fields {
            field(&mut bytes, name, value.as_bytes());
        }
        let socket = Some(connect(path)?);
        Ok(Journal { path: path.to_owned(), socket, fields: bytes, ordinal: 0, partial: [None, None] })
    }

    /// The connection, to wait until it takes more.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Sends a line; whether journald took it now.
    pub(super) fn send(&mut self, message: &Message<'_>) -> Result<bool> {
        let entry = self.entry(message);
        let sent = match self.put(&entry) {
            // It was started again meanwhile.
            Err(error) if self.socket.is_none() => {
                self.socket = Some(connect(&self.path).map_err(|_| error)?);
                self.put(&entry)
            }
            other => other,
        };
        if matches!(sent, Ok(true)) {
            self.ordinal += 1;
            let partial = &mut self.partial[message.stream as usize];
            *partial = match partial.take() {
                _ if message.line.ends_with(b"\n") => None,
                Some((name, pieces)) => Some((name, pieces + 1)),
                None => Some((format!("{:016x}{:016x}", message.nanos, self.ordinal), 1)),
            };
        }
        sent
    }

    fn entry(&self, message: &Message<'_>) -> Vec<u8> {
        let (line, is_whole) = match message.line.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (message.line, false),
        };
        let mut out = Vec::with_capacity(line.len() + self.fields.len() + 256);
        let mut add = |name: &str, value: &str| field(&mut out, name, value.as_bytes());
        add("PRIORITY", if message.stream == Stream::Stderr { ERROR } else { INFO });
        let time = jiff::Timestamp::from_nanosecond(message.nanos.into()).unwrap_or_default();
        add(TIME, &format!("{time:.9}"));
        let ordinal = self.ordinal + 1;
        add("CONTAINER_LOG_ORDINAL", &ordinal.to_string());
        let begun = self.partial[message.stream as usize].as_ref();
        if begun.is_some() || !is_whole {
            let first = (format!("{:016x}{ordinal:016x}", message.nanos), 0);
            let (name, pieces) = begun.unwrap_or(&first);
            add("CONTAINER_PARTIAL_ID", name);
            add("CONTAINER_PARTIAL_ORDINAL", &(pieces + 1).to_string());
            add("CONTAINER_PARTIAL_LAST", if is_whole { "true" } else { "false" });
        }
        if !is_whole {
            add(PARTIAL, "true");
        }
        if message.dropped > 0 {
            add(DROPPED, &message.dropped.to_string());
        }
        out.extend(&self.fields);
        field(&mut out, "MESSAGE", line);
        out
    }

    fn put(&mut self, entry: &[u8]) -> Result<bool> {
        let Some(socket) = &self.socket else { return Err(gone(Errno::NOTCONN)).at("send to", &self.path) };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = loop {
            match rustix::net::send(socket, entry, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE | Errno::NOBUFS) => break send_file(socket, entry, flags),
                other => break other.map(drop),
            }
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => {
                self.socket = None;
                Err(gone(error)).at("send to", &self.path)
            }
        }
    }
}

fn gone(error: Errno) -> std::io::Error {
    std::io::Error::from(error)
}

/// One that is connected can be waited for until journald takes more.
fn connect(path: &Path) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).at("make", "socket")?;
    let address = SocketAddrUnix::new(path).at("name", path)?;
    rustix::net::connect(&socket, &address).at("connect to", path)?;
    Ok(socket)
}

fn send_file(socket: &OwnedFd, entry: &[u8], flags: SendFlags) -> rustix::io::Result<()> {
    let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(entry).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // Unless all are set journald does not trust it.
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(&[])], &mut control, flags).map(drop)
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value);
    out.push(b'\n');
}
