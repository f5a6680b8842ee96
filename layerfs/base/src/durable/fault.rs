//! Faults on purpose: a test fails the N-th durable step for every N, and looks at what that leaves behind.
//!
//! One plan for the process, because steps are taken by whichever thread is at hand; so a test arms it in a process of
//! its own. Built with debug assertions only: a release has no trace of it, and its steps cost nothing more.

use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// What befalls a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails; those after it don't.
    Once,
    /// It fails, and every one after it.
    ForGood,
    /// The process is killed instead of taking it.
    Kill,
}

/// Which step is hit, and how. As text: `once@3`, `for-good@3`, `kill@3`; the first step is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The step's number, counted from [`arm`].
    pub at: u64,
    /// What happens to it.
    pub fault: Fault,
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Plan, Error> {
        let parsed = text.split_once('@').and_then(|(fault, at)| {
            let fault = match fault {
                "once" => Fault::Once,
                "for-good" => Fault::ForGood,
                "kill" => Fault::Kill,
                _ => return None,
            };
            Some(Plan { at: at.parse().ok()?, fault })
        });
        parsed.ok_or_else(|| Error::invalid(format!("{text:?} is no fault")).with_hint("such as once@3, for-good@3 or kill@3"))
    }
}

struct Armed {
    plan: Plan,
    told: fn(&str),
}

static ARMED: Mutex<Option<Armed>> = Mutex::new(None);
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// From now on steps are counted and the plan's is hit. `told` gets a line about each step that is.
pub fn arm(plan: Plan, told: fn(&str)) {
    TAKEN.store(0, Ordering::SeqCst);
    *armed() = Some(Armed { plan, told });
}

/// No step is hit any more. Returns how many have been taken since [`arm`].
pub fn disarm() -> u64 {
    *armed() = None;
    TAKEN.load(Ordering::SeqCst)
}

fn armed() -> std::sync::MutexGuard<'static, Option<Armed>> {
    ARMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Called before each durable step.
pub(super) fn strike(operation: &str, path: &Path) -> rustix::io::Result<()> {
    let armed = armed();
    let Some(Armed { plan, told }) = &*armed else { return Ok(()) };
    let number = TAKEN.fetch_add(1, Ordering::SeqCst) + 1;
    let hit = match plan.fault {
        Fault::Once | Fault::Kill => number == plan.at,
        Fault::ForGood => number >= plan.at,
    };
    if !hit {
        return Ok(());
    }
    told(&format!("fault on purpose at step {number}: {operation} {}", path.display()));
    if plan.fault == Fault::Kill {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment to arrive, and the step must not be taken meanwhile.
        loop {
            std::thread::park();
        }
    }
    Err(rustix::io::Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_refused() {
        assert_eq!("kill@12".parse::<Plan>().unwrap(), Plan { at: 12, fault: Fault::Kill });
        assert_eq!("for-good@1".parse::<Plan>().unwrap(), Plan { at: 1, fault: Fault::ForGood });
        for text in ["", "kill", "kill@", "kill@x", "never@1"] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }
}
