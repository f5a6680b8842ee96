//! Images from registries, by the OCI distribution protocol.

mod auth;
mod blob;
mod client;
mod pull;

pub use auth::Credentials;
pub use client::Settings;
pub use pull::{Request, pull};
