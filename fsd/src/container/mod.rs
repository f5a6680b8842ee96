//! Containers: the service behind the API's handlers.
//!
//! What a container is and how it is are in the database ([`ContainerRow`]). What only this process knows is in
//! [`Containers`]: who waits, who attached before the start, which layers are held mounted. The processes belong to
//! the container's shim, which outlives this process; [`recover()`] finds it again.
//!
//! ```text
//! create ──► created ──start──► running ──ended──► exited ──start──► running …
//!               └────────────── remove ───────────────┘
//! ```
//!
//! Every change of that kind holds the container's own lock (`Live::alone`), so that two requests never act on one
//! container at the same time; none holds it while it waits for the container to end.

mod apparmor;
pub mod attach;
pub mod commit;
pub mod copy;
pub mod create;
mod devices;
pub mod diff;
mod discarded;
pub mod exec;
pub mod files;
pub mod filter;
pub mod follow;
pub mod group;
mod health;
mod ipc;
mod join;
pub mod journal;
mod live;
mod log_attributes;
mod log_tag;
pub mod logs;
pub mod make;
mod names;
mod oom;
pub mod pause;
mod recover;
mod refuse;
mod remove;
pub mod resources;
mod restart;
mod row;
mod run;
pub mod runtimes;
pub mod selinux;
pub mod show;
pub mod signal;
pub mod size;
pub mod stats;
pub mod stop;
mod to_engine;
pub mod top;
mod types;
pub mod update;
pub mod users;

pub use live::{Containers, End};
pub use logs::log_options;
pub use recover::recover;
pub use remove::{Options as RemoveOptions, prune, remove, rename};
pub use row::{ContainerRow, Definition, State, Status};
pub use run::start;
