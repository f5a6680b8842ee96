//! The daemon's modules under the names that they have there.

#[path = "../../../src/image/config.rs"]
pub mod config;
#[path = "../../../src/image/load.rs"]
pub mod load;
