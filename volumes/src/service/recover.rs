//! After a crash, and on request: do rows and bytes agree?

use std::collections::HashSet;

use fs_base::{Class, ContainerId, Result, VolumeName};

use super::Volumes;
use crate::driver::Found;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The volume.
    pub volume: VolumeName,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Volumes {
    /// Puts right what a crash left: unfinished fillings are finished, bytes without a row thrown away if they
    /// are nobody's data, uses of
    /// containers that never came to be forgotten, mounts that no running container uses taken away. Called once
    /// at start, before anybody else. One failure keeps nothing else from being tried; the first is returned.
    pub fn recover(&self, exists: &dyn Fn(&ContainerId) -> bool, running: &dyn Fn(&ContainerId) -> bool) -> Result<()> {
        let volumes = self.catalog.list()?;
        let mut first = self.forget_lost_containers(exists);
        let known: HashSet<&VolumeName> = volumes.iter().map(|volume| &volume.name).collect();
        for driver in self.drivers.all() {
            for found in driver.list()?.iter().filter(|found| !known.contains(&found.name)) {
                if found.rubbish {
                    tracing::info!(volume = %found.name, "removing a volume that was never finished, or half removed");
                    first = first.and(driver.remove(&found.name));
                } else {
                    let place = driver.mountpoint(&found.name);
                    tracing::warn!(place = %place.display(), "data that belongs to no known volume is left alone");
                }
            }
        }
        for volume in &volumes {
            first = first.and(self.release_volume(&volume.name, running));
            let places = self.driver_of(volume).map(|driver| driver.fill().map(|fill| fill.places(volume)));
            match places {
                Ok(Some(Ok(Some(places)))) if places.data.is_dir() => {
                    first = first.and(crate::fill::recover(&places, &self.trash));
                }
                Ok(None | Some(Ok(_))) => {}
                Ok(Some(Err(error))) | Err(error) => first = first.and(Err(error)),
            }
        }
        self.sweep();
        first
    }

    fn forget_lost_containers(&self, exists: &dyn Fn(&ContainerId) -> bool) -> Result<()> {
        let mut lost: Vec<_> = self.catalog.all_uses()?.into_iter().map(|(_, container)| container).collect();
        lost.sort();
        lost.dedup();
        lost.retain(|container| !exists(container));
        lost.iter().try_for_each(|container| self.catalog.remove_uses(container).map(drop))
    }

    /// Compares rows and bytes, and changes nothing. Volumes that are being made or removed meanwhile may show up.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let volumes = self.catalog.list()?;
        for volume in &volumes {
            // What driver options name is outside of the store and may be absent while nobody uses it.
            let mounted = match self.driver_of(volume) {
                Ok(driver) if !volume.has_options() => driver.mount(volume).map(drop),
                other => other.map(drop),
            };
            if let Err(error) = mounted {
                findings.push(Finding {
                    volume: volume.name.clone(),
                    message: error.to_string(),
                    remedy: match error.class() {
                        Class::Corrupt => format!("bring its data back from a backup, or: volume rm {}", volume.name),
                        _ => error.hint().unwrap_or("look into it by hand").to_owned(),
                    },
                });
            }
        }
        let known: HashSet<&VolumeName> = volumes.iter().map(|volume| &volume.name).collect();
        for driver in self.drivers.all() {
            for Found { name, rubbish } in driver.list()?.into_iter().filter(|found| !known.contains(&found.name)) {
                let place = driver.mountpoint(&name);
                findings.push(Finding {
                    message: format!("its data is in {}, but no volume of that name is known", place.display()),
                    remedy: if rubbish {
                        "restart the daemon: it clears away what was never finished".to_owned()
                    } else {
                        "move it out of the store, then copy what you need of it into a new volume".to_owned()
                    },
                    volume: name,
                });
            }
        }
        Ok(findings)
    }
}
