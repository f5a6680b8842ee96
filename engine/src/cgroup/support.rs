//! What the host's cgroups can limit at all, for people who look.

use fs_base::Result;

use super::hierarchy::{self, Hierarchy};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub struct Support {
    /// 2 if only the unified hierarchy is there, else 1.
    pub version: u8,
    /// Memory.
    pub memory: bool,
    /// Memory and swap together.
    pub swap: bool,
    /// Whether the kernel may be kept from killing where memory runs out.
    pub oom_kill_disable: bool,
    /// Processor time.
    pub cpu: bool,
    /// Which processors.
    pub cpuset: bool,
    /// The number of processes.
    pub pids: bool,
}

/// Looks at what is mounted.
pub fn support() -> Result<Support> {
    Ok(of(&hierarchy::mounted()?))
}

fn of(hierarchies: &[Hierarchy]) -> Support {
    let with = |controller: &str| hierarchies.iter().find(|hierarchy| hierarchy.has(controller));
    let v1_file = |controller: &str, file: &str| {
        with(controller).is_some_and(|hierarchy| !hierarchy.is_v2() && hierarchy.root.join(file).exists())
    };
    let memory_v2 = with("memory").is_some_and(Hierarchy::is_v2);
    Support {
        version: if hierarchies.iter().all(Hierarchy::is_v2) { 2 } else { 1 },
        memory: with("memory").is_some(),
        // v2 has its file in no root; every kernel with swap has this one.
        swap: v1_file("memory", "memory.memsw.limit_in_bytes") || memory_v2 && std::path::Path::new("/proc/swaps").exists(),
        oom_kill_disable: v1_file("memory", "memory.oom_control"),
        cpu: with("cpu").is_some(),
        cpuset: with("cpuset").is_some(),
        pids: with("pids").is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_mounted_limits_nothing() {
        let none = of(&[]);
        assert!(!none.memory && !none.swap && !none.oom_kill_disable && !none.cpu && !none.cpuset && !none.pids);
    }

    #[test]
    fn this_host_is_as_its_controllers() {
        let here = support().unwrap();
        let mounted = hierarchy::mounted().unwrap();
        assert_eq!(here.version == 1, mounted.iter().any(|hierarchy| !hierarchy.is_v2()));
        assert_eq!(here.pids, mounted.iter().any(|hierarchy| hierarchy.has("pids")));
    }
}
