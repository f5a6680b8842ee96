//! Chooses a driver, and stacks what it mounts.

use std::path::Path;
use std::sync::Arc;

use fs_base::sys::ids::IdMap;
use fs_base::sys::mount::Mount;
use fs_base::{Error, IoContext, LayerId, Probe, Result};
use rustix::mount::MountAttrFlags;

use super::layers::{LayerMount, Layers, Lease};
use super::probe::{self, Part, Probed, Verdict};
use super::stack::{Lower, MOST_LAYERS, Method, Owners, Stacker, Writable};
use super::{Capabilities, Driver, Layered, Serves, Whole, registry};
use crate::store::Store;
use crate::tree::Tree;

/// What the configuration asks for in place of the best that works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// A driver by its name.
    pub driver: Option<&'a str>,
    /// A way of stacking by its name.
    pub stacking: Option<&'a str>,
    /// Chains of more layers than this are merged into one index. At most, and by default, what overlayfs takes.
    pub merge_above: Option<usize>,
    /// The program that serves a tree by FUSE.
    pub fuse: Option<&'a Path>,
    /// The SELinux label that layers are to have; each file's own if `None`.
    pub label: Option<&'a str>,
}

/// Mounts chains of layers. Everything it returns is detached: in no mount table, and gone with its last holder.
#[derive(Debug)]
pub struct Mounter {
    store: Arc<Store>,
    driver: Option<Box<dyn Driver>>,
    probed: Vec<Probed>,
    layers: Layers,
    /// Nothing if no way of stacking works here.
    stacker: Option<Stacker>,
    merge_above: usize,
}

impl Mounter {
    /// Takes the first driver and the first way of stacking that work in the store, or those that `choice` names. Where
    /// nothing stacks, a driver that needs no stacking. A host on which none works still has a mounter: it refuses to
    /// mount and says why.
    pub fn new(store: Arc<Store>, choice: Choice<'_>) -> Result<Mounter> {
        let try_driver = |driver: Box<dyn Driver>| match driver.probe(&store) {
            Probe::Supported => Ok(driver),
            failed => Err(failed),
        };
        let drivers = registry::all(choice.fuse, choice.label).into_iter().map(|driver| (driver.name(), driver));
        let (mut driver, mut probed) = probe::choose(Part::Driver, drivers, choice.driver, try_driver)?;
        let methods = Method::ALL.map(|method| (method.name(), method));
        let mut stacker = None;
        if let Some(whole) = driver.as_ref().filter(|driver| !driver.capabilities().stacks) {
            let merge_above = choice.merge_above.map(|layers| format!("merge-above={layers}"));
            if let Some(option) = choice.stacking.map(|way| format!("stacking={way}")).or(merge_above) {
                return Err(Error::invalid(format!("the storage driver {} stacks no layers", whole.name()))
                    .with_hint(format!("leave out {option}")));
            }
            let why = format!("{} serves whole trees", whole.name());
            probed.extend(methods.map(|(name, _)| Probed { part: Part::Stacking, name, verdict: Verdict::Passed(why.clone()) }));
        } else {
            let (taken, ways) = probe::choose(Part::Stacking, methods, choice.stacking, |method| probe::stacker(&store, method))?;
            stacker = taken;
            probed.extend(ways);
        }
        if let Some(unused) = driver.as_ref().filter(|driver| driver.capabilities().stacks && stacker.is_none())
            && choice.driver.is_none()
        {
            let name = unused.name();
            let others = registry::all(choice.fuse, choice.label).into_iter().filter(|driver| !driver.capabilities().stacks);
            if let Some(whole) = probe::instead(&mut probed, name, others, try_driver) {
                driver = Some(whole);
            }
        }
        let merge_above = choice.merge_above.unwrap_or(MOST_LAYERS).min(MOST_LAYERS);
        Ok(Mounter { store, driver, probed, layers: Layers::default(), stacker, merge_above })
    }

    /// The driver in use, if any works here.
    pub fn driver_name(&self) -> Option<&'static str> {
        self.driver.as_ref().map(|driver| driver.name())
    }

    /// What the driver in use can do; nothing if none works here.
    pub fn capabilities(&self) -> Capabilities {
        let none = Capabilities { outlives_removal: false, in_place: false, merges: false, stacks: false };
        self.driver.as_ref().map_or(none, |driver| driver.capabilities())
    }

    /// What each probe answered.
    pub fn probed(&self) -> &[Probed] {
        &self.probed
    }

    fn driver(&self) -> Result<&dyn Driver> {
        self.driver.as_deref().ok_or_else(|| self.refusal())
    }

    fn stacker(&self) -> Result<&Stacker> {
        self.stacker.as_ref().ok_or_else(|| self.refusal())
    }

    fn refusal(&self) -> Error {
        probe::refusal(&self.probed)
    }

    /// The tree of an image, to look at: read-only, without devices and set-user-id.
    pub fn image(&self, layers: &[LayerId]) -> Result<Mount> {
        if let Serves::Trees(trees) = self.driver()?.serves() {
            return self.tree(trees, layers, None, None);
        }
        let mounts = self.lowers(layers)?;
        let stacker = self.stacker()?;
        if let [only] = &mounts[..]
            && !self.has_marks(only)?
        {
            return stacker.alone(&only.lower);
        }
        // overlayfs wants two layers where there is no writable one.
        let mut below = Vec::new();
        while below.len() + mounts.len() < 2 {
            below.push(Lower::empty()?);
        }
        let all: Vec<&Lower> = below.iter().chain(mounts.iter().map(|layer| &layer.lower)).collect();
        stacker.stack(&all, None)
    }

    /// The tree of a container, with a writable side whose directories are on one file system. What is missing of them is
    /// made; a new upper directory gets owner, mode and attributes of the image's root, because overlayfs shows those of
    /// the upper directory.
    pub fn container(&self, layers: &[LayerId], writable: Writable<'_>) -> Result<Mount> {
        self.writable(layers, writable, None)
    }

    /// A tree that may be written to and loses what is written: the layers, over them a directory in overlayfs's format if
    /// there is one, which is only read, and over all `upper`, which must not be there yet. As with [`Mounter::image`], it
    /// has no devices and no set-user-id.
    pub fn scratch(&self, layers: &[LayerId], dir: Option<&Path>, upper: &Path, work: &Path) -> Result<Mount> {
        if let Serves::Trees(_) = self.driver()?.serves() {
            return Err(Error::unsupported(format!(
                "the storage driver {} puts nothing over a directory",
                self.driver()?.name()
            )));
        }
        let mounts = self.lowers(layers)?;
        let opened = layers.iter().map(|id| self.store.layer(id)).collect::<Result<_>>()?;
        let tree = match dir {
            Some(dir) => Tree::with_upper(opened, dir)?,
            None => Tree::new(opened),
        };
        crate::archive::make_root_like(&tree, upper)?;
        std::fs::create_dir_all(work).at("make directory", work)?;
        let extra = match dir {
            Some(dir) => Some(Lower::new(Mount::clone_of(dir, false)?)),
            None if mounts.is_empty() => Some(Lower::empty()?),
            None => None,
        };
        let all: Vec<&Lower> = mounts.iter().map(|layer| &layer.lower).chain(&extra).collect();
        let mount = self.stacker()?.stack(&all, Some(Writable::new(upper, work)))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        mount.set_attributes(attributes, MountAttrFlags::empty(), false)?;
        Ok(mount)
    }

    /// As [`Mounter::container`], for a container with a user namespace. What is written is on the disk with the ids
    /// inside, as if there were none: the same directories make the tree of a container without one, or with another.
    pub fn container_of(&self, layers: &[LayerId], writable: Writable<'_>, owners: &Owners) -> Result<Mount> {
        self.writable(layers, writable, Some(owners))
    }

    fn writable(&self, layers: &[LayerId], side: Writable<'_>, owners: Option<&Owners>) -> Result<Mount> {
        let mounts = self.lowers(layers)?;
        self.make_sides(layers, side)?;
        if let Serves::Trees(trees) = self.driver()?.serves() {
            return self.tree(trees, layers, Some(side), owners.map(Owners::ids));
        }
        let below = if mounts.is_empty() { Some(Lower::empty()?) } else { None };
        let all: Vec<&Lower> = below.iter().chain(mounts.iter().map(|layer| &layer.lower)).collect();
        match owners {
            None => self.stacker()?.stack(&all, Some(side)),
            Some(owners) => self.stacker()?.stack_mapped(&all, side, owners),
        }
    }

    /// Whether this host can do that here, found by doing it.
    pub fn probe_owners(&self, owners: &Owners) -> Result<()> {
        probe::mapped(&self.store, owners, |layer, writable| match self.driver()?.serves() {
            Serves::Trees(trees) => {
                trees.mount_tree(&self.store, std::slice::from_ref(layer), Some(writable), Some(owners.ids()))
            }
            Serves::Layers(layered) => {
                let layer = Lower::new(layered.mount_layer(&self.store, layer)?);
                self.stacker()?.stack_mapped(&[&layer], writable, owners)
            }
        })
    }

    /// Keeps layers mounted for as long as the lease is held. A container that is to share its files' memory with
    /// others of the same image needs one for as long as it runs.
    pub fn lease(&self, layers: &[LayerId]) -> Result<Lease> {
        self.lowers(layers).map(Lease::new)
    }

    /// Lets go of a layer that is about to be removed.
    pub fn forget(&self, id: &LayerId) {
        self.layers.forget(id);
    }

    /// Does something with what a layer is mounted from, while nobody mounts it: who wants to waits. Refused if somebody
    /// has it mounted, or a lease on it.
    pub fn alone<T>(&self, id: &LayerId, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.layers.alone(id, work)
    }

    /// Lets go of all layers that nobody has a lease on. For an idle daemon.
    pub fn trim(&self) {
        self.layers.trim();
    }

    /// How many layers are mounted now, each once for all that stand on it.
    pub fn mounted(&self) -> usize {
        self.layers.count()
    }

    /// A chain served whole.
    fn tree(
        &self,
        trees: &dyn Whole,
        chain: &[LayerId],
        writable: Option<Writable<'_>>,
        owners: Option<&IdMap>,
    ) -> Result<Mount> {
        let layers = chain.iter().map(|id| self.store.layer(id)).collect::<Result<Vec<_>>>()?;
        trees.mount_tree(&self.store, &layers, writable, owners)
    }

    fn layers(&self, layered: &dyn Layered, ids: &[LayerId]) -> Result<Vec<Arc<LayerMount>>> {
        let mount = |id: &LayerId| {
            let layer = self.store.layer(id)?;
            layered.mount_layer(&self.store, &layer).map_err(|error| error.context(format!("mount layer {id}")))
        };
        // The disk is asked for all of them at once, rather than for one when the one before it is there.
        ids.iter().filter(|id| !self.layers.has(id)).for_each(|id| self.store.read_ahead(id));
        ids.iter().map(|id| self.layers.get(id, || mount(id))).collect()
    }

    /// What an overlay of a chain stands on: its layers, or one merged tree where they are too many. Nothing where there
    /// is no overlay.
    fn lowers(&self, chain: &[LayerId]) -> Result<Vec<Arc<LayerMount>>> {
        match self.driver()?.serves() {
            Serves::Trees(_) => Ok(Vec::new()),
            Serves::Layers(layered) if chain.len() <= self.merge_above => self.layers(layered, chain),
            Serves::Layers(layered) => self.merged(layered, chain).map(|merged| vec![merged]),
        }
    }

    /// A chain as one tree.
    fn merged(&self, layered: &dyn Layered, chain: &[LayerId]) -> Result<Arc<LayerMount>> {
        let name = self.driver()?.name();
        let merging = layered.merging().ok_or_else(|| {
            let message = format!("an image of {} layers: overlayfs takes {}", chain.len(), self.merge_above);
            Error::unsupported(message).with_hint(format!("the storage driver {name} can't merge layers into one"))
        })?;
        self.layers.get_chain(chain, || {
            let layers = chain.iter().map(|id| self.store.layer(id)).collect::<Result<Vec<_>>>()?;
            let mounted = merging.mount_merged(&self.store, &layers);
            mounted.map_err(|error| error.context(format!("mount {} layers as one", layers.len())))
        })
    }

    fn make_sides(&self, layers: &[LayerId], Writable { upper, work, .. }: Writable<'_>) -> Result<()> {
        if !upper.exists() {
            let layers = layers.iter().map(|id| self.store.layer(id)).collect::<Result<_>>()?;
            crate::archive::make_root_like(&Tree::new(layers), upper)?;
        }
        std::fs::create_dir_all(work).at("make directory", work)
    }

    /// Whether a layer has whiteouts or opaque directories, which would show if it were mounted alone.
    fn has_marks(&self, mounted: &LayerMount) -> Result<bool> {
        if let Some(answer) = mounted.has_marks.get() {
            return Ok(*answer);
        }
        // A merged chain has none left.
        let answer = match &mounted.layers[..] {
            [only] => self.store.layer(only)?.has_marks()?,
            _ => false,
        };
        Ok(*mounted.has_marks.get_or_init(|| answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::IngestOptions;

    #[test]
    fn layers_are_held_while_somebody_uses_them() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: kernel mounts: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let id = store.ingest(&mut &[0u8; 1024][..], &IngestOptions::default()).unwrap().id;
        let mounter = Mounter::new(Arc::clone(&store), Choice::default()).unwrap();
        assert_eq!(mounter.layers.count(), 0, "probes leave nothing");
        drop(mounter.image(&[id]).unwrap());
        assert_eq!(mounter.layers.count(), 1, "what was used last is kept");
        mounter.trim();
        assert_eq!(mounter.layers.count(), 0);
        let lease = mounter.lease(&[id]).unwrap();
        mounter.trim();
        assert_eq!(mounter.layers.count(), 1, "a lease keeps it");
        mounter.forget(&id);
        assert_eq!(mounter.layers.count(), 0, "a removed layer is not found again");
        drop(lease);
        assert!(mounter.lease(&[fs_base::LayerId(fs_base::Digest::from_bytes([7; 32]))]).is_err());
        assert!(mounter.lease(&[id]).is_ok(), "a failure holds nobody up");
    }

    #[test]
    fn nobody_mounts_what_somebody_works_on_alone() {
        let layers = Layers::default();
        let id = LayerId(fs_base::Digest::from_bytes([1; 32]));
        let make = || {
            let fd = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
            Ok(Mount::from_fd(fd.unwrap()))
        };
        let held = layers.get(&id, make).unwrap();
        assert_eq!(layers.alone(&id, || Ok(())).unwrap_err().class(), fs_base::Class::Busy);
        drop(held);
        let (begun, done) = (std::sync::Barrier::new(2), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                let made = || {
                    assert!(done.load(std::sync::atomic::Ordering::SeqCst), "mounted meanwhile");
                    make()
                };
                layers.get(&id, made).unwrap();
            });
            let work = || {
                begun.wait();
                std::thread::sleep(std::time::Duration::from_millis(20));
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            };
            layers.alone(&id, work).unwrap();
        });
        assert!(layers.alone(&id, || Err::<(), _>(Error::internal("no"))).is_err());
        assert!(layers.alone(&id, || Ok(())).is_ok(), "a failure holds nobody up");
    }

    #[test]
    fn threads_that_want_one_layer_mount_it_once() {
        let layers = Layers::default();
        let id = LayerId(fs_base::Digest::from_bytes([1; 32]));
        let made = std::sync::atomic::AtomicUsize::new(0);
        let failed = layers.get(&id, || Err(Error::internal("no")));
        assert!(failed.is_err());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    layers.get(&id, || {
                        made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        let fd = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
                        Ok(Mount::from_fd(fd.unwrap()))
                    })
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
