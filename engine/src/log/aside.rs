//! A file that is written by a process of its own, so that nobody waits for the disk: neither the container, nor who
//! talks to its shim. A thread would not do: a process with several can't be copied, and the shim makes processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_base::sys::process::{Child, ForkOptions, Forked, close_inherited, exit_now, fork};
use fs_base::{IoContext, Result};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::queue::{self, Queue};
use super::writer::{Options, Writer};

/// Bytes that one read takes.
const PIECE: usize = 64 << 10;
/// How long after one was started the next one is, if it ended by itself.
const AGAIN: Duration = Duration::from_secs(1);

/// The file, and the process that writes it, which is there from the first line on.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    options: Options,
    running: Option<Running>,
    started: Option<Instant>,
    /// How many lines those that ran could not write.
    lost: u64,
}

/// The process.
#[derive(Debug)]
struct Running {
    /// Our end of what it reads; `None` when there is no more to come.
    pipe: Option<OwnedFd>,
    /// Our end of what it says: how many more lines it could not write, in 64 bits each time.
    said: OwnedFd,
    child: Child,
}

impl Aside {
    /// For the file at `path`, which is made if it is missing.
    pub fn open(path: &Path, options: Options) -> Result<Aside> {
        // What is wrong with it is said now, where somebody hears it.
        Writer::open(path, options.clone())?;
        Ok(Aside { path: path.to_owned(), options, running: None, started: None, lost: 0 })
    }

    /// Hands over what the pipe takes now; whether it took something.
    pub fn send(&mut self, queue: &mut Queue) -> Result<bool> {
        let mut moved = false;
        self.hear();
        while !queue.is_empty() {
            if self.running.is_none() && self.started.is_some_and(|started| started.elapsed() < AGAIN) {
                return Ok(moved);
            }
            let Some(pipe) = &self.process()?.pipe else { return Ok(moved) };
            match rustix::io::write(pipe, queue.piece()) {
                Ok(count) => {
                    queue.advance(count);
                    moved = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(moved),
                Err(_) => {
                    // It was killed. What it had not written yet is lost, and nobody knows how much that is.
                    queue.retake();
                    self.reap()?;
                }
            }
        }
        Ok(moved)
    }

    /// How many lines could not be written, as far as that was said: of one that is killed nobody knows.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes what was said.
    fn hear(&mut self) {
        let Some(Running { said, .. }) = &self.running else { return };
        let mut lines = [0; 8];
        // So few bytes are written and read in one piece.
        while matches!(rustix::io::read(said, &mut lines), Ok(8)) {
            self.lost += u64::from_le_bytes(lines);
        }
    }

    fn process(&mut self) -> Result<&mut Running> {
        if self.running.is_none() {
            self.started = Some(Instant::now());
            self.running = Some(begin(&self.path, &self.options)?);
        }
        self.running.as_mut().ok_or_else(|| fs_base::Error::internal("a process that was started is not there"))
    }

    /// There is no more to come: the process ends when it has written all that it was handed.
    pub fn close(&mut self) {
        if let Some(running) = &mut self.running {
            running.pipe = None;
        }
    }

    /// Whether nothing more can be handed over.
    pub fn is_closed(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.pipe.is_none())
    }

    /// What to wait for: that it takes more, or its end.
    pub fn wish(&self, waits: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let Running { pipe, child, .. } = self.running.as_ref()?;
        match pipe {
            Some(pipe) => waits.then(|| (pipe.as_fd(), PollFlags::OUT)),
            None => Some((child.pidfd.as_fd(), PollFlags::IN)),
        }
    }

    /// When one is started again for what waits.
    pub fn again(&self) -> Option<Instant> {
        self.started.filter(|_| self.running.is_none()).map(|started| started + AGAIN)
    }

    /// Whether nothing runs.
    pub fn has_ended(&self) -> bool {
        self.running.is_none()
    }

    /// It has ended.
    pub fn reap(&mut self) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let reaped = crate::runtime::reap(running.child.pidfd.as_fd()).map(drop);
        self.hear();
        self.running = None;
        reaped
    }
}

fn begin(path: &Path, options: &Options) -> Result<Running> {
    let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at("make", "pipe")?;
    rustix::io::ioctl_fionbio(&ours, true).at("configure", "pipe")?;
    let (said, says) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).at("make", "pipe")?;
    match fork(&ForkOptions::default())? {
        Forked::Parent(child) => Ok(Running { pipe: Some(ours), said, child }),
        Forked::Child => exit_now(i32::from(serve(&theirs, &says, path, options).is_err())),
    }
}

/// In the new process: writes what comes, until there is no more to come.
fn serve(from: &OwnedFd, says: &OwnedFd, path: &Path, options: &Options) -> Result<()> {
    rustix::stdio::dup2_stdin(from).at("set", "standard input")?;
    rustix::stdio::dup2_stdout(says).at("set", "standard output")?;
    // Nobody waits for the end of a stream because we hold it.
    close_inherited()?;
    let _ = rustix::thread::set_name(c"fsd-shim-log");
    let mut writer = Writer::open(path, options.clone())?;
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut failed = false;
    let mut told = 0;
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *piece) {
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend(&piece[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).at("read", "pipe"),
        }
        let (mut at, mut went) = (0, Ok(()));
        while let Some((message, length)) = queue::decode(&bytes[at..]) {
            went = writer.add_message(&message).and(went);
            at += length;
        }
        bytes.drain(..at);
        match writer.put().and(went) {
            Err(error) if !failed => eprintln!("log: {error}"),
            _ => {}
        }
        failed = writer.is_failing();
        let untold = writer.lost() - told;
        // If it finds no room, the next one tells of these too.
        if untold > 0 && rustix::io::write(rustix::stdio::stdout(), &untold.to_le_bytes()).is_ok() {
            told += untold;
        }
    }
}
