//! Who wants to hear that memory has run out.

use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, OomWatch};

/// How often the kernel's count is looked at after memory has run out, where it tells of that before it ends anybody.
const LOOKS: u32 = 50;
const STEP: Duration = Duration::from_millis(20);

/// What is known of it.
#[derive(Debug, Default)]
pub struct OutOfMemory {
    watch: Option<OomWatch>,
    kills: u64,
    looks: u32,
    next: Option<Instant>,
}

impl OutOfMemory {
    /// Of a cgroup that was just made, or is in another hierarchy now. Without a watch the end tells.
    pub fn of(cgroup: &Cgroup) -> OutOfMemory {
        let watch = cgroup.watch_oom().unwrap_or_else(|error| {
            eprintln!("{error}");
            None
        });
        OutOfMemory { watch, kills: cgroup.oom_kills().unwrap_or(0), ..OutOfMemory::default() }
    }

    /// What to wait for.
    pub fn watch(&self) -> Option<&OomWatch> {
        self.watch.as_ref()
    }

    /// When it wants to look again.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// How many processes the kernel has ended.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// It has run out.
    pub fn noticed(&mut self) {
        let Some(watch) = &self.watch else { return };
        watch.rearm();
        self.looks = if watch.is_early() { LOOKS } else { 1 };
        self.next = Some(Instant::now());
    }

    /// Looks, if that is due; whether there are more than before.
    pub fn look(&mut self, cgroup: &Cgroup) -> bool {
        if self.next.is_none_or(|next| Instant::now() < next) {
            return false;
        }
        let kills = cgroup.oom_kills().unwrap_or(self.kills);
        let more = kills > self.kills;
        self.kills = kills.max(self.kills);
        self.looks = self.looks.saturating_sub(1);
        self.next = (!more && self.looks > 0).then(|| Instant::now() + STEP);
        more
    }
}
