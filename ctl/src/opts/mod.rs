//! Values of flags, read into what the API takes.

pub mod env;
pub mod health;
pub mod limits;
pub mod mounts;
pub mod network;
pub mod ports;
pub mod values;
