//! The processes of a session: the one that serves, and its guard.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::archive::Scratch;
use super::lock::SessionLock;
use fs_base::sys::fuse::Mounted;
use fs_base::sys::process::{Child, ForkOptions, Forked, exit_now, fork};
use fs_base::sys::signal::SignalSet;
use fs_base::sys::user::{User, become_user};
use fs_base::{Error, IoContext, Result};
use layerfs::driver::fuse::{Fs, Session};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

/// How long users of the mount may go on after it was told to end.
const GRACE: Duration = Duration::from_secs(2);

/// The exit code of a server that was asked to end, and could not unmount what it served: its guard can.
const NOT_DETACHED: i32 = 3;
/// How long a guard waits before it serves a tree again, the second time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest that it waits.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A session that has lived so long was no failure.
const LONG_ENOUGH: Duration = Duration::from_secs(10);
/// So many failures in a row are enough.
const MOST_FAILURES: u32 = 12;

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

/// How a mounted tree is served.
#[derive(Debug, Default)]
pub struct Serving {
    /// Who serves it, if that is not us.
    pub user: Option<User>,
    /// That user may read every file.
    pub reads_all: bool,
    /// Where changes go that are not kept.
    pub scratch: Option<Scratch>,
    /// Tells others that this lives.
    pub lock: Option<SessionLock>,
    /// It is to be served again if the server is killed.
    pub again: Option<Again>,
}

impl Serving {
    /// Serves a mounted tree. In the background the caller of the program gets its prompt back as soon as the tree can be
    /// used. Returns only in the foreground, and where nothing could be started.
    pub fn serve(self, session: Session, fs: Arc<Fs>, foreground: bool) -> Result<()> {
        let place = session.place().cloned();
        let result = if foreground {
            self.become_user().and_then(|()| run(session, fs, rustix::process::getpid(), || ()))
        } else {
            self.background(session, fs)
        };
        if result.is_err() {
            let _ = detach(place.as_ref());
        }
        result
    }

    /// Serves a tree in place of a session that was killed, unless nobody wants it any more. The guard is our parent.
    pub fn again(mut self, session: Session, fs: Arc<Fs>) -> Result<()> {
        // The guard takes it away.
        std::mem::forget(self.scratch.take());
        if self.lock.as_ref().is_some_and(|lock| !lock.path().exists()) {
            return detach(session.place());
        }
        let guard = rustix::process::getppid().unwrap_or_else(rustix::process::getpid);
        self.become_user()?;
        run(session, fs, guard, || ())
    }

    fn become_user(&self) -> Result<()> {
        match &self.user {
            Some(user) => become_user(user, self.reads_all),
            None => Ok(()),
        }
    }

    fn background(mut self, session: Session, fs: Arc<Fs>) -> Result<()> {
        let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("make", "pipe")?;
        if let Forked::Parent(_) = fork(&ForkOptions::default())? {
            drop((to, session));
            let mut answer = [0; 1];
            return match File::from(from).read(&mut answer) {
                Ok(1) => {
                    // The guard's, from now on.
                    std::mem::forget(self.scratch);
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
        let Some(place) = session.place().cloned() else { self.serve_here(session, fs, last, to) };
        match fork(&ForkOptions::default())? {
            Forked::Parent(server) => {
                drop((session, fs, to, signals));
                let _ = quiet();
                if let Some(scratch) = &mut self.scratch {
                    scratch.take_over();
                }
                if guard(&server, &place, self.again.as_ref()) {
                    std::mem::forget(self.scratch.take());
                }
                drop(self);
                exit_now(0)
            }
            Forked::Child => self.serve_here(session, fs, last, to),
        }
    }

    /// Says on `to` when the tree can be used; `last` is the process that ends last.
    fn serve_here(&self, session: Session, fs: Arc<Fs>, last: Pid, to: OwnedFd) -> ! {
        let mut to = File::from(to);
        let result = self.become_user().and_then(|()| {
            run(session, fs, last, move || {
                let _ = quiet();
                let _ = to.write_all(b"+");
            })
        });
        if let Err(error) = &result {
            eprintln!("fsd-fuse: {error}");
        }
        exit_now(i32::from(result.is_err()))
    }
}

/// What has no place in this mount namespace goes with its last user.
fn detach(place: Option<&Mounted>) -> Result<()> {
    place.map_or(Ok(()), Mounted::detach)
}

/// How this program is started again by a guard, which has forgotten what it served.
#[derive(Debug)]
pub struct Again {
    arguments: Vec<std::ffi::OsString>,
    directory: PathBuf,
    lock: Option<PathBuf>,
}

impl Again {
    /// As it was started now.
    pub fn new(scratch: Option<&Scratch>, lock: Option<&SessionLock>) -> Result<Again> {
        let mut arguments = vec!["--again".into()];
        if let Some(scratch) = scratch {
            arguments.extend(["--scratch".into(), scratch.path().into()]);
        }
        arguments.extend(std::env::args_os().skip(1));
        let directory = std::env::current_dir().at("find", "the working directory")?;
        Ok(Again { arguments, directory, lock: lock.map(|lock| lock.path().to_owned()) })
    }

    /// Whether nobody has ended the session for good.
    fn is_wanted(&self) -> bool {
        self.lock.as_ref().is_none_or(|lock| lock.exists())
    }

    /// Serves until the end, and returns the exit code if there is one.
    fn run(&self) -> Option<i32> {
        let mut command = std::process::Command::new("/proc/self/exe");
        let status = command.args(&self.arguments).current_dir(&self.directory).status();
        status.ok().and_then(|status| status.code())
    }
}

/// The standard streams belong to who started this.
fn quiet() -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null").at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).at("set", "standard input")?;
    rustix::stdio::dup2_stdout(&null).at("set", "standard output")?;
    rustix::stdio::dup2_stderr(&null).at("set", "standard error")
}

/// Waits for the server to end, and takes away what it left mounted. One that ended well has left nothing: what is
/// mounted at its place now is somebody else's. One that was killed is started again, if that was asked for: at once the
/// first time, then with pauses that grow, until it fails too often in a row. Then whoever keeps the lock's file may do it,
/// and this returns true: what was written has to stay.
fn guard(server: &Child, place: &Mounted, again: Option<&Again>) -> bool {
    fs_base::sys::memory::give_back_heap();
    fs_base::sys::memory::give_back_code();
    let mut code = wait(server.pid);
    if code != Some(0) {
        let _ = place.detach();
    }
    let Some(again) = again else { return false };
    let (mut pause, mut failures) = (Duration::ZERO, 0);
    while is_killed(code) && failures < MOST_FAILURES {
        std::thread::sleep(pause);
        if !again.is_wanted() {
            return false;
        }
        let since = Instant::now();
        code = again.run();
        if code != Some(0)
            && let Ok(Some(left)) = Mounted::at(place.target())
        {
            let _ = left.detach();
        }
        let lived = since.elapsed() > LONG_ENOUGH;
        pause = if lived { Duration::ZERO } else { (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE) };
        failures = if lived { 0 } else { failures + 1 };
    }
    is_killed(code) && again.lock.is_some() && again.is_wanted()
}

/// Whether a server did not end by itself, nor because it was asked to.
fn is_killed(code: Option<i32>) -> bool {
    !matches!(code, Some(0 | NOT_DETACHED))
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
                    exit_now(if gone { 0 } else { NOT_DETACHED });
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
