//! overlayfs over mounted layers.
//!
//! Every container's upper directory is written in one format, whatever the driver: no redirects, no metadata-only
//! copies, no index, so `diff` and a user-space reader need nothing but whiteouts and opaque directories. A file
//! keeps its inode number when it is copied up, as far as the file systems allow (`xino=auto`).
//! Source: Linux `Documentation/filesystems/overlayfs.rst`.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fs_base::sys::ids::{ActingAs, IdMap, UserNamespace};
use fs_base::sys::mount::{FsContext, Mount, mount_by_options, open_dir};
use fs_base::{Class, Error, Result};
use rustix::mount::MountAttrFlags;

use super::namespace::{Held, Namespace};
use crate::overlayfs;

/// What overlayfs takes. Source: `OVL_MAX_STACK` in `fs/overlayfs/params.h`.
pub const MOST_LAYERS: usize = 500;
/// Options that are the same for every mount.
const OPTIONS: [(&str, &str); 4] = [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off"), ("xino", "auto")];

/// The attributes of an image that is mounted on the host: somebody else wrote what is in it.
const LOOK_ONLY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOSUID);

/// How overlayfs is told its layers, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Detached layers, by descriptor: Linux 6.15.
    Descriptors,
    /// One by one, by their names in a mount namespace of our own: Linux 6.7.
    Appended,
    /// All in one string of options to mount(2), in a mount namespace of our own: any Linux.
    Options,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 3] = [Method::Descriptors, Method::Appended, Method::Options];

    /// Its name in configuration and `info`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Descriptors => "descriptors",
            Method::Appended => "paths",
            Method::Options => "options",
        }
    }
}

/// A read-only tree that an overlay can be put on.
#[derive(Debug)]
pub struct Lower {
    mount: Mount,
    /// Its place in the namespace, where one is needed.
    held: OnceLock<Held>,
    /// Held while it gets that place.
    holding: Mutex<()>,
}

impl Lower {
    pub fn new(mount: Mount) -> Lower {
        Lower { mount, held: OnceLock::new(), holding: Mutex::default() }
    }

    /// An empty one, to stand for layers that are not there.
    pub fn empty() -> Result<Lower> {
        let context = FsContext::open("tmpfs")?;
        context.string("mode", "0755")?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).map(Lower::new)
    }

    /// The mount itself, for people to look at.
    pub fn into_look_only(self) -> Result<Mount> {
        self.mount.set_attributes(LOOK_ONLY, MountAttrFlags::empty(), false)?;
        Ok(self.mount)
    }
}

/// The writable side of a tree: two directories on one file system.
#[derive(Debug, Clone, Copy)]
pub struct Writable<'a> {
    /// Takes what is written, in overlayfs's format.
    pub upper: &'a Path,
    /// Belongs to who serves the tree.
    pub work: &'a Path,
    /// The SELinux label that all of the tree has; each file's own if `None`.
    pub label: Option<&'a str>,
}

impl<'a> Writable<'a> {
    /// Two directories whose files have labels of their own.
    pub fn new(upper: &'a Path, work: &'a Path) -> Writable<'a> {
        Writable { upper, work, label: None }
    }

    /// The same under one label.
    #[must_use]
    pub fn labelled(self, label: Option<&'a str>) -> Writable<'a> {
        Writable { label, ..self }
    }

    /// The directory that both lie in.
    fn parent(&self) -> Result<&Path> {
        let parent = self.upper.parent().filter(|parent| self.work.parent() == Some(parent));
        parent.ok_or_else(|| Error::internal("the two writable directories of a container are not beside each other"))
    }

    /// The same side, as it is called below another mount of that directory.
    fn below(&self, directory: &Path) -> Result<Side> {
        let name = |path: &Path| path.file_name().map(|name| directory.join(name));
        let both = name(self.upper).zip(name(self.work));
        let (upper, work) = both.ok_or_else(|| Error::internal("a writable directory has no name"))?;
        Ok(Side { upper, work, label: self.label.map(str::to_owned) })
    }

    /// The same side, for a thread whose working directory is another.
    fn absolute(&self) -> Result<Side> {
        let own = |path: &Path| std::path::absolute(path).map_err(|error| Error::io("find", path, error));
        Ok(Side { upper: own(self.upper)?, work: own(self.work)?, label: self.label.map(str::to_owned) })
    }
}

/// A [`Writable`] that goes to another thread.
#[derive(Debug)]
struct Side {
    upper: PathBuf,
    work: PathBuf,
    label: Option<String>,
}

impl Side {
    fn as_writable(&self) -> Writable<'_> {
        Writable { upper: &self.upper, work: &self.work, label: self.label.as_deref() }
    }
}

/// Makes overlays in the way that works here.
#[derive(Debug)]
pub struct Stacker {
    method: Method,
    namespace: Option<Arc<Namespace>>,
}

impl Stacker {
    /// Stacks by this method. `scratch` is a directory that no writable side lies in: the namespace hides it.
    pub fn new(method: Method, scratch: &Path) -> Result<Stacker> {
        let namespace = if method == Method::Descriptors { None } else { Some(Namespace::start(scratch)?) };
        Ok(Stacker { method, namespace })
    }

    /// An overlay of `layers`, bottom first. Without a `writable` side it is read-only, and for people to look at: its
    /// devices and set-user-id files do nothing.
    pub fn stack(&self, layers: &[&Lower], writable: Option<Writable<'_>>) -> Result<Mount> {
        if layers.len() > MOST_LAYERS {
            return Err(Error::unsupported(format!("an image of {} layers: overlayfs takes {MOST_LAYERS}", layers.len())));
        }
        let made = match &self.namespace {
            None => by_descriptors(layers, writable, None),
            Some(namespace) => {
                let side = writable.map(|writable| writable.absolute()).transpose()?;
                self.in_namespace(namespace, layers, side, None)
            }
        };
        made.map_err(explained)
    }

    fn in_namespace(
        &self,
        namespace: &Arc<Namespace>,
        layers: &[&Lower],
        side: Option<Side>,
        ids: Option<IdMap>,
    ) -> Result<Mount> {
        let mut lower = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            lower.push(hold(namespace, layer)?.to_owned());
        }
        let method = self.method;
        namespace.run(move |ground| match method {
            Method::Options => {
                let attributes = attributes(side.is_some());
                let mount = ground.detached(|target| by_options(&lower, side, target, ids.as_ref()))?;
                if !attributes.is_empty() {
                    mount.set_attributes(attributes, MountAttrFlags::empty(), false)?;
                }
                Ok(mount)
            }
            _ => by_appending(&lower, side, ids.as_ref()),
        })
    }

    /// One layer by itself, to look at.
    pub fn alone(&self, layer: &Lower) -> Result<Mount> {
        let clone = self.clone_of(layer)?;
        clone.set_attributes(LOOK_ONLY, MountAttrFlags::empty(), false)?;
        Ok(clone)
    }

    /// A second mount of a layer, which has its pages in common with the first.
    fn clone_of(&self, layer: &Lower) -> Result<Mount> {
        let Some(namespace) = &self.namespace else { return Mount::clone_at(layer.mount.as_fd(), Path::new(""), false) };
        hold(namespace, layer)?;
        let mount = layer.mount.try_clone()?;
        namespace.run(move |_| Mount::clone_at(mount.as_fd(), Path::new(""), false))
    }

    /// As [`Stacker::stack`] with a writable side, for a user namespace: on the disk all ids are those inside, and
    /// nothing is ever chowned. overlayfs itself can't be mapped, so what it stands on is.
    pub fn stack_mapped(&self, layers: &[&Lower], writable: Writable<'_>, owners: &Owners) -> Result<Mount> {
        if layers.len() > MOST_LAYERS {
            return Err(Error::unsupported(format!("an image of {} layers: overlayfs takes {MOST_LAYERS}", layers.len())));
        }
        let mut mapped = Vec::with_capacity(layers.len());
        for layer in layers {
            let clone = self.clone_of(layer)?;
            owners.map(&clone, "a layer")?;
            mapped.push(Lower::new(clone));
        }
        let mapped: Vec<&Lower> = mapped.iter().collect();
        // Both have to be on one mount.
        let side = Lower::new(Mount::clone_of(writable.parent()?, false)?);
        owners.map(&side.mount, "the writable layer")?;
        let made = match &self.namespace {
            None => {
                let side = writable.below(Path::new(&shown(&side.mount)))?;
                by_descriptors(&mapped, Some(side.as_writable()), Some(owners.ids()))
            }
            Some(namespace) => {
                // The name is below the thread's working directory, and absolute paths are this process's.
                let side = writable.below(Path::new(hold(namespace, &side)?))?;
                self.in_namespace(namespace, &mapped, Some(side), Some(owners.ids().clone()))
            }
        };
        made.map_err(explained)
    }
}

/// Whose a container's files are, where they are not the host's.
#[derive(Debug)]
pub struct Owners {
    ids: IdMap,
    namespace: UserNamespace,
}

impl Owners {
    /// Those of a user namespace with these ids.
    pub fn new(ids: IdMap) -> Result<Owners> {
        let namespace = UserNamespace::new(&ids)?;
        Ok(Owners { ids, namespace })
    }

    /// Their ids, inside and outside.
    pub fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// Has a new, detached mount show and take owners as they have to see them. `what` is named if it can't be.
    pub fn map(&self, mount: &Mount, what: &str) -> Result<()> {
        mount.map_ids(&self.namespace).map_err(|error| {
            let message = format!("{what} can't be mounted for a user namespace: {error}");
            Error::unsupported(message).with_hint(
                "mapped mounts need Linux 5.19 and a file system that has them (ext4, xfs, btrfs, EROFS, and tmpfs since 6.3)",
            )
        })
    }
}

/// Gives a layer its place in the namespace, and returns the place's name.
fn hold<'a>(namespace: &Arc<Namespace>, layer: &'a Lower) -> Result<&'a str> {
    let _alone = layer.holding.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = layer.held.get() {
        return Ok(held.name());
    }
    let held = namespace.hold(&layer.mount)?;
    Ok(layer.held.get_or_init(|| held).name())
}

fn attributes(writable: bool) -> MountAttrFlags {
    if writable { MountAttrFlags::empty() } else { LOOK_ONLY }
}

fn shown(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// An overlay that has been told all but its layers.
fn context() -> Result<FsContext> {
    let context = FsContext::open("overlay")?;
    context.string("source", "fsd")?;
    for (key, value) in OPTIONS {
        context.string(key, value)?;
    }
    if overlayfs::Namespace::of_process() == overlayfs::Namespace::User {
        context.flag("userxattr")?;
    }
    Ok(context)
}

/// What overlayfs does in the layers it does as whoever mounts it: for a user namespace, that has to be somebody whom
/// the writable layer knows.
fn acting_as(ids: Option<&IdMap>) -> Result<Option<ActingAs>> {
    ids.map(ActingAs::root_of).transpose()
}

fn by_descriptors(layers: &[&Lower], writable: Option<Writable<'_>>, ids: Option<&IdMap>) -> Result<Mount> {
    let context = context()?;
    for layer in layers.iter().rev() {
        context.descriptor("lowerdir+", layer.mount.as_fd())?;
    }
    if let Some(Writable { upper, work, label }) = writable {
        label.map_or(Ok(()), |label| context.string("context", label))?;
        context.descriptor("upperdir", open_dir(upper)?.as_fd())?;
        context.descriptor("workdir", open_dir(work)?.as_fd())?;
    }
    let _acting = acting_as(ids)?;
    context.mount(attributes(writable.is_some()))
}

fn by_appending(lower: &[String], side: Option<Side>, ids: Option<&IdMap>) -> Result<Mount> {
    let context = context()?;
    for layer in lower {
        context.string("lowerdir+", &**layer)?;
    }
    let is_writable = side.is_some();
    if let Some(Side { upper, work, label }) = side {
        label.map_or(Ok(()), |label| context.string("context", label))?;
        // By descriptors of this namespace: a path may be longer than an option can be.
        context.string("upperdir", shown(&open_dir(&upper)?))?;
        context.string("workdir", shown(&open_dir(&work)?))?;
    }
    let _acting = acting_as(ids)?;
    context.mount(attributes(is_writable))
}

fn by_options(lower: &[String], side: Option<Side>, target: &Path, ids: Option<&IdMap>) -> Result<()> {
    let mut options = vec![format!("lowerdir={}", lower.join(":"))];
    let writable = match side {
        Some(Side { upper, work, label }) => {
            // Between quotes, because it may hold commas.
            options.extend(label.map(|label| format!("context=\"{label}\"")));
            Some((open_dir(&upper)?, open_dir(&work)?))
        }
        None => None,
    };
    if let Some((upper, work)) = &writable {
        options.push(format!("upperdir={},workdir={}", shown(upper), shown(work)));
    }
    options.extend(OPTIONS.iter().map(|(key, value)| format!("{key}={value}")));
    if overlayfs::Namespace::of_process() == overlayfs::Namespace::User {
        options.push("userxattr".to_owned());
    }
    let _acting = acting_as(ids)?;
    mount_by_options("overlay", "fsd", target, &options.join(","))
}

fn explained(error: Error) -> Error {
    let hint = match (error.hint(), error.class()) {
        (_, Class::Denied) => "mounting needs CAP_SYS_ADMIN: run the daemon as root".to_owned(),
        (Some(hint), _) => hint.to_owned(),
        (None, Class::Invalid) => {
            "the file system of the daemon's root may not be able to hold a writable layer (overlayfs, NFS): use another"
                .to_owned()
        }
        (None, _) => return error,
    };
    error.with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mount: &Mount) -> PathBuf {
        PathBuf::from(shown(mount)).join(".")
    }

    #[test]
    fn every_way_of_stacking_gives_the_same_tree() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: kernel mounts: needs root");
            return;
        }
        for method in Method::ALL {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["upper", "work", "over"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            let mut layers = Vec::new();
            for number in 0..130 {
                let layer = at(&format!("with,comma:and\\{number}"));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join("same"), number.to_string()).unwrap();
                std::fs::write(layer.join(format!("own{number}")), "x").unwrap();
                layers.push(Lower::new(Mount::clone_of(&layer, false).unwrap()));
            }
            let layers: Vec<&Lower> = layers.iter().collect();
            let stacker = Stacker::new(method, &at("over")).unwrap();
            let stack = |writable| stacker.stack(&layers, writable).unwrap_or_else(|e| panic!("{method:?}: {e} {:?}", e.hint()));
            let (upper, work) = (at("upper"), at("work"));
            let mount = stack(Some(Writable::new(&upper, &work)));
            let read_only = stack(None);
            let alone = stacker.alone(layers[7]).unwrap();
            drop(stacker);
            for mount in [&read_only, &mount] {
                assert_eq!(std::fs::read_to_string(place(mount).join("same")).unwrap(), "129", "{method:?}: the last is on top");
                assert!(place(mount).join("own0").exists(), "{method:?}");
            }
            assert_eq!(std::fs::read_to_string(place(&alone).join("same")).unwrap(), "7", "{method:?}");
            for mount in [&read_only, &alone] {
                assert!(std::fs::write(place(mount).join("new"), "y").is_err(), "{method:?}");
            }
            std::fs::write(place(&mount).join("new"), "y").unwrap();
            assert!(at("upper/new").exists() && std::fs::read_dir(at("over")).unwrap().next().is_none(), "{method:?}");
        }
    }

    #[test]
    fn every_way_of_stacking_leaves_the_ids_on_the_disk_as_they_are() {
        use std::os::unix::fs::{MetadataExt, chown};
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: kernel mounts: needs root");
            return;
        }
        let ids = vec![fs_base::sys::ids::IdRange { inside: 0, outside: 200_000, count: 65_536 }];
        let owners = Owners::new(IdMap::new(ids.clone(), ids).unwrap()).unwrap();
        for method in Method::ALL {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["upper", "work", "over", "low"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            for (name, owner) in [("changed", 1000), ("gone", 0), ("kept", 7)] {
                std::fs::write(at("low").join(name), name).unwrap();
                chown(at("low").join(name), Some(owner), Some(owner)).unwrap();
            }
            let low = Lower::new(Mount::clone_of(&at("low"), false).unwrap());
            let stacker = Stacker::new(method, &at("over")).unwrap();
            let (upper, work) = (at("upper"), at("work"));
            let mount = stacker.stack_mapped(&[&low], Writable::new(&upper, &work), &owners);
            let held = mount.unwrap_or_else(|e| panic!("{method:?}: {e} {:?}", e.hint()));
            let mount = place(&held);
            let owner = |path: PathBuf| std::fs::symlink_metadata(path).map(|there| (there.uid(), there.gid())).unwrap();
            assert_eq!(owner(mount.join("changed")), (201_000, 201_000), "{method:?}");
            assert_eq!(owner(mount.join("kept")), (200_007, 200_007), "{method:?}");
            {
                let _acting = ActingAs::root_of(owners.ids()).unwrap();
                std::fs::write(mount.join("changed"), "by root inside").unwrap();
                std::fs::write(mount.join("new"), "x").unwrap();
                std::fs::remove_file(mount.join("gone")).unwrap();
            }
            assert_eq!(owner(upper.join("changed")), (1000, 1000), "{method:?}");
            assert_eq!(owner(upper.join("new")), (0, 0), "{method:?}");
            assert!(upper.join("gone").symlink_metadata().is_ok() && !upper.join("kept").exists(), "{method:?}");
            assert_eq!(owner(at("low/changed")), (1000, 1000), "{method:?}: nothing below is touched");
        }
    }

    #[test]
    fn more_layers_than_overlayfs_takes_are_refused_in_words() {
        let lower = Lower::new(Mount::from_fd(open_dir(Path::new("/")).unwrap()));
        let error = Stacker::new(Method::Descriptors, Path::new("/")).unwrap().stack(&[&lower; 501], None).unwrap_err();
        assert!(error.class() == Class::Unsupported && error.to_string().contains("501"), "{error}");
    }
}
