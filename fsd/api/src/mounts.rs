//! Trees mounted on the host because somebody asked to see them.

use serde::{Deserialize, Serialize};

/// The body of `POST /fsd/v1/images/{name}/mount`, and of the same for `containers` and `volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// An absolute path of a directory on the daemon's host, which is made if it is not there; without it the daemon makes
    /// one under its run directory. The caller, if not root, must be able to write there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Serve it by FUSE, even if the kernel could mount it. For callers that are not root it is always so: the tree belongs
    /// to them, and nobody else can look into it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fuse: bool,
    /// Let it be written to. What is written goes when it is unmounted: never to the container or volume itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rw: bool,
    /// Mount it again when the process that serves it dies. Only for FUSE: the kernel's mounts don't die.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

/// The answer to a mount request, sent when the tree is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Names this mount from now on.
    pub id: String,
    /// Where it is.
    pub target: String,
    /// What it shows: an image's ID, `sha256:…`, a container's ID, or a volume's name.
    pub object: String,
    /// The mount driver that made it.
    pub driver: String,
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// An image.
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
    /// What served it died, and it is about to be mounted again.
    Restarting,
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
    /// Whether it can be written to.
    #[serde(default)]
    pub rw: bool,
    /// Whose it is: the user that asked for it.
    #[serde(default)]
    pub uid: u32,
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

/// What `GET /system/df` says, among `Mounts`, of a mount that can be written to: the bytes that were written so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedMount {
    /// The mount. One that was forgotten has only its id.
    #[serde(flatten)]
    pub mount: MountInfo,
    /// Bytes on the disk.
    pub size: u64,
    /// Whether somebody can still see what was written; else a prune takes it.
    pub in_use: bool,
}

impl UsedMount {
    /// What was written to a mount of which nothing else is known any more.
    pub fn orphan(id: &str, size: u64) -> UsedMount {
        let mount = MountInfo {
            id: id.to_owned(),
            kind: ObjectKind::Image,
            object: String::new(),
            target: String::new(),
            driver: String::new(),
            rw: true,
            uid: 0,
            created: String::new(),
            state: MountState::Gone,
        };
        UsedMount { mount, size, in_use: false }
    }
}

/// The answer to `POST /fsd/v1/mounts/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedMounts {
    /// Mounts that were not there any more, and are forgotten now.
    pub mounts_deleted: Vec<String>,
    /// Bytes that had been written to them.
    pub space_reclaimed: u64,
}
