//! A client that is connected to the streams of a process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::log::Stream;

/// Bytes that wait for a slow client; more, and its process waits with it.
const BACKLOG_MAX: usize = 256 << 10;

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
    gone: bool,
}

impl ClientStream {
    /// A client of these streams; `framed` if they have to be told apart.
    pub fn new(socket: OwnedFd, stdin: bool, stdout: bool, stderr: bool, framed: bool) -> ClientStream {
        ClientStream { socket, stdin, input_ended: false, stdout, stderr, framed, backlog: Vec::new(), gone: false }
    }

    /// Whether it takes more.
    pub fn has_room(&self) -> bool {
        self.backlog.len() < BACKLOG_MAX
    }

    /// Whether bytes wait.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether it has hung up.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// It has hung up.
    pub fn hang_up(&mut self) {
        self.gone = true;
        self.backlog = Vec::new();
    }

    /// Output of its process. Source of the frame: Docker Engine API, ContainerAttach, "Stream format".
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let (wanted, number) = match stream {
            Stream::Stdout => (self.stdout, 1),
            Stream::Stderr => (self.stderr, 2),
        };
        if !wanted || self.gone {
            return;
        }
        if self.framed {
            self.backlog.extend([number, 0, 0, 0]);
            self.backlog.extend((bytes.len() as u32).to_be_bytes());
        }
        self.backlog.extend(bytes);
        self.send();
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
        if self.backlog.is_empty() {
            self.backlog.shrink_to(BACKLOG_MAX / 16);
        }
    }
}
