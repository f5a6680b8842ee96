//! Layers that must not go: a lease on each that is being loaded or used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_base::LayerId;

/// Who holds what, in memory only: a process that ends holds nothing.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<LayerId, usize>>);

impl Pins {
    pub(super) fn pin(self: &Arc<Pins>, id: LayerId) -> Pin {
        *self.lock().entry(id).or_default() += 1;
        Pin { pins: Arc::clone(self), id }
    }

    /// While the guard is held nobody pins or lets go.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<LayerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease on a layer: [`super::Store::collect`] leaves it alone until the lease is dropped or its process ends. The
/// layer need not be there yet.
#[derive(Debug)]
#[must_use = "the layer may go as soon as this is dropped"]
pub struct Pin {
    pins: Arc<Pins>,
    id: LayerId,
}

impl Pin {
    /// The layer.
    pub fn id(&self) -> LayerId {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.lock();
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}
