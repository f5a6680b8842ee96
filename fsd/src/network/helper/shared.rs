//! What the helper serves: changed by the daemon's requests and by ends of containers, looked at by its tasks.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::network::dns::Question;
use fs_base::{ContainerId, Error, Result};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::datagram::Buffer;
use super::names::{Asker, Known, Names, Table};
use super::wire::{Passage, Served};
use crate::network::end;

/// How long it stays without a container while the daemon is there: the next one may be about to start.
const SPARE: Duration = Duration::from_secs(10);
/// Connections to all ports of one container at once; more wait in the kernel.
const CONNECTIONS: usize = 1024;

/// Tasks of one purpose, and the connections that they began.
#[derive(Debug)]
pub struct Group {
    tasks: Vec<JoinHandle<()>>,
    /// Connections end when this is dropped.
    _cut: watch::Sender<()>,
}

impl Group {
    /// Of these tasks, which got their receivers from `cut`.
    pub fn new(tasks: Vec<JoinHandle<()>>, cut: watch::Sender<()>) -> Group {
        Group { tasks, _cut: cut }
    }

    fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The socket of a published port.
#[derive(Debug, Clone)]
pub enum Held {
    /// TCP.
    Tcp(Arc<TcpListener>),
    /// UDP.
    Udp(Arc<UdpSocket>),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Tcp(listener) => listener.as_fd(),
            Held::Udp(socket) => socket.as_fd(),
        }
    }
}

/// A port that is passed on.
#[derive(Debug)]
pub struct Passing {
    /// Which, and where to.
    pub passage: Passage,
    /// Its socket; `None` once it was given back.
    pub held: Option<Held>,
    /// What passes on.
    pub group: Group,
}

/// Where a container is answered.
#[derive(Debug)]
pub struct Answering {
    /// Its sockets; `None` once they were given back.
    pub sockets: Option<(Arc<UdpSocket>, Arc<TcpListener>)>,
    /// What answers.
    pub group: Group,
}

#[derive(Debug)]
struct Container {
    asker: Asker,
    names: Option<Answering>,
    ports: Vec<Passing>,
    places: Arc<Semaphore>,
    end: AbortHandle,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end.abort();
    }
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    containers: HashMap<ContainerId, Container>,
    is_connected: bool,
    is_leaving: bool,
    connections: usize,
}

impl State {
    /// How long it may stay as it is; for ever if `None`.
    fn spare(&self) -> Option<Duration> {
        if self.is_leaving {
            // The daemon is still being told what it gets.
            return (self.connections == 0 && !self.is_connected).then_some(Duration::ZERO);
        }
        let spare = if self.is_connected { SPARE } else { Duration::ZERO };
        self.containers.is_empty().then_some(spare)
    }
}

/// The helper.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// Held while what a container had is being closed: what was taken from it is closed when this is free.
    closing: tokio::sync::Mutex<()>,
    /// For all datagrams.
    pub buffer: Buffer,
}

/// A connection that is counted, as long as this lives.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    /// Fails when the connection is to end.
    pub cut: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().connections -= 1;
        self.shared.changed.notify_one();
    }
}

impl Connection {
    /// One more.
    pub fn new(shared: &Arc<Shared>, cut: watch::Receiver<()>, place: OwnedSemaphorePermit) -> Connection {
        shared.lock().connections += 1;
        Connection { shared: Arc::clone(shared), cut, _place: place }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this process as soon as nobody needs it. The daemon that is about to ask for something sees its end, and starts
    /// another helper.
    pub async fn until_idle(&self) {
        loop {
            let spare = self.lock().spare();
            let Some(spare) = spare else {
                self.changed.notified().await;
                continue;
            };
            if tokio::time::timeout(spare, self.changed.notified()).await.is_ok() {
                continue;
            }
            let state = self.lock();
            if state.spare().is_some() {
                std::process::exit(0);
            }
        }
    }

    /// A daemon has come, or gone.
    pub fn set_connected(&self, is_connected: bool) {
        self.lock().is_connected = is_connected;
        self.changed.notify_one();
    }

    /// Whether its sockets were given back.
    pub fn is_leaving(&self) -> bool {
        self.lock().is_leaving
    }

    /// Whom it serves.
    pub fn served(&self) -> Vec<Served> {
        let of = |(container, one): (&ContainerId, &Container)| Served {
            container: container.clone(),
            ports: one.ports.iter().map(|one| one.passage).collect(),
            names: one.names.is_some(),
        };
        self.lock().containers.iter().map(of).collect()
    }

    /// Makes room for a container whose first process is given, if there is none yet; its places for connections. Must be
    /// called in the runtime.
    pub fn meet(self: &Arc<Shared>, container: &ContainerId, process: OwnedFd) -> Result<Arc<Semaphore>> {
        let mut state = self.lock();
        if let Some(known) = state.containers.get(container) {
            return Ok(Arc::clone(&known.places));
        }
        let end = end::of_process(process)?;
        let (shared, id) = (Arc::clone(self), container.clone());
        let end = tokio::spawn(async move {
            end.await;
            shared.ended(&id).await;
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let known = Container {
            asker: Asker::default(),
            names: None,
            ports: Vec::new(),
            places: Arc::clone(&places),
            end: end.abort_handle(),
        };
        state.containers.insert(container.clone(), known);
        drop(state);
        self.changed.notify_one();
        Ok(places)
    }

    async fn ended(&self, container: &ContainerId) {
        let _closing = self.closing.lock().await;
        // More may come while what there was is being closed.
        while let Some(tasks) = self.take_all(container) {
            ended(tasks).await;
        }
        self.changed.notify_one();
    }

    /// Takes all that an ended container has, to be closed; the container itself if it has nothing any more.
    fn take_all(&self, container: &ContainerId) -> Option<Vec<JoinHandle<()>>> {
        let mut state = self.lock();
        state.names.forget(container);
        let known = state.containers.get_mut(container)?;
        let (ports, names) = (std::mem::take(&mut known.ports), known.names.take());
        if ports.is_empty() && names.is_none() {
            let gone = state.containers.remove(container);
            drop(state);
            drop(gone);
            return None;
        }
        drop(state);
        Some(stopped(ports, names))
    }

    /// It passes on more ports of a container. Must not be called on the runtime's thread.
    pub fn add_ports(&self, container: &ContainerId, more: Vec<Passing>, runtime: &tokio::runtime::Handle) {
        if let Some(known) = self.lock().containers.get_mut(container) {
            known.ports.extend(more);
            return;
        }
        // It has ended meanwhile.
        runtime.block_on(ended(stopped(more, None)));
    }

    /// It answers a container, whose asker is set before.
    pub fn set_names(&self, container: &ContainerId, names: Answering) {
        let mut state = self.lock();
        let before = state.containers.get_mut(container).map(|known| known.names.replace(names));
        drop(state);
        drop(before);
    }

    /// What a container may know has changed.
    pub fn set_asker(&self, container: &ContainerId, asker: Asker) {
        if let Some(known) = self.lock().containers.get_mut(container) {
            known.asker = asker;
        }
    }

    /// Who is in networks has changed.
    pub fn set_tables(&self, tables: Vec<Table>) {
        let mut state = self.lock();
        for table in tables {
            state.names.set(table);
        }
    }

    /// Holds a container's ports no more; they are free when this returns. Must not be called on the runtime's thread.
    pub fn close_ports(&self, container: &ContainerId, runtime: &tokio::runtime::Handle) {
        let _closing = runtime.block_on(self.closing.lock());
        let ports = self.lock().containers.get_mut(container).map(|known| std::mem::take(&mut known.ports));
        runtime.block_on(ended(stopped(ports.unwrap_or_default(), None)));
    }

    /// Does nothing for a container any more. Must not be called on the runtime's thread.
    pub fn forget(&self, container: &ContainerId, runtime: &tokio::runtime::Handle) {
        let _closing = runtime.block_on(self.closing.lock());
        let Some(mut known) = self.lock().containers.remove(container) else { return };
        runtime.block_on(ended(stopped(std::mem::take(&mut known.ports), known.names.take())));
        self.changed.notify_one();
    }

    /// Listens no more. The result is what each container had, and its sockets, at most `most` at once. Connections go on
    /// until they end.
    pub fn leave(&self, most: usize) -> Vec<(Served, Vec<Held>)> {
        let mut all = Vec::new();
        let mut state = self.lock();
        for (container, known) in &mut state.containers {
            for ports in known.ports.chunks_mut(most) {
                for port in ports.iter() {
                    port.group.stop();
                }
                let held = ports.iter_mut().filter_map(|port| port.held.take().map(|held| (port.passage, held)));
                let (ports, held) = held.unzip();
                all.push((Served { container: container.clone(), ports, names: false }, held));
            }
            let Some(names) = &mut known.names else { continue };
            names.group.stop();
            if let Some((udp, tcp)) = names.sockets.take() {
                let served = Served { container: container.clone(), ports: Vec::new(), names: true };
                all.push((served, vec![Held::Udp(udp), Held::Tcp(tcp)]));
            }
        }
        state.is_leaving = true;
        drop(state);
        self.changed.notify_one();
        all
    }

    /// What is known of a container's question, and who may know more.
    pub fn look_up(
        &self,
        container: &ContainerId,
        question: &Question,
        message: &[u8],
    ) -> Result<(Known, Vec<std::net::IpAddr>)> {
        let state = self.lock();
        let known = state.containers.get(container).ok_or_else(|| Error::not_found("the container has ended"))?;
        let answer = state.names.answer(&known.asker, question, message);
        let upstream = if answer == Known::Ask { known.asker.upstream.clone() } else { Vec::new() };
        Ok((answer, upstream))
    }
}

/// Lets go of what there was; the tasks that are to end for it.
fn stopped(ports: Vec<Passing>, names: Option<Answering>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for mut group in ports.into_iter().map(|port| port.group).chain(names.map(|names| names.group)) {
        group.stop();
        tasks.append(&mut group.tasks);
    }
    tasks
}

/// Waits for stopped tasks, with which the last of their sockets is closed.
async fn ended(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        // That it was ended is what is wanted.
        let _ = task.await;
    }
}
