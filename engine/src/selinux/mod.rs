//! SELinux: whether this host has it, and which labels a container gets.
//!
//! A container has two labels: its processes' and its files'. Types come from the host's policy, which says in
//! `lxc_contexts` what containers are to have. What keeps containers apart is the level, two categories that no other
//! container has: a process may only use files whose categories it has too.
//!
//! A label is given to a process when it becomes the user's program, and to files by mounting what is the container's own
//! with `context=`. What it shares with the host is only labelled anew where that was asked for (`:z`, `:Z`).
//! Source: SELinux notebook; moby `daemon/create.go`, opencontainers/selinux.

mod label;

use std::io::{Read, Write};
use std::path::PathBuf;

use fs_base::{Error, IoContext, Result};
use rustix::fs::StatVfsMountFlags;
use serde::{Deserialize, Serialize};

pub use label::{Label, UNUSED, free_level, level_of, shared};

/// Source: linux/magic.h.
const SUPER_MAGIC: u64 = 0xf97c_ff8c;
/// The label of every process before a policy is loaded.
const NO_POLICY: &str = "kernel";

/// The labels of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Its processes'. Empty if none is set: then the policy says what becomes of the daemon's own.
    pub process: String,
    /// Its files'.
    pub mount: String,
}

/// SELinux on a host.
#[derive(Debug, Clone)]
pub struct SELinux {
    /// Where its file system is mounted.
    file_system: PathBuf,
    /// This process's label.
    own: PathBuf,
    /// Which of its policies the host uses.
    config: PathBuf,
    /// The policies, by name.
    policies: PathBuf,
    /// What is said of containers for whatever policy, where somebody says so.
    preferred: PathBuf,
}

impl SELinux {
    /// This host's.
    pub fn of_host() -> SELinux {
        SELinux {
            file_system: "/sys/fs/selinux".into(),
            own: "/proc/thread-self/attr/current".into(),
            config: "/etc/selinux/config".into(),
            policies: "/etc/selinux".into(),
            preferred: "/usr/share/containers/selinux/contexts".into(),
        }
    }

    /// Whether the kernel has it and a policy is loaded. In a container that is not to know of it its file system is
    /// read-only.
    pub fn is_enabled(&self) -> bool {
        let is_its = rustix::fs::statfs(&self.file_system).is_ok_and(|stat| stat.f_type as u64 == SUPER_MAGIC);
        let writable = rustix::fs::statvfs(&self.file_system).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::RDONLY));
        let label = std::fs::read_to_string(&self.own).unwrap_or_default();
        let label = label.trim_end_matches(['\0', '\n']);
        is_its && writable && !label.is_empty() && label != NO_POLICY
    }

    /// What the policy has for containers. The kernel must know it.
    pub fn contexts(&self) -> Result<Contexts> {
        let (path, text) = self.read_contexts()?;
        let said = Contexts::parse(&text).map_err(|error| error.context(path.display().to_string()))?;
        for label in [&said.process, &said.file, &said.layers] {
            self.canonical(&label.to_string()).map_err(|error| error.context(path.display().to_string()))?;
        }
        Ok(said)
    }

    fn read_contexts(&self) -> Result<(PathBuf, String)> {
        if let Ok(text) = std::fs::read_to_string(&self.preferred) {
            return Ok((self.preferred.clone(), text));
        }
        let config = std::fs::read_to_string(&self.config).at("read", &self.config)?;
        let policy = entries(&config).find(|(key, _)| *key == "SELINUXTYPE").map(|(_, value)| value);
        let policy = policy.ok_or_else(|| Error::invalid(format!("{}: no SELINUXTYPE is set", self.config.display())))?;
        let path = self.policies.join(policy).join("contexts/lxc_contexts");
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        Ok((path, text))
    }

    /// A label in the kernel's own words. One that its policy does not know is refused.
    pub fn canonical(&self, label: &str) -> Result<String> {
        let path = self.file_system.join("context");
        let mut file = std::fs::File::options().read(true).write(true).open(&path).at("open", &path)?;
        match file.write_all(label.as_bytes()) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                return Err(Error::invalid(format!("the host's policy has no SELinux label {label:?}")));
            }
            other => other.at("write", &path)?,
        }
        let mut said = String::new();
        file.read_to_string(&mut said).at("read", &path)?;
        Ok(said.trim_end_matches('\0').to_owned())
    }
}

/// What a policy has for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// For their processes.
    process: Label,
    /// For their files.
    file: Label,
    /// For what they have in common and can't write.
    layers: Label,
}

impl Contexts {
    /// Reads `lxc_contexts`. Source: selinux_lxc_contexts_path(3).
    pub fn parse(text: &str) -> Result<Contexts> {
        let find = |wanted: &str| entries(text).filter(|(key, _)| *key == wanted).last();
        let of = |wanted: &str| {
            let found = find(wanted).ok_or_else(|| Error::invalid(format!("{wanted:?} is not set")))?;
            found.1.parse::<Label>()
        };
        let layers = if find("ro_file").is_some() { "ro_file" } else { "file" };
        Ok(Contexts { process: of("process")?, file: of("file")?, layers: of(layers)? })
    }

    /// The labels of a container that asks for these options, `disable` or `user:`, `role:`, `type:`, `level:` and
    /// `filetype:` with a value. Without a level of its own it gets the one that `level` finds.
    pub fn choose(&self, options: &[String], level: impl FnOnce() -> Result<String>) -> Result<Labels> {
        if options.iter().any(|option| option == "disable") {
            return Ok(self.unconfined());
        }
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        let mut own_level = None;
        for option in options {
            // The text is opencontainers/selinux's.
            let bad = || {
                Error::invalid(format!(
                    "bad label option {option:?}, valid options 'disable' or \n'user, role, level, type, filetype' followed \
                     by ':' and a value"
                ))
            };
            let (key, value) = option.split_once(':').filter(|(_, value)| !value.is_empty()).ok_or_else(bad)?;
            match key {
                "user" => {
                    value.clone_into(&mut process.user);
                    value.clone_into(&mut file.user);
                }
                "role" => value.clone_into(&mut process.role),
                "type" => value.clone_into(&mut process.kind),
                "filetype" => value.clone_into(&mut file.kind),
                "level" => own_level = Some(value.to_owned()),
                _ => return Err(bad()),
            }
        }
        if own_level.is_some() || process.level.is_some() {
            let level = own_level.map_or_else(level, Ok)?;
            process.level = Some(level.clone());
            file.level = Some(level);
        }
        Ok(Labels { process: process.to_string(), mount: file.to_string() })
    }

    /// The label of images' files, which many containers use. The kernel asks for it beside the container's own: what is
    /// mapped into memory is the layer's file.
    pub fn of_layers(&self) -> String {
        self.layers.to_string()
    }

    /// The labels of a container that none holds. Its files are nobody else's all the same.
    pub fn unconfined(&self) -> Labels {
        let level = self.file.level.as_ref().map(|_| UNUSED.to_owned());
        Labels { process: String::new(), mount: Label { level, ..self.file.clone() }.to_string() }
    }
}

/// The options that give another container the label of this one's processes; none if it has none.
pub fn options_of(process: &str) -> Result<Vec<String>> {
    if process.is_empty() {
        return Ok(Vec::new());
    }
    let label: Label = process.parse()?;
    let mut options = vec![format!("user:{}", label.user), format!("role:{}", label.role), format!("type:{}", label.kind)];
    options.extend(label.level.map(|level| format!("level:{level}")));
    Ok(options)
}

/// `key = value` lines, values in quotes or not.
fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with([';', '#']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
}

#[cfg(test)]
mod tests;
