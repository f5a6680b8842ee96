//! Signals taken one by one instead of by handlers. Source: sigwaitinfo(2).

use crate::{IoContext, Result};
use rustix::process::Signal;

/// Signals that are blocked, to be waited for.
#[derive(Debug)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks every signal that can be blocked, for this thread and what it forks.
    pub fn block_all() -> Result<SignalSet> {
        SignalSet::block_all_but(&[])
    }

    /// The same, but for those by which the kernel tells a thread of a fault of its own. To a thread that blocks them it
    /// does not tell it: it ends the process.
    pub fn block_all_but_faults() -> Result<SignalSet> {
        SignalSet::block_all_but(&[libc::SIGBUS, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS])
    }

    fn block_all_but(others: &[libc::c_int]) -> Result<SignalSet> {
        // SAFETY: sigfillset initialises the set, sigprocmask reads it and changes this thread's mask.
        let (set, result) = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            for other in others {
                libc::sigdelset(&raw mut set, *other);
            }
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
