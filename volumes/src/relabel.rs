//! SELinux labels of what a container shares with the host: `:z` and `:Z`.
//!
//! The files of a bind are labelled anew only where that was asked for, those of a volume always. `z` is for all
//! containers, `Z` for this one alone. Source: moby `daemon/volume/mounts`, opencontainers/selinux `Chcon`.

use std::path::Path;

use fs_base::sys::label;
use fs_base::{Error, IoContext, MountKind, MountSpec, Result};

use crate::mount_point::{MountPoint, PointKind};

/// What the host would not work without. The same as Docker's.
const HOSTS_OWN: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// The labels that a container's shared files may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// For this container alone.
    pub private: String,
    /// For all containers.
    pub shared: String,
}

impl Labels {
    /// The label that a mount's files are to have; `None` leaves them as they are.
    fn of(&self, point: &MountPoint) -> Option<&str> {
        let says = |word: &str| point.mode.split(',').any(|part| part == word);
        match &point.kind {
            PointKind::Bind { .. } | PointKind::Volume { .. } if says("Z") => Some(&self.private),
            PointKind::Bind { .. } if says("z") => Some(&self.shared),
            PointKind::Volume { .. } => Some(&self.shared),
            PointKind::Bind { .. } | PointKind::Tmpfs { .. } => None,
        }
    }
}

/// Labels what a container that is about to start shares with the host. `specs` is what [`Volumes::prepare`] made of
/// `points`. File systems that hold no labels stay as they are.
///
/// [`Volumes::prepare`]: crate::Volumes::prepare
pub fn all(points: &[MountPoint], specs: &[MountSpec], labels: &Labels) -> Result<()> {
    for point in points {
        let Some(label) = labels.of(point) else { continue };
        let source = specs.iter().find(|spec| spec.target == point.target).and_then(|spec| match &spec.kind {
            MountKind::Bind { source, .. } | MountKind::Volume { source, .. } => Some(source),
            MountKind::Tmpfs { .. } => None,
        });
        if let Some(source) = source {
            // Docker's words.
            let context = || format!("error setting label on mount source '{}'", source.display());
            tree(source, label).map_err(|error| error.context(context()))?;
        }
    }
    Ok(())
}

/// A tree, by way of a symlink too.
fn tree(path: &Path, label: &str) -> Result<()> {
    let path = &path.canonicalize().at("find", path)?;
    if HOSTS_OWN.iter().any(|own| path == Path::new(own)) {
        return Err(Error::invalid(format!("SELinux relabeling of {} is not allowed", path.display())));
    }
    label::tree(path, label)
}

#[cfg(test)]
mod tests;
