//! How a chain of layers becomes a tree that the kernel serves.
//!
//! # The parts
//!
//! A [`Driver`] turns one layer into a detached, read-only mount ([`Layered`]), or a whole chain into a tree ([`Whole`]).
//! The [`Mounter`] owns the one driver that is in use. Layers it shares, and stacks with overlayfs: read-only to look at
//! ([`Mounter::image`]), with a writable directory for a container ([`Mounter::container`]). Drivers differ only in how
//! the kernel gets at a layer; the writable directory is overlayfs's own format with every one of them, so a container
//! that was made on one driver opens with another, and one diff, one commit and one copy serve all. A driver stores
//! nothing that the store's `data` and `index` don't already say: it can be changed with a restart.
//!
//! The drivers are named in `registry.rs` and nowhere else, best first:
//!
//! | name | a layer is | from |
//! |---|---|---|
//! | `erofs` | its index and its tar, given to EROFS as files | Linux 6.12, not on tmpfs or overlayfs |
//! | `erofs-loop` | the same through two loop devices | Linux 6.4, and kernels that have its block sizes backported |
//! | `overlay` | a directory to which it was unpacked at its first mount | any Linux with overlayfs |
//! | `fuse` | a part of the tree that a process serves, read-only or writable | Linux 5.12 with `/dev/fuse` |
//!
//! overlayfs is told of its layers in one of three ways, `stack.rs`: by descriptor (Linux 6.15), one by one in a mount
//! namespace of our own (6.7), or in one string of options there (any).
//!
//! # Who calls what, and when
//!
//! 1. At start the mounter calls [`Driver::probe`] of one driver after the other, once, from one thread, in the store
//!    that will be used and before anything else looks at it. The first that answers `Supported` is taken and the rest
//!    are not tried; a driver that the configuration names is the only one tried. Then the ways of stacking are tried
//!    alike. If none of them works here, the first driver that serves whole trees, and works, is taken instead. What came
//!    of each is kept as [`Probed`] and shown by `info`. No answer comes from a version number: a probe mounts a layer of
//!    one file and reads it.
//! 2. For a chain, [`Layered::mount_layer`] is called for each layer that is not mounted yet, from any thread. The
//!    mounter sees to it that no two calls for one layer run at once, and that a layer is mounted once for all that
//!    stand on it: two mounts would keep its files in memory twice.
//! 3. Where a chain is deeper than overlayfs takes, [`Merging::mount_merged`] is called for the whole of it instead, if
//!    the driver has that; else the chain is refused by name. The result is shared by the chain's name.
//! 4. A driver that serves whole trees is asked for each tree anew, [`Whole::mount_tree`]; nothing is shared or stacked.
//!    For a container with a user namespace it maps owners itself, where layers are mapped by the kernel.
//! 5. Nothing is called to unmount. A mount is a descriptor, in no mount table: it lives as long as somebody holds it
//!    or a tree stands on it, so a daemon that is killed leaves nothing to clean.
//!
//! # What a driver promises
//!
//! - The mount is read-only and detached, and shows exactly the layer: every name, mode, owner, time, size, byte, device
//!   number and extended attribute that [`crate::tree::Tree`] shows of it, whiteouts as character device 0:0 and
//!   opaque directories by their `trusted.overlay.opaque`, as overlayfs wants them. A whole tree is that of the chain
//!   instead, and is changed as overlayfs changes it.
//! - It leaves nothing behind when it fails: no file in the store's `tmp/`, no loop device, no mount.
//! - What it writes into the store (`overlay` does) is published whole, counted by [`Store::usage`], goes with the layer,
//!   and is made once even if two threads or two daemons' lives want it.
//! - An error names what the kernel refused. The caller adds the layer's name.
//! - It keeps no state from one call to the next.
//!
//! # What it may rely on
//!
//! - The layer's files are whole and are never written again. Whoever owns the store removes no layer that is in use;
//!   what happens if somebody does is told by [`Capabilities::outlives_removal`].
//! - The store's root is one directory on one file system, and this process is alone on it.
//!
//! # An example
//!
//! `docker run` of an image of three layers, nothing mounted: the mounter calls `mount_layer` three times, gives the
//! three descriptors and the container's `upper/` and `work/` to overlayfs, and returns the descriptor of that mount,
//! which goes to the container's shim. A second container of the image costs one overlay: the three mounts are there.
//! Both see the same pages of memory, because overlayfs reads a file that was not changed through the layer's inode.
//!
//! # Why FUSE serves whole trees
//!
//! It is the last rung, for a kernel without overlayfs, so it can't count on overlayfs to stack what it mounts. Layers
//! under overlayfs would besides be a process each. A session holds nothing of the daemon, and ends when the kernel lets
//! go of its tree: it needs to be found by nobody, and outlives the daemon as a kernel mount does. What it costs is that
//! containers don't share pages. A daemon without privilege can't make a mount that has no place: it mounts images where
//! a person wants them, through `fusermount3`, and this driver's probe says so.
//!
//! The conformance suite, `tests/drivers.rs`, holds every driver in the registry to this on ext4, xfs, btrfs and tmpfs.

mod erofs;
pub mod fuse;
mod in_use;
mod layers;
mod mounter;
mod namespace;
mod overlay;
mod probe;
mod registry;
mod session;
mod stack;

use std::sync::Arc;

use fs_base::sys::ids::IdMap;
use fs_base::sys::mount::Mount;
use fs_base::{Probe, Result};

use crate::overlayfs::Namespace;
use crate::store::{Layer, Store};

pub use in_use::upper_in_use;
pub use layers::Lease;
pub use mounter::{Choice, Mounter};
pub use probe::{Part, Probed, Verdict};
pub use registry::names;
pub use stack::{Owners, Writable};

/// Serves layers to the kernel. The module's page is its contract.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Its name in configuration and `info`.
    fn name(&self) -> &'static str;

    /// What it can do that others can't.
    fn capabilities(&self) -> Capabilities;

    /// Whether this host can do it in this store, found by doing it.
    fn probe(&self, store: &Store) -> Probe;

    /// What it serves.
    fn serves(&self) -> Serves<'_>;
}

/// What a driver serves.
#[derive(Debug)]
pub enum Serves<'a> {
    /// Layers, for overlayfs to stack.
    Layers(&'a dyn Layered),
    /// Trees, read-only and writable.
    Trees(&'a dyn Whole),
}

/// Serves single layers.
pub trait Layered: std::fmt::Debug {
    /// A detached, read-only mount of one layer, whiteouts as overlayfs wants them.
    fn mount_layer(&self, store: &Store, layer: &Arc<Layer>) -> Result<Mount>;

    /// What it does for chains deeper than overlayfs takes, if it can.
    fn merging(&self) -> Option<&dyn Merging> {
        None
    }
}

/// Serves trees without overlayfs.
pub trait Whole: std::fmt::Debug {
    /// A detached mount of the tree that `chain`, bottom first, gives; with `writable` a container's, which takes changes
    /// in overlayfs's format, else one to look at: read-only, without devices and set-user-id. With `owners` it shows and
    /// takes owners, also those that ACLs and capabilities name, as a user namespace with these ids has them outside; on the
    /// disk they are those inside.
    fn mount_tree(
        &self,
        store: &Store,
        chain: &[Arc<Layer>],
        writable: Option<Writable<'_>>,
        owners: Option<&IdMap>,
    ) -> Result<Mount>;
}

/// Serves a whole chain as one layer.
pub trait Merging {
    /// A detached, read-only mount of the tree that `chain`, bottom first, gives: no whiteouts, no opaque directories.
    fn mount_merged(&self, store: &Store, chain: &[Arc<Layer>]) -> Result<Mount>;
}

/// Where the writable layers that this process makes keep overlayfs's marks. A process that keeps them elsewhere can't
/// read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// In `trusted.` attributes: a privileged process.
    Trusted,
    /// In `user.` attributes.
    User,
}

impl Upper {
    /// Of this process.
    pub fn of_process() -> Upper {
        match Namespace::of_process() {
            Namespace::Trusted => Upper::Trusted,
            Namespace::User => Upper::User,
        }
    }
}

/// What drivers differ in, for who asks rather than knows their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A mounted layer is served on after it was removed from the store.
    pub outlives_removal: bool,
    /// Takes no room in the store beside the layer itself.
    pub in_place: bool,
    /// Serves chains deeper than overlayfs takes.
    pub merges: bool,
    /// What it mounts is stacked by overlayfs, in one of the ways that there are.
    pub stacks: bool,
}
