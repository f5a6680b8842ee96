//! A container's tree for copying: with its volumes in their places, running or not.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use fs_base::sys::ids::{ActingAs, IdMap};
use fs_base::sys::mount::{Mount, unshare_mount_namespace};
use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, MountKind, MountSpec, Result};
use layerfs::driver::Owners;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::{ContainerRow, users};
use crate::app::App;

/// Runs `work` on the container's tree, and blocks until it is done. Nothing is left mounted.
pub fn with_root<T: Send + 'static>(
    app: &Arc<App>,
    row: &ContainerRow,
    work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
) -> Result<T> {
    if row.state.is_running() {
        let root = app.shim(&row.id).root();
        match root.and_then(|root| Ok((root, IdMap::of_process(row.state.pid)?))) {
            Ok((root, ids)) => {
                // What is written has the owners that a process in there would give it.
                let _acting = ids.as_ref().map(ActingAs::root_of).transpose()?;
                return work(&Root::from_fd(root).with_ids(ids));
            }
            // It has just ended.
            Err(error) if matches!(error.class(), Class::NotFound | Class::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    let live = app.containers.of(&row.id);
    // A start meanwhile would mount the same tree a second time.
    let _alone = live.alone();
    let (app, row) = (Arc::clone(app), row.clone());
    // A thread of its own, because its namespace ends with it and takes all mounts along.
    let thread = std::thread::Builder::new().name("copy".to_owned()).spawn(move || on_stopped(&app, &row, work));
    let thread = thread.at("start", "a thread")?;
    thread.join().unwrap_or_else(|_| Err(Error::internal("copying panicked: see the daemon's log")))
}

fn on_stopped<T>(app: &App, row: &ContainerRow, work: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
    let image =
        app.db.image(&row.image)?.ok_or_else(|| Error::corrupt(format!("the image {} of the container is gone", row.image)))?;
    let dir = app.container_dir(&row.id);
    // As its next start will have it, because a person may have that tree mounted on the host.
    let owners = users::own(app, row)?.map(|ids| app.mapped.of(&ids)).transpose()?;
    let tree = crate::mounts::container_tree(app, row, &image.layers, owners.as_deref().map(Owners::ids))?;
    let mounts = app.volumes.prepare(&row.definition.mounts)?;
    let read_only = row.definition.host_flag("ReadonlyRootfs");
    let result = in_own_namespace(&dir, &Stopped { tree, mounts: &mounts, owners: owners.as_deref(), read_only }, work);
    let running = |id: &_| app.db.container(id).ok().flatten().is_some_and(|row| row.state.is_running());
    if let Err(error) = app.volumes.release(&row.definition.mounts, &running) {
        tracing::warn!(container = %row.id, %error, "a volume could not be released");
    }
    result
}

/// What a container that does not run is put together from.
struct Stopped<'a> {
    tree: Mount,
    mounts: &'a [MountSpec],
    /// Of its user namespace, if it is to have one.
    owners: Option<&'a Owners>,
    read_only: bool,
}

fn in_own_namespace<T>(place: &Path, stopped: &Stopped<'_>, work: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
    // Before the namespace is left, so that the sources are the host's.
    let sources = stopped.mounts.iter().map(|mount| source(mount, stopped.owners)).collect::<Result<Vec<_>>>()?;
    unshare_mount_namespace()?;
    stopped.tree.attach(place)?;
    let ids = stopped.owners.map(Owners::ids);
    let _acting = ids.map(ActingAs::root_of).transpose()?;
    let root = Root::open(place)?.with_ids(ids.cloned());
    for (mount, source) in stopped.mounts.iter().zip(sources) {
        let Some(source) = source else { continue };
        if mount.read_only {
            source.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), true)?;
        }
        attach(&root, &source, &mount.target)?;
    }
    if stopped.read_only {
        stopped.tree.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), false)?;
    }
    work(&root)
}

/// What is in memory is only there while the container runs. Owners are mapped where a start maps them.
fn source(mount: &MountSpec, owners: Option<&Owners>) -> Result<Option<Mount>> {
    match &mount.kind {
        MountKind::Bind { source, recursive, .. } => Mount::clone_of(source, *recursive).map(Some),
        MountKind::Volume { source, .. } => {
            let clone = Mount::clone_of(source, true)?;
            owners.map_or(Ok(()), |owners| owners.map(&clone, &source.display().to_string()))?;
            Ok(Some(clone))
        }
        MountKind::Tmpfs { .. } => Ok(None),
    }
}

fn attach(root: &Root, source: &Mount, target: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(source).at("stat", target)?;
    let place = if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        root.make_dirs(target, Mode::from(0o755))?
    } else {
        if let Some(parent) = target.parent() {
            root.make_dirs(parent, Mode::from(0o755))?;
        }
        drop(root.open_at(target, OFlags::CREATE | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::from(0o644))?);
        root.resolve(target)?
    };
    source.attach_at(place.as_fd(), Path::new(""))
}
