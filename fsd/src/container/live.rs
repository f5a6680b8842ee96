//! What only this process knows of containers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_base::ContainerId;
use layerfs::driver::Lease;
use tokio::sync::{oneshot, watch};

use super::exec::Exec;
use super::restart::Restarts;

/// The containers that somebody had to do with.
#[derive(Debug, Default)]
pub struct Containers {
    live: Mutex<HashMap<ContainerId, Arc<Live>>>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
}

/// How often a container has ended, and how it did last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    /// How often, in the life of this process.
    pub count: u64,
    /// Its last exit code.
    pub code: i32,
    /// Whether the container is there no more.
    pub removed: bool,
}

/// A client that attached before the start, and waits for its streams.
#[derive(Debug)]
pub struct Early {
    /// Which streams: input, output, errors.
    pub streams: [bool; 3],
    /// Where to hand the connection to the shim.
    pub to: oneshot::Sender<std::os::unix::net::UnixStream>,
}

/// One container.
#[derive(Debug, Default)]
pub struct Live {
    alone: Mutex<()>,
    /// `None` while it runs: who attaches then is connected at once.
    early: Mutex<Option<Vec<Early>>>,
    end: watch::Sender<End>,
    lease: Mutex<Option<Lease>>,
    restarts: Mutex<Restarts>,
    /// How many processes that the kernel ended for want of memory were told of in this run.
    oom_told: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Containers {
    /// What is known of a container.
    pub fn of(&self, id: &ContainerId) -> Arc<Live> {
        let mut live = lock(&self.live);
        Arc::clone(
            live.entry(id.clone()).or_insert_with(|| Arc::new(Live { early: Mutex::new(Some(Vec::new())), ..Live::default() })),
        )
    }

    /// The container is there no more.
    pub fn forget(&self, id: &ContainerId) {
        if let Some(live) = lock(&self.live).remove(id) {
            live.set_early(Some(Vec::new()));
            live.end.send_modify(|end| end.removed = true);
        }
        lock(&self.execs).retain(|_, exec| exec.container != *id);
    }

    /// The table of further processes.
    pub fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        lock(&self.execs)
    }
}

impl Live {
    /// Keeps every other change of this container out.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.alone)
    }

    /// What its restart policy has done.
    pub fn restarts(&self) -> MutexGuard<'_, Restarts> {
        lock(&self.restarts)
    }

    /// Whether there are more processes that the kernel ended for want of memory than were told of; they are now.
    pub fn tell_oom(&self, kills: u64) -> bool {
        let mut told = lock(&self.oom_told);
        let more = kills > *told;
        *told = kills.max(*told);
        more
    }

    /// Whether none was told of in this run, which has ended.
    pub fn end_oom(&self) -> bool {
        std::mem::take(&mut *lock(&self.oom_told)) == 0
    }

    /// Who attached before the start.
    pub fn early(&self) -> MutexGuard<'_, Option<Vec<Early>>> {
        lock(&self.early)
    }

    /// From now on those who attach wait (`Some`) or don't. Those who waited are let go.
    pub fn set_early(&self, early: Option<Vec<Early>>) {
        *lock(&self.early) = early;
    }

    /// Keeps the layers mounted, or lets them go.
    pub fn hold(&self, lease: Option<Lease>) {
        *lock(&self.lease) = lease;
    }

    /// To hear of its end.
    pub fn ends(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// It has ended.
    pub fn ended(&self, code: i32) {
        self.end.send_modify(|end| {
            end.count += 1;
            end.code = code;
        });
    }
}
