//! Chooses a driver, and stacks what it mounts.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::sys::mount::{FsContext, Mount, open_dir};
use fs_base::{Class, Error, IoContext, LayerId, Probe, Result, id};
use rustix::mount::MountAttrFlags;

use super::{Driver, registry};
use crate::ingest::{IngestOptions, ingest};
use crate::store::{Layer, Store};

/// Layers whose mounts are kept when nobody uses them, so that a later container shares their page cache.
const KEPT: usize = 256;
/// What overlayfs takes. Source: `OVL_MAX_STACK` in `fs/overlayfs/params.h`.
const MOST_LAYERS: usize = 500;

/// What a probe found.
#[derive(Debug, Clone)]
pub struct Probed {
    /// The driver.
    pub driver: &'static str,
    /// The answer.
    pub probe: Probe,
}

/// Mounts chains of layers.
#[derive(Debug)]
pub struct Mounter {
    store: Arc<Store>,
    driver: Option<Box<dyn Driver>>,
    probed: Vec<Probed>,
    mounts: Mutex<HashMap<LayerId, Arc<Mount>>>,
}

impl Mounter {
    /// Probes the drivers in the store and takes the first that works, or the one that `forced` names. A host on
    /// which none works still has a mounter: it refuses to mount and says why.
    pub fn new(store: Arc<Store>, forced: Option<&str>) -> Result<Mounter> {
        let (mut driver, mut probed) = (None, Vec::new());
        let mut known = Vec::new();
        for candidate in registry::all() {
            known.push(candidate.name());
            if forced.is_some_and(|name| name != candidate.name()) {
                continue;
            }
            let probe = candidate.probe(&store);
            let taken = driver.is_none() && probe.is_supported();
            probed.push(Probed { driver: candidate.name(), probe });
            if taken {
                driver = Some(candidate);
            }
        }
        match forced {
            Some(name) if probed.is_empty() => Err(Error::invalid(format!("unknown mount driver {name:?}"))
                .with_hint(format!("the drivers are: {}", known.join(", ")))),
            Some(name) if driver.is_none() => Err(Error::unsupported(format!(
                "mount driver {name:?} does not work here: {}",
                probed[0].probe.why().unwrap_or_default()
            ))),
            _ => Ok(Mounter { store, driver, probed, mounts: Mutex::default() }),
        }
    }

    /// The driver in use, if any works here.
    pub fn driver_name(&self) -> Option<&'static str> {
        self.driver.as_ref().map(|driver| driver.name())
    }

    /// What each driver's probe answered.
    pub fn probed(&self) -> &[Probed] {
        &self.probed
    }

    fn driver(&self) -> Result<&dyn Driver> {
        self.driver.as_deref().ok_or_else(|| {
            let why: Vec<_> =
                self.probed.iter().map(|p| format!("{}: {}", p.driver, p.probe.why().unwrap_or_default())).collect();
            Error::unsupported(format!("this host can't mount images ({})", why.join("; ")))
                .with_hint("run the daemon as root with CAP_SYS_ADMIN; without it, images can still be listed, read, compared and copied from")
        })
    }

    /// The tree of an image, read-only and detached.
    pub fn image(&self, layers: &[LayerId]) -> Result<Mount> {
        let driver = self.driver()?;
        let mut mounts = self.layers(driver, layers)?;
        if let ([only], [mount]) = (layers, &mounts[..])
            && !self.has_marks(only)?
        {
            return mount.try_clone().and_then(|mount| Mount::clone_at(mount.as_fd(), Path::new(""), false));
        }
        // overlayfs wants two layers where there is no upper one.
        while mounts.len() < 2 {
            mounts.insert(0, Arc::new(empty()?));
        }
        stack(&mounts, None)
    }

    /// The tree of a container: `upper` takes what is written. Both directories must be on one file system.
    pub fn container(&self, layers: &[LayerId], upper: &Path, work: &Path) -> Result<Mount> {
        let driver = self.driver()?;
        let mut mounts = self.layers(driver, layers)?;
        if mounts.is_empty() {
            mounts.push(Arc::new(empty()?));
        }
        stack(&mounts, Some((upper, work)))
    }

    /// Lets go of a layer that is about to be removed.
    pub fn forget(&self, id: &LayerId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LayerId, Arc<Mount>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers(&self, driver: &dyn Driver, ids: &[LayerId]) -> Result<Vec<Arc<Mount>>> {
        if ids.len() > MOST_LAYERS {
            return Err(Error::unsupported(format!("an image of {} layers: overlayfs takes {MOST_LAYERS}", ids.len())));
        }
        ids.iter()
            .map(|id| {
                if let Some(mount) = self.lock().get(id) {
                    return Ok(Arc::clone(mount));
                }
                let layer = self.store.layer(id)?;
                let mount = driver.mount_layer(&self.store, &layer).map_err(|e| e.context(format!("mount layer {id}")))?;
                let mut mounts = self.lock();
                if mounts.len() >= KEPT {
                    mounts.clear();
                }
                Ok(Arc::clone(mounts.entry(*id).or_insert_with(|| Arc::new(mount))))
            })
            .collect()
    }

    /// Whether a layer has whiteouts or opaque directories, which show if it is mounted alone.
    fn has_marks(&self, id: &LayerId) -> Result<bool> {
        let layer = self.store.layer(id)?;
        let mut todo = vec![layer.index.root()];
        while let Some(nid) = todo.pop() {
            let inode = layer.index.inode(nid)?;
            if inode.is_whiteout()
                || inode.kind == crate::erofs::FileKind::Dir && layer.index.xattr(nid, crate::ingest::OPAQUE_XATTR)?.is_some()
            {
                return Ok(true);
            }
            if inode.kind == crate::erofs::FileKind::Dir {
                todo.extend(layer.index.read_dir(nid)?.iter().map(|entry| entry.nid));
            }
        }
        Ok(false)
    }
}

/// An empty, read-only directory of its own.
fn empty() -> Result<Mount> {
    let context = FsContext::open("tmpfs")?;
    context.string("mode", "0755")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// An overlay of `layers`, bottom first, by descriptors (Linux 6.13) or by the paths that /proc shows for them.
fn stack(layers: &[Arc<Mount>], upper: Option<(&Path, &Path)>) -> Result<Mount> {
    match stack_with(layers, upper, true) {
        Err(error) if error.class() == Class::Invalid => stack_with(layers, upper, false).map_err(|_| error),
        other => other,
    }
}

fn stack_with(layers: &[Arc<Mount>], upper: Option<(&Path, &Path)>, by_descriptor: bool) -> Result<Mount> {
    let context = FsContext::open("overlay")?;
    context.string("source", "fsd")?;
    // One upper format for every driver: no redirects, no metadata-only copies, no index.
    for (key, value) in [("redirect_dir", "off"), ("index", "off"), ("metacopy", "off")] {
        context.string(key, value)?;
    }
    if by_descriptor {
        for layer in layers.iter().rev() {
            context.descriptor("lowerdir+", layer.as_fd())?;
        }
    } else {
        let paths: Vec<String> = layers.iter().rev().map(|l| format!("/proc/self/fd/{}", l.as_fd().as_raw_fd())).collect();
        context.string("lowerdir", paths.join(":"))?;
    }
    let mut attributes = MountAttrFlags::empty();
    match upper {
        Some((upper, work)) if by_descriptor => {
            context.descriptor("upperdir", open_dir(upper)?.as_fd())?;
            context.descriptor("workdir", open_dir(work)?.as_fd())?;
        }
        Some((upper, work)) => {
            context.string("upperdir", upper)?;
            context.string("workdir", work)?;
        }
        None => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
    }
    context.mount(attributes)
}

/// Mounts a tiny layer, made in the store's `tmp/` for this, and reads a file through the mount.
pub(super) fn probe_layer(store: &Store, mount: impl FnOnce(&Arc<Layer>) -> Result<()>) -> Result<Probe> {
    let dir = store.tmp().join(id::random_hex::<16>()?);
    std::fs::create_dir(&dir).at("make directory", &dir)?;
    let result = (|| {
        let built = ingest(&mut &[0u8; 1024][..], &dir, &IngestOptions::default())?;
        mount(&Arc::new(store.open_at(&built.id, dir.clone())?))
    })();
    let _ = std::fs::remove_dir_all(&dir);
    result.map(|()| Probe::Supported)
}

/// The answer that an error of a probe gives.
pub(super) fn unsupported(error: &Error) -> Probe {
    let remedy = if error.class() == Class::Denied { " (needs CAP_SYS_ADMIN)" } else { "" };
    match error.class() {
        Class::Internal | Class::Corrupt | Class::Unavailable => Probe::Unknown(error.to_string()),
        _ => Probe::Unsupported(format!("{error}{remedy}")),
    }
}
