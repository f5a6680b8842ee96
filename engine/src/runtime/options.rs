//! The fstab-style options of a spec's mount, told apart: flags of the mount, propagation, and what is the file
//! system's own. Source: OCI runtime spec, config.md, "Linux mount options".

use fs_base::{Error, Propagation, Result};
use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags;

/// What a mount's options ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Flags of the mount itself.
    pub set: Flags,
    /// Flags of the mount and of all below it.
    pub set_recursive: Flags,
    /// How mounts cross, and whether below it too; private if it does not say.
    pub propagation: Option<(Propagation, bool)>,
    /// A bind mount, and whether mounts below its source come along.
    pub bind: Option<bool>,
    /// Owners are those of the container's user namespace.
    pub map_ids: bool,
    /// The file system's own settings.
    pub data: Vec<(String, Option<String>)>,
}

/// Mount flags; of two that contradict, the later one is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub MountAttrFlags, bool);

impl Default for Flags {
    fn default() -> Flags {
        Flags(MountAttrFlags::empty(), false)
    }
}

impl Flags {
    fn change(&mut self, flag: MountAttrFlags, on: bool) {
        self.0.set(flag, on);
    }

    /// What has to be taken from a mount that is there already: its access times are kept in one way only.
    pub fn cleared(self) -> MountAttrFlags {
        if self.1 { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() }
    }

    fn set_atime(&mut self, mode: MountAttrFlags) {
        self.1 = true;
        self.0.remove(MountAttrFlags::MOUNT_ATTR__ATIME);
        self.0.insert(mode);
    }
}

impl Options {
    /// Reads the options of one mount.
    pub fn parse(mount: &Mount) -> Result<Options> {
        let mut options = Options::default();
        for option in mount.options().iter().flatten() {
            if !options.flag(option) && !options.propagation(option) {
                options.own(option, mount)?;
            }
        }
        if mount.typ().as_deref() == Some("bind") {
            options.bind.get_or_insert(false);
        }
        Ok(options)
    }

    fn flag(&mut self, option: &str) -> bool {
        let simple = [
            ("ro", "rw", MountAttrFlags::MOUNT_ATTR_RDONLY),
            ("nosuid", "suid", MountAttrFlags::MOUNT_ATTR_NOSUID),
            ("nodev", "dev", MountAttrFlags::MOUNT_ATTR_NODEV),
            ("noexec", "exec", MountAttrFlags::MOUNT_ATTR_NOEXEC),
            ("nodiratime", "diratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME),
            ("nosymfollow", "symfollow", MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        ];
        for (on, off, flag) in simple {
            if option == on || option == off {
                self.set.change(flag, option == on);
                return true;
            }
            if option.strip_prefix('r').is_some_and(|rest| rest == on || rest == off) {
                self.set_recursive.change(flag, option.ends_with(on));
                return true;
            }
        }
        let (own, recursive) = (&mut self.set, &mut self.set_recursive);
        match option {
            "noatime" => own.set_atime(MountAttrFlags::MOUNT_ATTR_NOATIME),
            "strictatime" => own.set_atime(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            "relatime" | "atime" => own.set_atime(MountAttrFlags::MOUNT_ATTR_RELATIME),
            "rnoatime" => recursive.set_atime(MountAttrFlags::MOUNT_ATTR_NOATIME),
            "rstrictatime" => recursive.set_atime(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            "rrelatime" | "ratime" | "rnorelatime" | "rnostrictatime" => {
                recursive.set_atime(MountAttrFlags::MOUNT_ATTR_RELATIME);
            }
            "norelatime" | "nostrictatime" | "defaults" | "async" => {}
            _ => return false,
        }
        true
    }

    fn propagation(&mut self, option: &str) -> bool {
        self.propagation = Some(match option {
            "private" => (Propagation::Private, false),
            "rprivate" => (Propagation::Private, true),
            "slave" => (Propagation::Slave, false),
            "rslave" => (Propagation::Slave, true),
            "shared" => (Propagation::Shared, false),
            "rshared" => (Propagation::Shared, true),
            _ => return false,
        });
        true
    }

    fn own(&mut self, option: &str, mount: &Mount) -> Result<()> {
        match option {
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "idmap" => self.map_ids = true,
            "ridmap" | "unbindable" | "runbindable" | "tmpcopyup" | "remount" => {
                return Err(Error::unsupported(format!(
                    "mount option {option:?} of {} is not supported by the built-in runtime",
                    mount.destination().display()
                )));
            }
            // devpts of today is always an instance of its own.
            "newinstance" => {}
            _ => {
                let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
                self.data.push((key.to_owned(), value.map(str::to_owned)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn parse(typ: &str, options: &[&str]) -> Result<Options> {
        let options = options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>();
        Options::parse(&MountBuilder::default().destination("/x").typ(typ).source("/y").options(options).build().unwrap())
    }

    #[test]
    fn flags_settings_and_propagation_are_told_apart() {
        let options = parse("tmpfs", &["nosuid", "ro", "rw", "strictatime", "mode=755", "huge", "rslave"]).unwrap();
        assert_eq!(options.set.0, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME);
        assert_eq!(options.data, [("mode".to_owned(), Some("755".to_owned())), ("huge".to_owned(), None)]);
        assert_eq!(options.propagation, Some((Propagation::Slave, true)));
        assert_eq!(options.bind, None);
        let times = parse("bind", &["rbind", "rnoatime", "rstrictatime", "noatime", "relatime"]).unwrap();
        assert_eq!(times.set_recursive.0, MountAttrFlags::MOUNT_ATTR_STRICTATIME);
        assert_eq!((times.set.0, times.set.cleared()), (MountAttrFlags::empty(), MountAttrFlags::MOUNT_ATTR__ATIME));
        let bind = parse("bind", &["rbind", "rro"]).unwrap();
        assert_eq!(bind.set.cleared(), MountAttrFlags::empty());
        assert_eq!((bind.bind, bind.set_recursive.0), (Some(true), MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert!(parse("bind", &["idmap"]).unwrap().map_ids);
        let error = parse("bind", &["ridmap"]).unwrap_err().to_string();
        assert!(error.contains("\"ridmap\"") && error.contains("/x"), "{error}");
    }
}
