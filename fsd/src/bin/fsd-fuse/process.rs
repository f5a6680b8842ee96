//! The processes of a session: the one that serves, and its guard.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::archive::Scratch;
use fs_base::sys::fuse::Mounted;
use fs_base::sys::process::{Child, ForkOptions, Forked, exit_now, fork};
use fs_base::sys::signal::SignalSet;
use fs_base::{Error, IoContext, Result};
use layerfs::driver::fuse::{Fs, Session};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

/// How long users of the mount may go on after it was told to end.
const GRACE: Duration = Duration::from_secs(2);

/// As many open files as this process may have.
pub fn raise_limits() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // It works with fewer too.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files may be open.
pub fn most_open_files() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current.map_or(1 << 16, |most| most as usize).min(1 << 16)
}

/// Serves a mounted tree. In the background the caller of the program gets its prompt back as soon as the tree can be
/// used. Returns only in the foreground, and where nothing could be started.
pub fn serve(session: Session, fs: Arc<Fs>, scratch: Option<Scratch>, foreground: bool) -> Result<()> {
    if foreground {
        return run(session, fs, rustix::process::getpid(), || ());
    }
    let place = session.place().cloned();
    let result = background(session, fs, scratch);
    if result.is_err() {
        let _ = detach(place.as_ref());
    }
    result
}

/// What has no place in this mount namespace goes with its last user.
fn detach(place: Option<&Mounted>) -> Result<()> {
    place.map_or(Ok(()), Mounted::detach)
}

fn background(session: Session, fs: Arc<Fs>, scratch: Option<Scratch>) -> Result<()> {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("make", "pipe")?;
    if let Forked::Parent(_) = fork(&ForkOptions::default())? {
        drop((to, session));
        let mut answer = [0; 1];
        return match File::from(from).read(&mut answer) {
            Ok(1) => {
                // The guard's, from now on.
                std::mem::forget(scratch);
                Ok(())
            }
            _ => Err(Error::internal("the session ended before it served anything")),
        };
    }
    // From here on this is another process, and what is returned reaches nobody.
    drop(from);
    rustix::process::setsid().at("setsid", "session")?;
    rustix::process::chdir("/").at("change directory to", "/")?;
    let signals = SignalSet::block_all_but_faults()?;
    let last = rustix::process::getpid();
    let Some(place) = session.place().cloned() else { serve_here(session, fs, last, to) };
    match fork(&ForkOptions::default())? {
        Forked::Parent(server) => {
            drop((session, fs, to, signals));
            let _ = quiet();
            guard(&server, &place);
            drop(scratch);
            exit_now(0)
        }
        Forked::Child => serve_here(session, fs, last, to),
    }
}

/// Says on `to` when the tree can be used; `last` is the process that ends last.
fn serve_here(session: Session, fs: Arc<Fs>, last: Pid, to: OwnedFd) -> ! {
    let mut to = File::from(to);
    let result = run(session, fs, last, move || {
        let _ = quiet();
        let _ = to.write_all(b"+");
    });
    if let Err(error) = &result {
        eprintln!("fsd-fuse: {error}");
    }
    exit_now(i32::from(result.is_err()))
}

/// The standard streams belong to who started this.
fn quiet() -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null").at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).at("set", "standard input")?;
    rustix::stdio::dup2_stdout(&null).at("set", "standard output")?;
    rustix::stdio::dup2_stderr(&null).at("set", "standard error")
}

/// Waits for the server to end, and takes away what it left mounted. One that ended well has left nothing: what is
/// mounted at its place now is somebody else's.
fn guard(server: &Child, place: &Mounted) {
    fs_base::sys::memory::give_back_heap();
    fs_base::sys::memory::give_back_code();
    if wait(server.pid) != Some(0) {
        let _ = place.detach();
    }
}

/// The exit code of a child when it ends, if it has one.
fn wait(pid: i32) -> Option<i32> {
    let pid = Pid::from_raw(pid)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.ok().flatten().and_then(|(_, status)| status.exit_status()),
        }
    }
}

/// Serves until the tree is unmounted, or until a signal asks for the end.
fn run(session: Session, fs: Arc<Fs>, last: Pid, ready: impl FnOnce() + Send + 'static) -> Result<()> {
    let signals = SignalSet::block_all_but_faults()?;
    let place = session.place().cloned();
    let at_end = place.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                if let Some(Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT) = signals.wait() {
                    let gone = detach(at_end.as_ref()).is_ok();
                    // The server ends when the last user of the mount is gone; some never go.
                    std::thread::sleep(GRACE);
                    exit_now(i32::from(!gone));
                }
            }
        })
        .at("start", "thread")?;
    let result = session.serve(fs, last, ready);
    if result.is_err() {
        detach(place.as_ref())?;
    }
    result
}
