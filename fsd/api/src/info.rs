//! What the daemon is and what its host can do.

use serde::{Deserialize, Serialize};

/// The answer of `GET /fsd/v1/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The daemon's version.
    pub version: String,
    /// The storage driver in use; `none` if none works here.
    pub driver: String,
    /// The store's root.
    pub root: String,
    /// Where sockets and mounts live.
    pub run: String,
    /// The daemon's process.
    pub pid: u32,
    /// Layers that are mounted now, each once for all images and containers that stand on it.
    #[serde(default)]
    pub layers_mounted: u64,
    /// What this host can do, found out by doing it.
    pub probes: Vec<ProbeInfo>,
}

/// One thing that a host may or may not be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// What was or could be tried: `driver NAME` or `stacking NAME`.
    pub name: String,
    /// What came of it.
    pub answer: ProbeAnswer,
    /// Why it is not in use; empty if it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeAnswer {
    /// It works here, and is in use.
    Supported,
    /// It doesn't work here.
    Unsupported,
    /// The probe itself failed.
    Unknown,
    /// It was not tried: another is in use.
    Passed,
}
