//! Layers as they lie in the store: the kernel mounts `index`, with `data` as its external device.

use std::path::Path;
use std::sync::Arc;

use fs_base::sys::loop_device;
use fs_base::sys::mount::{FsContext, Mount};
use fs_base::{Probe, Result};
use rustix::mount::MountAttrFlags;

use super::Driver;
use super::probe;
use crate::store::{Layer, Store};

/// Straight from the files (Linux 6.12), or through loop devices where files are refused (from 6.4).
#[derive(Debug)]
pub struct Erofs {
    through_loop: bool,
}

impl Erofs {
    pub fn file_backed() -> Erofs {
        Erofs { through_loop: false }
    }

    pub fn on_loop() -> Erofs {
        Erofs { through_loop: true }
    }

    fn mount(&self, index: &Path, data: &Path) -> Result<Mount> {
        let context = FsContext::open("erofs")?;
        // Held until the mount holds them: they free themselves when their last user is gone.
        let devices = if self.through_loop { Some((loop_device::attach(index)?, loop_device::attach(data)?)) } else { None };
        let (index, data) = devices.as_ref().map_or((index, data), |(index, data)| (index.path(), data.path()));
        context.string("source", index)?;
        context.string("device", data)?;
        context.flag("ro")?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
    }
}

impl Driver for Erofs {
    fn name(&self) -> &'static str {
        if self.through_loop { "erofs-loop" } else { "erofs" }
    }

    fn probe(&self, store: &Store) -> Probe {
        probe::layer(store, |layer| self.mount_layer(store, layer))
    }

    fn mount_layer(&self, _store: &Store, layer: &Arc<Layer>) -> Result<Mount> {
        self.mount(&layer.dir.join("index"), &layer.dir.join("data"))
    }
}
