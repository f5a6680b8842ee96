//! User namespaces: which ids inside are which outside, mounts that show owners accordingly, and acting on files as
//! somebody else.
//!
//! Source: user_namespaces(7); mount_setattr(2), `MOUNT_ATTR_IDMAP`; setfsuid(2); credentials(7).

use std::fmt::Write;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

use super::mount::Mount;
use crate::{Error, IoContext, Result};

/// The most extents that the kernel takes for one map. Source: `UID_GID_MAP_MAX_EXTENTS`.
const MOST_RANGES: usize = 340;

/// Ids that follow each other, inside a user namespace and outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one inside.
    pub inside: u32,
    /// The first one outside.
    pub outside: u32,
    /// How many they are.
    pub count: u32,
}

/// The users and groups of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl IdMap {
    /// From ranges, which must not overlap on either side, and must name root inside.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Result<IdMap> {
        for (ranges, what) in [(&uids, "user"), (&gids, "group")] {
            check(ranges).map_err(|error| error.context(format!("{what} ids")))?;
        }
        Ok(IdMap { uids, gids })
    }

    /// That of a process, as the caller's own namespace sees it; `None` if all ids are the same there as here.
    pub fn of_process(pid: i32) -> Result<Option<IdMap>> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            let text = std::fs::read_to_string(&path).at("read", &path)?;
            let ranges = text.lines().map(|line| parse(line).ok_or_else(|| Error::internal(format!("{path}: {line:?}"))));
            ranges.collect::<Result<Vec<IdRange>>>()
        };
        let (uids, gids) = (read("uid_map")?, read("gid_map")?);
        let same = |ranges: &[IdRange]| ranges.iter().all(|range| range.inside == range.outside);
        Ok(if same(&uids) && same(&gids) { None } else { Some(IdMap { uids, gids }) })
    }

    /// Of users.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// Of groups.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// The user outside who is `uid` inside.
    pub fn uid_outside(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The group outside that is `gid` inside.
    pub fn gid_outside(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// The user inside who is `uid` outside.
    pub fn uid_inside(&self, uid: u32) -> Option<u32> {
        inside(&self.uids, uid)
    }

    /// The group inside that is `gid` outside.
    pub fn gid_inside(&self, gid: u32) -> Option<u32> {
        inside(&self.gids, gid)
    }

    /// The user and the group outside that are root inside.
    pub fn root(&self) -> Result<(u32, u32)> {
        match (self.uid_outside(0), self.gid_outside(0)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => Err(Error::invalid("a user namespace without root")),
        }
    }

    /// Gives a process's new user namespace, which has no ids yet, these. The groups first, as user_namespaces(7) has it.
    pub fn give_to(&self, pid: i32) -> Result<()> {
        for (name, ranges) in [("gid_map", &self.gids), ("uid_map", &self.uids)] {
            let path = format!("/proc/{pid}/{name}");
            let text = ranges.iter().fold(String::new(), |mut text, range| {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
                text
            });
            std::fs::write(&path, text).at("write", path)?;
        }
        Ok(())
    }
}

fn check(ranges: &[IdRange]) -> Result<()> {
    if ranges.is_empty() || ranges.len() > MOST_RANGES {
        return Err(Error::invalid(format!("{} ranges of ids: there can be 1 to {MOST_RANGES}", ranges.len())));
    }
    let end = |start: u32, range: &IdRange| start.checked_add(range.count).filter(|_| range.count > 0);
    for (index, range) in ranges.iter().enumerate() {
        let (Some(inside), Some(outside)) = (end(range.inside, range), end(range.outside, range)) else {
            return Err(Error::invalid(format!("{} ids from {} on are no range", range.count, range.outside)));
        };
        let overlaps = |other: &IdRange| {
            (other.inside < inside && range.inside < other.inside + other.count)
                || (other.outside < outside && range.outside < other.outside + other.count)
        };
        if ranges[..index].iter().any(overlaps) {
            return Err(Error::invalid(format!("the {} ids from {} on overlap with others", range.count, range.outside)));
        }
    }
    if outside(ranges, 0).is_none() {
        return Err(Error::invalid("nobody is root inside"));
    }
    Ok(())
}

fn parse(line: &str) -> Option<IdRange> {
    let mut fields = line.split_ascii_whitespace().map(str::parse);
    let mut next = || fields.next()?.ok();
    Some(IdRange { inside: next()?, outside: next()?, count: next()? })
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| id >= range.inside && id - range.inside < range.count)?;
    Some(range.outside + (id - range.inside))
}

fn inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| id >= range.outside && id - range.outside < range.count)?;
    Some(range.inside + (id - range.outside))
}

/// A user namespace, held by a descriptor.
#[derive(Debug)]
pub struct UserNamespace(OwnedFd);

impl UserNamespace {
    /// A new one with these ids, and nobody in it: to map mounts by.
    pub fn new(map: &IdMap) -> Result<UserNamespace> {
        let idle = Idle::start()?;
        map.give_to(idle.pid)?;
        UserNamespace::of_process(idle.pid)
    }

    /// That of a process.
    pub fn of_process(pid: i32) -> Result<UserNamespace> {
        let path = format!("/proc/{pid}/ns/user");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        Ok(UserNamespace(rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).at("open", path)?))
    }

    /// The one that a descriptor stands for.
    pub fn from_fd(fd: OwnedFd) -> UserNamespace {
        UserNamespace(fd)
    }

    /// Joins it. Only a process with one thread may, and there is no way back.
    pub fn join(&self) -> Result<()> {
        let kind = Some(rustix::thread::LinkNameSpaceType::User);
        rustix::thread::move_into_link_name_space(self.0.as_fd(), kind).at("join", "user namespace")
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A process in a new user namespace that does nothing. Dropped, it is gone.
struct Idle {
    pid: i32,
    pidfd: OwnedFd,
}

impl Idle {
    fn start() -> Result<Idle> {
        let mut pidfd: libc::c_int = -1;
        // SAFETY: all-zero is a valid clone_args.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64;
        args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: no memory is shared, and `args` outlives the call. This process may have other threads, so the new
        // one takes no lock and allocates nothing: it makes two system calls, again and again, until it is killed.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<libc::clone_args>()) };
        match pid {
            // SAFETY: as said above. If its maker dies, so does it.
            0 => unsafe {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                loop {
                    libc::syscall(libc::SYS_pause);
                }
            },
            // SAFETY: the kernel just wrote a descriptor that nobody else owns.
            1.. => Ok(Idle { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
            _ => Err(std::io::Error::last_os_error())
                .at("make", "a user namespace")
                .map_err(|error| error.with_hint("see /proc/sys/user/max_user_namespaces")),
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};
        let _ = pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Mount {
    /// Has this mount, which must be new and detached, show and take owners as the namespace maps them: what is `inside`
    /// on the disk is `outside` to whoever looks. An error is a file system that can't be mapped, or a kernel that can't.
    pub fn map_ids(&self, namespace: &UserNamespace) -> Result<()> {
        super::mount::set_id_map(self.as_fd(), namespace.as_fd())
    }
}

/// While it lives, this thread makes files as the root of a user namespace would, with the caller's capabilities.
#[derive(Debug)]
pub struct ActingAs {
    before: CapabilitySets,
    /// It is this thread's, so it stays on it.
    _thread: PhantomData<*const ()>,
}

impl ActingAs {
    /// Begins it. The thread must have root's own ids.
    pub fn root_of(map: &IdMap) -> Result<ActingAs> {
        let (uid, gid) = map.root()?;
        let before = capabilities(None).at("read", "capabilities")?;
        let acting = ActingAs { before, _thread: PhantomData };
        // SAFETY: both change only what this thread is to file systems.
        let same = unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
            // They answer what was before; an id that can't be changes nothing.
            (libc::setfsuid(u32::MAX) as u32, libc::setfsgid(u32::MAX) as u32) == (uid, gid)
        };
        if !same {
            return Err(Error::denied(format!("files can't be made as user {uid} and group {gid}")));
        }
        // Leaving root's id has taken the capabilities over files.
        set_capabilities(None, before).at("set", "capabilities")?;
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // SAFETY: as above. The caller was root to file systems before.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
        }
        let _ = set_capabilities(None, self.before);
    }
}

/// Who is root inside, as `user:group` outside.
impl std::fmt::Display for IdMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = |ranges: &[IdRange]| ranges.first().map_or(0, |range| range.outside);
        write!(f, "{}:{}", first(&self.uids), first(&self.gids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    fn map() -> IdMap {
        let ranges = vec![range(0, 100_000, 1000), range(1000, 300_000, 10)];
        IdMap::new(ranges.clone(), ranges).unwrap()
    }

    #[test]
    fn ids_are_found_in_both_directions() {
        let map = map();
        assert_eq!((map.uid_outside(0), map.uid_outside(1009), map.uid_outside(1010)), (Some(100_000), Some(300_009), None));
        assert_eq!((map.gid_inside(100_999), map.gid_inside(300_000), map.gid_inside(0)), (Some(999), Some(1000), None));
        assert_eq!((map.root().unwrap(), map.to_string().as_str()), ((100_000, 100_000), "100000:100000"));
    }

    #[test]
    fn ranges_that_the_kernel_would_refuse_are_refused() {
        let good = vec![range(0, 100_000, 10)];
        for bad in [
            vec![],
            vec![range(0, 1, 0)],
            vec![range(1, 100_000, 10)],
            vec![range(0, u32::MAX - 3, 10)],
            vec![range(0, 100_000, 10), range(5, 200_000, 10)],
            vec![range(0, 100_000, 10), range(10, 100_009, 10)],
            (0..341).map(|n| range(n, 1000 + n, 1)).collect(),
        ] {
            assert!(IdMap::new(bad.clone(), good.clone()).is_err(), "{bad:?}");
            assert!(IdMap::new(good.clone(), bad).is_err());
        }
    }

    #[test]
    fn a_namespace_has_its_ids_and_leaves_no_process() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: user namespaces: needs root");
            return;
        }
        let idle = Idle::start().unwrap();
        map().give_to(idle.pid).unwrap();
        assert_eq!(IdMap::of_process(idle.pid).unwrap(), Some(map()));
        assert_eq!(IdMap::of_process(std::process::id() as i32).unwrap(), None);
        let pid = idle.pid;
        drop(idle);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_mapped_mount_shows_and_takes_other_owners() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mapped mounts: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::clone_of(dir.path(), false).unwrap();
        mount.map_ids(&UserNamespace::new(&map()).unwrap()).unwrap();
        let through = std::path::PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()));
        assert_eq!(std::fs::metadata(&through).unwrap().uid(), 100_000);
        assert!(std::fs::write(through.join("own"), "x").is_err(), "the host's root is nobody there");
        {
            let _root = ActingAs::root_of(&map()).unwrap();
            std::fs::write(through.join("own"), "x").unwrap();
            std::os::unix::fs::chown(through.join("own"), Some(300_000), Some(100_007)).unwrap();
        }
        let own = std::fs::metadata(dir.path().join("own")).unwrap();
        assert_eq!((own.uid(), own.gid()), (1000, 7), "the disk has the ids inside");
        std::fs::write(dir.path().join("other"), "x").unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("other")).unwrap().uid(), 0, "the thread is itself again");
    }
}
