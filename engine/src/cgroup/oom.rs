//! Hearing that memory has run out, when it does.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fs_base::{IoContext, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::{Cgroup, control};

/// Becomes readable when memory has run out.
#[derive(Debug)]
pub struct OomWatch {
    watch: OwnedFd,
    is_early: bool,
}

impl Cgroup {
    /// Watches it from now on; `None` if nothing counts its memory. Source: Linux, `cgroup-v1/memory.rst`, "OOM Control",
    /// and `cgroup-v2.rst`, "memory.events".
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let Some(dir) = self.memory_dir() else { return Ok(None) };
        if self.v1_dir("memory").is_none() {
            let events = dir.join("memory.events");
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).at("watch", &events)?;
            inotify::add_watch(&watch, &events, inotify::WatchFlags::MODIFY).at("watch", &events)?;
            return Ok(Some(OomWatch { watch, is_early: false }));
        }
        let path = dir.join("memory.oom_control");
        let source = std::fs::File::open(&path).at("open", &path)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).at("watch", &path)?;
        control::write(&dir.join("cgroup.event_control"), &format!("{} {}", event.as_raw_fd(), source.as_raw_fd()))?;
        Ok(Some(OomWatch { watch: event, is_early: true }))
    }
}

impl OomWatch {
    /// Whether the processes that the kernel ends are counted only a moment later: see [`Cgroup::oom_kills`].
    pub fn is_early(&self) -> bool {
        self.is_early
    }

    /// Waits for the next time.
    pub fn rearm(&self) {
        let mut events = [0u8; 1024];
        while rustix::io::read(&self.watch, &mut events).is_ok_and(|count| count > 8) {}
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
