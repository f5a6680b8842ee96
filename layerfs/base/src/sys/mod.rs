//! System calls made safe, grouped by what they are for.

pub mod bpf;
pub mod copy;
pub mod fuse;
pub mod ids;
pub mod label;
pub mod limits;
pub mod loop_device;
pub mod map;
pub mod memory;
pub mod mount;
pub mod mount_id;
pub mod pid;
pub mod place;
pub mod priority;
pub mod process;
pub mod remove;
pub mod root;
pub mod seccomp;
pub mod signal;
pub mod user;
pub mod xattr;
