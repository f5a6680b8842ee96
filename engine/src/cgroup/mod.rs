//! Control groups: v1, v2, and hosts that have both.
//!
//! A container has one folder of the same name in each hierarchy that the host has mounted: each v1 controller's, and
//! v2's, which is there for its ways to kill and freeze even where it has no controllers.
//!
//! A process joins by itself: to move another one, or a whole process, takes a lock of the kernel that waits for an
//! RCU grace period (10 ms and more), while a thread that writes `0` to a v1 `tasks` file moves at once. Into v2 it is
//! born, where [`Cgroup::unified_dir`] is given to the fork.
//!
//! Source: Linux Documentation, admin-guide/cgroup-v1 and cgroup-v2.rst.

mod control;
mod device;
mod hierarchy;
mod kill;
mod oom;
mod stats;
mod support;
mod update;
mod v1;
mod v2;
mod warnings;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::LinuxResources;

use hierarchy::Hierarchy;
pub use oom::OomWatch;
pub use stats::{BlockIo, Cpu, Memory, Pids, Stats};
pub use support::{Support, support};
pub use update::{Updated, warnings};

/// In which cgroup containers have theirs.
pub const DEFAULT_PARENT: &str = "/fsd";

/// How long the end of the last process may take to be seen.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// Below the root of each hierarchy.
    place: PathBuf,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    hierarchy: Hierarchy,
    path: PathBuf,
    /// Open where the hierarchy is v2.
    dir: Option<OwnedFd>,
}

/// A cgroup that was just made.
#[derive(Debug)]
pub struct Created {
    /// It.
    pub cgroup: Cgroup,
    /// What was asked for and this host can't do.
    pub warnings: Vec<String>,
}

/// The container's own part of one hierarchy, to be shown in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The folder's name in /sys/fs/cgroup; `None` if the host has v2 alone, which is shown whole.
    pub name: Option<String>,
    /// The folder on the host; of v2 alone its root.
    pub path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup `name` in `parent` (by default [`DEFAULT_PARENT`]) with these limits. If it fails, nothing is
    /// left of it.
    pub fn create(parent: Option<&str>, name: &str, resources: &LinuxResources) -> Result<Created> {
        let place = place(parent, name)?;
        let mut made = Cgroup { place, members: Vec::new() };
        for hierarchy in hierarchy::mounted()? {
            if !hierarchy.is_wanted(resources) {
                continue;
            }
            if let Err(error) = made.add(hierarchy) {
                let _ = made.delete();
                return Err(error);
            }
        }
        if made.members.is_empty() {
            return Err(Error::unsupported("no cgroup hierarchy is mounted, so containers can't be kept apart")
                .with_hint("mount cgroup2 at /sys/fs/cgroup"));
        }
        match made.apply(resources) {
            Ok(warnings) => Ok(Created { cgroup: made, warnings }),
            Err(error) => {
                let _ = made.delete();
                Err(error)
            }
        }
    }

    /// The cgroup as an earlier process made it. It need not be there any more.
    pub fn open(parent: Option<&str>, name: &str) -> Result<Cgroup> {
        let place = place(parent, name)?;
        let mut members = Vec::new();
        for hierarchy in hierarchy::mounted()? {
            let path = hierarchy.root.join(&place);
            if path.is_dir() {
                let dir = hierarchy.is_v2().then(|| fs_base::sys::mount::open_dir(&path)).transpose()?;
                members.push(Member { hierarchy, path, dir });
            }
        }
        Ok(Cgroup { place, members })
    }

    fn add(&mut self, hierarchy: Hierarchy) -> Result<()> {
        let path = hierarchy.root.join(&self.place);
        let parent = path.parent().unwrap_or(&hierarchy.root);
        std::fs::create_dir_all(parent).at("make cgroup", parent)?;
        hierarchy.prepare_parents(parent)?;
        match std::fs::create_dir(&path) {
            // Left by a container of that name that ended badly: it is empty, or it can't be taken.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                delete_tree(&path)?;
                std::fs::create_dir(&path).at("make cgroup", &path)?;
            }
            other => other.at("make cgroup", &path)?,
        }
        let dir = if hierarchy.is_v2() { Some(fs_base::sys::mount::open_dir(&path)?) } else { None };
        let needs_processors = hierarchy.has("cpuset") && !hierarchy.is_v2();
        self.members.push(Member { hierarchy, path: path.clone(), dir });
        if needs_processors { hierarchy::inherit_cpuset(&path) } else { Ok(()) }
    }

    /// Sets the limits that `resources` names, and leaves the others. The result is what this host can't do, in Docker's
    /// words; a limit that the kernel refuses is an error.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        refuse_unsupported(resources)?;
        let mut warnings = Vec::new();
        v1::apply(self, resources, &mut warnings)?;
        v2::apply(self, resources, &mut warnings)?;
        Ok(warnings)
    }

    /// Its folder in the v1 hierarchy of a controller.
    fn v1_dir(&self, controller: &str) -> Option<&Path> {
        let has = |member: &&Member| !member.hierarchy.is_v2() && member.hierarchy.has(controller);
        self.members.iter().find(has).map(|member| member.path.as_path())
    }

    /// Its folder where memory is counted.
    fn memory_dir(&self) -> Option<&Path> {
        self.members.iter().find(|member| member.hierarchy.has("memory")).map(|member| member.path.as_path())
    }

    /// Its folder in the v2 hierarchy.
    fn v2_dir(&self) -> Option<&Path> {
        self.members.iter().find(|member| member.hierarchy.is_v2()).map(|member| member.path.as_path())
    }

    /// Whether v2 is all that the host has.
    fn is_pure_v2(&self) -> bool {
        self.members.iter().all(|member| member.hierarchy.is_v2())
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.members.iter().map(|member| member.path.as_path())
    }

    /// The way in, for a process to take itself.
    pub fn joiner(&self) -> Result<Joiner> {
        let open = |member: &Member| {
            let path = member.path.join("tasks");
            File::options().write(true).open(&path).at("open", path)
        };
        Ok(Joiner(self.members.iter().filter(|member| !member.hierarchy.is_v2()).map(open).collect::<Result<_>>()?))
    }

    /// The v2 folder, for a process to be born in.
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.members.iter().find_map(|member| member.dir.as_ref()).map(AsFd::as_fd)
    }

    /// What the container is shown of it.
    pub fn views(&self) -> Vec<View> {
        match &self.members[..] {
            [only] if only.hierarchy.is_v2() => vec![View { name: None, path: only.hierarchy.root.clone() }],
            all => {
                all.iter().map(|member| View { name: Some(member.hierarchy.name.clone()), path: member.path.clone() }).collect()
            }
        }
    }

    /// How often the kernel has ended a process in it for want of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(dir) = self.memory_dir() else { return Ok(0) };
        let is_v1 = self.v1_dir("memory").is_some();
        let path = dir.join(if is_v1 { "memory.oom_control" } else { "memory.events" });
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        Ok(text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0))
    }

    /// Removes it, once it is empty. What is gone already is no error.
    pub fn delete(&self) -> Result<()> {
        // The first failure is told, the others are tried all the same.
        let mut first = Ok(());
        for member in self.members.iter().rev() {
            let deleted = delete_tree(&member.path);
            first = first.and(deleted);
        }
        first
    }
}

/// Refuses the kinds of limits that containers can't have yet, by name.
fn refuse_unsupported(resources: &LinuxResources) -> Result<()> {
    let given = [
        (resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()), "hugepageLimits"),
        (resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()), "rdma"),
        (resources.network().is_some(), "network"),
    ];
    match given.iter().find(|(given, _)| *given) {
        Some((_, name)) => {
            Err(Error::unsupported(format!("the resource limit {name} is not supported: containers get no such cgroup")))
        }
        None => Ok(()),
    }
}

/// The way into a cgroup; survives a fork.
#[derive(Debug)]
pub struct Joiner(Vec<File>);

impl Joiner {
    /// Moves this process, which has one thread.
    pub fn join_self(&self) -> Result<()> {
        use std::io::Write;
        self.0.iter().try_for_each(|mut file| file.write_all(b"0").at("join", "cgroup"))
    }
}

/// Whether containers' cgroups can be made in this one; `""` is the default.
pub fn check_parent(parent: &str) -> Result<()> {
    place(Some(parent).filter(|parent| !parent.is_empty()), "container").map(drop)
}

/// The cgroup's path below the root of a hierarchy.
fn place(parent: Option<&str>, name: &str) -> Result<PathBuf> {
    let parent = parent.unwrap_or(DEFAULT_PARENT);
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if !is_name || [parent, name].iter().any(|text| text.contains(char::is_control)) {
        return Err(Error::invalid(format!("invalid cgroup {parent:?} / {name:?}")));
    }
    let mut place = PathBuf::new();
    for component in Path::new(parent).components().chain([Component::Normal(name.as_ref())]) {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => place.push(part),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::invalid(format!("invalid cgroup parent {parent:?}: it holds \"..\"")));
            }
        }
    }
    if Path::new(parent).extension().is_some_and(|extension| extension == "slice") && !parent.contains('/') {
        return Err(Error::unsupported(format!("cgroup parent {parent:?} names a systemd slice, which is not supported"))
            .with_hint("give a path, such as /my-containers"));
    }
    Ok(place)
}

/// Removes a cgroup and those in it.
fn delete_tree(path: &Path) -> Result<()> {
    let started = Instant::now();
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                for child in std::fs::read_dir(path).into_iter().flatten().flatten() {
                    if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                        delete_tree(&child.path())?;
                    }
                }
                let waited = started.elapsed();
                if waited > EMPTY_DEADLINE {
                    return Err(error).at("remove cgroup", path);
                }
                std::thread::sleep((waited / 4).clamp(Duration::from_micros(200), Duration::from_millis(50)));
            }
            Err(error) => return Err(error).at("remove cgroup", path),
        }
    }
}

#[cfg(test)]
mod tests;
