//! The shim's own side: makes the container, then waits for whatever comes first and deals with it.

mod client_stream;
mod out_of_memory;
pub mod passing;

mod requests;
mod session;
mod starting;

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_base::sys::ids::IdMap;
use fs_base::sys::memory;
use fs_base::sys::mount::Mount;
use fs_base::sys::pid::Process;
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::proto::{self, Answer, Exit, LogOptions, Options, Reply, Status};
use crate::cgroup::Cgroup;
use crate::failure::Failure;
use crate::log::{self, Log};
use crate::runtime::{self, Created, External, Gate};
use client_stream::{STALL, STALL_UNLOGGED};
use out_of_memory::OutOfMemory;
use requests::Connection;
use session::{Kind, Rules, Session, Token};
use starting::Beginning;

/// How long clients may take nothing of the rest of the output after the container has ended: a person reads it in a
/// pager, say.
const LINGER: Duration = Duration::from_secs(600);
/// How long nothing may come until the shim rests. Longer than a start takes, and a short container lives.
const REST: Duration = Duration::from_secs(1);
/// Bytes that one read takes.
const BUFFER: usize = 32 << 10;
/// Ends of further processes that nobody asked about yet.
const FORGOTTEN_MAX: usize = 64;

/// Makes the container in `dir` and looks after it until it has ended. `root` is its tree; `ready` hears how the
/// making went. Returns when there is nothing left to do.
pub fn run(dir: &Path, root: OwnedFd, mut ready: UnixStream) -> Result<()> {
    let made = Shim::make(dir, Mount::from_fd(root));
    let answer: Answer = match &made {
        Ok((shim, warnings)) => Ok(Reply::Started { pid: shim.main.process().pid(), warnings: warnings.clone() }),
        Err(error) => Err(Failure::from(error)),
    };
    // If the daemon is gone, the next one finds the container waiting.
    let _ = proto::write(&mut ready, &answer);
    drop(ready);
    made?.0.serve()
}

/// One container and everybody who is connected.
struct Shim {
    dir: PathBuf,
    spec: Spec,
    namespaces: u64,
    /// The ids of its user namespace, if it has one.
    ids: Option<IdMap>,
    /// The runtime, if it is not the built-in one.
    external: Option<External>,
    cgroup: Cgroup,
    listener: UnixListener,
    gate: Option<Gate>,
    root: Option<OwnedFd>,
    status: Status,
    main: Session,
    execs: Vec<(String, Session)>,
    beginning: Vec<Beginning>,
    /// A runtime failed, or was ended, in making one since the children were last looked at.
    has_failed_making: bool,
    /// The container's processes are no other's: not the host's, nor those of a container with the host's.
    has_own_pids: bool,
    /// What has become the shim's child while a runtime made something, and is to be reaped when it ends.
    orphans: Vec<Process>,
    finished: VecDeque<(String, Exit)>,
    exit: Option<(Exit, Instant)>,
    connections: Vec<Connection>,
    waiting: Vec<Waiter>,
    out_of_memory: OutOfMemory,
    /// Nothing was asked for since its code was given back.
    is_resting: bool,
}

/// A container that waits, without its process.
struct Made {
    root: OwnedFd,
    warnings: Vec<String>,
    gate: Gate,
}

/// Who wants to know of something.
struct Waiter {
    socket: UnixStream,
    awaits: Awaited,
}

/// What somebody waits for.
#[derive(PartialEq, Eq)]
enum Awaited {
    /// The container's end.
    End,
    /// The end of a further process.
    Exec(String),
    /// That the kernel ends a process for want of memory.
    OutOfMemory,
}

/// Whom an answer of poll is for.
enum Source {
    Listener,
    Connection(usize),
    Waiter(usize),
    Main(Token),
    Exec(usize, Token),
    Beginning(usize),
    Orphan(usize),
    OutOfMemory,
}

impl Shim {
    fn make(dir: &Path, root: Mount) -> Result<(Shim, Vec<String>)> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).at("read", path)
        };
        let parse = |error: serde_json::Error| Error::internal(format!("{}: {error}", dir.display()));
        let spec: Spec = serde_json::from_slice(&read("config.json")?).map_err(parse)?;
        let options: Options = serde_json::from_slice(&read("shim.json")?).map_err(parse)?;
        let listener = listen(dir)?;
        let external = options.runtime.as_deref().map(|program| External::new(program, dir));
        let (cgroup, mut warnings) = make_cgroup(&spec)?;
        let made = Shim::make_container(dir, &spec, &options, root, &cgroup, external.as_ref());
        let (created, main) = match made {
            Ok(made) => made,
            Err(error) => {
                forget(external.as_ref());
                let _ = cgroup.kill_all();
                let _ = cgroup.delete();
                return Err(error);
            }
        };
        warnings.extend(created.warnings);
        let has_own_pids = has_own_pids(main.process());
        let mut shim = Shim {
            dir: dir.to_owned(),
            namespaces: if external.is_some() { 0 } else { runtime::namespaces(&spec)? },
            ids: runtime::map_of(&spec)?,
            external,
            root: Some(created.root),
            spec,
            cgroup,
            listener,
            gate: Some(created.gate),
            status: Status::Created,
            main,
            execs: Vec::new(),
            beginning: Vec::new(),
            has_failed_making: false,
            has_own_pids,
            orphans: Vec::new(),
            finished: VecDeque::new(),
            exit: None,
            connections: Vec::new(),
            waiting: Vec::new(),
            out_of_memory: OutOfMemory::default(),
            is_resting: false,
        };
        shim.out_of_memory = OutOfMemory::of(&shim.cgroup);
        Ok((shim, warnings))
    }

    fn make_container(
        dir: &Path,
        spec: &Spec,
        options: &Options,
        root: Mount,
        cgroup: &Cgroup,
        external: Option<&External>,
    ) -> Result<(Made, Session)> {
        let log = options.log.as_ref().map(open_log).transpose()?;
        let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
        let kind = if terminal { Kind::Terminal } else { Kind::Pipes { stdin: options.open_stdin } };
        let (stdio, ends) = session::streams(kind)?;
        let scratch = dir.join("rootfs");
        let created = match external {
            Some(external) => external.create(spec, &root, stdio)?,
            None => runtime::create(runtime::Create { spec, root, scratch: &scratch, stdio, cgroup, init: options.init })?,
        };
        let Created { process, root, console, warnings, gate } = created;
        let is_kept = log.as_ref().is_some_and(|log| log.file().is_some());
        let patience = Some(if is_kept { STALL } else { STALL_UNLOGGED });
        let session = Session::new(process, ends, console, Rules { log, input_once: options.stdin_once, patience })?;
        Ok((Made { root, warnings, gate }, session))
    }

    fn serve(mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !self.is_done() {
            let answers = self.wait()?;
            if answers.is_empty() && !self.is_resting {
                memory::give_back_code();
                self.is_resting = true;
            }
            self.work(answers, &mut buffer)?;
            self.collect()?;
        }
        let lines = self.main.give_up_log();
        if lines > 0 {
            eprintln!("log: {lines} lines were not taken for {} seconds and are lost", LINGER.as_secs());
        }
        Ok(())
    }

    /// The container has ended, all who waited know it, and all output is delivered or overdue.
    fn is_done(&self) -> bool {
        let delivered = self.main.is_delivered() && self.main.is_logged() && self.execs.is_empty();
        self.exit.is_some() && (delivered || self.linger().is_none_or(|end| Instant::now() > end))
    }

    /// When those who have not taken all of the output are waited for no more.
    fn linger(&self) -> Option<Instant> {
        let (_, ended) = self.exit?;
        let moved = self.execs.iter().map(|(_, session)| session).chain([&self.main]).filter_map(Session::moved).max();
        Some(moved.map_or(ended, |moved| moved.max(ended)) + LINGER)
    }

    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        let mut sources = vec![Source::Listener];
        for (index, connection) in self.connections.iter().enumerate() {
            fds.push(PollFd::new(connection.socket(), PollFlags::IN));
            sources.push(Source::Connection(index));
        }
        for (index, waiter) in self.waiting.iter().enumerate() {
            fds.push(PollFd::new(&waiter.socket, PollFlags::IN));
            sources.push(Source::Waiter(index));
        }
        let mut tokens = Vec::new();
        self.main.poll(&mut fds, &mut tokens);
        sources.extend(tokens.drain(..).map(Source::Main));
        for (index, (_, session)) in self.execs.iter().enumerate() {
            session.poll(&mut fds, &mut tokens);
            sources.extend(tokens.drain(..).map(|token| Source::Exec(index, token)));
        }
        for (index, beginning) in self.beginning.iter().enumerate() {
            fds.push(PollFd::new(beginning, PollFlags::IN));
            sources.push(Source::Beginning(index));
        }
        for (index, orphan) in self.orphans.iter().enumerate() {
            fds.push(PollFd::new(orphan, PollFlags::IN));
            sources.push(Source::Orphan(index));
        }
        if let Some(watch) = self.out_of_memory.watch().filter(|_| self.exit.is_none()) {
            fds.push(PollFd::new(watch, PollFlags::IN));
            sources.push(Source::OutOfMemory);
        }
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).at("poll", "streams"),
        }
        let flags: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        Ok(sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self) -> Option<Timespec> {
        let sessions = self.execs.iter().map(|(_, session)| session).chain([&self.main]);
        let linger = self.exit.and_then(|_| self.linger());
        let rest = (!self.is_resting).then(|| Instant::now() + REST);
        let next = sessions.filter_map(Session::deadline).chain(linger).chain(rest).chain(self.out_of_memory.next()).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }

    fn work(&mut self, answers: Vec<(Source, PollFlags)>, buffer: &mut [u8]) -> Result<()> {
        let mut main = Vec::new();
        let mut execs: Vec<Vec<(Token, PollFlags)>> = self.execs.iter().map(|_| Vec::new()).collect();
        let (mut asking, mut leaving, mut arriving) = (Vec::new(), Vec::new(), false);
        let (mut speaking, mut gone) = (Vec::new(), Vec::new());
        for (source, flags) in answers {
            match source {
                Source::Listener => arriving = true,
                Source::Connection(index) => asking.push(index),
                Source::Waiter(index) => leaving.push(index),
                Source::Main(token) => main.push((token, flags)),
                Source::Exec(index, token) => execs[index].push((token, flags)),
                Source::Beginning(index) => speaking.push(index),
                Source::Orphan(index) => gone.push(index),
                Source::OutOfMemory => self.out_of_memory.noticed(),
            }
        }
        self.main.work(&main, buffer)?;
        for ((_, session), answers) in self.execs.iter_mut().zip(execs) {
            session.work(&answers, buffer)?;
        }
        // Nobody sends anything while waiting: it has hung up.
        for index in leaving.into_iter().rev() {
            self.waiting.swap_remove(index);
        }
        for index in gone.into_iter().rev() {
            // Whoever else could have reaped it, it is gone.
            let _ = runtime::reap(self.orphans.swap_remove(index).as_fd());
        }
        for index in speaking.into_iter().rev() {
            // Whoever asked for it has gone.
            if let Err(error) = self.advance(index) {
                eprintln!("{error}");
            }
        }
        for index in asking.into_iter().rev() {
            self.read_request(index);
        }
        if arriving && let Ok((socket, _)) = self.listener.accept() {
            self.connections.push(Connection::new(socket)?);
        }
        Ok(())
    }

    /// Notices what has ended, and tells.
    fn collect(&mut self) -> Result<()> {
        if self.exit.is_none() && self.out_of_memory.look(&self.cgroup) {
            self.tell(&Awaited::OutOfMemory, Reply::OutOfMemory { kills: self.out_of_memory.kills() });
        }
        let mut index = 0;
        while let Some((_, session)) = self.execs.get(index) {
            match session.result() {
                Some(code) if session.is_delivered() => {
                    let (id, _) = self.execs.remove(index);
                    self.exec_ended(id, Session::exit(code, false));
                }
                _ => index += 1,
            }
        }
        if self.main.has_ended() && self.status != Status::Ended {
            self.status = Status::Ended;
            self.has_failed_making |= !self.beginning.is_empty();
            self.beginning.clear();
            if self.external.is_some() {
                self.settle_children()?;
            }
            // With the host's process ids, others may have stayed.
            self.cgroup.kill_all()?;
        }
        match self.main.result() {
            Some(code) if self.exit.is_none() => self.ended(code),
            _ => Ok(()),
        }
    }

    fn exec_ended(&mut self, id: String, exit: Exit) {
        let told = self.tell(&Awaited::Exec(id.clone()), Reply::Exit(exit));
        if !told {
            self.finished.push_back((id, exit));
            if self.finished.len() > FORGOTTEN_MAX {
                self.finished.pop_front();
            }
        }
    }

    fn ended(&mut self, code: i32) -> Result<()> {
        let oom_killed = self.cgroup.oom_kills().is_ok_and(|count| count > 0);
        let exit = Exit { unlogged: self.main.unlogged(), ..Session::exit(code, oom_killed) };
        self.exit = Some((exit, Instant::now()));
        self.waiting.retain(|waiter| waiter.awaits != Awaited::OutOfMemory);
        self.root = None;
        let path = self.dir.join("exit.json");
        let new = self.dir.join("exit.json.new");
        let json = serde_json::to_vec(&exit).map_err(|error| Error::internal(format!("encode: {error}")))?;
        std::fs::write(&new, json).at("write", &new)?;
        fs_base::durable::replace(&new, &path)?;
        forget(self.external.as_ref());
        if let Err(error) = self.cgroup.delete() {
            eprintln!("{error}");
        }
        // From here on the record answers.
        let _ = std::fs::remove_file(self.dir.join("shim.sock"));
        self.tell(&Awaited::End, Reply::Exit(exit));
        Ok(())
    }

    /// Answers all who wait for this; whether there was one.
    fn tell(&mut self, what: &Awaited, reply: Reply) -> bool {
        let Ok(bytes) = proto::encode(&Answer::Ok(reply)) else { return false };
        let mut told = false;
        self.waiting.retain_mut(|waiter| {
            let concerned = waiter.awaits == *what;
            if concerned {
                told |= waiter.socket.write_all(&bytes).is_ok();
            }
            !concerned
        });
        told
    }
}

fn open_log(log: &LogOptions) -> Result<Log> {
    let LogOptions { path, max_size, max_files, compress, attributes, journal, buffer } = log.clone();
    let opened = match journal {
        Some(fields) => Log::in_journal(&fields, buffer),
        None => Log::in_file(&path, log::Options { max_size, max_files, compress, attributes }, buffer),
    };
    opened.map_err(|error| error.context("failed to initialize logging driver"))
}

/// The socket, by a short name for its folder: a socket's path may be 107 bytes long.
fn listen(dir: &Path) -> Result<UnixListener> {
    let folder = fs_base::sys::mount::open_dir(dir)?;
    let listener =
        UnixListener::bind(format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd())).at("bind", dir.join("shim.sock"))?;
    listener.set_nonblocking(true).at("configure", "shim socket")?;
    Ok(listener)
}

/// Whether a process of the container's sees others than this one does; not, where the kernel does not tell.
fn has_own_pids(main: &Process) -> bool {
    let inode = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/pid")).map(|metadata| metadata.ino()).ok();
    let (theirs, ours) = (inode(&main.pid().to_string()), inode("self"));
    theirs.is_some() && ours.is_some() && theirs != ours
}

/// Has another runtime give up what it keeps of the container, cgroups of its own among it.
fn forget(external: Option<&External>) {
    if let Some(Err(error)) = external.map(External::delete) {
        eprintln!("{error}");
    }
}

fn make_cgroup(spec: &Spec) -> Result<(Cgroup, Vec<String>)> {
    let (parent, name) = cgroup_name(spec)?;
    let mut resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    if let Some(rules) = resources.devices_mut() {
        // Every container has the default devices, whatever its spec says of others.
        let default = crate::spec::allowed_devices(false).into_iter().filter(LinuxDeviceCgroup::allow);
        let missing: Vec<_> = default.filter(|rule| !rules.contains(rule)).collect();
        rules.extend(missing);
    }
    let created = Cgroup::create(parent, name, &resources)?;
    Ok((created.cgroup, created.warnings))
}

/// The parent and the name of the container's cgroup.
fn cgroup_name(spec: &Spec) -> Result<(Option<&str>, &str)> {
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("the spec has no linux section"))?;
    let path = linux.cgroups_path().as_ref().ok_or_else(|| Error::invalid("the spec has no cgroupsPath"))?;
    let parent = path.parent().and_then(Path::to_str);
    Ok((parent, path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default()))
}
