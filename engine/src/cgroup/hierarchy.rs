//! Which hierarchies the host has.

use std::path::{Path, PathBuf};

use fs_base::sys::mount::mount_table;
use fs_base::{IoContext, Result};
use oci_spec::runtime::LinuxResources;

/// The v1 controllers that containers are given a folder of.
const V1: &[&str] = &["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio"];

/// Which generation a hierarchy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One or a few controllers.
    V1,
    /// The unified one.
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Its generation.
    pub version: Version,
    /// Where it is mounted.
    pub root: PathBuf,
    /// The name of that folder: `memory`, `cpu,cpuacct`, `unified`.
    pub name: String,
    /// What it controls.
    controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it is the unified one.
    pub fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// Whether it has this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether a container with these limits needs a folder in it. To join a cpuset costs more than all others
    /// together, and most containers may use every processor.
    pub fn is_wanted(&self, resources: &LinuxResources) -> bool {
        let pinned = resources.cpu().as_ref().is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some());
        self.is_v2() || self.controllers.len() > 1 || !self.has("cpuset") || pinned
    }

    /// Makes the folders above a new cgroup ready for it: v2 hands controllers down one by one, v1's cpuset nothing.
    pub fn prepare_parents(&self, parent: &Path) -> Result<()> {
        let above = parent.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut dir = self.root.clone();
        let steps = above.components().map(|part| Some(part.as_os_str())).chain([None]);
        for step in steps {
            if self.is_v2() {
                self.hand_down(&dir)?;
            } else if self.has("cpuset") {
                inherit_cpuset(&dir)?;
            }
            if let Some(step) = step {
                dir.push(step);
            }
        }
        if self.has("cpuset") && !self.is_v2() { inherit_cpuset(&dir) } else { Ok(()) }
    }

    fn hand_down(&self, dir: &Path) -> Result<()> {
        let path = dir.join("cgroup.subtree_control");
        let has = std::fs::read_to_string(&path).at("read", &path)?;
        for name in self.controllers.iter().filter(|name| !has.split_whitespace().any(|word| word == name.as_str())) {
            // One that can't be had is missed when a limit of it is set.
            let _ = std::fs::write(&path, format!("+{name}"));
        }
        Ok(())
    }
}

/// A new v1 cpuset is empty, and nothing can be put into it until it has processors and memory.
pub fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(file);
        let own = std::fs::read_to_string(&path).at("read", &path)?;
        if own.trim().is_empty()
            && let Some(parent) = dir.parent()
        {
            let above = parent.join(file);
            let value = std::fs::read_to_string(&above).at("read", &above)?;
            std::fs::write(&path, value.trim()).at("write", &path)?;
        }
    }
    Ok(())
}

/// All hierarchies of use, v1 first.
pub fn mounted() -> Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mount_table()? {
        let name = mount.target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hierarchy = match mount.fs_type.as_str() {
            "cgroup" => {
                let controllers: Vec<String> = name.split(',').filter(|part| V1.contains(part)).map(str::to_owned).collect();
                Hierarchy { version: Version::V1, root: mount.target, name, controllers }
            }
            "cgroup2" => {
                let path = mount.target.join("cgroup.controllers");
                let text = std::fs::read_to_string(&path).at("read", &path)?;
                let controllers = text.split_whitespace().map(str::to_owned).collect();
                Hierarchy { version: Version::V2, root: mount.target, name: "unified".to_owned(), controllers }
            }
            _ => continue,
        };
        let again = found.iter().any(|other| other.version == hierarchy.version && other.controllers == hierarchy.controllers);
        if !again && (hierarchy.is_v2() || !hierarchy.controllers.is_empty()) {
            found.push(hierarchy);
        }
    }
    found.sort_by_key(Hierarchy::is_v2);
    Ok(found)
}
