//! The container's tree: its root, the mounts of the spec, /dev, masked and read-only paths. Run by the new process
//! in its own mount namespace, but for [`open_sources`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use fs_base::sys::ids::UserNamespace;
use fs_base::sys::mount::{FsContext, Mount};
use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, Propagation, Result};
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::options::Options;
use super::{dev, proc, selinux};
use crate::cgroup;

/// The source of a bind mount, cloned from the host's tree.
#[derive(Debug)]
pub struct Source {
    mount: Mount,
    is_dir: bool,
    /// Its owners are to be those of the container's user namespace.
    map_ids: bool,
    path: PathBuf,
}

impl Source {
    /// Maps its owners, if they are to be. Nothing has a place yet.
    pub fn map_ids(&self, namespace: &UserNamespace) -> Result<()> {
        if !self.map_ids {
            return Ok(());
        }
        self.mount.map_ids(namespace).map_err(|error| {
            let message = format!("{} can't be mounted for a user namespace: {error}", self.path.display());
            Error::unsupported(message)
                .with_hint("its file system, or this kernel, has no mapped mounts (Linux 5.19, ext4, xfs, btrfs)")
        })
    }

    /// Gives it the attributes and the propagation that its mount asks for.
    pub fn set_up(&self, options: &Options) -> Result<()> {
        let (propagation, recursive) = options.propagation.unwrap_or((Propagation::Private, true));
        self.mount.set_propagation(propagation, recursive)?;
        self.mount.set_attributes(options.set.0, options.set.cleared(), false)?;
        self.mount.set_attributes(options.set_recursive.0, options.set_recursive.cleared(), true)
    }

    /// It.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }
}

/// Opens the sources of the spec's bind mounts, in the order of its mounts; `None` for what is no bind. In the maker's
/// namespace, so that shared mounts keep their peers.
pub fn open_sources(spec: &Spec) -> Result<Vec<Option<Source>>> {
    let mut sources = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let options = Options::parse(mount)?;
        let source = match (options.bind, mount.source()) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(Error::invalid(format!("bind mount at {} has no source", mount.destination().display())));
            }
            (Some(recursive), Some(path)) => {
                let clone = Mount::clone_of(path, recursive).map_err(|error| {
                    error.context(format!("invalid mount config for type \"bind\": bind source path {}", path.display()))
                })?;
                let stat = rustix::fs::fstat(&clone).at("stat", path)?;
                let map_ids = maps_ids(spec, mount, &options)?;
                Some(Source { map_ids, path: path.clone(), mount: clone, is_dir: FileType::from_raw_mode(stat.st_mode).is_dir() })
            }
        };
        sources.push(source);
    }
    Ok(sources)
}

/// Whether a mount's owners are to be mapped, which can only be by the container's own ids.
fn maps_ids(spec: &Spec, mount: &oci_spec::runtime::Mount, options: &Options) -> Result<bool> {
    let wanted = options.map_ids || mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    let linux = spec.linux().as_ref();
    let own = linux.is_some_and(|linux| {
        let same = |given: &Option<_>, own: &Option<_>| given.is_none() || given == own;
        linux.uid_mappings().is_some()
            && same(mount.uid_mappings(), linux.uid_mappings())
            && same(mount.gid_mappings(), linux.gid_mappings())
    });
    if wanted && !own {
        let message = "ids other than those of the container's user namespace are not supported by the built-in runtime";
        return Err(Error::unsupported(format!("mount {}: {message}", mount.destination().display())));
    }
    Ok(wanted)
}

/// The tree while it is being put together.
pub struct Rootfs<'a> {
    spec: &'a Spec,
    root: Root,
    /// /dev/null of the container, made by us, for masking files.
    null: Option<OwnedFd>,
    /// An empty, read-only directory, for masking directories.
    empty: Option<Mount>,
    /// The container's devpts, for its terminal.
    devpts: Option<Mount>,
    /// /dev, where the maker had to make it.
    dev: Option<Mount>,
    /// This process has a user namespace of its own.
    has_own_users: bool,
}

impl<'a> Rootfs<'a> {
    /// Gives the tree its place at `scratch`, in a namespace from which nothing reaches the host.
    pub fn begin(spec: &'a Spec, tree: &Mount, scratch: &Path) -> Result<Rootfs<'a>> {
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).at("make private", "/")?;
        // A tree that is a clone of a shared mount would show on the host what is mounted in it.
        tree.set_propagation(Propagation::Private, true)?;
        tree.attach(scratch)?;
        let root = Root::open(scratch)?;
        Ok(Rootfs { spec, root, null: None, empty: None, devpts: None, dev: None, has_own_users: false })
    }

    /// Takes the /dev that was made outside of the user namespace.
    pub fn take_dev(&mut self, dev: Option<Mount>) {
        self.has_own_users = true;
        self.dev = dev;
    }

    /// The tree.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The container's devpts.
    pub fn devpts(&self) -> Option<BorrowedFd<'_>> {
        self.devpts.as_ref().map(AsFd::as_fd)
    }

    /// All mounts of the spec.
    pub fn mount_all(&mut self, sources: &[Option<Source>], hierarchies: &[cgroup::View]) -> Result<()> {
        let spec = self.spec;
        for (mount, source) in spec.mounts().iter().flatten().zip(sources) {
            let target = mount.destination();
            let options = Options::parse(mount)?;
            let made = match (source, mount.typ().as_deref()) {
                (Some(source), _) => self.bind(source, target, &options),
                (None, Some("cgroup" | "cgroup2")) => self.cgroups(target, &options, hierarchies),
                (None, Some(typ)) => self.new_fs(typ, target, mount.source().as_deref(), &options),
                (None, None) => Err(Error::invalid("it has no type")),
            };
            made.map_err(|error| mounting_error(error, target))?;
        }
        Ok(())
    }

    fn bind(&self, source: &Source, target: &Path, options: &Options) -> Result<()> {
        proc::refuse_bind(source.mount.as_fd(), source.is_dir, target)?;
        let place = if source.is_dir { self.directory(target)? } else { self.file(target)? };
        if !proc::is_replaceable(target, source.is_dir) {
            // By way of a symlink.
            proc::refuse_inside(&place, target)?;
        }
        source.set_up(options)?;
        source.mount.attach_at(place.as_fd(), Path::new(""))
    }

    fn new_fs(&mut self, typ: &str, target: &Path, source: Option<&Path>, options: &Options) -> Result<()> {
        if !matches!(typ, "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue") {
            return Err(Error::unsupported(format!("file system type {typ:?} is not supported by the built-in runtime")));
        }
        if typ != "proc" {
            proc::refuse_over(target)?;
        }
        let place = match typ {
            // Behind a symlink they would be where nobody guards them. (CVE-2019-19921)
            "proc" | "sysfs" => self.ordinary_directory(target)?,
            _ => self.directory(target)?,
        };
        if typ != "proc" {
            proc::refuse_inside(&place, target)?;
        }
        let fill = target == Path::new(dev::DEV);
        if let Some(dev) = self.dev.take_if(|_| fill) {
            self.null = Some(dev::null_of(&dev)?);
            return dev.attach_at(place.as_fd(), Path::new(""));
        }
        let context = FsContext::open(typ)?;
        context.string("source", source.unwrap_or(Path::new(typ)))?;
        selinux::set_context(self.spec, typ, &context)?;
        for (key, value) in &options.data {
            match value {
                Some(value) => context.string(key, value.as_str())?,
                None => context.flag(key)?,
            }
        }
        // Read-only comes last: /dev has to be filled first.
        let attributes = if fill { options.set.0 - MountAttrFlags::MOUNT_ATTR_RDONLY } else { options.set.0 };
        let mount = context.mount(attributes)?;
        selinux::label_root(self.spec, typ, &mount)?;
        mount.attach_at(place.as_fd(), Path::new(""))?;
        match typ {
            "tmpfs" if fill => {
                dev::fill(&mount, None)?;
                self.null = Some(dev::null_of(&mount)?);
                Ok(())
            }
            "devpts" => {
                self.devpts = Some(mount);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// On v2 the hierarchy as its namespace shows it; on v1 a folder of the container's own cgroups, one per hierarchy.
    fn cgroups(&self, target: &Path, options: &Options, hierarchies: &[cgroup::View]) -> Result<()> {
        let place = self.ordinary_directory(target)?;
        if let [cgroup::View { name: None, path }] = hierarchies {
            let whole = match FsContext::open("cgroup2").and_then(|context| context.mount(options.set.0)) {
                // A user namespace may mount it only with a cgroup namespace of its own: then it is the host's that is shown.
                Err(error) if self.has_own_users && error.class() == Class::Denied => {
                    let hosts = Mount::clone_of(path, false)?;
                    hosts.set_propagation(Propagation::Private, false)?;
                    hosts.set_attributes(options.set.0, MountAttrFlags::empty(), false)?;
                    hosts
                }
                other => other?,
            };
            return whole.attach_at(place.as_fd(), Path::new(""));
        }
        let folder = FsContext::open("tmpfs")?;
        selinux::set_context(self.spec, "tmpfs", &folder)?;
        folder.string("mode", "755")?;
        let folder = folder.mount(options.set.0 - MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        folder.attach_at(place.as_fd(), Path::new(""))?;
        for view in hierarchies {
            let name = view.name.as_deref().unwrap_or("unified");
            rustix::fs::mkdirat(&folder, name, Mode::from(0o755)).at("make directory", target.join(name))?;
            let own = Mount::clone_of(&view.path, false)?;
            own.set_propagation(Propagation::Private, false)?;
            own.set_attributes(options.set.0, MountAttrFlags::empty(), false)?;
            let at =
                rustix::fs::openat(&folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open", target.join(name))?;
            own.attach_at(at.as_fd(), Path::new(""))?;
            // `cpu` and `cpuacct` beside `cpu,cpuacct`, as hosts have them.
            for alias in name.split(',').filter(|_| name.contains(',')) {
                rustix::fs::symlinkat(name, &folder, alias).at("link", target.join(alias))?;
            }
        }
        folder.set_attributes(options.set.0, MountAttrFlags::empty(), false)
    }

    /// Further device nodes, of a privileged container. Those of a user namespace are there already.
    pub fn make_devices(&self) -> Result<()> {
        if self.has_own_users { Ok(()) } else { dev::make_all(&self.root, self.spec) }
    }

    /// The terminal's slave side as /dev/console.
    pub fn mount_console(&self, slave: BorrowedFd<'_>) -> Result<()> {
        let place = self.file(Path::new("/dev/console"))?;
        let terminal = Mount::clone_at(slave, Path::new(""), false)?;
        terminal.attach_at(place.as_fd(), Path::new(""))
    }

    /// Hides what the spec wants hidden, and protects what it wants protected.
    pub fn protect(&mut self) -> Result<()> {
        let Some(linux) = self.spec.linux() else { return Ok(()) };
        for path in linux.readonly_paths().iter().flatten() {
            self.make_read_only(Path::new(path)).map_err(|error| error.context(format!("read-only path {path}")))?;
        }
        for path in linux.masked_paths().iter().flatten() {
            self.mask(Path::new(path)).map_err(|error| error.context(format!("masked path {path}")))?;
        }
        let read_only = self.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
        if read_only {
            let top = self.root.resolve(Path::new("/"))?;
            Mount::from_fd(top).set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), false)?;
        }
        Ok(())
    }

    fn make_read_only(&self, path: &Path) -> Result<()> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        let clone = Mount::clone_at(place.as_fd(), Path::new(""), true)?;
        clone.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), true)?;
        clone.attach_at(place.as_fd(), Path::new(""))
    }

    fn mask(&mut self, path: &Path) -> Result<()> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&place).at("stat", path)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let mask = self.empty_directory()?;
            return mask.attach_at(place.as_fd(), Path::new(""));
        }
        let null = match self.null.take() {
            Some(null) => null,
            // The container's /dev is its user's. This process still sees the host's.
            None => dev::null_of_host()?,
        };
        Mount::clone_at(null.as_fd(), Path::new(""), false)?.attach_at(place.as_fd(), Path::new(""))?;
        self.null = Some(null);
        Ok(())
    }

    /// One empty file system serves all masked directories.
    fn empty_directory(&mut self) -> Result<Mount> {
        if let Some(empty) = &self.empty {
            return Mount::clone_at(empty.as_fd(), Path::new(""), false);
        }
        let context = FsContext::open("tmpfs")?;
        selinux::set_context(self.spec, "tmpfs", &context)?;
        context.string("size", "0")?;
        context.flag("ro")?;
        let mount = context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        self.empty = Some(mount.try_clone()?);
        Ok(mount)
    }

    /// Applies the spec's kernel settings, through the procfs that was just mounted.
    pub fn set_sysctls(&self) -> Result<()> {
        let sysctls = self.spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
        for (name, value) in sysctls.into_iter().flatten() {
            let path = sysctl_path(name)?;
            let file = self.root.open_at(&path, OFlags::WRONLY, Mode::empty())?;
            if !proc::is_part(file.as_fd(), &path)? {
                return Err(Error::denied(format!("sysctl {name}: {} is no procfs", path.display())));
            }
            rustix::io::write(&file, value.as_bytes()).at("write", &path)?;
        }
        Ok(())
    }

    /// Makes the tree the root of this process, and lets go of the host's.
    pub fn enter(self) -> Result<()> {
        let top = self.root.open_at(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        rustix::process::fchdir(&top).at("change directory to", "the new root")?;
        rustix::process::pivot_root(".", ".").at("pivot_root", "the new root")?;
        rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).at("unmount", "the old root")?;
        rustix::process::chdir("/").at("change directory to", "/")?;
        match root_propagation(self.spec)? {
            Some(flags) => rustix::mount::mount_change("/", flags).at("set propagation of", "/"),
            None => Ok(()),
        }
    }

    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.root.resolve(path) {
            Ok(place) => Ok(Some(place)),
            Err(error) if matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() || code == rustix::io::Errno::NOTDIR.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd> {
        self.root.make_dirs(path, Mode::from(0o755))
    }

    fn ordinary_directory(&self, path: &Path) -> Result<OwnedFd> {
        let made = self.directory(path);
        let itself = self.root.resolve_nofollow(path)?;
        let stat = rustix::fs::fstat(itself).at("stat", path)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return made;
        }
        // runc's words.
        Err(Error::denied(format!("{} of the image must be mounted on ordinary directory", path.display())))
    }

    /// The file at `path`, made empty if it is missing.
    fn file(&self, path: &Path) -> Result<OwnedFd> {
        if let Some(there) = self.existing(path)? {
            let stat = rustix::fs::fstat(&there).at("stat", path)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                return Err(Error::io("mount a file onto", path, rustix::io::Errno::NOTDIR));
            }
            return Ok(there);
        }
        if let Some(parent) = path.parent() {
            self.root.make_dirs(parent, Mode::from(0o755))?;
        }
        drop(self.root.open_at(path, OFlags::CREATE | OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::from(0o644))?);
        self.root.resolve(path)
    }
}

/// A file where a directory is to be mounted, or the other way round, is told in the words of Docker's daemon.
fn mounting_error(error: Error, target: &Path) -> Error {
    let is_mismatch = error.to_string().contains("Not a directory");
    let error = error.context(format!("error mounting {} to rootfs", target.display()));
    if !is_mismatch {
        return error;
    }
    Error::invalid(format!(
        "error mounting {} to rootfs: not a directory: Are you trying to mount a directory onto a file (or \
         vice-versa)? Check if the specified host path exists and is the expected type",
        target.display()
    ))
}

/// `net.ipv4.x` as a path; dots and slashes as sysctl(8) reads them. Only settings of the container's own namespaces.
fn sysctl_path(name: &str) -> Result<PathBuf> {
    let slashes = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let namespaced = ["net/", "fs/mqueue/", "kernel/msg", "kernel/sem", "kernel/shm", "kernel/domainname", "kernel/hostname"];
    if !namespaced.iter().any(|prefix| slashes.starts_with(prefix)) || slashes.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("sysctl \"{name}\" is not in a separate kernel namespace")));
    }
    Ok(Path::new("/proc/sys").join(slashes))
}

/// How mounts cross between the container's root and others that are made of it, if the spec says.
fn root_propagation(spec: &Spec) -> Result<Option<MountPropagationFlags>> {
    let text = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    let (kind, recursive) = match text.strip_prefix('r') {
        Some(rest) => (rest, MountPropagationFlags::REC),
        None => (text, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "" | "private" => return Ok(None),
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return Err(Error::invalid(format!("linux.rootfsPropagation {text:?} is none that there is"))),
    };
    Ok(Some(kind | recursive))
}

/// The current directory's root, as a path descriptor.
pub fn own_root() -> Result<OwnedFd> {
    rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_own_namespaces_are_taken() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/x").unwrap(), Path::new("/proc/sys/net/ipv4/conf/eth0.1/x"));
        for bad in ["kernel.core_pattern", "net/../kernel/core_pattern", "vm.overcommit_memory"] {
            assert!(sysctl_path(bad).is_err(), "{bad}");
        }
    }
}
