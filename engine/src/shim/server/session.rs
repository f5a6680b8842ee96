//! One process of the container with its streams: the first one, or one that `exec` added.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fs_base::sys::pid::Process;
use fs_base::{IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::client_stream::ClientStream;
use crate::log::{Log, Stream};
use crate::runtime::{Stdio, reap};
use crate::shim::proto::Exit;

/// How long output is waited for after its process has ended: somebody else may hold the stream open.
const DRAIN: Duration = Duration::from_secs(2);
/// Bytes of output that wait for the log of a process that has ended: more than its pipes hold, were every line empty.
const REST_MAX: usize = 4 << 20;
/// Input that waits for a process that does not read.
const INPUT_MAX: usize = 64 << 10;

/// Our ends of the streams of a process that is being made.
#[derive(Debug, Default)]
pub struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Which streams a process gets.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A terminal.
    Terminal,
    /// Pipes; for the input only if it is wanted.
    Pipes {
        /// Whether there is an input.
        stdin: bool,
    },
    /// None: nobody listens.
    Null,
}

/// Makes the streams: the process's ends, and ours.
pub fn streams(kind: Kind) -> Result<(Stdio, Ends)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at("make", "pipe");
    let mut ends = Ends::default();
    let stdio = match kind {
        Kind::Terminal => Stdio::Terminal,
        Kind::Null => Stdio::Streams { stdin: null()?, stdout: null()?, stderr: null()? },
        Kind::Pipes { stdin } => {
            let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
            (ends.stdout, ends.stderr) = (Some(stdout), Some(stderr));
            let input = if stdin {
                let (theirs, ours) = pipe()?;
                ends.stdin = Some(ours);
                theirs
            } else {
                null()?
            };
            Stdio::Streams { stdin: input, stdout: out, stderr: err }
        }
    };
    Ok((stdio, ends))
}

fn null() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", "/dev/null")
}

/// What an answer of poll is about.
#[derive(Debug, Clone, Copy)]
pub enum Token {
    /// The end of the process.
    Process,
    /// One of its outputs.
    Output(usize),
    /// Its input.
    Input,
    /// One of the clients.
    Client(usize),
    /// Its log.
    Log,
}

/// A process, its streams, and who is connected to them.
#[derive(Debug)]
pub struct Session {
    process: Process,
    stdin: Option<OwnedFd>,
    input: Vec<u8>,
    close_input: bool,
    outputs: Vec<(Stream, OwnedFd)>,
    console: bool,
    log: Option<Log>,
    clients: Vec<ClientStream>,
    /// Whether the input ends when a client that has it ends it.
    input_once: bool,
    /// How long it waits for a client that takes nothing; for ever if `None`.
    patience: Option<Duration>,
    /// When a client held it up last.
    held: Option<Instant>,
    ended: Option<(i32, Instant)>,
    /// When its last output was closed.
    closed: Option<Instant>,
}

/// What a [`Session`] is besides its process.
#[derive(Debug, Default)]
pub struct Rules {
    /// Where its output is logged.
    pub log: Option<Log>,
    /// Whether its input ends with the first client that had it.
    pub input_once: bool,
    /// How long it waits for a client that takes nothing; for ever if `None`.
    pub patience: Option<Duration>,
}

impl Session {
    /// A process that was just made.
    pub fn new(process: Process, ends: Ends, console: Option<OwnedFd>, rules: Rules) -> Result<Session> {
        let has_console = console.is_some();
        let mut outputs = Vec::new();
        let mut stdin = ends.stdin;
        if let Some(console) = console {
            stdin = Some(console.try_clone().at("duplicate", "terminal")?);
            outputs.push((Stream::Stdout, console));
        }
        outputs.extend(ends.stdout.map(|fd| (Stream::Stdout, fd)));
        outputs.extend(ends.stderr.map(|fd| (Stream::Stderr, fd)));
        for fd in outputs.iter().map(|(_, fd)| fd).chain(&stdin) {
            rustix::io::ioctl_fionbio(fd, true).at("configure", "stream")?;
        }
        Ok(Session {
            process,
            stdin,
            input: Vec::new(),
            close_input: false,
            outputs,
            console: has_console,
            log: rules.log,
            clients: Vec::new(),
            input_once: rules.input_once,
            patience: rules.patience,
            held: None,
            ended: None,
            closed: None,
        })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Connects a client.
    pub fn attach(&mut self, socket: OwnedFd, stdin: bool, stdout: bool, stderr: bool) {
        self.clients.push(ClientStream::new(
            socket,
            [stdin && self.stdin.is_some(), stdout, stderr],
            !self.console,
            self.patience,
        ));
    }

    /// Gives the client that was connected last what the log has before anything else.
    pub fn replay(&mut self) -> Result<()> {
        match self.clients.last_mut() {
            Some(client) => {
                let file = self.log.as_ref().and_then(Log::file);
                client.fall_behind(file, true);
                client.catch_up(file)
            }
            None => Ok(()),
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        let Some((_, console)) = self.outputs.first().filter(|_| self.console) else {
            return Err(fs_base::Error::conflict("the process has no terminal"));
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(console, size).at("resize", "terminal")
    }

    /// What there is to wait for. Nothing is in it whose answer would not be used: it would come again and again.
    pub fn poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>, tokens: &mut Vec<Token>) {
        let mut add = |token, fd: BorrowedFd<'a>, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            tokens.push(token);
        };
        if self.ended.is_none() {
            add(Token::Process, self.process.as_fd(), PollFlags::IN);
        }
        if !self.is_held() && self.has_log_room() {
            for (index, (_, output)) in self.outputs.iter().enumerate() {
                add(Token::Output(index), output.as_fd(), PollFlags::IN);
            }
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            add(Token::Input, stdin.as_fd(), PollFlags::OUT);
        }
        if let Some((fd, flags)) = self.log.as_ref().and_then(Log::wish) {
            add(Token::Log, fd, flags);
        }
        for (index, client) in self.clients.iter().enumerate() {
            let listens = !client.input_ended && (!client.stdin || self.input.len() < INPUT_MAX);
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, listens);
            flags.set(PollFlags::OUT, client.has_backlog());
            add(Token::Client(index), client.socket.as_fd(), flags);
        }
    }

    /// How long a wait may take at most, if something is due then.
    pub fn deadline(&self) -> Option<Instant> {
        let patience = self.clients.iter().filter_map(ClientStream::patience);
        let log = self.log.as_ref().and_then(Log::deadline);
        // What is past is no longer waited for.
        let logged = self.logged_by().filter(|end| *end > Instant::now());
        patience.chain(self.drained_by()).chain(logged).chain(log).min()
    }

    /// Whether a client holds it up: then there may be more to read.
    fn is_held(&self) -> bool {
        !self.clients.iter().all(ClientStream::has_room)
    }

    /// Whether its log does not hold it up. Of what has ended the rest is read at once, as its outputs are not kept open
    /// for as long as the rest may wait.
    fn has_log_room(&self) -> bool {
        let takes_rest = |log: &Log| self.ended.is_some() && log.waiting() < REST_MAX;
        self.log.as_ref().is_none_or(|log| log.has_room() || takes_rest(log))
    }

    /// When its outputs are closed although somebody holds them open, or its log takes nothing.
    fn drained_by(&self) -> Option<Instant> {
        let (_, ended) = self.ended.filter(|_| !self.outputs.is_empty() && !self.is_held())?;
        let slow = self.log.as_ref().filter(|_| !self.has_log_room()).and_then(Log::moved);
        [self.held, slow].into_iter().flatten().max().map_or(Some(ended), |held| Some(held.max(ended))).map(|last| last + DRAIN)
    }

    /// When the rest of its log is waited for no more before its end is told.
    fn logged_by(&self) -> Option<Instant> {
        let (log, closed) = (self.log.as_ref().filter(|log| !log.is_finished())?, self.closed?);
        Some(log.moved().map_or(closed, |moved| moved.max(closed)) + DRAIN)
    }

    /// Does what the answers to [`Session::poll`] allow.
    pub fn work(&mut self, answers: &[(Token, PollFlags)], buffer: &mut [u8]) -> Result<()> {
        let mut closed = Vec::new();
        for (token, flags) in answers.iter().filter(|(_, flags)| !flags.is_empty()) {
            match *token {
                Token::Process => self.ended = Some((reap(self.process.as_fd())?, Instant::now())),
                Token::Output(index) => closed.extend((!self.read_output(index, buffer)).then_some(index)),
                Token::Input => {}
                Token::Client(index) => self.serve(index, *flags, buffer),
                Token::Log => self.log.iter_mut().for_each(Log::work),
            }
        }
        for index in closed.into_iter().rev() {
            self.outputs.remove(index);
        }
        let now = Instant::now();
        if let Some(log) = self.log.as_mut().filter(|log| log.deadline().is_some_and(|due| now >= due)) {
            log.work();
        }
        if self.is_held() {
            self.held = Some(now);
        }
        if self.drained_by().is_some_and(|deadline| now >= deadline) {
            self.outputs.clear();
        }
        if let Some(log) = self.log.as_mut().filter(|_| self.outputs.is_empty()) {
            self.closed.get_or_insert(now);
            log.finish();
        }
        let file = self.log.as_ref().and_then(Log::file);
        for client in &mut self.clients {
            if client.patience().is_some_and(|end| now >= end) {
                client.fall_behind(file, false);
            }
            if let Err(error) = client.catch_up(file) {
                eprintln!("log: {error}");
                client.hang_up();
            }
        }
        self.clients.retain(|client| !client.is_gone());
        self.write_input();
        Ok(())
    }

    /// Whether the stream is still open.
    fn read_output(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let (stream, fd) = &self.outputs[index];
        let (stream, count) = match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => return false,
            Ok(count) => (*stream, count),
            Err(Errno::AGAIN | Errno::INTR) => return true,
            // A terminal whose last process is gone answers EIO. Before it is started it has none either.
            Err(_) => return false,
        };
        if let Some(log) = &mut self.log {
            log.write(stream, &buffer[..count]);
        }
        for client in &mut self.clients {
            client.output(stream, &buffer[..count]);
        }
        true
    }

    fn serve(&mut self, index: usize, flags: PollFlags, buffer: &mut [u8]) {
        let client = &mut self.clients[index];
        if flags.contains(PollFlags::OUT) {
            client.send();
        }
        if flags.intersects(PollFlags::ERR | PollFlags::NVAL) {
            return client.hang_up();
        }
        if flags.contains(PollFlags::IN) {
            match rustix::io::read(&client.socket, &mut *buffer) {
                Ok(0) => {
                    client.input_ended = true;
                    // A terminal has no end of input but the one that its user types.
                    self.close_input |= client.stdin && self.input_once && !self.console;
                }
                Ok(count) if client.stdin => self.input.extend(&buffer[..count]),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => client.hang_up(),
            }
        } else if flags.contains(PollFlags::HUP) {
            client.hang_up();
        }
    }

    fn write_input(&mut self) {
        let Some(stdin) = &self.stdin else { return self.input.clear() };
        while !self.input.is_empty() {
            match rustix::io::write(stdin, &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // Nobody reads any more.
                    self.input = Vec::new();
                    self.close_input = true;
                }
            }
        }
        if self.close_input {
            self.stdin = None;
        }
    }

    /// The exit code, once the process has ended and all of its output is on its way: logged, unless that takes long.
    pub fn result(&self) -> Option<i32> {
        let (code, _) = self.ended.filter(|_| self.outputs.is_empty())?;
        self.logged_by().is_none_or(|end| Instant::now() >= end).then_some(code)
    }

    /// Whether all of its output is logged.
    pub fn is_logged(&self) -> bool {
        self.log.as_ref().is_none_or(Log::is_finished)
    }

    /// How many lines of its output are not in its log, as far as is known now.
    pub fn unlogged(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::dropped)
    }

    /// The log is waited for no more; how many lines it has not taken.
    pub fn give_up_log(&mut self) -> u64 {
        self.log.as_mut().map_or(0, Log::give_up)
    }

    /// Whether every client has what it was to get. Afterwards they can be let go.
    pub fn is_delivered(&self) -> bool {
        self.clients.iter().all(ClientStream::is_delivered)
    }

    /// When a client, or the log, that has not taken all took something last.
    pub fn moved(&self) -> Option<Instant> {
        let log = self.log.as_ref().filter(|log| !log.is_finished()).and_then(Log::moved);
        self.clients.iter().filter(|client| !client.is_delivered()).map(ClientStream::moved).chain(log).max()
    }

    /// The record of an end that was just noticed.
    pub fn exit(code: i32, oom_killed: bool) -> Exit {
        let now = jiff::Timestamp::now().as_nanosecond() as i64;
        Exit { code, oom_killed, finished: now, unlogged: 0 }
    }
}
