//! Which hierarchies the host has.

use std::path::{Path, PathBuf};

use fs_base::{IoContext, Result};
use oci_spec::runtime::LinuxResources;

/// The v1 controllers that containers are given a folder of. The last one controls nothing: it is where systemd keeps its
/// units, and a systemd in a container would keep them among the host's.
const V1: &[&str] = &["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "name=systemd"];

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
        let pinned = resources
            .cpu()
            .as_ref()
            .is_some_and(|cpu| [cpu.cpus(), cpu.mems()].into_iter().flatten().any(|list| !list.is_empty()));
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
    let path = "/proc/self/mountinfo";
    let mut found = parse(&std::fs::read_to_string(path).at("read", path)?);
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.is_v2()) {
        let path = hierarchy.root.join("cgroup.controllers");
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

/// From the text of mountinfo. What a v1 hierarchy controls is in its options: its mount point may have any name. One
/// that is mounted several times counts once: where its root is seen, or else the first.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mounts: Vec<(bool, Hierarchy)> = mountinfo.lines().filter_map(parse_line).collect();
    let mut found: Vec<Hierarchy> = Vec::new();
    for (_, hierarchy) in mounts.iter().filter(|(whole, _)| *whole).chain(mounts.iter().filter(|(whole, _)| !*whole)) {
        let same = |other: &Hierarchy| other.version == hierarchy.version && other.controllers == hierarchy.controllers;
        if !found.iter().any(same) {
            found.push(hierarchy.clone());
        }
    }
    found.sort_by_key(Hierarchy::is_v2);
    found
}

/// One line, if it is of a hierarchy of use, and whether it shows the hierarchy's root. Source: proc_pid_mountinfo(5).
fn parse_line(line: &str) -> Option<(bool, Hierarchy)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (shown, target) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let fs_type = right.next()?;
    let options = right.nth(1).unwrap_or("");
    let mut root = target.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        root = root.replace(escape, plain);
    }
    let root = PathBuf::from(root);
    let hierarchy = match fs_type {
        "cgroup2" => Hierarchy { version: Version::V2, root, name: "unified".to_owned(), controllers: Vec::new() },
        "cgroup" => {
            let controllers: Vec<String> = options.split(',').filter(|part| V1.contains(part)).map(str::to_owned).collect();
            let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Hierarchy { version: Version::V1, root, name, controllers }
        }
        _ => return None,
    };
    (hierarchy.is_v2() || !hierarchy.controllers.is_empty()).then_some((shown == "/", hierarchy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str) -> Vec<String> {
        parse(mountinfo).iter().map(|one| format!("{} {} {}", one.name, one.root.display(), one.controllers.join("+"))).collect()
    }

    #[test]
    fn a_hybrid_host_as_systemd_makes_it() {
        let text = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
            33 31 0:30 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd\n\
            34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n\
            36 31 0:33 /docker/1 /mnt/a\\040b rw - cgroup cgroup rw,memory\n\
            37 31 0:33 / /cg/ram rw - cgroup cgroup rw,memory\n";
        let expected = [
            "systemd /sys/fs/cgroup/systemd name=systemd",
            "cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct cpu+cpuacct",
            "ram /cg/ram memory",
            "unified /sys/fs/cgroup/unified ",
        ];
        assert_eq!(found(&text.replace("\n            ", "\n")), expected);
    }

    #[test]
    fn a_pure_v2_host_one_without_any_and_a_part_of_one() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(found(v2), ["unified /sys/fs/cgroup "]);
        assert!(found("31 23 0:28 / / rw - ext4 /dev/vda rw\nrubbish\n").is_empty());
        assert_eq!(found("36 31 0:33 /docker/1 /mnt/a\\040b rw - cgroup cgroup rw,memory\n"), ["a b /mnt/a b memory"]);
    }
}
