//! Measurements beside docker.io, podman and skopeo: what the programs in `src/bin` share.
//!
//! A program starts what it measures on roots of its own ([`daemon`], [`podman`]), takes turns between the peers so
//! that other work on the machine hits all alike ([`measure`]), and says what came out, with the limits that we have
//! set ourselves ([`report`]). A peer that this host lacks is skipped loudly.

pub mod daemon;
pub mod measure;
pub mod podman;
pub mod report;
