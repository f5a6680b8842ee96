//! Verifying the store.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The query of `POST /fsd/v1/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckQuery {
    /// Also read every byte and compare it with its digest. `deep` is this flag's older name.
    #[serde(default, alias = "deep")]
    pub data: bool,
    /// Put right what can be put right without taking anything from an image or container.
    #[serde(default)]
    pub repair: bool,
    /// With `repair`: also remove what nothing can put right, which [`Finding::only_by_force`] names.
    #[serde(default)]
    pub force: bool,
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
    /// Work done, in the unit of `total` (bytes if data is read, else objects).
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
    /// What was done about it, if a repair was asked for and there was something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<String>,
    /// What a repair by force would remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_by_force: Option<String>,
}

impl fmt::Display for Finding {
    /// As people read it: a line, and below it what was or can be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.kind, self.message)?;
        if let Some(repaired) = &self.repaired {
            return write!(f, "\n  repaired: {repaired}");
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        if let Some(what) = &self.only_by_force {
            write!(f, "\n  --repair --force: {what}")?;
        }
        Ok(())
    }
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
    /// How many of them were repaired.
    #[serde(default)]
    pub repaired: u64,
    /// How many of them only force would put an end to.
    #[serde(default)]
    pub only_by_force: u64,
}

impl CheckSummary {
    /// Whether nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.findings == self.repaired
    }
}

impl fmt::Display for CheckSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Checked {} images, {} layers, {} containers, {} volumes: ",
            self.images, self.layers, self.containers, self.volumes
        )?;
        match self.findings {
            0 => f.write_str("clean")?,
            1 => f.write_str("1 finding")?,
            more => write!(f, "{more} findings")?,
        }
        if self.repaired > 0 {
            write!(f, ", {} repaired", self.repaired)?;
        }
        Ok(())
    }
}
