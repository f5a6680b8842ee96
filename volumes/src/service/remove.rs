//! Removing volumes: one, or all that nobody needs.

use fs_base::{Class, Error, Result, VolumeName};

use super::{Volumes, prefixed};
use crate::Volume;
use crate::filter::PruneFilter;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names that are gone.
    pub deleted: Vec<VolumeName>,
    /// Bytes of the disk that came back.
    pub reclaimed: u64,
}

impl Volumes {
    /// Removes a volume that nobody uses: row, then bytes. `force` makes a volume that is not there no error;
    /// it never takes one away from a container.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let volume = match self.get(name) {
            Err(error) if force && error.class() == Class::NotFound => return Ok(()),
            other => other?,
        };
        self.remove_volume(&volume)?;
        self.sweep();
        Ok(())
    }

    /// Removes the volumes that pass the filter and that no container uses. One that can't be removed is left
    /// and logged.
    pub fn prune(&self, filter: &PruneFilter) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for volume in self.catalog.list()? {
            if !filter.matches(&volume) || !self.catalog.uses(&volume.name)?.is_empty() {
                continue;
            }
            let bytes = self.usage(&volume).ok().flatten().map_or(0, |usage| usage.bytes);
            match self.remove_volume(&volume) {
                Ok(()) => {
                    pruned.reclaimed += bytes;
                    pruned.deleted.push(volume.name);
                }
                // Taken into use since the look above.
                Err(error) if error.class() == Class::Busy => {}
                Err(error) => tracing::warn!(volume = %volume.name, %error, "not pruned"),
            }
        }
        self.sweep();
        Ok(pruned)
    }

    /// Takes the volume out of sight. Its bytes are freed by [`Volumes::sweep`].
    pub(super) fn remove_volume(&self, volume: &Volume) -> Result<()> {
        let name = &volume.name;
        let _lock = self.locks.lock(name);
        let failed = |error| prefixed("remove", name, error);
        let driver = self.driver_of(volume).map_err(failed)?;
        self.refuse_used(name)?;
        // Memory that a crash left mounted goes with the volume; and what the driver refuses to remove must be
        // refused while there is still a row.
        driver.unmount(volume).map_err(failed)?;
        let removal = driver.begin_removal(name).map_err(failed)?;
        match self.catalog.remove(name) {
            Err(error) if error.class() == Class::Busy => {
                self.refuse_used(name)?;
                return Err(failed(error));
            }
            other => other.map_err(failed)?,
        }
        removal.commit();
        driver.remove(name).map_err(failed)
    }

    fn refuse_used(&self, name: &VolumeName) -> Result<()> {
        let users = self.catalog.uses(name)?;
        if users.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = users.iter().map(fs_base::ContainerId::as_str).collect();
        Err(Error::busy(format!("remove {name}: volume is in use - [{}]", ids.join(", ")))
            .with_hint("remove the containers that use it first"))
    }

    /// Frees the bytes of what was removed. What can't be freed now is tried again at the next sweep.
    pub fn sweep(&self) {
        if let Err(error) = self.trash.sweep() {
            tracing::warn!(%error, "the trash could not be emptied");
        }
    }
}
