//! How a tree comes to its place: by the kernel, or by a FUSE session.

use std::os::fd::AsFd;
use std::path::Path;

use fs_base::sys::ids::IdMap;
use fs_base::sys::mount::{Mount, mount_table};
use fs_base::{Class, Error, IoContext, Result};
use fsd_api::{MountRequest, ObjectKind};
use layerfs::driver::{Lease, Writable};
use rustix::mount::MountAttrFlags;

use super::place;
use super::session::{self, FUSE};
use super::subject::Subject;
use crate::app::App;
use crate::container::{ContainerRow, files};

/// The driver of a volume that the kernel shows a second time.
const BIND: &str = "bind";
/// What somebody else wrote is only looked at.
const LOOK_ONLY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOSUID);

/// How a tree comes to its place.
pub enum Maker {
    /// The kernel has it already, without a place; the layers that it keeps for others to stand on; who made it.
    Kernel(Mount, Option<Lease>, &'static str),
    /// A session is to serve it.
    Session,
}

impl Maker {
    /// By the kernel unless FUSE is asked for, or is all that works here. `id` names the mount that it is for.
    pub fn of(app: &App, subject: &Subject, request: &MountRequest, id: &str) -> Result<Maker> {
        if request.fuse {
            return Ok(Maker::Session);
        }
        match by_kernel(app, subject, request.rw, id) {
            Ok(maker) if request.restart => {
                drop(maker);
                Err(Error::invalid("restart is for mounts by FUSE: the kernel's don't die").with_hint("ask for FUSE with --fuse"))
            }
            Ok(maker) => Ok(maker),
            Err(error) if matches!(error.class(), Class::Unsupported | Class::Denied) && app.config.fuse.exists() => {
                tracing::info!(object = subject.name, why = %error, "mounting by FUSE");
                Ok(Maker::Session)
            }
            Err(error) => Err(error.context(format!("mount {}", subject.shown()))),
        }
    }

    /// What makes it.
    pub fn driver(&self) -> &'static str {
        match self {
            Maker::Kernel(_, _, driver) => driver,
            Maker::Session => FUSE,
        }
    }

    /// Whether it is a tree that FUSE serves for this mount alone, without a session of its own.
    pub fn is_a_tree(&self) -> bool {
        matches!(self, Maker::Kernel(_, _, FUSE))
    }

    /// Puts it there.
    pub fn make(&self, target: &Path, start: impl FnOnce() -> Result<()>) -> Result<()> {
        match self {
            Maker::Kernel(mount, ..) => mount.attach(target),
            Maker::Session => start(),
        }
    }
}

fn by_kernel(app: &App, subject: &Subject, writable: bool, id: &str) -> Result<Maker> {
    let layers = &subject.layers;
    let lease = if layers.is_empty() { None } else { Some(app.mounter.lease(layers)?) };
    let driver =
        if subject.kind == ObjectKind::Volume && !writable { BIND } else { app.mounter.driver_name().unwrap_or_default() };
    let mount = match (&subject.dir, &subject.container) {
        (dir, _) if writable => {
            let scratch = app.scratch_dir().join(id);
            std::fs::create_dir_all(&scratch).at("make directory", &scratch)?;
            app.mounter.scratch(layers, dir.as_deref(), &scratch.join(files::UPPER), &scratch.join(files::WORK))?
        }
        (_, Some(row)) => looked_at(of_container(app, row, layers)?)?,
        (Some(dir), None) => looked_at(Mount::clone_of(dir, false)?)?,
        (None, None) => app.mounter.image(layers)?,
    };
    Ok(Maker::Kernel(mount, lease, driver))
}

fn looked_at(mount: Mount) -> Result<Mount> {
    mount.set_attributes(LOOK_ONLY, MountAttrFlags::empty(), false)?;
    Ok(mount)
}

/// The tree that a running container stands on, or else the one that its next start will: what is seen in the one is
/// seen in the other, owners too, which are those that the host knows the container's processes by. The caller keeps the container from starting and ending.
fn of_container(app: &App, row: &ContainerRow, layers: &[fs_base::LayerId]) -> Result<Mount> {
    if !row.state.is_running() {
        return container(app, row, layers, crate::container::users::own(app, row)?.as_ref());
    }
    let root = app.shim(&row.id).root()?;
    let path = format!("/proc/{}/ns/mnt", row.state.pid);
    let namespace = std::fs::File::open(&path).at("open", &path)?;
    fs_base::sys::mount::clone_from_namespace(namespace.into(), root)
}

/// A container's writable tree, detached. Where a person has it mounted on the host, it is that tree once more: the kernel
/// allows no second one over the same directories. With `ids` it is the tree for a user namespace that has these.
pub fn container(app: &App, row: &ContainerRow, layers: &[fs_base::LayerId], ids: Option<&IdMap>) -> Result<Mount> {
    let dir = app.container_dir(&row.id);
    let (upper, work) = (dir.join(files::UPPER), dir.join(files::WORK));
    let rows = app.db.mounts_of(ObjectKind::Container, row.id.as_str())?;
    let shown = rows.into_iter().filter(|mount| mount.mounted && !mount.writable && !session::is_one(&app.config.run, &mount.id));
    for shown in shown {
        // What is dead is taken away: it would stop the container for ever.
        if super::is_there(app, &shown)?
            && let Some(path) = place::path_of(app, &shown, &mount_table()?)
        {
            let root = place::open(app, &shown, &path)
                .map_err(|error| error.context(format!("container {} is mounted at {}", row.name, path.display())))?;
            let mount = Mount::clone_at(root.as_fd(), Path::new(""), false)?;
            if !is_for(&mount, &upper, ids)? {
                return Err(Error::conflict(format!("container {} is mounted at {} for other users", row.name, shown.target))
                    .with_hint("unmount it there first: 'ctl umount'"));
            }
            mount.set_attributes(MountAttrFlags::empty(), LOOK_ONLY, false)?;
            return Ok(mount);
        }
    }
    let label = crate::container::selinux::of(row).map(|labels| labels.mount.as_str());
    let writable = Writable::new(&upper, &work).labelled(label);
    match ids {
        None => app.mounter.container(layers, writable),
        Some(ids) => app.mounter.container_of(layers, writable, &*app.mapped.of(ids)?),
    }
}

/// Whether a tree shows owners as somebody with these ids has to see them: its root has the owner of the upper directory.
fn is_for(tree: &Mount, upper: &Path, ids: Option<&IdMap>) -> Result<bool> {
    let shown = rustix::fs::fstat(tree).at("stat", "a container's tree")?.st_uid;
    let own = rustix::fs::stat(upper).at("stat", upper)?.st_uid;
    Ok(Some(shown) == ids.map_or(Some(own), |ids| ids.uid_outside(own)))
}
