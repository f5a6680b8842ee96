//! How a chain of layers becomes a tree that the kernel serves.
//!
//! A [`Driver`] turns one layer into a detached, read-only mount; the [`Mounter`] stacks such mounts with
//! overlayfs. Nothing a driver makes is in a mount table: a mount lives as long as somebody holds its descriptor
//! or runs on it, so a daemon that is killed leaves nothing to clean.
//!
//! Who calls what: `probe` once at start, in the store that will be used, before anything else; `mount_layer` for
//! each layer that is not mounted yet, from any thread, also at the same time for the same layer. A driver keeps
//! no state of its own: the mounter shares what it returns. Whoever owns the store removes no layer that is in use:
//! EROFS would serve it on, unpacked directories would not.
//!
//! The drivers are named in `registry.rs` and nowhere else, best first.

mod erofs;
pub mod fuse;
mod layers;
mod mounter;
mod namespace;
mod overlay;
mod probe;
mod registry;
mod stack;

use std::sync::Arc;

use fs_base::sys::mount::Mount;
use fs_base::{Probe, Result};

use crate::store::{Layer, Store};

pub use layers::Lease;
pub use mounter::{Choice, Mounter};
pub use probe::{Part, Probed, Verdict};
pub use registry::names;

/// Serves layers to the kernel.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Its name in configuration and `info`.
    fn name(&self) -> &'static str;

    /// Whether this host can do it in this store, found by doing it.
    fn probe(&self, store: &Store) -> Probe;

    /// A detached, read-only mount of one layer, whiteouts as overlayfs wants them.
    fn mount_layer(&self, store: &Store, layer: &Arc<Layer>) -> Result<Mount>;
}
