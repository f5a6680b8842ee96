//! The mounts of a container: the kernel's own file systems, then the daemon's files and what its user asked for.

use std::path::{Path, PathBuf};

use fs_base::{Error, MountKind, MountSpec, Propagation, Result};
use oci_spec::runtime::{Mount, MountBuilder};

use crate::config::{Container, Namespace};

/// Docker's size of /dev/shm.
const SHM_SIZE: u64 = 64 << 20;

/// All mounts, parents before what lies below them.
pub fn all(container: &Container) -> Result<Vec<Mount>> {
    let is_users = |target: &Path| container.mounts.iter().any(|mount| mount.target == target);
    let is_below = |target: &Path, above: &str| target != Path::new(above) && target.starts_with(above);
    let (mut mounts, mut later) = (Vec::new(), Vec::new());
    for mount in kernel(container)? {
        let target = mount.destination();
        // What a user mounts at a place of ours is there instead of ours, and a /dev of his with all that is in it, but
        // for the terminals.
        if is_users(target) {
            continue;
        }
        match target.to_str() {
            Some("/dev/pts") if is_users(Path::new("/dev")) => {
                stays_inside(container, target)?;
                later.push(mount);
            }
            _ if is_below(target, "/dev") && is_users(Path::new("/dev")) => {}
            _ => mounts.push(mount),
        }
    }
    for file in container.files.iter().filter(|file| !is_users(&file.target)) {
        stays_inside(container, &file.target)?;
        let writable = if container.read_only_root { "ro" } else { "rw" };
        later.push(owned(container, make(&file.target, "bind", Some(&file.source), &["bind", "rprivate", writable])?)?);
    }
    for mount in &container.mounts {
        let made = of_user(mount)?;
        let is_ours = matches!(mount.kind, MountKind::Volume { .. });
        later.push(if is_ours { owned(container, made)? } else { made });
    }
    // Those that are as deep stay in order: ours, then the user's.
    later.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(later);
    Ok(mounts)
}

/// What we mount below a mount that is shared with the host would be there on the host too, and stay.
fn stays_inside(container: &Container, target: &Path) -> Result<()> {
    let is_shared = |kind: &MountKind| matches!(kind, MountKind::Bind { propagation: Propagation::Shared, .. });
    match container.mounts.iter().find(|mount| target.starts_with(&mount.target) && is_shared(&mount.kind)) {
        None => Ok(()),
        Some(mount) => Err(Error::invalid(format!(
            "invalid mount of {}: it is shared with the host, where the container's {} would be mounted too",
            mount.target.display(),
            target.display()
        ))
        .with_hint("mount it with bind-propagation=rslave, which lets the host's mounts in and none out")),
    }
}

fn kernel(container: &Container) -> Result<Vec<Mount>> {
    let sys = if container.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", container.shm_size.unwrap_or(SHM_SIZE));
    let mut mounts = vec![
        make("/proc", "proc", None, &["nosuid", "noexec", "nodev"])?,
        make("/dev", "tmpfs", None, &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        make("/dev/pts", "devpts", None, &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])?,
        make("/sys", "sysfs", None, &["nosuid", "noexec", "nodev", sys])?,
        make("/sys/fs/cgroup", "cgroup", None, &["nosuid", "noexec", "nodev", "relatime", sys])?,
    ];
    if container.ipc == Namespace::Host {
        mounts.push(make("/dev/mqueue", "bind", Some(Path::new("/dev/mqueue")), &["rbind", "rprivate"])?);
        mounts.push(make("/dev/shm", "bind", Some(Path::new("/dev/shm")), &["rbind", "rprivate"])?);
        // A host need not have either.
        mounts
            .retain(|mount| mount.typ().as_deref() != Some("bind") || mount.source().as_ref().is_some_and(|path| path.exists()));
    } else {
        mounts.push(make("/dev/mqueue", "mqueue", None, &["nosuid", "noexec", "nodev"])?);
        let flags = ["nosuid", "noexec", "nodev"];
        if let Some(shared) = &container.shm {
            mounts.push(make("/dev/shm", "bind", Some(shared), &[&flags[..], &["bind", "rprivate"]].concat())?);
        } else if container.shm_size != Some(0) {
            let options = [&flags[..], &["mode=1777", &shm_size]].concat();
            mounts.push(make("/dev/shm", "tmpfs", Some(Path::new("shm")), &options)?);
        }
    }
    Ok(mounts)
}

/// What we keep for containers is on the disk with the ids inside, so that containers with different user namespaces, and
/// without one, can share it.
fn owned(container: &Container, mut mount: Mount) -> Result<Mount> {
    if let Some(ids) = container.users.ids() {
        let options = mount.options().iter().flatten().cloned().chain(["idmap".to_owned()]).collect();
        mount
            .set_options(Some(options))
            .set_uid_mappings(Some(super::mappings(ids.uids())?))
            .set_gid_mappings(Some(super::mappings(ids.gids())?));
    }
    Ok(mount)
}

fn of_user(mount: &MountSpec) -> Result<Mount> {
    let access = if mount.read_only { "rro" } else { "rw" };
    match &mount.kind {
        MountKind::Bind { source, propagation, recursive } => {
            let bind = if *recursive { "rbind" } else { "bind" };
            let propagation = match propagation {
                Propagation::Private => "rprivate",
                Propagation::Slave => "rslave",
                Propagation::Shared => "rshared",
            };
            make(&mount.target, "bind", Some(source), &[bind, propagation, access])
        }
        MountKind::Volume { source, .. } => make(&mount.target, "bind", Some(source), &["rbind", "rprivate", access]),
        MountKind::Tmpfs { size, mode, options } => {
            let mut all = vec![if mount.read_only { "ro" } else { "rw" }.to_owned()];
            all.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            all.extend(size.map(|size| format!("size={size}")));
            all.extend(options.iter().cloned());
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            make(&mount.target, "tmpfs", None, &all)
        }
    }
}

fn make(target: impl Into<PathBuf>, typ: &str, source: Option<&Path>, options: &[&str]) -> Result<Mount> {
    let target = target.into();
    let source = source.unwrap_or(Path::new(typ)).to_owned();
    MountBuilder::default()
        .destination(target.clone())
        .typ(typ)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(|error| Error::internal(format!("mount {}: {error}", target.display())))
}
