//! What another runtime can't do from where it is is done before it begins.
//!
//! For a container with users of its own the runtime makes the user namespace, and works in it. As root of that alone it
//! makes no device and maps no mount, and the way to the shim's folder is closed to it. So the tree, the sources of bind
//! mounts (mapped where they are to be) and a /dev with its nodes get a place in the mount namespace that the runtime is
//! started in, on a tmpfs of that namespace: over the first folder on the way to the shim's that not everybody may pass.
//! Then the runtime has nothing to do but bind them, as its configuration says. The tree is where it always is, because
//! runc goes there again for each further process, when all this is gone.
//!
//! A mount that is shared with the host is taken there too, before that namespace: in it, mounts only come from the host.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_base::sys::ids::{IdMap, UserNamespace};
use fs_base::sys::mount::{FsContext, Mount, MountInfo, mount_table};
use fs_base::{Error, IoContext, Propagation, Result};
use oci_spec::runtime::{Mount as SpecMount, Process, Spec};
use rustix::mount::MountAttrFlags;

use super::dev;
use super::external::ROOTFS;
use super::options::Options;
use super::rootfs::{self, Source};

/// The folder for all of them, which no part of a way has as its name.
const PLACES: &str = ".fsd-places";
/// The shim's folder in it.
const BUNDLE: &str = "bundle";
/// The container's /dev.
const DEV: &str = "dev";

/// All of it, without a place.
pub struct Bundle<'a> {
    spec: &'a Spec,
    has_own_users: bool,
    dir: PathBuf,
    cover: PathBuf,
    program: PathBuf,
    sources: Vec<Option<Source>>,
    dev: Option<Mount>,
}

impl<'a> Bundle<'a> {
    /// What this spec needs of it; `None` if that is nothing. `dir` is the shim's folder, `program` the runtime's. In the
    /// host's mount namespace, so that what crosses into the container still does.
    pub fn prepare(spec: &'a Spec, dir: &Path, program: &Path, ids: Option<&IdMap>) -> Result<Option<Bundle<'a>>> {
        if ids.is_none() && !spec.mounts().iter().flatten().any(is_shared) {
            return Ok(None);
        }
        let dir = dir.canonicalize().at("find", dir)?;
        let cover = closed(&dir)?;
        let sources = rootfs::open_sources(spec)?;
        let namespace = ids.map(UserNamespace::new).transpose()?;
        for (mount, source) in spec.mounts().iter().flatten().zip(&sources) {
            let Some(source) = source else { continue };
            if let Some(namespace) = &namespace {
                if is_shared(mount) {
                    return Err(shared(mount.destination()));
                }
                source.map_ids(namespace)?;
                refuse_loss(mount, program)?;
            }
            source.set_up(&Options::parse(mount)?)?;
        }
        let dev = ids.map(|ids| dev::make(spec, ids)).transpose()?.flatten();
        let has_terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
        if let (Some(dev), Some(ids), true) = (&dev, ids, has_terminal) {
            dev::make_console(dev, ids)?;
        }
        // A link to what will be covered would lead nowhere.
        let program = program.canonicalize().at("find", program)?;
        Ok(Some(Bundle { spec, has_own_users: ids.is_some(), dir, cover, program, sources, dev }))
    }

    /// Gives everything its place, in the mount namespace of the runtime.
    pub fn place(&self, root: &Mount) -> Result<()> {
        let own = Mount::clone_of(&self.dir, false)?;
        own.set_propagation(Propagation::Private, false)?;
        let is_covered = self.program.starts_with(&self.cover);
        let program = is_covered.then(|| Mount::clone_of(&self.program, false)).transpose()?;
        let cover = FsContext::open("tmpfs")?;
        cover.string("mode", "711")?;
        let cover = cover.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        cover.attach(&self.cover)?;
        self.open_way()?;
        put(root, &self.dir.join(ROOTFS), true)?;
        if let Some(program) = program {
            let folder = self.program.parent().unwrap_or(&self.cover);
            std::fs::create_dir_all(folder).at("make directory", folder)?;
            put(&program, &self.program, false)?;
        }
        let places = self.cover.join(PLACES);
        folder_for_all(&places)?;
        put(&own, &places.join(BUNDLE), true)?;
        if let Some(dev) = &self.dev {
            put(dev, &places.join(DEV), true)?;
        }
        for (index, source) in self.sources.iter().enumerate() {
            if let Some(source) = source {
                put(source.mount(), &places.join(index.to_string()), source.is_dir())?;
            }
        }
        Ok(())
    }

    /// Where the runtime's program is, then too.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where the shim's folder is then.
    pub fn dir(&self) -> PathBuf {
        self.cover.join(PLACES).join(BUNDLE)
    }

    /// The folders between, which were covered too.
    fn open_way(&self) -> Result<()> {
        let mut missing: Vec<&Path> = self.dir.ancestors().take_while(|path| *path != self.cover).collect();
        missing.reverse();
        missing.into_iter().try_for_each(folder_for_all)
    }

    /// The configuration for the runtime.
    pub fn spec(&self) -> Spec {
        let mut spec = self.spec.clone();
        let places = self.cover.join(PLACES);
        let mut tree = spec.root().clone().unwrap_or_default();
        tree.set_path(self.dir.join(ROOTFS));
        spec.set_root(Some(tree));
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for (index, (mount, source)) in mounts.iter_mut().zip(&self.sources).enumerate() {
            if source.is_some() {
                bind(mount, places.join(index.to_string()));
            } else if self.dev.is_some() && dev::is_made(mount) {
                bind(mount, places.join(DEV));
            }
        }
        spec.set_mounts(Some(mounts));
        if let Some(linux) = spec.linux_mut() {
            if self.has_own_users {
                // They are made, or there are none.
                linux.set_devices(None);
            } else {
                // Or the runtime would cut the ways to the host.
                linux.set_rootfs_propagation(Some("shared".to_owned()));
            }
        }
        spec
    }
}

/// A folder that everybody may pass, whatever the umask is.
fn folder_for_all(path: &Path) -> Result<()> {
    std::fs::create_dir(path).at("make directory", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).at("set mode of", path)
}

/// Where a mount is to lie until the runtime takes it.
fn put(mount: &Mount, place: &Path, is_dir: bool) -> Result<()> {
    if is_dir {
        std::fs::create_dir(place).at("make directory", place)?;
    } else {
        std::fs::File::create(place).at("create", place)?;
    }
    mount.attach(place)
}

/// Has a mount of the configuration be a bind of what is ready, and nothing but that: what else was asked of it is done, and
/// root of a user namespace may not do it again.
fn bind(mount: &mut SpecMount, source: PathBuf) {
    let crosses = Options::parse(mount).ok().and_then(|options| options.propagation);
    let propagation = match crosses {
        Some((Propagation::Slave, true)) => "rslave",
        Some((Propagation::Slave, false)) => "slave",
        Some((Propagation::Shared, true)) => "rshared",
        Some((Propagation::Shared, false)) => "shared",
        Some((Propagation::Private, false)) => "private",
        Some((Propagation::Private, true)) | None => "rprivate",
    };
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source))
        .set_options(Some(vec!["rbind".to_owned(), propagation.to_owned()]))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
}

fn is_shared(mount: &SpecMount) -> bool {
    Options::parse(mount).is_ok_and(|options| matches!(options.propagation, Some((Propagation::Shared, _))))
}

/// crun before 1.9 takes a bind mount for a user namespace without what is mounted below its source, and says nothing.
fn refuse_loss(mount: &SpecMount, program: &Path) -> Result<()> {
    let is_recursive = Options::parse(mount)?.bind == Some(true);
    let Some(source) = mount.source().as_ref().filter(|_| is_recursive).and_then(|path| path.canonicalize().ok()) else {
        return Ok(());
    };
    let is_below = |there: &MountInfo| there.target != source && there.target.starts_with(&source);
    if !mount_table()?.iter().any(is_below) {
        return Ok(());
    }
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output().at("run", program)?;
    match loses_mounts_below(&String::from_utf8_lossy(&said.stdout)) {
        None => Ok(()),
        Some(version) => {
            let message = format!("crun {version} takes no mounts below {} along with user namespaces", source.display());
            Err(Error::unsupported(format!("mount {}: {message}", mount.destination().display())).with_hint(
                "crun 1.9 does: use that or another runtime, mount it with bind-recursive=disabled, or add --userns=host",
            ))
        }
    }
}

/// The version of a crun that does so, from what it says of itself.
fn loses_mounts_below(said: &str) -> Option<&str> {
    let version = said.lines().next()?.strip_prefix("crun version ")?.trim();
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    ((numbers.next()?, numbers.next()?) < (1, 9)).then_some(version)
}

/// A copy of a mount namespace for another user namespace gives nothing back. Source: mount_namespaces(7).
fn shared(target: &Path) -> Error {
    let message = "is shared with the host, which is not supported by other runtimes than the built-in one with user namespaces";
    Error::unsupported(format!("mount {} {message}", target.display()))
        .with_hint("mount it with bind-propagation=rslave, leave --runtime out, or add --userns=host")
}

/// The first folder on the way to a bundle that not everybody may pass; the one that it is in, if there is none.
fn closed(dir: &Path) -> Result<PathBuf> {
    let mut last = None;
    let above: Vec<&Path> = dir.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
    for path in above.into_iter().rev() {
        last = Some(path.to_owned());
        if std::fs::metadata(path).at("stat", path)?.permissions().mode() & 0o001 == 0 {
            break;
        }
    }
    last.ok_or_else(|| Error::internal(format!("{}: a bundle is not below the root directory itself", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_is_the_first_folder_that_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("open/closed/open/bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o755);
        mode(&dir.path().join("open/closed"), 0o750);
        mode(&bundle, 0o700);
        // Whoever made the folder for temporary files may have closed that.
        let first = closed(&bundle).unwrap();
        assert!(first == dir.path().join("open/closed") || dir.path().starts_with(&first), "{}", first.display());
        mode(&dir.path().join("open/closed"), 0o755);
        let first = closed(&bundle).unwrap();
        assert!(first == dir.path().join("open/closed/open") || dir.path().starts_with(&first), "{}", first.display());
        assert!(closed(Path::new("/bundle")).is_err());
    }

    #[test]
    fn an_older_crun_is_known_by_what_it_says() {
        assert_eq!(loses_mounts_below("crun version 1.8.1\ncommit: f8a0\n"), Some("1.8.1"));
        for other in ["crun version 1.9\n", "crun version 2.0.1", "runc version 1.1.5+ds1\n", "crun version x", ""] {
            assert_eq!(loses_mounts_below(other), None, "{other}");
        }
    }

    #[test]
    fn the_runtime_binds_and_does_nothing_else() {
        let options = ["rbind", "rslave", "rro", "idmap", "nosuid"].map(str::to_owned).to_vec();
        let mut mount = SpecMount::default();
        mount.set_destination("/x".into()).set_typ(Some("bind".to_owned())).set_options(Some(options));
        bind(&mut mount, "/places/3".into());
        assert_eq!(mount.options().as_deref().unwrap_or_default(), ["rbind", "rslave"]);
        assert_eq!((mount.source().as_deref(), mount.uid_mappings()), (Some(Path::new("/places/3")), &None));
    }
}
