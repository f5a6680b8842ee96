//! Layers as they lie in the store: the kernel mounts `index`, with `data` as its external device.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::sys::loop_device;
use fs_base::sys::mount::{FsContext, Mount};
use fs_base::{IoContext, Probe, Result, id};
use rustix::mount::MountAttrFlags;

use super::probe;
use super::{Capabilities, Driver, Layered, Merging, Serves};
use crate::merge::merge;
use crate::store::{Layer, Store};

/// Straight from the files (Linux 6.12), or through loop devices where files are refused (from 6.4).
#[derive(Debug)]
pub struct Erofs {
    through_loop: bool,
    label: Option<String>,
}

impl Erofs {
    pub fn file_backed(label: Option<String>) -> Erofs {
        Erofs { through_loop: false, label }
    }

    pub fn on_loop(label: Option<String>) -> Erofs {
        Erofs { through_loop: true, label }
    }

    fn mount(&self, index: &Path, data: &[PathBuf]) -> Result<Mount> {
        let context = FsContext::open("erofs")?;
        // Held until the mount holds them: they free themselves when their last user is gone.
        let mut loops = Vec::new();
        let mut give = |key: &str, file: &Path| {
            if !self.through_loop {
                return context.string(key, file);
            }
            let device = loop_device::attach(file)?;
            context.string(key, device.path())?;
            loops.push(device);
            Ok(())
        };
        give("source", index)?;
        for file in data {
            give("device", file)?;
        }
        if let Some(label) = &self.label {
            context.string("context", label.as_str())?;
        }
        context.flag("ro")?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
    }
}

impl Driver for Erofs {
    fn name(&self) -> &'static str {
        if self.through_loop { "erofs-loop" } else { "erofs" }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { outlives_removal: true, in_place: true, merges: true, stacks: true }
    }

    fn probe(&self, store: &Store) -> Probe {
        probe::layer(store, |layer| self.mount_layer(store, layer))
    }

    fn serves(&self) -> Serves<'_> {
        Serves::Layers(self)
    }
}

impl Layered for Erofs {
    fn mount_layer(&self, _store: &Store, layer: &Arc<Layer>) -> Result<Mount> {
        self.mount(&layer.dir.join("index"), &[layer.dir.join("data")])
    }

    fn merging(&self) -> Option<&dyn Merging> {
        Some(self)
    }
}

impl Merging for Erofs {
    fn mount_merged(&self, store: &Store, chain: &[Arc<Layer>]) -> Result<Mount> {
        // Without a name from the start: it lives as long as the mount, and a crash leaves nothing.
        let path = store.tmp().join(id::random_hex::<16>()?);
        let index = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
        std::fs::remove_file(&path).at("remove", &path)?;
        let devices = merge(chain, &index, &path)?;
        self.mount(Path::new(&format!("/proc/self/fd/{}", index.as_raw_fd())), &devices)
    }
}
