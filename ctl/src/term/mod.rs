//! The person's terminal: raw mode, keys that detach, size, signals, and the two-way stream to a container.

pub mod keys;
pub mod raw;
pub mod session;
pub mod signals;
