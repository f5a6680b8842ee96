//! Where the rows are kept: the contract that the daemon's database fulfils.

use fs_base::{ContainerId, Result, VolumeName};

use crate::Volume;

/// The truth about which volumes there are and who uses them.
///
/// [`crate::Volumes`] is the only caller. It writes bytes first and the row second, and takes the row away
/// before the bytes; so a row always has its bytes, and bytes without a row are rubbish that
/// [`crate::Volumes::recover`] removes.
///
/// Each call is one transaction, durable when it returns. Calls come from several threads at once. The suite in
/// `volumes::conformance` (feature `conformance`) says the same in code; every implementation runs it.
pub trait Catalog: Send + Sync {
    /// Adds a row. [`fs_base::Class::Conflict`] if the name is taken.
    fn insert(&self, volume: &Volume) -> Result<()>;

    /// The row of this name, if there is one.
    fn get(&self, name: &VolumeName) -> Result<Option<Volume>>;

    /// All rows, sorted by name.
    fn list(&self) -> Result<Vec<Volume>>;

    /// Takes the row away. [`fs_base::Class::Busy`], with nothing changed, if anybody uses the volume;
    /// [`fs_base::Class::NotFound`] if there is no row. Check and removal are one step.
    fn remove(&self, name: &VolumeName) -> Result<()>;

    /// Notes that a container uses the volume; once is enough, twice is no error.
    /// [`fs_base::Class::NotFound`] if there is no such volume. The container need not have a row yet.
    fn add_use(&self, name: &VolumeName, container: &ContainerId) -> Result<()>;

    /// Forgets all uses by the container, and returns the volumes it used. None is no error.
    fn remove_uses(&self, container: &ContainerId) -> Result<Vec<VolumeName>>;

    /// Who uses the volume, sorted.
    fn uses(&self, name: &VolumeName) -> Result<Vec<ContainerId>>;

    /// All uses of all volumes, in one look.
    fn all_uses(&self) -> Result<Vec<(VolumeName, ContainerId)>>;
}
