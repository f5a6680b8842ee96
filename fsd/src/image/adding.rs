//! Layers on their way in, safe from being collected until an image refers to them.

use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_base::{IoContext, LayerId, Result};
use layerfs::ingest::{Built, IngestOptions};
use layerfs::store::Pin;

use super::row_of;
use super::turns::Turn;
use crate::app::App;

/// Pins each layer that is added or found. When it is dropped, layers that no image has come to refer to go again, and
/// the memory that reading them took, which grows with their trees, is given back.
pub struct Adding<'a> {
    app: &'a App,
    pins: Mutex<Vec<Pin>>,
}

impl<'a> Adding<'a> {
    pub fn new(app: &'a App) -> Adding<'a> {
        app.turns.enter();
        Adding { app, pins: Mutex::default() }
    }

    /// Reads a layer in and records it.
    pub fn ingest(&self, input: &mut (dyn Read + Send), options: &IngestOptions<'_>) -> Result<Built> {
        let (built, pin) = self.app.store.ingest_pinned(input, options)?;
        tracing::debug!(layer = %built.id, bytes = built.data_size, "layer read in");
        if let Err(error) = self.app.db.add_layer(&row_of(&built)) {
            drop(pin);
            self.app.discard_unknown(&built.id);
            return Err(error);
        }
        self.keep(pin);
        Ok(built)
    }

    /// Whether a layer is there; if so it stays.
    pub fn has(&self, id: &LayerId) -> Result<bool> {
        // Pinned first: a layer that is seen after that can't be gone a moment later.
        let pin = self.app.store.pin(id);
        let there = self.app.db.layer(id)?.is_some() && self.app.store.contains(id);
        if there {
            self.keep(pin);
        }
        Ok(there)
    }

    /// Waits while others bring in what has this key; `wait` is called if it comes to that.
    pub fn turn(&self, key: Vec<u8>, patience: Duration, wait: impl FnOnce()) -> Turn<'a> {
        self.app.turns.take(key, patience, wait)
    }

    /// A layer of this size that is there, as an ingest would have made it.
    pub fn stored(&self, id: &LayerId, size: u64) -> Option<Built> {
        let row = self.app.db.layer(id).ok()??;
        (row.data_size == size).then_some(Built {
            id: *id,
            blob: id.0,
            blob_size: row.data_size,
            data_size: row.data_size,
            index_size: row.index_size,
            entries: row.entries,
            file_bytes: row.file_bytes,
        })
    }

    /// The bytes of a layer that is there, which stays then. One that can't be opened is one that is not.
    pub fn data(&self, id: &LayerId) -> Result<Option<File>> {
        if !self.has(id)? {
            return Ok(None);
        }
        Ok(self.app.store.layer(id).and_then(|layer| layer.data.try_clone().at("open", "layer data")).ok())
    }

    fn keep(&self, pin: Pin) {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).push(pin);
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.app.turns.leave();
        self.pins.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Err(error) = self.app.collect() {
            tracing::warn!(%error, "layers that no image refers to could not be removed; the next start does it");
        }
        fs_base::sys::memory::give_back_heap();
    }
}
