//! The network helper's process, from the daemon's side: how it is started, found again, asked and ended.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_base::sys::pid::{self, Process};
use fs_base::{ContainerId, Error, IoContext, Result};
use rustix::process::Signal;

use super::helper::wire::{self, Passage, Reply, Request, Served};
use super::helper::{NAME, OWN_PROGRAM, identity};

/// How long the helper may take for an answer: it waits for nobody.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same for one that was there before: one that hangs keeps the daemon from its start for so long.
const FIRST_DEADLINE: Duration = Duration::from_secs(8);
const SOCKET: &str = "sock";
const PID: &str = "pid";

/// Where a helper's socket, its number and what it may have to say are. It is the helper's root as well.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// A helper that was there already.
#[derive(Debug)]
pub enum Found {
    /// It is of this version, and does this.
    Same(Link, Vec<Served>),
    /// It was of another, and has given back what it could.
    Other(Kept),
}

/// Sockets that a helper has given back.
#[derive(Debug, Default)]
pub struct Kept {
    ports: HashMap<Passage, OwnedFd>,
    names: HashMap<ContainerId, (OwnedFd, OwnedFd)>,
}

impl Kept {
    /// That of a port.
    pub fn port(&mut self, passage: &Passage) -> Option<OwnedFd> {
        self.ports.remove(passage)
    }

    /// Those of a container's names: for datagrams, and one that listens.
    pub fn names(&mut self, container: &ContainerId) -> Option<(OwnedFd, OwnedFd)> {
        self.names.remove(container)
    }

    fn add(&mut self, served: Served, mut sockets: VecDeque<OwnedFd>) -> Result<()> {
        let mut next = || sockets.pop_front().ok_or_else(|| Error::corrupt("the network helper sent too few descriptors"));
        for passage in served.ports {
            self.ports.insert(passage, next()?);
        }
        if served.names {
            self.names.insert(served.container, (next()?, next()?));
        }
        Ok(())
    }
}

/// A helper that is there, as far as is known.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    process: Arc<Process>,
    /// If this process made it.
    child: Option<Child>,
    since: Instant,
}

impl Link {
    /// Its process.
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    /// The number of that.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// How long it has been there, as far as this process knows.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Asks for something that has no other answer than that it is done, or why it is not. An error of the outer result
    /// is one of the helper itself.
    pub fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Result<()>> {
        wire::send(&self.stream, request, descriptors)?;
        done(&self.stream)
    }

    /// Ends it, if it has not ended.
    pub fn end(self) {
        end_process(&self.process);
        if let Some(mut child) = self.child {
            let _ = child.wait();
        }
    }
}

fn done(stream: &UnixStream) -> Result<Result<()>> {
    match wire::receive(stream)?.0 {
        Reply::Done => Ok(Ok(())),
        Reply::Failed(text) => Ok(Err(Error::internal(format!("the network helper: {text}")))),
        other => Err(Error::internal(format!("the network helper answered {other:?}"))),
    }
}

fn end_process(process: &Process) {
    if process.signal(Signal::KILL.as_raw()).is_ok() {
        let end = Instant::now() + DEADLINE;
        while !process.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a helper says of itself.
struct Hello {
    process: Process,
    version: u32,
    identity: (u64, u64),
    served: Vec<Served>,
}

fn set_deadline(stream: &UnixStream, deadline: Duration) -> Result<()> {
    let deadline = Some(deadline);
    stream.set_read_timeout(deadline).and_then(|()| stream.set_write_timeout(deadline)).at("configure", "socket")
}

fn greet(stream: &UnixStream) -> Result<Hello> {
    wire::send(stream, &Request::Hello, &[])?;
    let (Reply::Hello { pid, version, identity, served }, mut descriptors) = wire::receive(stream)? else {
        return Err(Error::internal("the network helper did not say who it is"));
    };
    let descriptor = descriptors.pop_front().ok_or_else(|| Error::internal("the network helper sent no descriptor"))?;
    done(stream)??;
    Ok(Hello { process: Process::handed_over(pid, descriptor), version, identity, served })
}

impl Folder {
    /// This one; it need not be there.
    pub fn new(path: PathBuf) -> Folder {
        Folder { path }
    }

    /// Takes it away.
    pub fn remove(&self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.path.display(), %error, "the network helper's folder could not be removed");
            }
            _ => {}
        }
    }

    /// A new helper, in a new folder. One that is there still is ended, unless it leaves.
    pub fn launch(&self) -> Result<Link> {
        use std::os::unix::fs::DirBuilderExt;
        self.end();
        std::fs::DirBuilder::new().mode(0o700).create(&self.path).at("make directory", &self.path)?;
        let path = self.path.join(SOCKET);
        let listener = UnixListener::bind(&path).at("bind", &path)?;
        let log = self.path.join("log");
        let log = std::fs::File::create(&log).at("create", &log)?;
        let mut child = Command::new(OWN_PROGRAM)
            .arg0(NAME)
            .arg(&self.path)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .at("run", OWN_PROGRAM)?;
        let greeted = self.note(&child).and_then(|()| {
            let stream = self.connect(DEADLINE)?;
            Ok((greet(&stream)?, stream))
        });
        match greeted {
            Ok((hello, stream)) => {
                Ok(Link { stream, process: Arc::new(hello.process), child: Some(child), since: Instant::now() })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(self.path.join("log")).unwrap_or_default();
                Err(if said.is_empty() { error } else { error.context(said.trim().to_owned()) })
            }
        }
    }

    fn connect(&self, deadline: Duration) -> Result<UnixStream> {
        let path = self.path.join(SOCKET);
        let stream = UnixStream::connect(&path).at("connect to", &path)?;
        set_deadline(&stream, deadline)?;
        Ok(stream)
    }

    /// So that one that hangs can be ended.
    fn note(&self, child: &Child) -> Result<()> {
        let (path, number) = (self.path.join(PID), child.id() as i32);
        std::fs::write(&path, format!("{number} {}", pid::start_time(number)?)).at("write", path)
    }

    /// The helper of an earlier daemon, if it is there and answers. One that does not is ended.
    pub fn find(&self) -> Option<Found> {
        let stream = self.connect(FIRST_DEADLINE).ok()?;
        let hello = match greet(&stream).and_then(|hello| set_deadline(&stream, DEADLINE).map(|()| hello)) {
            Ok(hello) => hello,
            Err(error) => {
                tracing::warn!(%error, "the network helper does not answer, and is ended");
                self.end();
                return None;
            }
        };
        if hello.version == wire::VERSION && identity(Path::new(OWN_PROGRAM)).is_ok_and(|own| own == hello.identity) {
            let link = Link { stream, process: Arc::new(hello.process), child: None, since: Instant::now() };
            return Some(Found::Same(link, hello.served));
        }
        tracing::info!(pid = hello.process.pid(), "the network helper is of another version, and is replaced");
        let kept = if hello.version == wire::VERSION { take(&stream) } else { Err(Error::unsupported("its version")) };
        match kept {
            // It finishes its connections; what ends the helper of this folder must not find it any more.
            Ok(kept) => {
                if let Err(error) = std::fs::remove_file(self.path.join(PID)) {
                    tracing::warn!(%error, "the network helper that leaves may be ended before its connections");
                }
                Some(Found::Other(kept))
            }
            Err(error) => {
                tracing::warn!(%error, "the network helper gives nothing back, and is ended");
                end_process(&hello.process);
                Some(Found::Other(Kept::default()))
            }
        }
    }

    /// Ends the helper whose folder this is, whether it answers or not, and takes the folder away.
    pub fn end(&self) {
        let text = std::fs::read_to_string(self.path.join(PID)).unwrap_or_default();
        let mut numbers = text.split(' ').map(str::parse::<u64>);
        if let (Some(Ok(number)), Some(Ok(started))) = (numbers.next(), numbers.next())
            && let Ok(process) = Process::open(number as i32)
            // Only now: with the descriptor open, the number is nobody else's.
            && pid::start_time(process.pid()).is_ok_and(|own| own == started)
            && is_helper(process.pid())
        {
            end_process(&process);
        }
        self.remove();
    }
}

/// A start time says little if the machine was started anew meanwhile and the folder is still there.
fn is_helper(number: i32) -> bool {
    std::fs::read(format!("/proc/{number}/cmdline"))
        .is_ok_and(|words| words.split(|byte| *byte == 0).next() == Some(NAME.as_bytes()))
}

/// All sockets of a helper, which leaves.
fn take(stream: &UnixStream) -> Result<Kept> {
    let mut kept = Kept::default();
    wire::send(stream, &Request::Leave, &[])?;
    loop {
        match wire::receive(stream)? {
            (Reply::Left(served), sockets) => kept.add(served, sockets)?,
            (Reply::Done, _) => return Ok(kept),
            (other, _) => return Err(Error::internal(format!("the network helper answered {other:?}"))),
        }
    }
}
