//! What is to be mounted where, as a plain value that crosses the crates.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One mount in a container's tree, resolved: nothing is left to look up but the paths themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path inside the container. Resolved in the container's root, never joined and opened.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Nothing can be written through it.
    pub read_only: bool,
}

/// The kinds of mount that `-v`, `--mount` and `--tmpfs` make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A host directory or file.
    Bind {
        /// Absolute host path. Exists.
        source: PathBuf,
        /// How mounts made later on one side are seen on the other.
        propagation: Propagation,
        /// Whether mounts below the source come along.
        recursive: bool,
    },
    /// A named volume, by the directory that holds its data.
    Volume {
        /// The volume's name.
        name: String,
        /// Absolute host path of its data. Exists.
        source: PathBuf,
    },
    /// A file system in memory.
    Tmpfs {
        /// Size limit in bytes; the kernel's default (half of the memory) if `None`.
        size: Option<u64>,
        /// Mode of its root; 0o1777 if `None`.
        mode: Option<u32>,
        /// Further options of tmpfs(5), checked: `noexec`, `nosuid`, `uid=`, …
        options: Vec<String>,
    },
}

/// Mount propagation, as mount_namespaces(7) defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Nothing crosses; Docker's default for binds is `rprivate`.
    #[default]
    Private,
    /// Host mounts show in the container.
    Slave,
    /// Both ways.
    Shared,
}
