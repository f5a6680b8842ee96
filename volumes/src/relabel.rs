//! SELinux labels of what a container shares with the host: `:z` and `:Z`.
//!
//! `z` is for all containers, `Z` for this one alone. Unasked, only a volume whose data the daemon keeps itself is for all,
//! and only if nothing at all is said of its mode. Source: moby `daemon/volume/mounts`, opencontainers/selinux `Chcon`.

use std::path::{Path, PathBuf};

use fs_base::sys::label;
use fs_base::{Error, IoContext, MountKind, MountSpec, Result};

use crate::Volumes;
use crate::mount_point::{MountPoint, PointKind};

/// What the host would not work without. Docker's, and where those are symlinks to on hosts of today.
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
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/log",
];
/// Whose directories are people's homes, which the host needs for them to come in.
const HOMES: &str = "/home";

/// The labels that a container's shared files may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// For this container alone.
    pub private: String,
    /// For all containers.
    pub shared: String,
}

impl Labels {
    /// The label that a mount's files are to have; `None` leaves them as they are. `is_own` says that the daemon keeps them.
    fn of(&self, point: &MountPoint, is_own: bool) -> Option<&str> {
        let says = |word: &str| point.mode.split(',').any(|part| part == word);
        match &point.kind {
            PointKind::Bind { .. } | PointKind::Volume { .. } if says("Z") => Some(&self.private),
            PointKind::Bind { .. } | PointKind::Volume { .. } if says("z") => Some(&self.shared),
            PointKind::Volume { .. } if is_own && point.mode.is_empty() => Some(&self.shared),
            PointKind::Bind { .. } | PointKind::Volume { .. } | PointKind::Tmpfs { .. } => None,
        }
    }
}

impl Volumes {
    /// Labels what a container that is about to start shares with the host. `specs` is what [`Volumes::prepare`] made of
    /// `points`. File systems that hold no labels stay as they are.
    pub fn relabel(&self, points: &[MountPoint], specs: &[MountSpec], labels: &Labels) -> Result<()> {
        for point in points {
            let source = specs.iter().find(|spec| spec.target == point.target).and_then(|spec| match &spec.kind {
                MountKind::Bind { source, .. } | MountKind::Volume { source, .. } => Some(source),
                MountKind::Tmpfs { .. } => None,
            });
            let Some(source) = source else { continue };
            let is_own = match &point.kind {
                PointKind::Volume { name, driver, .. } => *source == self.drivers.get(driver)?.mountpoint(name),
                PointKind::Bind { .. } | PointKind::Tmpfs { .. } => false,
            };
            if let Some(label) = labels.of(point, is_own) {
                // Docker's words.
                let context = || format!("error setting label on mount source '{}'", source.display());
                self.label(source, label).map_err(|error| error.context(context()))?;
            }
        }
        Ok(())
    }

    /// A tree, by way of a symlink too.
    fn label(&self, path: &Path, label: &str) -> Result<()> {
        let real = path.canonicalize().at("find", path)?;
        let real_of = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // The daemon's own: images and other containers lie there.
        if is_hosts_own(path, real_of) || real_of(&self.root).starts_with(&real) {
            return Err(Error::invalid(format!("SELinux relabeling of {} is not allowed", path.display())));
        }
        label::tree(&real, label)
    }
}

/// Whether the host needs this as it is, by this path or by the one that `real_of` makes of it: `/lib` is a symlink on most
/// hosts.
fn is_hosts_own(path: &Path, real_of: impl Fn(&Path) -> PathBuf) -> bool {
    let is = |path: &Path, own: &Path| path == own || path == real_of(own);
    [path, &real_of(path)].into_iter().any(|path| {
        HOSTS_OWN.iter().any(|own| is(path, Path::new(own))) || path.parent().is_some_and(|above| is(above, Path::new(HOMES)))
    })
}

#[cfg(test)]
mod tests;
