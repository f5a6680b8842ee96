//! Volumes in directories of the store.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_base::sys::mount::{self, FsContext};
use fs_base::trash::Trash;
use fs_base::{Class, Error, IoContext, Result, VolumeName, durable, id};
use rustix::mount::MountAttrFlags;

use super::options::Source;
use super::{Driver, Fill, FillPlaces, Found, Measure, Mounted, Options, Removal};
use crate::parse::Tmpfs;
use crate::usage::{self, Usage};
use crate::{Volume, volume};

/// The folder of a volume that holds its data, Docker's name.
const DATA: &str = "_data";
/// The file of a volume that is about to be removed.
const REMOVING: &str = "_removing";

/// The driver `local`: `volumes/<name>/_data` below the store's root.
#[derive(Debug)]
pub struct Local {
    volumes: PathBuf,
    tmp: PathBuf,
    trash: Trash,
}

impl Local {
    /// Over the store at `root`; makes the folders that are missing.
    pub fn open(root: &Path) -> Result<Local> {
        let local = Local { volumes: root.join("volumes"), tmp: root.join("tmp"), trash: Trash::open(root.join("trash"))? };
        // 0711: a process of a container that runs as somebody else must reach its volume's data, and only by name.
        for (dir, mode) in [(&local.volumes, 0o711), (&local.tmp, 0o700)] {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir).at("make directory", dir)?;
        }
        Ok(local)
    }

    fn dir(&self, name: &VolumeName) -> PathBuf {
        self.volumes.join(name.as_str())
    }

    /// Marked for removal, or nothing in it but an empty folder for data.
    fn is_rubbish(&self, name: &VolumeName) -> Result<bool> {
        let dir = self.dir(name);
        if dir.join(REMOVING).exists() {
            return Ok(true);
        }
        for entry in std::fs::read_dir(&dir).at("read directory", &dir)? {
            let entry = entry.at("read directory", &dir)?;
            let is_dir = entry.file_type().at("stat", entry.path())?.is_dir();
            if !is_dir || std::fs::read_dir(entry.path()).at("read directory", entry.path())?.next().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn mount_tmpfs(&self, volume: &Volume, tmpfs: &Tmpfs) -> Result<PathBuf> {
        let target = self.mountpoint(&volume.name);
        if is_mounted(&target)? {
            return Ok(target);
        }
        let context = FsContext::open("tmpfs")?;
        context.string("source", "tmpfs")?;
        if let Some(size) = tmpfs.size {
            context.string("size", size.to_string())?;
        }
        if let Some(mode) = tmpfs.mode {
            context.string("mode", format!("{mode:o}"))?;
        }
        let mut attributes = MountAttrFlags::empty();
        for option in &tmpfs.options {
            match (option.split_once('='), attribute(option)) {
                (Some((key, value)), _) => context.string(key, value)?,
                (None, Some(flag)) => attributes |= flag,
                (None, None) => {
                    return Err(Error::unsupported(format!("mount option {option:?} of a tmpfs volume is not supported")));
                }
            }
        }
        context.mount(attributes)?.attach(&target)?;
        Ok(target)
    }
}

/// The mount attribute that a flag sets; the flags that ask for a kernel's default set none.
fn attribute(flag: &str) -> Option<MountAttrFlags> {
    Some(match flag {
        "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
        "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
        "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
        "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        "exec" | "suid" | "dev" | "relatime" | "diratime" | "async" => MountAttrFlags::empty(),
        _ => return None,
    })
}

fn is_mounted(target: &Path) -> Result<bool> {
    // The table has real paths; the store's root may have been given through a symlink.
    let real = target.canonicalize().at("resolve", target)?;
    Ok(mount::mount_table()?.iter().any(|mount| mount.target == real))
}

impl Driver for Local {
    fn name(&self) -> &str {
        volume::LOCAL
    }

    fn scope(&self) -> &'static str {
        "local"
    }

    fn check_options(&self, options: &Options) -> Result<()> {
        if let Source::Tmpfs(tmpfs) = Source::parse(Some(options))? {
            let unknown = tmpfs.options.iter().find(|option| !option.contains('=') && attribute(option).is_none());
            if let Some(option) = unknown {
                return Err(Error::unsupported(format!("mount option {option:?} of a tmpfs volume is not supported")));
            }
        }
        Ok(())
    }

    fn create(&self, name: &VolumeName) -> Result<()> {
        let staging = self.tmp.join(format!("volume-{}", id::random_hex::<8>()?));
        let made = (|| {
            std::fs::DirBuilder::new().mode(0o711).create(&staging).at("make directory", &staging)?;
            let data = staging.join(DATA);
            std::fs::create_dir(&data).at("make directory", &data)?;
            // Whatever the umask: any user of a container may read a new volume, as with Docker.
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).at("set mode of", &data)?;
            durable::publish(&staging, &self.dir(name)).map_err(|error| match error.class() {
                Class::Conflict => {
                    Error::conflict(format!("{} exists, but is no volume that is known", self.dir(name).display()))
                        .with_hint("move it away; its data can be copied into the new volume afterwards")
                }
                _ => error,
            })
        })();
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&staging);
        }
        made
    }

    fn mountpoint(&self, name: &VolumeName) -> PathBuf {
        self.dir(name).join(DATA)
    }

    fn mount(&self, volume: &Volume) -> Result<Mounted> {
        match Source::parse(volume.options.as_ref())? {
            Source::Directory => {
                let source = self.mountpoint(&volume.name);
                if !source.is_dir() {
                    return Err(Error::corrupt(format!("volume {}: {} is missing", volume.name, source.display()))
                        .with_hint("its data was removed behind the daemon's back: remove the volume and make it again"));
                }
                Ok(Mounted { source, read_only: false })
            }
            Source::Bind { device, read_only } => match std::fs::metadata(&device) {
                Ok(_) => Ok(Mounted { source: device, read_only }),
                Err(error) => {
                    let context = format!("error while mounting volume '{}'", self.mountpoint(&volume.name).display());
                    Err(Error::io("failed to mount local volume: device", &device, error).context(context))
                }
            },
            Source::Tmpfs(tmpfs) => {
                let source = self.mount_tmpfs(volume, &tmpfs)?;
                Ok(Mounted { source, read_only: tmpfs.read_only })
            }
        }
    }

    fn unmount(&self, volume: &Volume) -> Result<()> {
        let target = self.mountpoint(&volume.name);
        match Source::parse(volume.options.as_ref())? {
            Source::Tmpfs(_) if target.exists() && is_mounted(&target)? => mount::unmount(&target, false),
            _ => Ok(()),
        }
    }

    fn begin_removal(&self, name: &VolumeName) -> Result<Removal> {
        let Ok(real) = self.dir(name).canonicalize() else { return Ok(Removal::noted(None)) };
        // Removal would walk into the mount and empty what somebody mounted there.
        if let Some(mount) = mount::mount_table()?.iter().find(|mount| mount.target.starts_with(&real)) {
            return Err(Error::busy(format!("{} is mounted in it", mount.target.display()))
                .with_hint(format!("unmount it first: umount {}", mount.target.display())));
        }
        let note = self.dir(name).join(REMOVING);
        // A note that can't be made (a full disk) keeps nobody from making room.
        let noted = std::fs::File::create(&note).is_ok();
        Ok(Removal::noted(noted.then_some(note)))
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        self.begin_removal(name)?.commit();
        self.trash.discard(&self.dir(name)).map(drop)
    }

    fn list(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.volumes).at("read directory", &self.volumes)? {
            let entry = entry.at("read directory", &self.volumes)?;
            let name = entry.file_name();
            let is_dir = entry.file_type().at("stat", entry.path())?.is_dir();
            if let (Some(Ok(name)), true) = (name.to_str().map(str::parse::<VolumeName>), is_dir) {
                let rubbish = self.is_rubbish(&name)?;
                found.push(Found { name, rubbish });
            } else {
                // Not ours: we make no such names. It is left alone.
                tracing::warn!(name = %name.display(), "something among the volumes is none");
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn measure(&self) -> Option<&dyn Measure> {
        Some(self)
    }

    fn fill(&self) -> Option<&dyn Fill> {
        Some(self)
    }
}

impl Measure for Local {
    fn usage(&self, volume: &Volume) -> Result<Usage> {
        // The folder that holds the data too: with the volume it goes, and `du` counts it.
        usage::of(&self.dir(&volume.name))
    }
}

impl Fill for Local {
    fn places(&self, volume: &Volume) -> Result<Option<FillPlaces>> {
        Ok(match Source::parse(volume.options.as_ref())? {
            Source::Directory => {
                Some(FillPlaces { data: self.mountpoint(&volume.name), staging: self.dir(&volume.name).join("_fill") })
            }
            Source::Bind { read_only: true, .. } | Source::Tmpfs(_) => None,
            Source::Bind { device, .. } => {
                device.is_dir().then(|| FillPlaces { staging: device.join(format!(".fsd-fill-{}", volume.name)), data: device })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, options: &[(&str, String)]) -> Volume {
        let options: Options = options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Volume { name: name.parse().unwrap(), driver: "local".into(), created: 0, labels: None, options: Some(options) }
    }

    fn may_mount() -> bool {
        match FsContext::open("tmpfs").and_then(|context| context.mount(MountAttrFlags::empty())) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("SKIPPED: mount: {error}");
                false
            }
        }
    }

    #[test]
    fn a_new_volume_is_an_open_empty_directory() {
        let root = tempfile::tempdir().unwrap();
        let local = Local::open(root.path()).unwrap();
        let name: VolumeName = "data".parse().unwrap();
        local.create(&name).unwrap();
        let mode = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("volumes/data/_data"), mode("volumes/data"), mode("volumes")), (0o755, 0o711, 0o711));
        assert_eq!(local.create(&name).unwrap_err().class(), fs_base::Class::Conflict);
        assert_eq!(std::fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(local.list().unwrap(), [Found { name, rubbish: true }]);
    }

    #[test]
    fn what_has_contents_is_no_rubbish_until_its_removal_began() {
        let root = tempfile::tempdir().unwrap();
        let local = Local::open(root.path()).unwrap();
        let name: VolumeName = "data".parse().unwrap();
        local.create(&name).unwrap();
        std::fs::write(local.mountpoint(&name).join("f"), "1").unwrap();
        let rubbish = || local.list().unwrap().iter().map(|found| found.rubbish).collect::<Vec<_>>();
        assert_eq!(rubbish(), [false]);
        let removal = local.begin_removal(&name).unwrap();
        assert_eq!(rubbish(), [true]);
        drop(removal);
        assert_eq!(rubbish(), [false], "taken back");
        local.begin_removal(&name).unwrap().commit();
        assert_eq!(rubbish(), [true]);
        std::fs::write(root.path().join("volumes/stray"), "").unwrap();
        assert_eq!(local.list().unwrap().len(), 1, "a file is no volume");
    }

    #[test]
    fn memory_is_mounted_once_and_unmounted_with_its_flags() {
        if !may_mount() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let local = Local::open(root.path()).unwrap();
        let options =
            [("type", "tmpfs".into()), ("device", "tmpfs".into()), ("o", "size=64k,mode=700,uid=7,noexec,nodev".into())];
        let volume = volume("mem", &options);
        local.check_options(volume.options.as_ref().unwrap()).unwrap();
        local.create(&volume.name).unwrap();
        let mounted = local.mount(&volume).unwrap();
        assert_eq!(local.mount(&volume).unwrap(), mounted);
        std::fs::write(mounted.source.join("f"), "x").unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let real = mounted.source.canonicalize().unwrap();
        let lines: Vec<_> = table.lines().filter(|line| line.contains(real.to_str().unwrap())).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        for want in ["noexec", "nodev", "size=64k", "mode=700", "uid=7"] {
            assert!(lines[0].contains(want), "{want} in {}", lines[0]);
        }
        assert_eq!(local.remove(&volume.name).unwrap_err().class(), fs_base::Class::Busy);
        local.unmount(&volume).unwrap();
        local.unmount(&volume).unwrap();
        assert_eq!(std::fs::read_dir(&mounted.source).unwrap().count(), 0);
        local.remove(&volume.name).unwrap();
    }

    #[test]
    fn what_is_mounted_in_a_volume_is_not_emptied_by_its_removal() {
        if !may_mount() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let local = Local::open(root.path()).unwrap();
        let name: VolumeName = "data".parse().unwrap();
        local.create(&name).unwrap();
        let below = local.mountpoint(&name).join("below");
        std::fs::create_dir(&below).unwrap();
        FsContext::open("tmpfs").unwrap().mount(MountAttrFlags::empty()).unwrap().attach(&below).unwrap();
        std::fs::write(below.join("precious"), "x").unwrap();
        let error = local.remove(&name).unwrap_err();
        assert!(below.join("precious").exists());
        mount::unmount(&below, false).unwrap();
        assert_eq!(error.class(), fs_base::Class::Busy);
        assert!(error.to_string().ends_with("below is mounted in it"), "{error}");
        local.remove(&name).unwrap();
        local.remove(&name).unwrap();
        assert!(local.list().unwrap().is_empty());
    }

    #[test]
    fn a_bind_volume_is_its_device() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("device");
        let local = Local::open(root.path()).unwrap();
        let options = [("type", "none".into()), ("o", "bind,ro".into()), ("device", device.to_str().unwrap().to_owned())];
        let volume = volume("bound", &options);
        local.create(&volume.name).unwrap();
        let error = local.mount(&volume).unwrap_err();
        assert_eq!(error.class(), fs_base::Class::NotFound);
        assert!(error.to_string().contains("failed to mount local volume"), "{error}");
        std::fs::create_dir(&device).unwrap();
        assert_eq!(local.mount(&volume).unwrap(), Mounted { source: device, read_only: true });
    }
}
