//! The one place that names the drivers.

use std::path::Path;

use fs_base::{Error, Result};

use super::Driver;
use super::local::Local;

/// The drivers of this daemon.
pub struct Drivers {
    local: Local,
}

impl Drivers {
    /// All drivers, over the store at `root`.
    pub fn open(root: &Path) -> Result<Drivers> {
        Ok(Drivers { local: Local::open(root)? })
    }

    /// The driver of this name, or Docker's refusal.
    pub fn get(&self, name: &str) -> Result<&dyn Driver> {
        self.all().find(|driver| driver.name() == name).ok_or_else(|| {
            Error::not_found(format!("error looking up volume plugin {name}: plugin \"{name}\" not found"))
                .with_hint("`local` is the only volume driver of this daemon")
        })
    }

    /// Every driver.
    pub fn all(&self) -> impl Iterator<Item = &dyn Driver> {
        std::iter::once(&self.local as &dyn Driver)
    }
}
