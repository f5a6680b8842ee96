//! The shim: one small process per container, which makes it, holds its streams and log, serves attach and exec on a
//! socket of its own, and records how it ended. It has one thread and no runtime, and it survives the daemon.
//!
//! [`client::launch`] starts one; [`client::Client`] talks to it, from whichever daemon there is. [`proto`] is what
//! they say. In its folder `DIR` (`<run>/containers/<id>`) are `config.json` (the spec), `shim.json`
//! ([`proto::Options`]), `shim.sock`, `shim.log` and, at its end, `exit.json` ([`proto::Exit`]): not synced, because
//! the folder does not survive a reboot any more than the container does; the daemon makes the record durable.
//!
//! ```text
//! launch ──► created ──start──► running ──► exited: outputs drained, exit.json, waiters told, cgroup removed
//!                └───── kill ─────────────────┘
//! ```

pub mod client;
pub mod proto;
pub mod server;

pub use client::{Client, Launch, Launched, forget, launch};
pub use proto::{Exit, LogOptions, Options, State, Status};
