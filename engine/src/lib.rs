//! Containers: from a plain description to a running process.
//!
//! The way of a container: a [`config::Container`] says what is to run; [`spec::build`] makes its OCI runtime **spec**;
//! [`shim::launch`] starts its **shim**, which makes it with the built-in [`runtime`] in its own [`cgroup`] and writes
//! its [`log`]; a [`shim::Client`] starts it, attaches to it, runs further processes in it and learns how it ended.
//!
//! This crate knows no layers and no HTTP: a container's tree comes to it as a detached mount.

pub mod apparmor;
pub mod capability;
pub mod cgroup;
pub mod config;
mod failure;
pub mod log;
pub mod network;
pub mod runtime;
pub mod seccomp;
pub mod selinux;
pub mod shim;
pub mod spec;
pub mod user;
