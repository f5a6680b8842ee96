//! The daemon's requests, one after the other, on a thread of their own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use fs_base::sys::pid::Process;
use fs_base::{Error, IoContext, Result};
use tokio::runtime::Handle;

use super::shared::Shared;
use super::wire::{self, Reply, Request};
use super::{proxy, resolver};

/// How long a daemon may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request works on.
pub struct Control {
    /// Whom it serves.
    pub shared: Arc<Shared>,
    /// Where its tasks run.
    pub runtime: Handle,
    /// Of its program.
    pub identity: (u64, u64),
}

impl Control {
    /// Answers one daemon after the other; there is never more than one.
    pub fn serve(&self, listener: &UnixListener) {
        // Without this thread nobody could reach it any more: the daemon is to see its end, and start another.
        let _end = EndWithThread(&self.shared);
        while !self.shared.is_leaving() {
            match listener.accept() {
                Ok((daemon, _)) => {
                    self.shared.set_connected(true);
                    // It has gone, or is no daemon.
                    let _ = self.converse(&daemon);
                    self.shared.set_connected(false);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn converse(&self, daemon: &UnixStream) -> Result<()> {
        daemon.set_write_timeout(Some(PATIENCE)).at("configure", "socket")?;
        while !self.shared.is_leaving() {
            let (request, descriptors) = wire::receive(daemon)?;
            match self.answer(daemon, request, descriptors) {
                Ok(()) => wire::send(daemon, &Reply::Done, &[])?,
                Err(error) => wire::send(daemon, &Reply::Failed(error.to_string()), &[])?,
            }
        }
        Ok(())
    }

    fn answer(&self, daemon: &UnixStream, request: Request, mut descriptors: VecDeque<OwnedFd>) -> Result<()> {
        let shared = &self.shared;
        let _entered = self.runtime.enter();
        let mut next = || descriptors.pop_front().ok_or_else(|| Error::invalid("a descriptor is missing"));
        match request {
            Request::Hello => {
                let own = Process::open(std::process::id() as i32)?;
                let (version, identity) = (wire::VERSION, self.identity);
                let hello = Reply::Hello { pid: own.pid(), version, identity, served: shared.served() };
                wire::send(daemon, &hello, &[own.as_fd()])?;
            }
            Request::Pass { container, ports } => {
                let places = shared.meet(&container, next()?)?;
                let passing = ports.into_iter().map(|port| proxy::serve(shared, port, next()?, &places));
                shared.add_ports(&container, passing.collect::<Result<_>>()?, &self.runtime);
            }
            Request::Answer { container, asker } => {
                shared.meet(&container, next()?)?;
                // Questions may be there already.
                shared.set_asker(&container, asker);
                let answering = resolver::serve(shared, &container, next()?, next()?)?;
                shared.set_names(&container, answering);
            }
            Request::Asker { container, asker } => shared.set_asker(&container, asker),
            Request::Tables(tables) => shared.set_tables(tables),
            Request::ClosePorts(container) => shared.close_ports(&container, &self.runtime),
            Request::Forget(container) => shared.forget(&container, &self.runtime),
            Request::Leave => {
                for (served, sockets) in shared.leave(wire::DESCRIPTORS) {
                    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                    if wire::send(daemon, &Reply::Left(served), &sockets).is_err() {
                        // What was given is lost, and nothing is served any more: a new one is to be started.
                        std::process::exit(1);
                    }
                }
            }
            Request::End => std::process::exit(0),
        }
        Ok(())
    }
}

struct EndWithThread<'a>(&'a Shared);

impl Drop for EndWithThread<'_> {
    fn drop(&mut self) {
        if !self.0.is_leaving() {
            std::process::exit(1);
        }
    }
}
