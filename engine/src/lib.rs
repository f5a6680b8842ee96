//! Containers: from a plain description to a running process.
//!
//! Words: a [`config::Container`] says what is to run; a **spec** is its OCI runtime spec.

pub mod capability;
pub mod config;
pub mod seccomp;
pub mod user;
