//! The parts of the daemon, put together.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use engine::shim::Client;
use fs_base::lock::Lock;
use fs_base::trash::Trash;
use fs_base::{ContainerId, IoContext, LayerId, Result};
use layerfs::driver::{Lease, Mounter};
use layerfs::store::{Pin, Store};
use volumes::Volumes;

use crate::config::Config;
use crate::container::Containers;
use crate::container::follow::Followers;
use crate::container::selinux::Labelling;
use crate::container::users::Mapped;
use crate::db::Db;
use crate::db::images::ImageRow;
use crate::events::Events;
use crate::format;
use crate::image::Turns;
use crate::network::Networks;
use crate::reserve;

/// What the services share.
#[derive(Debug)]
pub struct App {
    /// The settings in force.
    pub config: Config,
    /// The metadata.
    pub db: Db,
    /// The layers.
    pub store: Arc<Store>,
    /// What mounts them.
    pub mounter: Mounter,
    /// Keeps the layers of images on the host mounted, so that containers share their memory. By the mount's id.
    pub image_leases: Mutex<HashMap<String, Lease>>,
    /// The volumes.
    pub volumes: Volumes,
    /// What is known of containers besides their rows.
    pub containers: Containers,
    /// The user namespaces that trees are mounted for.
    pub mapped: Mapped,
    /// How containers are labelled; `None` if they are not.
    pub selinux: Option<Labelling>,
    /// The networks.
    pub networks: Networks,
    /// Who follows a log.
    pub followers: Followers,
    /// What happened.
    pub events: Events,
    /// What is thrown away and not gone yet.
    pub trash: Trash,
    /// Who brings which layer in.
    pub turns: Turns,
    /// Layers that nothing refers to were left because somebody had them pinned.
    left: AtomicBool,
    _lock: Lock,
}

/// See [`App::pin`].
pub struct Pinned<'a> {
    app: &'a App,
    pins: Vec<Pin>,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.pins.clear();
        if self.app.left.swap(false, Ordering::SeqCst)
            && let Err(error) = self.app.collect()
        {
            tracing::warn!(%error, "layers that no image refers to could not be removed; the next start does it");
        }
    }
}

impl App {
    /// Opens the store, alone on it, and brings it into order: what an earlier process left unfinished is undone.
    pub fn open(config: Config) -> Result<App> {
        make_private(&config.root)?;
        make_private(&config.run)?;
        let lock = Lock::take(&config.root.join("lock"))?;
        let selinux = Labelling::of_host(config.selinux_enabled)?;
        let _lent = reserve::lend(&config.root);
        let format_file = config.root.join("FORMAT");
        format::check(&format_file)?;
        let db = Db::open(&config.root.join("meta.db"))?;
        let store = Arc::new(Store::open(&config.root)?);
        store.clear_tmp()?;
        let label = crate::container::selinux::of_layers(selinux.as_ref(), &db)?;
        let mounter = Mounter::new(Arc::clone(&store), config.storage.choice(&config.fuse, label.as_deref()))?;
        format::record(&format_file, mounter.driver_name())?;
        let volumes = Volumes::open(&config.root, Arc::new(db.clone()))?;
        let trash = Trash::open(config.root.join("trash"))?;
        let (containers, events) = (Containers::default(), Events::default());
        let networks = Networks::new(&config.root, &config.run, db.clone());
        let app = App {
            config,
            db,
            store,
            mounter,
            image_leases: Mutex::default(),
            volumes,
            containers,
            mapped: Mapped::default(),
            selinux,
            networks,
            followers: Followers::default(),
            events,
            trash,
            turns: Turns::default(),
            left: AtomicBool::new(false),
            _lock: lock,
        };
        if let Some(ids) = &app.config.userns_remap {
            let works = app.mapped.of(ids).and_then(|owners| app.mounter.probe_owners(&owners));
            works.map_err(|error| error.context("userns-remap does not work here"))?;
        }
        app.remove_orphans()?;
        crate::mounts::recover(&app)?;
        crate::volume::recover(&app)?;
        Ok(app)
    }

    /// Bytes come before rows, and rows go before bytes: a layer without a row was never finished, or is removed.
    fn remove_orphans(&self) -> Result<()> {
        self.take_unreferenced()?;
        let mut known: std::collections::HashSet<_> = self.db.layers()?.into_iter().map(|row| row.id).collect();
        // What an image needs stays, even if the database has lost its row: a check restores it.
        known.extend(self.db.lost_layers()?);
        for id in self.store.list()? {
            if !known.contains(&id) {
                tracing::info!(layer = %id, "removing a layer that no image refers to");
                self.store.remove(&id)?;
            }
        }
        self.store.sweep()
    }

    /// Removes the layers that no image refers to, and gives back their space. Those that are pinned are left to whoever
    /// lets go of them.
    pub fn collect(&self) -> Result<()> {
        self.take_unreferenced()?;
        self.store.sweep()
    }

    fn take_unreferenced(&self) -> Result<()> {
        self.store.collect(|pinned| Ok(self.gone(self.db.take_unreferenced_layers(None, pinned)?))).map(drop)
    }

    /// Removes an image, unless it is mounted, with the layers that only it had; whether it did. A conflict if a container
    /// refers to it. Its space is given back a little later.
    pub fn remove_image(&self, image: &ImageRow) -> Result<bool> {
        let mut removed = false;
        self.store.collect(|pinned| {
            let Some(layers) = self.db.remove_image_and_layers(image, pinned)? else { return Ok(Vec::new()) };
            removed = true;
            Ok(self.gone(layers))
        })?;
        self.trash.sweep_soon(|error| tracing::warn!(%error, "the trash could not be emptied"));
        Ok(removed)
    }

    /// Removes a layer that could not be recorded, unless others have or are about to.
    pub fn discard_unknown(&self, id: &LayerId) {
        let removed = self.store.collect(|pinned| {
            let unknown = !pinned(id) && self.db.layer(id)?.is_none();
            Ok(if unknown { vec![*id] } else { Vec::new() })
        });
        if let Err(error) = removed {
            tracing::warn!(layer = %id, %error, "a layer could not be removed; the next start does it");
        }
    }

    /// Lets go of layers that have no rows any more; `left` are those that were pinned.
    fn gone(&self, (gone, left): (Vec<LayerId>, bool)) -> Vec<LayerId> {
        if left {
            self.left.store(true, Ordering::SeqCst);
        }
        for id in &gone {
            self.mounter.forget(id);
        }
        gone
    }

    /// Keeps an image's layers while they are opened. What has been opened stays readable, so it is not held for long.
    pub fn pin(&self, layers: &[LayerId]) -> Pinned<'_> {
        Pinned { app: self, pins: layers.iter().map(|id| self.store.pin(id)).collect() }
    }

    /// What a container keeps.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }

    /// Where a container's shim is while it runs.
    pub fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.run.join("containers").join(id.as_str())
    }

    /// A container's shim, whether it is there or not.
    pub fn shim(&self, id: &ContainerId) -> Client {
        Client::new(&self.run_dir(id))
    }

    /// What is written to mounts, by their ids.
    pub fn scratch_dir(&self) -> PathBuf {
        crate::mounts::scratch::all(&self.config.root)
    }

    /// Where mounts get their place by default.
    pub fn mount_dir(&self) -> PathBuf {
        self.config.run.join("mnt")
    }
}

/// A folder that only we look into; one that is there keeps its mode.
fn make_private(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path).at("make directory", path)
}
