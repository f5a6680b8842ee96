//! `--ipc`: whose messages a container has, and a /dev/shm that others may share.
//!
//! Such a /dev/shm is a tmpfs in the container's run folder on the host, because whoever joins later must find it without
//! going through the container's own tree. Where it is private it exists in the container only. Source: moby,
//! `daemon/container_operations_unix.go`.

use std::path::{Path, PathBuf};

use engine::config::{Container, Namespace};
use fs_base::sys::mount::{FsContext, unmount};
use fs_base::{Error, IoContext, Propagation, Result};
use rustix::mount::MountAttrFlags;

use super::{ContainerRow, Status};
use crate::app::App;

/// The folder of a shared /dev/shm in a container's run folder.
const SHM: &str = "shm";
const HOST_SHM: &str = "/dev/shm";
/// How long a chain of containers that join each other may be.
const CHAIN: usize = 16;

/// Whether it is one of Docker's words.
pub fn check(mode: &str) -> Result<()> {
    let is_named = mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    if is_named || matches!(mode, "" | "none" | "private" | "shareable" | "host") {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid IPC mode: {mode}")))
}

/// Gives a container that is about to start what its mode asks for.
pub fn apply(app: &App, row: &ContainerRow, container: &mut Container) -> Result<()> {
    match row.definition.host_text("IpcMode") {
        "shareable" if !has_own_shm(row) => container.shm = Some(make(&app.run_dir(&row.id), container)?),
        mode => {
            if let Some(name) = mode.strip_prefix("container:") {
                let (pid, shm) = other(app, row, name).map_err(|error| error.context("failed to join IPC namespace"))?;
                container.ipc = Namespace::Of(format!("/proc/{pid}/ns/ipc").into());
                container.shm = Some(shm);
            }
        }
    }
    Ok(())
}

/// Takes away what [`apply`] made for a container.
pub fn release(run_dir: &Path) -> Result<()> {
    let place = run_dir.join(SHM);
    // Whoever joined it has it still.
    if is_mounted(run_dir, &place) { unmount(&place, true) } else { Ok(()) }
}

fn is_mounted(dir: &Path, place: &Path) -> bool {
    let device = |path: &Path| rustix::fs::lstat(path).map(|stat| stat.st_dev);
    matches!((device(dir), device(place)), (Ok(outer), Ok(inner)) if outer != inner)
}

fn make(run_dir: &Path, container: &Container) -> Result<PathBuf> {
    release(run_dir)?;
    let place = run_dir.join(SHM);
    std::fs::create_dir_all(&place).at("make directory", &place)?;
    let context = FsContext::open("tmpfs")?;
    context.string("source", "shm")?;
    context.string("mode", "1777")?;
    if let Some(labels) = &container.selinux {
        context.string("context", labels.mount.as_str())?;
    }
    if let Some(size) = container.shm_size {
        context.string("size", size.to_string())?;
    }
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = context.mount(flags)?;
    mount.attach(&place)?;
    mount.set_propagation(Propagation::Private, false)?;
    Ok(place)
}

fn has_own_shm(row: &ContainerRow) -> bool {
    row.definition.mounts.iter().any(|mount| mount.target == Path::new(HOST_SHM))
}

/// The first process of a container that is joined, and its /dev/shm.
fn other(app: &App, row: &ContainerRow, name: &str) -> Result<(i32, PathBuf)> {
    let found = app.db.find_container(name).map_err(|error| error.with_class(fs_base::Class::Invalid))?;
    if found.id == row.id || found.state.status != Status::Running {
        return Err(match found.state.status {
            Status::Restarting => {
                Error::conflict(format!("Container {} is restarting, wait until the container is running", found.id))
            }
            _ => Error::conflict(format!("container {} is not running", found.id)),
        });
    }
    let not_shared = || {
        Error::invalid(format!("container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", found.id))
    };
    let shm = shm_of(app, &found, CHAIN).filter(|path| path.is_dir()).ok_or_else(not_shared)?;
    Ok((found.state.pid, shm))
}

fn shm_of(app: &App, row: &ContainerRow, chain: usize) -> Option<PathBuf> {
    match row.definition.host_text("IpcMode") {
        "host" => Some(HOST_SHM.into()),
        "shareable" => {
            let dir = app.run_dir(&row.id);
            Some(dir.join(SHM)).filter(|place| is_mounted(&dir, place))
        }
        mode => {
            let next = app.db.find_container(mode.strip_prefix("container:")?).ok()?;
            shm_of(app, &next, chain.checked_sub(1)?)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_are_dockers() {
        for mode in ["", "none", "private", "shareable", "host", "container:c1"] {
            assert!(super::check(mode).is_ok(), "{mode}");
        }
        for mode in ["container:", "container", "x", "Host"] {
            assert_eq!(super::check(mode).unwrap_err().to_string(), format!("invalid IPC mode: {mode}"));
        }
    }
}
