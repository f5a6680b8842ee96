//! Layers unpacked once into directories, for kernels without a usable EROFS.

use std::sync::Arc;

use fs_base::sys::label;
use fs_base::sys::mount::Mount;
use fs_base::{Probe, Result};
use rustix::mount::MountAttrFlags;

use super::probe;
use super::{Capabilities, Driver, Layered, Serves};
use crate::store::{Layer, Store};

/// `layers/<hex>/fs`, made at the first mount and published whole.
#[derive(Debug)]
pub struct Overlay {
    label: Option<String>,
}

impl Overlay {
    pub fn new(label: Option<String>) -> Overlay {
        Overlay { label }
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { outlives_removal: false, in_place: false, merges: false, stacks: true }
    }

    fn probe(&self, store: &Store) -> Probe {
        probe::layer(store, |layer| self.mount_layer(store, layer))
    }

    fn serves(&self) -> Serves<'_> {
        Serves::Layers(self)
    }
}

impl Layered for Overlay {
    fn mount_layer(&self, store: &Store, layer: &Arc<Layer>) -> Result<Mount> {
        let unpacked = store.unpacked(layer)?;
        if let Some(label) = &self.label {
            label::tree_once(&unpacked, label)?;
        }
        let mount = Mount::clone_of(&unpacked, false)?;
        mount.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), false)?;
        Ok(mount)
    }
}
