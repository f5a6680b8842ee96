//! The floor that the other crates stand on: system calls made safe, bytes made durable, names made checked.
//!
//! Words: a [`Digest`] names content, a [`LayerId`] is a layer's diffID, a [`MountSpec`] says what is to be
//! mounted where without saying how, a [`Class`] says what kind of failure an [`Error`] is.
//!
//! Start from [`Error`], [`Digest`], [`durable`], [`sys::mount`] and [`sys::root::Root`].
//!
//! ```
//! use fs_base::{Class, Digest};
//! let digest: Digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse().unwrap();
//! assert_eq!(digest.hex().len(), 64);
//! assert_eq!("sha256:xyz".parse::<Digest>().unwrap_err().class(), Class::Invalid);
//! ```
//!
//! This is the only crate with `unsafe` in it, and its [`durable`] module the only place that calls fsync, rename or link.

#![allow(unsafe_code)] // this crate is where it lives

pub mod durable;
pub mod error;
pub mod id;
pub mod lock;
pub mod mount_spec;
pub mod probe;
pub mod sys;
pub mod tar;
pub mod trash;
pub mod units;

pub use error::{Class, Error, IoContext, Result};
pub use id::{ContainerId, Digest, LayerId, VolumeName};
pub use mount_spec::{MountKind, MountSpec, Propagation};
pub use probe::Probe;
