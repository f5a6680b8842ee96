//! A container's mount as its row keeps it: from creation to removal of the container.

use std::path::PathBuf;

use fs_base::VolumeName;
use serde::{Deserialize, Serialize};

use crate::parse::{BindPropagation, Kind, Request, Tmpfs, VolumeRequest};

/// One mount of a container that exists: its volume is made and counted as used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Absolute, clean path in the container.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: PointKind,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// As written after the second colon.
    pub mode: String,
}

/// The kinds of [`MountPoint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum PointKind {
    /// A host path.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// How mounts cross.
        propagation: BindPropagation,
        /// A missing source is made at each start.
        create_source: bool,
        /// Mounts below come along.
        recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: VolumeName,
        /// Its driver.
        driver: String,
        /// Where its driver says that the data is.
        source: PathBuf,
        /// To be filled from the image while it is empty.
        copy: bool,
        /// Made for this container without a name: `rm -v` and `--rm` remove it.
        anonymous: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// Its options.
        options: Tmpfs,
        /// From `--tmpfs`: shown under `HostConfig.Tmpfs`, not among the mounts.
        hidden: bool,
    },
}

/// A mount as `docker inspect` and `docker ps` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ShownMount {
    /// `bind`, `volume` or `tmpfs`.
    pub r#type: &'static str,
    /// The volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// Host path; empty for memory.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: PathBuf,
    /// The volume's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// As written after the second colon.
    pub mode: String,
    /// Can be written through.
    #[serde(rename = "RW")]
    pub writable: bool,
    /// For a bind.
    pub propagation: &'static str,
}

impl MountPoint {
    /// The volume that was made for this container alone, if it is one.
    pub fn anonymous(&self) -> Option<&VolumeName> {
        match &self.kind {
            PointKind::Volume { name, anonymous: true, .. } => Some(name),
            _ => None,
        }
    }

    /// The mount as `inspect` shows it; `None` for what `--tmpfs` made, which is shown elsewhere.
    pub fn shown(&self) -> Option<ShownMount> {
        let mut shown = ShownMount {
            r#type: "tmpfs",
            name: None,
            source: PathBuf::new(),
            destination: self.target.clone(),
            driver: None,
            mode: self.mode.clone(),
            writable: !self.read_only,
            propagation: "",
        };
        match &self.kind {
            PointKind::Tmpfs { hidden, .. } => return (!hidden).then_some(shown),
            PointKind::Bind { source, propagation, .. } => {
                shown.r#type = "bind";
                shown.source.clone_from(source);
                shown.propagation = propagation.as_str();
            }
            PointKind::Volume { name, driver, source, anonymous, .. } => {
                if !anonymous && self.mode.is_empty() {
                    // Docker shows this for a named volume, SELinux or not.
                    "z".clone_into(&mut shown.mode);
                }
                shown.r#type = "volume";
                shown.name = Some(name.clone());
                shown.driver = Some(driver.clone());
                shown.source.clone_from(source);
            }
        }
        Some(shown)
    }

    /// The request that gives another container the same mount (`--volumes-from`).
    pub fn to_request(&self, read_only: bool) -> Request {
        let kind = match &self.kind {
            PointKind::Bind { source, propagation, create_source, recursive } => Kind::Bind {
                source: source.clone(),
                propagation: Some(*propagation),
                create_source: *create_source,
                recursive: *recursive,
            },
            PointKind::Volume { name, .. } => {
                Kind::Volume(VolumeRequest { name: Some(name.to_string()), ..VolumeRequest::default() })
            }
            PointKind::Tmpfs { options, hidden } => Kind::Tmpfs { options: options.clone(), hidden: *hidden },
        };
        Request { target: self.target.clone(), kind, read_only: self.read_only || read_only, mode: self.mode.clone() }
    }
}
