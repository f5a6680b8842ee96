//! Trees seen without a mount: listing, reading and comparing them.

use serde::{Deserialize, Serialize};

/// The header in which an archive endpoint describes its path: standard base64, padded, of Docker's `PathStat` JSON.
pub const PATH_STAT_HEADER: &str = "X-Docker-Container-Path-Stat";

/// The query of `GET /fsd/v1/images/{name}/tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeQuery {
    /// Where to start: absolute inside the image; its symlinks are followed, inside the image.
    #[serde(default = "slash")]
    pub path: String,
    /// The whole subtree, not only the entries of one directory.
    #[serde(default)]
    pub recursive: bool,
}

/// The query of the endpoints that take one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathQuery {
    /// Absolute inside the tree.
    pub path: String,
}

fn slash() -> String {
    "/".to_owned()
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One entry of a tree. Listing a directory gives its entries in the order of their names' bytes, without the directory
/// itself; listing anything else gives that one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Absolute inside the tree.
    pub path: String,
    /// The exact bytes of `path`, if they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Permission bits with set-user-ID, set-group-ID and sticky, without the type: at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file in bytes, of a link's target for a symlink; else 0.
    pub size: u64,
    /// Time of last modification, RFC 3339.
    pub mtime: String,
    /// Where a symlink points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
    /// `major:minor` of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The layer it comes from, counted from the bottom, the bottom being 0.
    pub layer: u32,
}

/// The query of `GET /fsd/v1/diff`. Each side is `image:NAME` or `container:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffQuery {
    /// The tree to start from.
    pub from: String,
    /// The tree to compare it with.
    pub to: String,
}

/// What happened to a path on the way from one tree to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// In both, but not equal; also a directory in which something changed.
    Modified,
    /// Only in the second.
    Added,
    /// Only in the first.
    Deleted,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffEntry {
    /// Absolute inside the trees.
    pub path: String,
    /// The exact bytes of `path`, if they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What happened.
    pub kind: ChangeKind,
    /// Bytes that the second tree has more (or, negative, less) at this path.
    pub size: i64,
    /// The content differs; if false, only metadata does.
    pub content: bool,
}
