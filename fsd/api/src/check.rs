//! Verifying the store.

use serde::{Deserialize, Serialize};

/// The query of `POST /fsd/v1/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckQuery {
    /// Also read every byte and compare it with its digest.
    #[serde(default)]
    pub deep: bool,
}

/// One line of the answer to a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckEvent {
    /// How far it is.
    Progress(CheckProgress),
    /// Something is wrong.
    Finding(Finding),
    /// The end: always sent, and nothing after it.
    Summary(CheckSummary),
}

/// How far a check is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProgress {
    /// What is being looked at: `layer sha256:…`.
    pub object: String,
    /// Work done, in the unit of `total` (bytes when deep, else objects).
    pub done: u64,
    /// All of the work.
    pub total: u64,
}

/// Something wrong in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is wrong with: `layer sha256:…`, `image debian:12`, `container c1`, `volume v`.
    pub object: String,
    /// One word for the kind of trouble: `missing`, `corrupt`, `orphan`, `mismatch`.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What the person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The end of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSummary {
    /// Layers looked at.
    pub layers: u64,
    /// Images looked at.
    pub images: u64,
    /// Containers looked at.
    pub containers: u64,
    /// Volumes looked at.
    pub volumes: u64,
    /// Bytes read and verified.
    pub bytes: u64,
    /// Number of findings sent; 0 means clean.
    pub findings: u64,
}
