//! A client that is connected to the streams of a process.
//!
//! Output waits for a client that is slow, and so does its process, as in Docker: what the client gets is then exact.
//! One that takes nothing at all for a while ([`STALL`]) holds its container up no longer: the container goes on, and
//! when the client reads again it gets what it missed from the log. Where there is no log, it is let go after
//! [`STALL_UNLOGGED`]. (In dockerd and containerd such a client holds its container up for ever.) A further process, which
//! is not logged and is there for its client, waits as long as the client does.
//!
//! ```text
//! live ──stalls──► behind ──has read all that the log has──► live
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fs_base::Result;
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::log::{Query, Reader, Stream, Writer};

/// Bytes that wait for a slow client; more, and its process waits with it.
const BACKLOG_MAX: usize = 256 << 10;
/// How long a client may take nothing until its container waits no more.
pub const STALL: Duration = Duration::from_secs(10);
/// The same where nothing is logged.
pub const STALL_UNLOGGED: Duration = Duration::from_secs(300);

/// One connection, and what is on its way to it.
#[derive(Debug)]
pub struct ClientStream {
    /// The connection, not blocking.
    pub socket: OwnedFd,
    /// Whether its input is the process's.
    pub stdin: bool,
    /// Whether it has ended its input.
    pub input_ended: bool,
    stdout: bool,
    stderr: bool,
    framed: bool,
    backlog: Vec<u8>,
    /// How long its process waits for it; for ever if `None`.
    patience: Option<Duration>,
    /// Since when its backlog is full and it takes nothing.
    stalled: Option<Instant>,
    /// When it took something last.
    moved: Instant,
    behind: Option<Behind>,
    gone: bool,
}

/// A client gets its output from the log until it has caught up.
#[derive(Debug)]
struct Behind {
    reader: Reader,
    /// Bytes at the start of each stream's next line in the log that the client has already.
    known: [usize; 2],
}

impl ClientStream {
    /// A client of these streams (input, output, errors), `framed` if they have to be told apart, for which its process
    /// waits so long.
    pub fn new(socket: OwnedFd, [stdin, stdout, stderr]: [bool; 3], framed: bool, patience: Option<Duration>) -> ClientStream {
        ClientStream {
            socket,
            stdin,
            input_ended: false,
            stdout,
            stderr,
            framed,
            backlog: Vec::new(),
            patience,
            stalled: None,
            moved: Instant::now(),
            behind: None,
            gone: false,
        }
    }

    /// Whether its process may go on for all that it cares.
    pub fn has_room(&self) -> bool {
        self.behind.is_some() || self.backlog.len() < BACKLOG_MAX
    }

    /// Whether bytes wait.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether it has all there was.
    pub fn is_delivered(&self) -> bool {
        self.backlog.is_empty() && self.behind.is_none()
    }

    /// Whether it has hung up.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// It has hung up.
    pub fn hang_up(&mut self) {
        self.gone = true;
        self.backlog = Vec::new();
        self.behind = None;
        self.stalled = None;
    }

    /// When its process waits for it no more.
    pub fn patience(&self) -> Option<Instant> {
        Some(self.stalled? + self.patience?)
    }

    /// When it took something last.
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// Output of its process.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if self.behind.is_none() {
            self.put(stream, bytes);
            self.send();
        }
    }

    /// Source of the frame: Docker Engine API, ContainerAttach, "Stream format".
    fn put(&mut self, stream: Stream, bytes: &[u8]) {
        let (wanted, number) = match stream {
            Stream::Stdout => (self.stdout, 1),
            Stream::Stderr => (self.stderr, 2),
        };
        if !wanted || self.gone || bytes.is_empty() {
            return;
        }
        if self.framed {
            self.backlog.extend([number, 0, 0, 0]);
            self.backlog.extend((bytes.len() as u32).to_be_bytes());
        }
        self.backlog.extend(bytes);
    }

    /// Sends what the client takes now.
    pub fn send(&mut self) {
        let mut sent = 0;
        while sent < self.backlog.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(self.socket.as_fd(), &self.backlog[sent..], flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.hang_up(),
            }
        }
        self.backlog.drain(..sent);
        if sent > 0 {
            self.moved = Instant::now();
        }
        if self.backlog.is_empty() {
            self.backlog.shrink_to(BACKLOG_MAX / 16);
        }
        if self.has_room() {
            self.stalled = None;
        } else if sent > 0 || self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
    }

    /// From here on it gets its output from the log; `from_start` if all of that, too.
    pub fn fall_behind(&mut self, log: Option<&Writer>, from_start: bool) {
        self.stalled = None;
        let Some(log) = log else {
            if !from_start {
                self.hang_up();
            }
            return;
        };
        let tail = if from_start { None } else { Some(0) };
        let query = Query { tail, stdout: self.stdout, stderr: self.stderr, ..Query::default() };
        let known = |stream| if from_start { 0 } else { log.partial(stream).len() };
        match Reader::open(log.path(), query) {
            Ok(reader) => self.behind = Some(Behind { reader, known: [known(Stream::Stdout), known(Stream::Stderr)] }),
            Err(error) => {
                eprintln!("a client could not be given the log: {error}");
                self.hang_up();
            }
        }
    }

    /// Brings one that is behind what it has room for.
    pub fn catch_up(&mut self, log: Option<&Writer>) -> Result<()> {
        while self.backlog.len() < BACKLOG_MAX / 2 {
            let (Some(behind), Some(log)) = (&mut self.behind, log) else { return Ok(()) };
            if let Some(record) = behind.reader.read()? {
                let known = std::mem::take(&mut behind.known[record.stream as usize]);
                let rest = record.line.as_bytes().get(known..).unwrap_or_default().to_vec();
                self.put(record.stream, &rest);
            } else {
                let known = behind.known;
                self.behind = None;
                for stream in [Stream::Stdout, Stream::Stderr] {
                    let rest = log.partial(stream).get(known[stream as usize]..).unwrap_or_default().to_vec();
                    self.put(stream, &rest);
                }
            }
            self.send();
            if self.gone {
                return Ok(());
            }
        }
        Ok(())
    }
}
