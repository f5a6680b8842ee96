//! Trees mounted on the host because somebody asked to see them.

use serde::{Deserialize, Serialize};

/// The body of `POST /fsd/v1/images/{name}/mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// An absolute path of a directory on the daemon's host; without it the daemon makes one under its run directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Serve it by FUSE, even if the kernel could mount it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fuse: bool,
    /// Let it be written to, by FUSE. What is written goes when it is unmounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rw: bool,
}

/// The answer to a mount request, sent when the tree is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Names this mount from now on.
    pub id: String,
    /// Where it is.
    pub target: String,
    /// The image's ID, `sha256:…`.
    pub image: String,
    /// The mount driver that made it.
    pub driver: String,
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// An image, read-only.
    Image,
    /// A container's tree.
    Container,
    /// A volume.
    Volume,
}

/// Whether a mount is what its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    /// Being made.
    Pending,
    /// There.
    Mounted,
    /// Recorded, but somebody else has unmounted it.
    Gone,
}

/// One row of `GET /fsd/v1/mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// Names the mount.
    pub id: String,
    /// What kind of thing it shows.
    pub kind: ObjectKind,
    /// The name by which that thing was asked for.
    pub object: String,
    /// Where it is on the host.
    pub target: String,
    /// The mount driver that made it.
    pub driver: String,
    /// Since when, RFC 3339.
    pub created: String,
    /// Whether it is there now.
    pub state: MountState,
}

/// The query of `DELETE /fsd/v1/mounts/{id or target}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmountQuery {
    /// Detach it now even if files on it are open; the kernel frees it when the last one is closed.
    #[serde(default)]
    pub lazy: bool,
}
