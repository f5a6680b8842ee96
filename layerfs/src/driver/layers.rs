//! Mounted layers, shared by everything that stands on them.
//!
//! Two mounts of one layer would keep its file contents in memory twice. So a layer that somebody uses is mounted
//! once: whoever holds a [`Lease`] keeps it so. The layers used last are held without a lease too, a bounded number
//! of them; nothing else is, so that an idle daemon holds few.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fs_base::sys::mount::Mount;
use fs_base::{Digest, Error, LayerId, Result};

use super::stack::Lower;
use crate::merge::chain_digest;

/// Layers that are held when nobody has a lease on them: those of a handful of images.
const KEPT: usize = 64;

/// A layer that is mounted, or a chain of them as one tree.
#[derive(Debug)]
pub struct LayerMount {
    /// What is in it, bottom first.
    pub layers: Vec<LayerId>,
    pub lower: Lower,
    /// Whether whiteouts would show if it were seen alone; found out when somebody asks.
    pub has_marks: OnceLock<bool>,
}

/// Keeps layers mounted, so that what is mounted on them later shares their memory. Dropped, it keeps nothing.
#[derive(Debug, Clone)]
pub struct Lease {
    _layers: Vec<Arc<LayerMount>>,
}

impl Lease {
    pub(super) fn new(layers: Vec<Arc<LayerMount>>) -> Lease {
        Lease { _layers: layers }
    }
}

/// The mounted layers of a store.
#[derive(Debug, Default)]
pub struct Layers {
    state: Mutex<State>,
    mounted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By the layer's digest, or the chain's.
    known: HashMap<Digest, Weak<LayerMount>>,
    /// Used last, the latest at the back.
    recent: VecDeque<Arc<LayerMount>>,
    /// Being mounted by some thread.
    busy: HashSet<Digest>,
}

impl Layers {
    /// The mount of a layer; `make` makes it if there is none. Two threads that want the same layer make it once.
    pub fn get(&self, id: &LayerId, make: impl FnOnce() -> Result<Mount>) -> Result<Arc<LayerMount>> {
        self.get_by(&id.0, std::slice::from_ref(id), make)
    }

    /// The mount of a chain as one tree.
    pub fn get_chain(&self, chain: &[LayerId], make: impl FnOnce() -> Result<Mount>) -> Result<Arc<LayerMount>> {
        self.get_by(&chain_digest(chain), chain, make)
    }

    fn get_by(&self, id: &Digest, layers: &[LayerId], make: impl FnOnce() -> Result<Mount>) -> Result<Arc<LayerMount>> {
        let mut state = self.lock();
        while state.busy.contains(id) {
            state = self.mounted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(layer) = state.known.get(id).and_then(Weak::upgrade) {
            state.use_now(&layer);
            return Ok(layer);
        }
        state.busy.insert(*id);
        drop(state);
        let busy = Busy { layers: self, id };
        let layer = Arc::new(LayerMount { layers: layers.to_vec(), lower: Lower::new(make()?), has_marks: OnceLock::new() });
        let mut state = self.lock();
        state.known.retain(|_, layer| layer.strong_count() > 0);
        state.known.insert(*id, Arc::downgrade(&layer));
        state.use_now(&layer);
        drop(state);
        drop(busy);
        Ok(layer)
    }

    /// Does something with what a layer is mounted from, while nobody mounts it: who wants to waits. Refused if somebody
    /// has it mounted.
    pub fn alone<T>(&self, id: &LayerId, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        while state.busy.contains(&id.0) {
            state = self.mounted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.recent.retain(|mount| !mount.layers.contains(id));
        let is_held = |mount: &Weak<LayerMount>| mount.upgrade().is_some_and(|mount| mount.layers.contains(id));
        if state.known.values().any(is_held) {
            return Err(Error::busy(format!("layer {id} is mounted")));
        }
        state.busy.insert(id.0);
        drop(state);
        let _busy = Busy { layers: self, id: &id.0 };
        work()
    }

    /// Whether a layer is mounted now.
    pub fn has(&self, id: &LayerId) -> bool {
        self.lock().known.get(&id.0).is_some_and(|layer| layer.strong_count() > 0)
    }

    /// Holds a layer no longer, nor a chain that it is in. Who has it mounted keeps it.
    pub fn forget(&self, id: &LayerId) {
        let mut state = self.lock();
        let has_it = |mount: &LayerMount| mount.layers.contains(id);
        state.known.retain(|_, mount| mount.upgrade().is_some_and(|mount| !has_it(&mount)));
        state.recent.retain(|mount| !has_it(mount));
    }

    /// Holds only what is leased.
    pub fn trim(&self) {
        self.lock().recent.clear();
    }

    /// How many layers are mounted.
    pub fn count(&self) -> usize {
        self.lock().known.values().filter(|layer| layer.strong_count() > 0).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn use_now(&mut self, layer: &Arc<LayerMount>) {
        self.recent.retain(|other| !Arc::ptr_eq(other, layer));
        self.recent.push_back(Arc::clone(layer));
        if self.recent.len() > KEPT {
            self.recent.pop_front();
        }
    }
}

/// Lets the next thread try, also if the mount has failed.
struct Busy<'a> {
    layers: &'a Layers,
    id: &'a Digest,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.layers.lock().busy.remove(self.id);
        self.layers.mounted.notify_all();
    }
}
