//! What the daemon is and what its host can do.

use serde::{Deserialize, Serialize};

/// The answer of `GET /fsd/v1/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The daemon's version.
    pub version: String,
    /// The mount driver of this store.
    pub driver: String,
    /// The store's root.
    pub root: String,
    /// Where sockets and mounts live.
    pub run: String,
    /// The daemon's process.
    pub pid: u32,
    /// What this host can do, found out by doing it.
    pub probes: Vec<ProbeInfo>,
}

/// One thing that a host may or may not be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// What was tried.
    pub name: String,
    /// What came of it.
    pub answer: ProbeAnswer,
    /// Why not, or what went wrong; empty if supported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeAnswer {
    /// It works here.
    Supported,
    /// It doesn't work here.
    Unsupported,
    /// The probe itself failed.
    Unknown,
}
