//! What the daemon asks, and what it gets.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use fs_base::{Error, IoContext, Result};

use super::out_of_memory::OutOfMemory;
use super::passing;
use super::session::Session;
use super::{Awaited, Shim, Waiter};
use crate::failure::Failure;
use crate::shim::proto::{self, Answer, Reply, Request, State, Status};

/// A connection whose request is not all there yet.
pub struct Connection {
    socket: UnixStream,
    bytes: Vec<u8>,
}

impl Connection {
    /// One that was just made.
    pub fn new(socket: UnixStream) -> Result<Connection> {
        socket.set_nonblocking(true).at("configure", "connection")?;
        Ok(Connection { socket, bytes: Vec::new() })
    }

    /// Its socket.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Takes what has come. `None`: there is more to come.
    fn request(&mut self) -> Result<Option<Request>> {
        let mut piece = [0; 4096];
        match self.socket.read(&mut piece) {
            Ok(0) => return Err(Error::invalid("hung up")),
            Ok(count) => self.bytes.extend(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).at("read from", "connection"),
        }
        match proto::decode(&self.bytes)? {
            Some((_, length)) if length != self.bytes.len() => Err(Error::invalid("more than a request")),
            Some((request, _)) => Ok(Some(request)),
            None => Ok(None),
        }
    }
}

impl Shim {
    /// Reads from one connection, and deals with its request once that is all there.
    pub fn read_request(&mut self, index: usize) {
        match self.connections[index].request() {
            Ok(None) => {}
            Ok(Some(request)) => {
                let socket = self.connections.swap_remove(index).socket;
                // The connection ends with it; the daemon sees that.
                if let Err(error) = self.deal(request, socket) {
                    eprintln!("{error}");
                }
            }
            Err(_) => drop(self.connections.swap_remove(index)),
        }
    }

    fn deal(&mut self, request: Request, mut socket: UnixStream) -> Result<()> {
        self.is_resting = false;
        socket.set_nonblocking(false).at("configure", "connection")?;
        let reply = match request {
            Request::Start => self.start(),
            Request::State => Ok(Reply::State(State { status: self.status, pid: self.main.process().pid() })),
            Request::Kill { signal } => self.kill(signal),
            Request::Resize { exec, rows, cols } => self.resize(exec.as_deref(), rows, cols),
            Request::Regroup => self.regroup(),
            Request::Root => return self.send_root(&socket),
            Request::Wait => {
                let Some((exit, _)) = self.exit else {
                    self.waiting.push(Waiter { socket, awaits: Awaited::End });
                    return Ok(());
                };
                Ok(Reply::Exit(exit))
            }
            Request::ExecWait { id } => {
                let Some(reply) = self.exec_exit(&id) else {
                    self.waiting.push(Waiter { socket, awaits: Awaited::Exec(id) });
                    return Ok(());
                };
                reply
            }
            Request::OutOfMemory { known } => {
                let kills = self.out_of_memory.kills();
                if known.is_some_and(|known| kills <= known) {
                    self.waiting.push(Waiter { socket, awaits: Awaited::OutOfMemory });
                    return Ok(());
                }
                Ok(Reply::OutOfMemory { kills })
            }
            Request::Attach { stdin, stdout, stderr, logs } => {
                proto::write(&mut socket, &Answer::Ok(Reply::Done))?;
                socket.set_nonblocking(true).at("configure", "connection")?;
                self.main.attach(OwnedFd::from(socket), stdin, stdout, stderr);
                return if logs { self.main.replay() } else { Ok(()) };
            }
            Request::Exec(request) => return self.begin_exec(*request, socket),
        };
        let answer: Answer = reply.map_err(|error| Failure::from(&error));
        proto::write(&mut socket, &answer)
    }

    fn start(&mut self) -> Result<Reply> {
        let gate = self.gate.take().ok_or_else(|| Error::conflict("the container was started already"))?;
        self.status = Status::Running;
        gate.open()?;
        Ok(Reply::Done)
    }

    fn kill(&self, signal: i32) -> Result<Reply> {
        if self.main.has_ended() {
            return Err(Error::not_found("the container has ended"));
        }
        self.main.process().signal(signal)?;
        Ok(Reply::Done)
    }

    fn regroup(&mut self) -> Result<Reply> {
        let (parent, name) = super::cgroup_name(&self.spec)?;
        self.cgroup = crate::cgroup::Cgroup::open(parent, name)?;
        self.out_of_memory = OutOfMemory::of(&self.cgroup);
        Ok(Reply::Done)
    }

    fn resize(&self, exec: Option<&str>, rows: u16, cols: u16) -> Result<Reply> {
        let session = match exec {
            None => &self.main,
            Some(id) => self.exec_session(id).ok_or_else(|| no_such_exec(id))?,
        };
        session.resize(rows, cols)?;
        Ok(Reply::Done)
    }

    fn exec_session(&self, id: &str) -> Option<&Session> {
        self.execs.iter().find(|(name, _)| name == id).map(|(_, session)| session)
    }

    /// `None`: it runs.
    fn exec_exit(&mut self, id: &str) -> Option<Result<Reply>> {
        if let Some(place) = self.finished.iter().position(|(name, _)| name == id) {
            return self.finished.remove(place).map(|(_, exit)| Ok(Reply::Exit(exit)));
        }
        self.exec_session(id).is_none().then(|| Err(no_such_exec(id)))
    }

    fn send_root(&self, socket: &UnixStream) -> Result<()> {
        let Some(root) = &self.root else {
            let answer: Answer = Err(Failure::from(&Error::conflict("the container has ended")));
            return proto::write(&mut &*socket, &answer);
        };
        passing::send(socket, &proto::encode(&Answer::Ok(Reply::Done))?, root.as_fd())
    }
}

fn no_such_exec(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}
