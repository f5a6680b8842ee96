//! The verbs. A file holds those that belong together; each is its flags and one function that asks the daemon.

pub mod about;
pub mod changes;
pub mod commit;
pub mod cp;
pub mod create;
pub mod df;
pub mod duplicates;
pub mod flags;
mod fuse;
pub mod images;
pub mod inspect;
pub mod lifecycle;
pub mod look;
pub mod manual;
pub mod mounts;
pub mod network;
pub mod ps;
pub mod pull;
pub mod run;
pub mod stats;
pub mod streams;
pub mod system;
pub mod update;
pub mod volume;
