//! Volumes, binds and tmpfs mounts of containers: from what a person writes to what is to be mounted.
//!
//! Words: a [`Request`](parse::Request) is one mount as asked for (`-v`, `--mount`, `--tmpfs`, an image's
//! `VOLUME`); a [`Volume`] is named data that outlives containers; a [`Driver`](driver::Driver) keeps its bytes,
//! a [`Catalog`] its row; a [`MountPoint`] is a container's mount from its creation to its removal; a
//! [`MountSpec`](fs_base::MountSpec) is what is mounted at one start. An anonymous volume has a name that nobody
//! chose. A container *uses* its volumes whether it runs or not.
//!
//! The way of the data, with the call for each step: [`parse::merge()`] → [`Volumes::attach`] (the container is
//! made) → [`Volumes::fill`] (an empty volume gets what the image has there) → [`Volumes::prepare`] (it starts; with
//! SELinux, [`Volumes::relabel`] comes next) → [`Volumes::release`] (it ended) → [`Volumes::detach`] (it is removed).
//!
//! ```
//! use volumes::parse::{self, Kind};
//! let request = parse::bind("data:/var/lib/data:ro", None)?;
//! assert!(request.read_only);
//! assert!(matches!(request.kind, Kind::Volume(volume) if volume.name.as_deref() == Some("data")));
//! assert_eq!(parse::bind("/x:/y:zz", None).unwrap_err().to_string(), "invalid mode: zz");
//! # Ok::<(), fs_base::Error>(())
//! ```
//!
//! What is not here on purpose: layers (what fills a volume is the caller's), containers beyond their ids, HTTP,
//! any database. Nothing is followed into a volume by path: what a container wrote there is never resolved here,
//! only counted, and that by descriptor.

pub mod catalog;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod driver;
pub mod fill;
pub mod filter;
mod locks;
pub mod mount_point;
pub mod parse;
pub mod relabel;
pub mod service;
pub mod usage;
pub mod volume;

pub use catalog::Catalog;
pub use fill::Filling;
pub use filter::{Filters, ListFilter, PruneFilter};
pub use mount_point::{MountPoint, PointKind, ShownMount};
pub use service::{Attached, Finding, Pruned, Volumes};
pub use usage::Usage;
pub use volume::{NewVolume, Volume};
