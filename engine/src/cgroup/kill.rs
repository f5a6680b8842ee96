//! All processes of a cgroup: listed, stopped, ended.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_base::sys::pid::Process;
use fs_base::{Error, IoContext, Result};
use rustix::process::Signal;

use super::{Cgroup, control};

/// How long ended processes are waited for.
const KILL: Duration = Duration::from_secs(10);
/// How long processes may take to stop.
const FREEZE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// The processes in it and in the cgroups that they made in it, by their numbers here; zombies are not among them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        self.dirs().try_for_each(|dir| collect(dir, &mut pids))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Ends all of them with SIGKILL, frozen ones too, and waits a moment for them to go: one that waits for a dead
    /// disk goes later, or never, which [`Cgroup::delete`] tells.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + KILL;
        let mut pause = Duration::from_micros(250);
        for round in 0.. {
            let pids = self.processes()?;
            if pids.is_empty() || Instant::now() >= deadline {
                break;
            }
            let by_kernel = match self.v2_dir() {
                Some(dir) => control::write_if_there(&dir.join("cgroup.kill"), "1")?,
                None => false,
            };
            // Processes may be in v1 alone. Frozen, they can't outrun us by forking; most are gone without that.
            if !by_kernel || round > 0 {
                let _ = self.set_frozen(true, Instant::now() + Duration::from_millis(20));
                self.kill_listed(&self.processes()?)?;
            }
            // A frozen process of v1 ends when it runs again.
            self.thaw()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops all of them where they are, and returns when they have.
    pub fn freeze(&self) -> Result<()> {
        let done = self.set_frozen(true, Instant::now() + FREEZE);
        if done.is_err() {
            let _ = self.thaw();
        }
        done
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false, Instant::now() + FREEZE)
    }

    /// Whether they are stopped by [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Some(Freezer::V1(path)) => Ok(control::read_if_there(&path)?.is_some_and(|state| state == "FROZEN")),
            Some(Freezer::V2(dir)) => {
                let events = control::read_if_there(&dir.join("cgroup.events"))?.unwrap_or_default();
                Ok(control::field(&events, "frozen") == Some(1))
            }
            None => Ok(false),
        }
    }

    /// Signals those of `pids` that are still in it: held by descriptor before the second look, none can be another
    /// process that got the number of one that ended.
    fn kill_listed(&self, pids: &[i32]) -> Result<()> {
        let held: Vec<Process> = pids.iter().filter_map(|pid| Process::open(*pid).ok()).collect();
        let still = self.processes()?;
        for process in held.iter().filter(|process| still.binary_search(&process.pid()).is_ok()) {
            // It may have ended by itself.
            let _ = process.signal(Signal::KILL.as_raw());
        }
        Ok(())
    }

    fn set_frozen(&self, frozen: bool, deadline: Instant) -> Result<()> {
        let there = match self.freezer() {
            Some(Freezer::V1(path)) => control::write_if_there(&path, if frozen { "FROZEN" } else { "THAWED" })?,
            Some(Freezer::V2(dir)) => control::write_if_there(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?,
            None if frozen => return Err(Error::unsupported("this host has no freezer cgroup: containers can't be paused")),
            None => return Ok(()),
        };
        if !frozen || !there {
            return Ok(());
        }
        while !self.is_frozen()? {
            if Instant::now() >= deadline {
                return Err(Error::busy(format!("cgroup {}: its processes do not freeze", self.place.display())));
            }
            std::thread::sleep(Duration::from_millis(1));
            // v1 forgets processes that were forked meanwhile; being told again, it looks for them.
            if let Some(Freezer::V1(path)) = self.freezer() {
                control::write_if_there(&path, "FROZEN")?;
            }
        }
        Ok(())
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        match self.v1_dir("freezer") {
            Some(dir) => Some(Freezer::V1(dir.join("freezer.state"))),
            None => self.v2_dir().map(Freezer::V2),
        }
    }
}

enum Freezer<'a> {
    /// The state file.
    V1(PathBuf),
    /// The directory.
    V2(&'a Path),
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    let text = control::read_if_there(&dir.join("cgroup.procs"))?.unwrap_or_default();
    // 0 is a process that our process namespace has no number for.
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    children(dir)?.iter().try_for_each(|child| collect(child, pids))
}

/// The cgroups directly in `dir`; none if it has gone.
fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", dir)?,
    };
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.filter_map(std::result::Result::ok).filter(is_dir).map(|entry| entry.path()).collect())
}
