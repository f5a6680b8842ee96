//! The contract of a volume driver.
//!
//! A driver keeps the bytes of volumes; the [`crate::Catalog`] keeps which volumes there are. [`crate::Volumes`]
//! is a driver's only caller, and it keeps to this order:
//!
//! 1. [`Driver::check_options`] when a volume is asked for. It says no to what [`Driver::mount`] could never do,
//!    by the option's name, and touches nothing.
//! 2. [`Driver::create`], then the row. The name is new to the catalog; a folder that a crash left under that
//!    name has been cleared away at start. When `create` returns, the volume is durable.
//! 3. [`Driver::mount`], before each start of a container, and again for the next container while the first one
//!    runs: it makes the data reachable and says under which host path. It must be idempotent.
//! 4. [`Driver::unmount`], when the last running container that uses the volume has ended. Idempotent too: a
//!    volume that is not mounted is no error. Nothing counts mounts: who runs is known from the containers, so
//!    there is no count that a `kill -9` could leave wrong.
//! 5. [`Driver::begin_removal`], which refuses where removal would reach into a mount, and notes the intent; then
//!    the row goes; then [`Driver::remove`]. From then on no caller knows the name, and the bytes are out of sight.
//!    If the row has to stay, the [`Removal`] is dropped and the note with it.
//! 6. [`Driver::list`], after a crash. What has no row is thrown away only if it is [`Found::rubbish`]: noted for
//!    removal, or never filled. Anything else may be somebody's data, from a backup say, and is left and reported.
//!
//! Calls for different volumes come from several threads at once; calls for one volume come one at a time. No
//! call may wait for a network without a deadline of its own. A driver's own error is turned into the common
//! one at this border, without the words `create NAME:` or `remove NAME:` in front, which the caller adds.
//!
//! Example: `docker run -v data:/x`, twice, then `volume rm data`:
//! `check_options, create, mount, mount, unmount, unmount, begin_removal, remove`.
//!
//! What only some drivers can do is a trait of its own, found through a method that answers `None` by default.

pub mod local;
mod options;
pub mod registry;

use std::collections::BTreeMap;
use std::path::PathBuf;

use fs_base::{Result, VolumeName};

use crate::Volume;
use crate::usage::Usage;

/// Driver options: key to value.
pub type Options = BTreeMap<String, String>;

/// Keeps the bytes of volumes. The module says who calls what when.
pub trait Driver: Send + Sync {
    /// The driver's name, as volumes carry it.
    fn name(&self) -> &str;

    /// How far its volumes reach: `local` to this machine, or `global`.
    fn scope(&self) -> &'static str;

    /// Refuses, by name, an option that a volume can't have.
    fn check_options(&self, options: &Options) -> Result<()>;

    /// Makes the volume's place, durably.
    fn create(&self, name: &VolumeName) -> Result<()>;

    /// Where `inspect` says that the data is. Need not exist before [`Driver::mount`].
    fn mountpoint(&self, name: &VolumeName) -> PathBuf;

    /// Makes the data reachable.
    fn mount(&self, volume: &Volume) -> Result<Mounted>;

    /// Undoes [`Driver::mount`].
    fn unmount(&self, volume: &Volume) -> Result<()>;

    /// Refuses what can't be removed, else notes that the volume is about to be.
    fn begin_removal(&self, name: &VolumeName) -> Result<Removal>;

    /// Takes the bytes away. No error if there are none.
    fn remove(&self, name: &VolumeName) -> Result<()>;

    /// What has bytes here, by name, for recovery and check.
    fn list(&self) -> Result<Vec<Found>>;

    /// For drivers that can say what a volume takes.
    fn measure(&self) -> Option<&dyn Measure> {
        None
    }

    /// For drivers that can fill a new volume in one atomic step.
    fn fill(&self) -> Option<&dyn Fill> {
        None
    }
}

/// What [`Driver::mount`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Absolute host path of the data.
    pub source: PathBuf,
    /// The volume's own options allow no writing.
    pub read_only: bool,
}

/// Bytes under a volume's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub name: VolumeName,
    /// Nothing is lost if it goes, should it have no row: it was never filled, or is half removed.
    pub rubbish: bool,
}

/// A volume that is about to be removed. Dropped without [`Removal::commit`], it is as if nothing had been said.
#[must_use = "dropped, it takes the intent back"]
#[derive(Debug)]
pub struct Removal {
    note: Option<PathBuf>,
}

impl Removal {
    /// With the file that notes the intent, if the driver keeps one.
    pub fn noted(note: Option<PathBuf>) -> Removal {
        Removal { note }
    }

    /// The row is gone: there is no way back.
    pub fn commit(mut self) {
        self.note = None;
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(note) = &self.note {
            let _ = std::fs::remove_file(note);
        }
    }
}

/// A driver that knows the size of its volumes.
pub trait Measure {
    /// What the volume takes on the disk.
    fn usage(&self, volume: &Volume) -> Result<Usage>;
}

/// A driver whose volumes can be filled in one step, so that a volume is seen empty or full: see [`crate::fill`].
pub trait Fill {
    /// Where the volume's data is and where its contents can be prepared; `None` if what is filled in would not
    /// last (memory).
    fn places(&self, volume: &Volume) -> Result<Option<FillPlaces>>;
}

/// Two directories of one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillPlaces {
    /// The volume's data. Exists.
    pub data: PathBuf,
    /// Does not exist, unless a crash left it; nobody else makes anything of this name.
    pub staging: PathBuf,
}
