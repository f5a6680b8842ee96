//! What people write for a mount, turned into a checked [`Request`]: `-v` strings, `--mount` values, `--tmpfs`
//! options, an image's volumes. Nothing here looks at the host; every text of refusal is Docker's.
//!
//! Source: moby `volume/mounts/linux_parser.go` (rules), and a dockerd's own answers (texts).

pub mod bind;
pub mod host;
pub mod merge;
pub mod mount;
pub mod tmpfs;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use fs_base::{Error, Result};
use serde::{Deserialize, Serialize};

pub use bind::{anonymous, bind, volumes_from};
pub use host::HostMounts;
pub use merge::{Sources, merge};
pub use mount::{BindOptions, DriverConfig, MountValue, TmpfsOptions, VolumeOptions, mount};
pub use tmpfs::{Tmpfs, tmpfs};

/// One mount as it was asked for: well formed, but nothing of it looked up or made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Absolute, clean path in the container; never `/`.
    pub target: PathBuf,
    /// What is to be mounted there.
    pub kind: Kind,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// The mode as written after the second colon of a bind string, as `inspect` shows it again.
    pub mode: String,
}

/// What a [`Request`] asks to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A host path.
    Bind {
        /// Absolute, clean host path.
        source: PathBuf,
        /// How mounts cross; Docker's default if `None`.
        propagation: Option<BindPropagation>,
        /// A missing source is made as a directory (`-v` does so, `--mount` does not).
        create_source: bool,
        /// Mounts below the source come along.
        recursive: bool,
    },
    /// A volume.
    Volume(VolumeRequest),
    /// A file system in memory.
    Tmpfs {
        /// Its size, mode and flags.
        options: Tmpfs,
        /// From `--tmpfs`, which `inspect` shows under `HostConfig.Tmpfs` and not among the mounts.
        hidden: bool,
    },
}

/// The volume that a [`Request`] asks for: an existing one by name, or one to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeRequest {
    /// Its name; a new anonymous volume if `None`.
    pub name: Option<String>,
    /// The driver to make it with; `local` if `None`.
    pub driver: Option<String>,
    /// Driver options, if it has to be made.
    pub options: Option<BTreeMap<String, String>>,
    /// Labels, if it has to be made.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether an empty volume is filled with what the image has at the target.
    pub copy: bool,
}

/// Docker's propagation modes. The `r` of a mode says that mounts below take it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindPropagation {
    /// Docker's default.
    RPrivate,
    /// Nothing crosses.
    Private,
    /// Host mounts show in the container, below too.
    RSlave,
    /// Host mounts show in the container.
    Slave,
    /// Both ways, below too.
    RShared,
    /// Both ways.
    Shared,
}

impl BindPropagation {
    /// From its word.
    pub fn parse(word: &str) -> Option<BindPropagation> {
        Some(match word {
            "rprivate" => BindPropagation::RPrivate,
            "private" => BindPropagation::Private,
            "rslave" => BindPropagation::RSlave,
            "slave" => BindPropagation::Slave,
            "rshared" => BindPropagation::RShared,
            "shared" => BindPropagation::Shared,
            _ => return None,
        })
    }

    /// Its word, as `inspect` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            BindPropagation::RPrivate => "rprivate",
            BindPropagation::Private => "private",
            BindPropagation::RSlave => "rslave",
            BindPropagation::Slave => "slave",
            BindPropagation::RShared => "rshared",
            BindPropagation::Shared => "shared",
        }
    }
}

impl From<BindPropagation> for fs_base::Propagation {
    fn from(propagation: BindPropagation) -> fs_base::Propagation {
        match propagation {
            BindPropagation::RPrivate | BindPropagation::Private => fs_base::Propagation::Private,
            BindPropagation::RSlave | BindPropagation::Slave => fs_base::Propagation::Slave,
            BindPropagation::RShared | BindPropagation::Shared => fs_base::Propagation::Shared,
        }
    }
}

/// The path without `.`, `..` and double slashes, by its text alone (Go's `path.Clean`, which Docker uses). What
/// a `..` leaves of an absolute path stays absolute.
pub fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => match clean.components().next_back() {
                Some(Component::Normal(_)) => {
                    clean.pop();
                }
                Some(Component::RootDir) => {}
                _ => clean.push(".."),
            },
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// A target in the container, checked: absolute and not `/`.
fn target(text: &str) -> Result<PathBuf> {
    let path = clean(text);
    if path == Path::new("/") {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    absolute(text)?;
    Ok(path)
}

fn absolute(text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!("invalid mount path: {text:?} holds a zero byte")));
    }
    if text.starts_with('/') {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid mount path: '{text}' mount path must be absolute")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (dirty, want) in
            [("/a/../b", "/b"), ("/../..", "/"), ("//a//b/.", "/a/b"), ("a/../..", ".."), ("./x", "x"), ("/a/b/", "/a/b")]
        {
            assert_eq!(clean(dirty), Path::new(want), "{dirty}");
        }
    }
}
