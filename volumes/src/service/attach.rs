//! A container's mounts through its life: `attach` when it is made, `prepare` before each start, `release` after
//! each end, `detach` when it is removed.

use std::path::{Path, PathBuf};

use fs_base::sys::mount;
use fs_base::{Class, ContainerId, Error, IoContext, MountKind, MountSpec, Propagation, Result, VolumeName};

use super::Volumes;
use crate::Volume;
use crate::fill::Filling;
use crate::mount_point::{MountPoint, PointKind};
use crate::parse::{BindPropagation, Kind, Request, Tmpfs, VolumeRequest};
use crate::volume::NewVolume;

/// What [`Volumes::attach`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The mounts, in the order of the requests.
    pub points: Vec<MountPoint>,
    /// The volumes that were made for it, for events.
    pub created: Vec<Volume>,
}

impl Volumes {
    /// Makes what the requests need (volumes that are not there) and counts the container as a user. If one
    /// fails, all is undone. The container needs no row yet: should it never get one, [`Volumes::recover`]
    /// forgets its uses.
    pub fn attach(&self, container: &ContainerId, requests: &[Request]) -> Result<Attached> {
        let mut attached = Attached { points: Vec::new(), created: Vec::new() };
        for request in requests {
            if let Err(error) = self.attach_one(container, request, &mut attached) {
                self.undo_attach(container, &attached);
                return Err(error);
            }
        }
        Ok(attached)
    }

    fn attach_one(&self, container: &ContainerId, request: &Request, attached: &mut Attached) -> Result<()> {
        let kind = match &request.kind {
            Kind::Bind { source, propagation, create_source, recursive } => {
                if !create_source && std::fs::symlink_metadata(source).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        source.display()
                    )));
                }
                PointKind::Bind {
                    source: source.clone(),
                    propagation: propagation.unwrap_or(BindPropagation::RPrivate),
                    create_source: *create_source,
                    recursive: *recursive,
                }
            }
            Kind::Volume(wanted) => {
                let volume = self.volume_in_use(container, wanted, attached)?;
                PointKind::Volume {
                    source: self.mountpoint(&volume)?,
                    name: volume.name,
                    driver: volume.driver,
                    copy: wanted.copy,
                    anonymous: wanted.name.is_none(),
                }
            }
            Kind::Tmpfs { options, hidden } => PointKind::Tmpfs { options: options.clone(), hidden: *hidden },
        };
        let (target, mode) = (request.target.clone(), request.mode.clone());
        attached.points.push(MountPoint { target, kind, read_only: request.read_only, mode });
        Ok(())
    }

    /// The volume, made if it is not there, with the container among its users.
    fn volume_in_use(&self, container: &ContainerId, wanted: &VolumeRequest, attached: &mut Attached) -> Result<Volume> {
        let new = NewVolume {
            name: wanted.name.clone(),
            driver: wanted.driver.clone(),
            options: wanted.options.clone(),
            labels: wanted.labels.clone(),
        };
        loop {
            let (volume, created) = self.create(new.clone())?;
            match self.catalog.add_use(&volume.name, container) {
                Ok(()) => {
                    if created {
                        attached.created.push(volume.clone());
                    }
                    return Ok(volume);
                }
                // Removed between the two steps: make it again.
                Err(error) if error.class() == Class::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn undo_attach(&self, container: &ContainerId, attached: &Attached) {
        let undone = self.catalog.remove_uses(container).map(drop);
        let removed = attached.created.iter().map(|volume| self.remove_volume(volume));
        for result in std::iter::once(undone).chain(removed) {
            if let Err(error) = result {
                tracing::warn!(%container, %error, "a failed creation was not wholly undone");
            }
        }
    }

    /// Starts to fill a mount's volume from the image: `None` where nothing is to be copied (not a volume,
    /// `nocopy`, contents already there, memory). The caller fills [`Filling::dir`] and publishes.
    pub fn fill(&self, point: &MountPoint) -> Result<Option<Filling>> {
        let PointKind::Volume { name, copy: true, .. } = &point.kind else { return Ok(None) };
        let lock = self.locks.lock(name);
        let volume = self.get(name.as_str())?;
        let Some(fill) = self.driver_of(&volume)?.fill() else { return Ok(None) };
        match fill.places(&volume)? {
            Some(places) => Filling::begin(places, self.trash.clone(), lock),
            None => Ok(None),
        }
    }

    /// Makes a container's mounts ready for its start: volumes reachable, missing sources of `-v` made, binds
    /// checked. Sorted so that a mount comes before those below it.
    pub fn prepare(&self, points: &[MountPoint]) -> Result<Vec<MountSpec>> {
        let mut specs = points.iter().map(|point| self.prepare_one(point)).collect::<Result<Vec<_>>>()?;
        specs.sort_by_key(|spec| spec.target.components().count());
        Ok(specs)
    }

    fn prepare_one(&self, point: &MountPoint) -> Result<MountSpec> {
        let mut read_only = point.read_only;
        let kind = match &point.kind {
            PointKind::Bind { source, propagation, create_source, recursive } => {
                ready_source(source, *create_source)?;
                let propagation = Propagation::from(*propagation);
                check_propagation(source, propagation)?;
                MountKind::Bind { source: source.clone(), propagation, recursive: *recursive }
            }
            PointKind::Volume { name, .. } => {
                let _lock = self.locks.lock(name);
                let volume = self.get(name.as_str())?;
                let mounted = self.driver_of(&volume)?.mount(&volume)?;
                read_only |= mounted.read_only;
                MountKind::Volume { name: name.to_string(), source: mounted.source }
            }
            PointKind::Tmpfs { options: Tmpfs { size, mode, options, read_only: asked }, .. } => {
                read_only |= asked;
                MountKind::Tmpfs { size: *size, mode: *mode, options: options.clone() }
            }
        };
        Ok(MountSpec { target: point.target.clone(), kind, read_only })
    }

    /// After a container ended: unmounts what only it still used. `running` says of a container whether it runs;
    /// it is asked about the others. All are tried; the first failure is returned.
    pub fn release(&self, points: &[MountPoint], running: &dyn Fn(&ContainerId) -> bool) -> Result<()> {
        let mut first = Ok(());
        for point in points {
            let PointKind::Volume { name, .. } = &point.kind else { continue };
            let released = self.release_volume(name, running);
            first = first.and(released);
        }
        first
    }

    pub(super) fn release_volume(&self, name: &VolumeName, running: &dyn Fn(&ContainerId) -> bool) -> Result<()> {
        let _lock = self.locks.lock(name);
        let Some(volume) = self.catalog.get(name)?.filter(Volume::has_options) else { return Ok(()) };
        if self.catalog.uses(name)?.iter().any(running) {
            return Ok(());
        }
        self.driver_of(&volume)?.unmount(&volume)
    }

    /// When a container is removed: forgets its uses, and with `remove_anonymous` (`rm -v`, `--rm`) removes the
    /// volumes that were made for it alone. Returns the removed ones. Idempotent.
    pub fn detach(&self, container: &ContainerId, points: &[MountPoint], remove_anonymous: bool) -> Result<Vec<VolumeName>> {
        self.catalog.remove_uses(container)?;
        let mut removed = Vec::new();
        let mut first = Ok(());
        for point in points {
            let PointKind::Volume { name, anonymous: true, .. } = &point.kind else { continue };
            if !remove_anonymous {
                continue;
            }
            let Some(volume) = self.catalog.get(name)? else { continue };
            match self.remove_volume(&volume) {
                Ok(()) => removed.push(volume.name),
                // Another container took it by `--volumes-from`.
                Err(error) if error.class() == Class::Busy => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        self.sweep();
        first.map(|()| removed)
    }
}

/// The source of a bind, made as a directory if it is missing and that was asked for.
fn ready_source(source: &Path, create: bool) -> Result<()> {
    match std::fs::symlink_metadata(source) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => std::fs::create_dir_all(source)
            .at("mkdir", source)
            .map_err(|error| error.context(format!("error while creating mount source path '{}'", source.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            source.display()
        ))),
        Err(error) => Err(error).at("stat", source),
    }
}

/// A shared or slave bind only means something where the host's mount is in a peer group.
fn check_propagation(source: &Path, propagation: Propagation) -> Result<()> {
    let (wanted, ok): (_, fn(&mount::MountInfo) -> bool) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::Shared => ("a shared", |mount| mount.shared),
        Propagation::Slave => ("a shared or slave", |mount| mount.shared || mount.slave),
    };
    let real = source.canonicalize().at("resolve", source)?;
    let table = mount::mount_table()?;
    // The longest target that holds the path; of several at one place the topmost, which is listed last.
    let holder = table.iter().filter(|mount| real.starts_with(&mount.target)).max_by_key(|mount| depth(&mount.target));
    match holder {
        Some(mount) if !ok(mount) => Err(Error::invalid(format!(
            "path {} is mounted on {} but it is not {wanted} mount",
            source.display(),
            mount.target.display()
        ))
        .with_hint(format!("make it so: mount --make-shared {}", mount.target.display()))),
        _ => Ok(()),
    }
}

fn depth(path: &Path) -> usize {
    PathBuf::from(path).components().count()
}
