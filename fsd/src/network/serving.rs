//! The daemon's side of the [`super::helper`]: whom it is to serve, and that it is there as long as there is anybody.
//!
//! What is wanted is remembered, so that a helper that was killed is followed by one that does the same. A daemon that
//! starts finds out from the helper what is done already ([`Serving::adopt`]), and what the database says is wanted is
//! compared with that ([`Serving::resume`], [`Serving::settle`]).

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::network::namespace;
use fs_base::sys::pid::Process;
use fs_base::{ContainerId, Error, Result};

use super::helper::names::{Asker, Table};
use super::helper::wire::{DESCRIPTORS, Passage, Request, Served};
use super::link::{Folder, Found, Kept, Link};
use super::{end, lock, ports, resolver};
use crate::db::Db;

/// A helper that had a shorter life is started again more slowly each time.
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// The first wait of those, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What one container is to be served.
#[derive(Debug)]
pub struct Wanted {
    /// Its first process.
    pub process: Process,
    /// Its published ports.
    pub ports: Vec<Passage>,
    /// What it may know of names, if it is answered any.
    pub asker: Option<Asker>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    wanted: HashMap<ContainerId, Wanted>,
    /// The networks that the helper knows.
    told: HashSet<String>,
    /// How often in a row it had a short life.
    short_lives: u32,
}

impl State {
    /// The helper is not there any more, or must not be.
    fn lose(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.told.clear();
        self.short_lives = if link.age() < GOOD_LIFE { self.short_lives + 1 } else { 0 };
        link.end();
    }

    /// Tells a helper that is there; if it does not answer as it should, it is lost.
    fn tell(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let link = self.link.as_ref().ok_or_else(|| Error::unavailable("the network helper has ended"))?;
        match link.ask(request, descriptors) {
            Ok(done) => done,
            Err(error) => {
                self.lose();
                Err(error)
            }
        }
    }

    fn tell_tables(&mut self, tables: Vec<Table>) -> Result<()> {
        let known: Vec<(String, bool)> = tables.iter().map(|one| (one.network.clone(), !one.members.is_empty())).collect();
        self.tell(&Request::Tables(tables), &[])?;
        for (network, is_known) in known {
            if is_known {
                self.told.insert(network)
            } else {
                self.told.remove(&network)
            };
        }
        Ok(())
    }

    /// Whether anybody asks, or the helper still knows, who is in a network.
    fn concerns(&self, network: &str) -> bool {
        let asks = |wanted: &Wanted| wanted.asker.as_ref().is_some_and(|asker| asker.networks.iter().any(|own| own == network));
        self.told.contains(network) || self.wanted.values().any(asks)
    }

    fn tell_ports(&mut self, container: &ContainerId, process: &Process, ports: &[(Passage, OwnedFd)]) -> Result<()> {
        for some in ports.chunks(DESCRIPTORS - 1) {
            let request = Request::Pass { container: container.clone(), ports: some.iter().map(|(port, _)| *port).collect() };
            let sockets = some.iter().map(|(_, socket)| socket.as_fd());
            self.tell(&request, &std::iter::once(process.as_fd()).chain(sockets).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn tell_names(
        &mut self,
        container: &ContainerId,
        process: &Process,
        asker: &Asker,
        (udp, tcp): &(OwnedFd, OwnedFd),
    ) -> Result<()> {
        let request = Request::Answer { container: container.clone(), asker: asker.clone() };
        self.tell(&request, &[process.as_fd(), udp.as_fd(), tcp.as_fd()])
    }

    /// All that one container is to be served; sockets that are not `kept` are made anew.
    fn tell_all(&mut self, container: &ContainerId, wanted: &Wanted, kept: &mut Kept) -> Result<()> {
        let mut sockets = Vec::new();
        for passage in &wanted.ports {
            match kept.port(passage).map_or_else(|| ports::hold_again(&passage.port), |socket| Ok(Some(socket))) {
                Ok(socket) => sockets.extend(socket.map(|socket| (*passage, socket))),
                // The rules lead to the container all the same.
                Err(error) => tracing::warn!(%container, %error, "a published port was taken meanwhile"),
            }
        }
        self.tell_ports(container, &wanted.process, &sockets)?;
        let Some(asker) = &wanted.asker else { return Ok(()) };
        let sockets = match kept.names(container) {
            Some(sockets) => sockets,
            None => resolver::sockets(container, namespace::of_process(wanted.process.pid())?.as_fd())?,
        };
        self.tell_names(container, &wanted.process, asker, &sockets)
    }
}

/// The helper and whom it serves.
#[derive(Debug)]
pub struct Serving {
    folder: Folder,
    db: Db,
    state: Mutex<State>,
    /// Itself, for the task that watches over the helper.
    own: std::sync::Weak<Serving>,
}

impl Serving {
    /// Of the daemon whose run folder this is. Nothing is begun.
    pub fn new(run: &Path, db: Db) -> Arc<Serving> {
        let folder = Folder::new(run.join("network"));
        Arc::new_cyclic(|own| Serving { folder, db, state: Mutex::default(), own: own.clone() })
    }

    /// Passes on what comes to a container's ports at these sockets.
    pub fn pass(&self, container: &ContainerId, pid: i32, ports: &[(Passage, OwnedFd)]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let process = Process::open(pid)?;
        let mut state = lock(&self.state);
        self.with_helper(&mut state, |state| state.tell_ports(container, &process, ports))?;
        let wanted = state.wanted.entry(container.clone()).or_insert(Wanted { process, ports: Vec::new(), asker: None });
        wanted.ports.extend(ports.iter().map(|(passage, _)| *passage));
        Ok(())
    }

    /// Answers a container's questions about names at these sockets.
    pub fn answer(&self, container: &ContainerId, pid: i32, asker: Asker, sockets: &(OwnedFd, OwnedFd)) -> Result<()> {
        let process = Process::open(pid)?;
        let mut state = lock(&self.state);
        self.with_helper(&mut state, |state| {
            self.tell_unknown(state, &asker)?;
            state.tell_names(container, &process, &asker, sockets)
        })?;
        let wanted = state.wanted.entry(container.clone()).or_insert(Wanted { process, ports: Vec::new(), asker: None });
        wanted.asker = Some(asker);
        Ok(())
    }

    /// What a container may know has changed; whether it is answered at all.
    pub fn set_asker(&self, container: &ContainerId, asker: &Asker) -> Result<bool> {
        let mut state = lock(&self.state);
        let Some(wanted) = state.wanted.get_mut(container).filter(|wanted| wanted.asker.is_some()) else { return Ok(false) };
        wanted.asker = Some(asker.clone());
        let request = Request::Asker { container: container.clone(), asker: asker.clone() };
        let told = self.with_helper(&mut state, |state| {
            self.tell_unknown(state, asker)?;
            state.tell(&request, &[])
        });
        told.map(|()| true)
    }

    /// Tells who is in these networks now. The database is read with all others kept out, so that what is told last is true.
    pub fn tell_names(&self, networks: &[&str]) -> Result<()> {
        let mut state = lock(&self.state);
        let networks: Vec<&str> = networks.iter().copied().filter(|network| state.concerns(network)).collect();
        if networks.is_empty() || state.wanted.is_empty() {
            return Ok(());
        }
        let tables: Vec<Table> = networks.into_iter().map(|id| self.table(id)).collect::<Result<_>>()?;
        self.with_helper(&mut state, |state| state.tell_tables(tables.clone()))
    }

    /// Whether a container is answered.
    pub fn is_answered(&self, container: &ContainerId) -> bool {
        lock(&self.state).wanted.get(container).is_some_and(|wanted| wanted.asker.is_some())
    }

    fn table(&self, network: &str) -> Result<Table> {
        // One that is gone has nobody in it.
        let name = self.db.find_network(network).map(|network| network.name).unwrap_or_default();
        Ok(Table { network: network.to_owned(), name, members: self.db.named_in(network)? })
    }

    /// Tells of an asker's networks that the helper does not know. Without them, what is asked for there would be asked of
    /// the world, so this comes before its questions are answered.
    fn tell_unknown(&self, state: &mut State, asker: &Asker) -> Result<()> {
        let unknown = asker.networks.iter().filter(|network| !state.told.contains(*network));
        let tables: Vec<Table> = unknown.map(|id| self.table(id)).collect::<Result<_>>()?;
        if tables.is_empty() { Ok(()) } else { state.tell_tables(tables) }
    }

    fn tell_all_names(&self, state: &mut State) -> Result<()> {
        let askers = state.wanted.values().filter_map(|wanted| wanted.asker.as_ref());
        let networks: HashSet<&str> = askers.flat_map(|asker| asker.networks.iter().map(String::as_str)).collect();
        if networks.is_empty() {
            return Ok(());
        }
        let tables = networks.into_iter().map(|id| self.table(id)).collect::<Result<_>>()?;
        state.tell_tables(tables)
    }

    /// Holds a container's ports no more. When this returns they are free.
    pub fn close_ports(&self, container: &ContainerId) {
        let mut state = lock(&self.state);
        let Some(wanted) = state.wanted.get_mut(container).filter(|wanted| !wanted.ports.is_empty()) else { return };
        wanted.ports.clear();
        tell_if_there(&mut state, &Request::ClosePorts(container.clone()));
    }

    /// Does nothing for a container any more. When this returns, its ports are free and its namespace is not held.
    pub fn forget(&self, container: &ContainerId) {
        let mut state = lock(&self.state);
        state.wanted.remove(container);
        // Whether it is wanted or not: it may know some ports of one whose others it could not be told.
        tell_if_there(&mut state, &Request::Forget(container.clone()));
    }

    /// Finds the helper of an earlier daemon, at the start of this one: whom it serves, and what it has given back if it was
    /// of another version, and leaves. If nobody is wanted (`needed`), it is ended.
    pub fn adopt(&self, needed: bool) -> (Vec<Served>, Kept) {
        if !needed {
            self.folder.end();
            return Default::default();
        }
        match self.folder.find() {
            Some(Found::Same(link, served)) => {
                tracing::info!(pid = link.pid(), containers = served.len(), "the network helper runs on");
                self.watch(&link);
                lock(&self.state).link = Some(link);
                (served, Kept::default())
            }
            Some(Found::Other(kept)) => (Vec::new(), kept),
            None => Default::default(),
        }
    }

    /// Serves a container that runs on. What a helper does already (`served`) or has given back (`kept`) goes on.
    pub fn resume(&self, container: &ContainerId, wanted: Wanted, served: &[Served], kept: &mut Kept) -> Result<()> {
        if wanted.ports.is_empty() && wanted.asker.is_none() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        let before = served.iter().find(|one| one.container == *container);
        let is_same = before.is_some_and(|one| {
            one.names == wanted.asker.is_some()
                && one.ports.iter().collect::<HashSet<_>>() == wanted.ports.iter().collect::<HashSet<_>>()
        });
        let request = match &wanted.asker {
            Some(asker) if is_same => Some(Request::Asker { container: container.clone(), asker: asker.clone() }),
            None if is_same => None,
            _ => Some(Request::Forget(container.clone())),
        };
        let done = self.with_helper(&mut state, |state| {
            if let Some(asker) = &wanted.asker {
                self.tell_unknown(state, asker)?;
            }
            request.iter().try_for_each(|request| state.tell(request, &[]))?;
            if is_same { Ok(()) } else { state.tell_all(container, &wanted, kept) }
        });
        state.wanted.insert(container.clone(), wanted);
        done
    }

    /// After all containers were resumed: the helper forgets others, and is told who is called what.
    pub fn settle(&self, served: &[Served]) -> Result<()> {
        let mut state = lock(&self.state);
        for one in served {
            if !state.wanted.contains_key(&one.container) {
                tell_if_there(&mut state, &Request::Forget(one.container.clone()));
            }
        }
        if state.link.is_none() { Ok(()) } else { self.tell_all_names(&mut state) }
    }

    /// Ends the helper, which nobody needs.
    pub fn end(&self) {
        let link = lock(&self.state).link.take();
        if let Some(link) = link {
            link.end();
        }
        self.folder.end();
    }

    /// Does `work` with a helper; once more with another if it loses the first.
    fn with_helper(&self, state: &mut State, mut work: impl FnMut(&mut State) -> Result<()>) -> Result<()> {
        if state.link.is_some() {
            match work(state) {
                Err(error) if state.link.is_none() => tracing::warn!(%error, "the network helper is lost"),
                other => return other,
            }
        }
        if state.wanted.is_empty() {
            // It had nobody to serve, and may have ended for that.
            state.short_lives = 0;
        }
        self.begin(state)?;
        work(state)
    }

    /// A new helper, which serves all that are wanted.
    fn begin(&self, state: &mut State) -> Result<()> {
        let link = self.folder.launch().map_err(|error| error.context("start the network helper"))?;
        self.watch(&link);
        state.link = Some(link);
        // Names first: who asks before they are known would be told that there are none. Ports do not depend on them.
        let told = self.tell_all_names(state);
        let wanted = std::mem::take(&mut state.wanted);
        for (container, one) in wanted.iter().filter(|(_, one)| !one.process.has_ended()) {
            if let Err(error) = state.tell_all(container, one, &mut Kept::default()) {
                tracing::error!(%container, %error, "a container's names or ports are not served");
            }
        }
        state.wanted = wanted;
        told
    }

    /// Starts it anew when it ends, as long as somebody needs it. Must be called on a thread of the runtime's.
    fn watch(&self, link: &Link) {
        let (process, own) = (link.process(), self.own.clone());
        tokio::runtime::Handle::current().spawn(async move {
            match end::of_process(Arc::clone(&process)) {
                Ok(end) => end.await,
                Err(error) => return tracing::warn!(%error, "the network helper can't be watched"),
            }
            let mut has_waited = false;
            while let Some(serving) = own.upgrade() {
                let process = Arc::clone(&process);
                match tokio::task::spawn_blocking(move || serving.replace(&process, has_waited)).await {
                    Ok(Some(wait)) => tokio::time::sleep(wait).await,
                    _ => return,
                }
                has_waited = true;
            }
        });
    }

    /// A helper has ended. If nobody has found that out and acted on it, it is done now; or later, if the result is a time.
    fn replace(&self, process: &Arc<Process>, has_waited: bool) -> Option<Duration> {
        let mut state = lock(&self.state);
        match &state.link {
            Some(link) if Arc::ptr_eq(&link.process(), process) => state.lose(),
            Some(_) => return None,
            None => {}
        }
        if state.wanted.is_empty() {
            state.short_lives = 0;
            self.folder.remove();
            return None;
        }
        if state.short_lives > 1 && !has_waited {
            // Who needs it sooner starts it sooner.
            return Some((BACK_OFF.0 * 2u32.saturating_pow(state.short_lives)).min(BACK_OFF.1));
        }
        tracing::warn!("the network helper has ended, and is started again");
        match self.begin(&mut state) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "names, and published ports at ::1, are not served");
                Some(BACK_OFF.1)
            }
        }
    }
}

/// What takes something away needs no new helper: with a lost one it is gone.
fn tell_if_there(state: &mut State, request: &Request) {
    if state.link.is_some()
        && let Err(error) = state.tell(request, &[])
    {
        tracing::warn!(%error, "the network helper could not be told of an end");
    }
}
