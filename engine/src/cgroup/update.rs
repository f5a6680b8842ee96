//! Limits that change while a container runs, and limits that are only thought of.

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::LinuxResources;

use super::{Cgroup, control, hierarchy};

/// How often processes that were forked meanwhile are looked for.
const ROUNDS: u32 = 20;

/// What this host can't do of these limits, in Docker's words: tried on a cgroup that is made for that and removed. A
/// limit that the kernel refuses is told when it is set in earnest.
pub fn warnings(resources: &LinuxResources) -> Result<Vec<String>> {
    let name = format!("probe-{}", fs_base::id::random_hex::<8>()?);
    match Cgroup::create(None, &name, resources) {
        Ok(created) => {
            created.cgroup.delete()?;
            Ok(created.warnings)
        }
        Err(_) => Ok(Vec::new()),
    }
}

/// What a change of limits did.
#[derive(Debug)]
pub struct Updated {
    /// What was asked for and this host can't do.
    pub warnings: Vec<String>,
    /// Whether the cgroup is now in a hierarchy that it was not in: who knows it by [`Cgroup::open`] must open it again.
    pub has_grown: bool,
}

impl Cgroup {
    /// Whether there is anything of it: its container may have ended meanwhile.
    pub fn is_there(&self) -> bool {
        !self.members.is_empty()
    }

    /// Sets the limits that `resources` names while processes are in it. A hierarchy that it did without until now gets
    /// a folder, and its processes move there.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<Updated> {
        if !self.is_there() {
            return Err(Error::not_found("the container's cgroup is gone"));
        }
        let known = self.members.len();
        for hierarchy in hierarchy::mounted()? {
            let is_new = !self.members.iter().any(|member| member.hierarchy.root == hierarchy.root);
            if is_new && hierarchy.is_wanted(resources) {
                self.add(hierarchy)?;
            }
        }
        let warnings = self.apply(resources)?;
        for added in known..self.members.len() {
            self.fill(added)?;
        }
        // v2 comes last, as when it was made.
        self.members.sort_by_key(|member| member.hierarchy.is_v2());
        Ok(Updated { warnings, has_grown: self.members.len() > known })
    }

    /// Moves all processes of the others into one member.
    fn fill(&self, member: usize) -> Result<()> {
        let path = self.members[member].path.join("cgroup.procs");
        for _ in 0..ROUNDS {
            let inside = std::fs::read_to_string(&path).at("read", &path)?;
            let is_inside = |pid: &i32| inside.lines().any(|line| line.parse() == Ok(*pid));
            let outside: Vec<i32> = self.processes()?.into_iter().filter(|pid| !is_inside(pid)).collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match control::write(&path, &pid.to_string()) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                    other => other?,
                }
            }
        }
        Err(Error::busy(format!("cgroup {}: its processes fork faster than they can be moved", self.place.display())))
    }
}
