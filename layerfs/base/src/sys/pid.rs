//! Processes by descriptor: a pidfd can't be mistaken for a later process of the same number.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::{Error, IoContext, Result};

/// The highest signal. Source: signal(7), `SIGRTMAX`.
const MOST: i32 = 64;

/// A process held by descriptor.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// The process that has this number now. Compare [`start_time`] where the number is an old one.
    pub fn open(pid: i32) -> Result<Process> {
        let number = Pid::from_raw(pid).ok_or_else(|| Error::invalid(format!("{pid} is not a process number")))?;
        let fd = rustix::process::pidfd_open(number, PidfdFlags::empty()).at("open process", pid.to_string())?;
        Ok(Process { pid, fd })
    }

    /// A process that was just made, by what its maker was given.
    pub fn of_child(child: super::process::Child) -> Process {
        Process { pid: child.pid, fd: child.pidfd }
    }

    /// A process that was handed over by descriptor, and its number as whoever did so said it.
    pub fn handed_over(pid: i32, fd: OwnedFd) -> Process {
        Process { pid, fd }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal by number. A process that has ended is [`crate::Class::NotFound`].
    pub fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=MOST).contains(&signal) {
            return Err(Error::invalid(format!("{signal} is not a signal")));
        }
        // SAFETY: the number is a signal's. Those that a libc keeps for itself are kept for the process that gets them, and
        // whether it may be sent them is for who sends them to say; nothing of this process is touched by it.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        rustix::process::pidfd_send_signal(&self.fd, signal).at("signal process", self.pid.to_string())
    }

    /// Whether it has ended (a zombie has).
    pub fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When a process started, in clock ticks since boot: with its number, this names a process for good.
/// Source: proc_pid_stat(5), field 22.
pub fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name
        .split(' ')
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::internal(format!("{path} has no start time: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_is_seen_and_can_not_be_signalled() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id() as i32).unwrap();
        assert!(!process.has_ended());
        assert!(start_time(process.pid()).unwrap() > 0);
        process.signal(9).unwrap();
        child.wait().unwrap();
        assert!(process.has_ended());
        assert_eq!(process.signal(9).unwrap_err().class(), crate::Class::NotFound);
    }
}
