//! One lock per volume, so that slow work on one keeps nobody from another.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use fs_base::VolumeName;

/// The names that somebody is working on.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<HashSet<VolumeName>>,
    freed: Condvar,
}

impl Locks {
    /// Waits until nobody works on `name`, and holds it until the guard is dropped. A thread that takes a second
    /// name may only do so in the order of the names.
    pub(crate) fn lock(self: &Arc<Locks>, name: &VolumeName) -> NameLock {
        // The set is whole at every moment, so a panic elsewhere does not spoil it.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.freed.wait_while(held, |held| held.contains(name)).unwrap_or_else(PoisonError::into_inner);
        held.insert(name.clone());
        NameLock { locks: self.clone(), name: name.clone() }
    }
}

/// Holds one name.
#[derive(Debug)]
pub(crate) struct NameLock {
    locks: Arc<Locks>,
    name: VolumeName,
}

impl Drop for NameLock {
    fn drop(&mut self) {
        self.locks.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.locks.freed.notify_all();
    }
}
