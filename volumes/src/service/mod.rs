//! The volumes of one store: what there is, and the rules for making it.

mod attach;
mod recover;
mod remove;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::trash::Trash;
use fs_base::{Error, Result, VolumeName};

use crate::catalog::Catalog;
use crate::driver::Driver;
use crate::driver::registry::Drivers;
use crate::filter::ListFilter;
use crate::locks::Locks;
use crate::usage::Usage;
use crate::volume::{ANONYMOUS_LABEL, LOCAL, NewVolume, Volume, now, parse_name};

pub use attach::Attached;
pub use recover::Finding;
pub use remove::Pruned;

/// All volumes of one store. Shared by threads; every call blocks.
pub struct Volumes {
    catalog: Arc<dyn Catalog>,
    pub(crate) drivers: Drivers,
    trash: Trash,
    locks: Arc<Locks>,
    /// The store's.
    pub(crate) root: PathBuf,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").field("trash", &self.trash).finish_non_exhaustive()
    }
}

impl Volumes {
    /// Opens the volumes of the store at `root`. Makes the folders that are missing; call
    /// [`Volumes::recover`] next, before anybody else comes.
    pub fn open(root: &Path, catalog: Arc<dyn Catalog>) -> Result<Volumes> {
        let (drivers, trash) = (Drivers::open(root)?, Trash::open(root.join("trash"))?);
        Ok(Volumes { catalog, drivers, trash, locks: Arc::default(), root: root.to_owned() })
    }

    /// Makes a volume, durably. One of that name that is there already is given back as it is, as Docker does;
    /// the flag says whether a new one was made.
    pub fn create(&self, new: NewVolume) -> Result<(Volume, bool)> {
        let (name, anonymous) = match new.name.as_deref() {
            None | Some("") => (VolumeName::anonymous()?, true),
            Some(name) => (parse_name(name)?, false),
        };
        self.create_named(&name, anonymous, new).map_err(|error| prefixed("create", &name, error))
    }

    fn create_named(&self, name: &VolumeName, anonymous: bool, new: NewVolume) -> Result<(Volume, bool)> {
        let wanted_driver = new.driver.filter(|driver| !driver.is_empty());
        let driver = self.drivers.get(wanted_driver.as_deref().unwrap_or(LOCAL))?;
        let _lock = self.locks.lock(name);
        if let Some(volume) = self.catalog.get(name)? {
            if wanted_driver.is_some_and(|wanted| wanted != volume.driver) {
                return Err(Error::conflict(format!(
                    "driver '{}' already has volume '{name}': volume name must be unique",
                    volume.driver
                )));
            }
            return Ok((volume, false));
        }
        driver.check_options(new.options.as_ref().unwrap_or(&crate::driver::Options::new()))?;
        let mut labels = new.labels;
        if anonymous {
            labels.get_or_insert_default().insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let volume =
            Volume { name: name.clone(), driver: driver.name().to_owned(), created: now(), labels, options: new.options };
        driver.create(name)?;
        if let Err(error) = self.catalog.insert(&volume) {
            // Without a row it is rubbish; if even that fails, recovery removes it.
            let _ = driver.remove(name);
            return Err(error);
        }
        Ok((volume, true))
    }

    /// The volume of this name: `get NAME: no such volume` if there is none.
    pub fn get(&self, name: &str) -> Result<Volume> {
        let unknown = || Error::not_found(format!("get {name}: no such volume"));
        // A name that can't be is one that is not there.
        let parsed: VolumeName = name.parse().map_err(|_| unknown())?;
        self.catalog.get(&parsed)?.ok_or_else(unknown)
    }

    /// The volumes that pass the filter, by name, each with the number of containers that use it.
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<(Volume, usize)>> {
        let uses = self.catalog.all_uses()?;
        let mut listed = Vec::new();
        for volume in self.catalog.list()? {
            let count = uses.iter().filter(|(name, _)| *name == volume.name).count();
            if filter.matches(&volume, count > 0) {
                listed.push((volume, count));
            }
        }
        Ok(listed)
    }

    /// Where the volume's data is, as `inspect` shows it.
    pub fn mountpoint(&self, volume: &Volume) -> Result<PathBuf> {
        Ok(self.driver_of(volume)?.mountpoint(&volume.name))
    }

    /// The directory of a volume's data, to be looked at from the host. A volume in memory has one only for containers.
    pub fn data(&self, volume: &Volume) -> Result<PathBuf> {
        let name = &volume.name;
        if volume.options.as_ref().is_some_and(|options| options.get("type").is_some_and(|kind| kind == "tmpfs")) {
            return Err(Error::unsupported(format!("volume {name} is kept in memory: only containers can look at it"))
                .with_hint("its data is there while a container that uses it runs: `ctl cp` reads it"));
        }
        let _lock = self.locks.lock(name);
        let source = self.driver_of(volume)?.mount(volume)?.source;
        if !source.is_dir() {
            return Err(Error::invalid(format!("volume {name} is no directory: {}", source.display())));
        }
        Ok(source)
    }

    /// How far the volume's driver reaches: `local` or `global`.
    pub fn scope(&self, volume: &Volume) -> Result<&'static str> {
        Ok(self.driver_of(volume)?.scope())
    }

    /// What the volume takes in the store: `None` where its data is not in the store, or its driver can't say.
    pub fn usage(&self, volume: &Volume) -> Result<Option<Usage>> {
        if volume.has_options() {
            return Ok(None);
        }
        self.driver_of(volume)?.measure().map(|measure| measure.usage(volume)).transpose()
    }

    fn driver_of(&self, volume: &Volume) -> Result<&dyn Driver> {
        self.drivers.get(&volume.driver)
    }
}

/// Docker's `create NAME: ` in front of an error.
fn prefixed(operation: &str, name: &VolumeName, error: Error) -> Error {
    error.context(format!("{operation} {name}"))
}
