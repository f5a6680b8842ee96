//! What a host can do, found by doing it.

use serde::{Deserialize, Serialize};

/// The answer of a probe. Never guessed from a version number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "why", rename_all = "lowercase")]
pub enum Probe {
    /// It was done, and it worked.
    Supported,
    /// The host refused, with the reason.
    Unsupported(String),
    /// The probe itself failed, so nothing is known.
    Unknown(String),
}

impl Probe {
    /// Whether the host can do it for sure.
    pub fn is_supported(&self) -> bool {
        matches!(self, Probe::Supported)
    }

    /// Why not, in words; `None` if supported.
    pub fn why(&self) -> Option<&str> {
        match self {
            Probe::Supported => None,
            Probe::Unsupported(why) | Probe::Unknown(why) => Some(why),
        }
    }
}
