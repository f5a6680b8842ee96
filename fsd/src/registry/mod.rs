//! Images from registries, by the OCI distribution protocol.

mod again;
mod auth;
mod blob;
mod client;
mod pull;

pub use again::fetch_again;
pub use auth::{Credentials, Logins};
pub use client::Settings;
pub use pull::{Request, pull};
