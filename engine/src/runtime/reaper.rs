//! `--init`: the container's first process is ours. It runs the user's program as its child, hands on every signal
//! that can be handed on, takes the status of orphans, and ends as the program ended.

use std::os::fd::OwnedFd;

use fs_base::sys::process::{ForkOptions, Forked, exit_now, fork, set_title};
use fs_base::sys::signal::SignalSet;
use oci_spec::runtime::Process;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

use super::attr::When;
use super::channel::Channel;
use super::init::become_program;
use super::process::{late_filter, restrict};
use crate::seccomp::Filter;

/// Runs until the program has ended; the result is the exit code.
pub fn run(process: &Process, filter: Option<&Filter>, warnings: &[String], console: Option<OwnedFd>, channel: Channel) -> i32 {
    // Nobody in the container looks into the memory of our own code.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let Ok(signals) = SignalSet::block_all() else { return 255 };
    let mut warnings = warnings.to_vec();
    let child = match fork(&ForkOptions::default()) {
        Ok(Forked::Child) => {
            let _ = rustix::process::setpgid(None, None);
            let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            channel.send_failure(&become_program(process, filter, &mut warnings, console, &channel));
            exit_now(255)
        }
        Ok(Forked::Parent(child)) => child,
        Err(error) => {
            channel.send_failure(&error);
            return 255;
        }
    };
    drop(console);
    let command = process.args().as_ref().map(|args| args.join(" ")).unwrap_or_default();
    set_title(&format!("init -- {command}"));
    let _ = rustix::thread::set_name(c"init");
    // It needs no more rights than the program it looks after.
    let restricted = restrict(process, filter, When::Now, &mut warnings).and_then(|()| late_filter(process, filter));
    if let Err(error) = restricted {
        channel.send_failure(&error);
        return 255;
    }
    // The program's success is the end of the last copy of the channel.
    drop(channel);
    let Some(main) = Pid::from_raw(child.pid) else { return 255 };
    loop {
        match signals.wait() {
            Some(Signal::CHILD) => {
                if let Some(code) = reap_all(main) {
                    return code;
                }
            }
            Some(signal) => drop(rustix::process::kill_process(main, signal)),
            None => {}
        }
    }
}

/// Takes the status of all that have ended; the exit code of `main` if it is among them.
fn reap_all(main: Pid) -> Option<i32> {
    let mut result = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == main {
            result = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        }
    }
    result
}
