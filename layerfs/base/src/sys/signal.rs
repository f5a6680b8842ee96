//! Signals taken one by one instead of by handlers. Source: sigwaitinfo(2).

use crate::{IoContext, Result};
use rustix::process::Signal;

/// Signals that are blocked, to be waited for.
#[derive(Debug)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks every signal that can be blocked, for this thread and what it forks.
    pub fn block_all() -> Result<SignalSet> {
        // SAFETY: sigfillset initialises the set, sigprocmask reads it and changes this thread's mask.
        let (set, result) = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            let result = libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            (set, result)
        };
        if result == 0 { Ok(SignalSet(set)) } else { Err(std::io::Error::last_os_error()).at("block", "signals") }
    }

    /// Waits for the next one. `None` if the wait was disturbed, or for a number that has no name.
    pub fn wait(&self) -> Option<Signal> {
        // SAFETY: the set is initialised; no details are asked for.
        let number = unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) };
        Signal::from_named_raw(number)
    }
}
