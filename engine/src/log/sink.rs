//! The log of a container, wherever it is.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use fs_base::Result;
use rustix::event::PollFlags;

use super::Stream;
use super::aside::Aside;
use super::journal::{self, Journal};
use super::lines::Lines;
use super::queue::Queue;
use super::writer::{Options, Writer};

/// What a log waits for: a descriptor, and what it is to allow.
pub type Wish<'a> = (BorrowedFd<'a>, PollFlags);

/// Where output is logged as it comes.
#[derive(Debug)]
pub struct Log {
    way: Way,
    /// Whether the last that was tried went wrong: it is said once.
    failing: bool,
}

#[derive(Debug)]
enum Way {
    /// Into a file, at once.
    File(Box<Writer>),
    /// By way of a queue.
    Queued(Box<Queued>),
}

#[derive(Debug)]
struct Queued {
    lines: Lines,
    queue: Queue,
    outlet: Outlet,
    /// Whether the container waits for it.
    is_blocking: bool,
    closing: bool,
    moved: Option<Instant>,
}

#[derive(Debug)]
enum Outlet {
    File(Aside),
    Journal(Journal),
}

impl Log {
    /// In the file at `path`. Where there is a `buffer` of so many bytes, nobody waits for the disk, and what finds no
    /// room in it is dropped.
    pub fn in_file(path: &Path, options: Options, buffer: Option<u64>) -> Result<Log> {
        if buffer.is_some() {
            return Ok(Log::queued(Outlet::File(Aside::open(path, options)?), buffer));
        }
        Ok(Log { way: Way::File(Box::new(Writer::open(path, options)?)), failing: false })
    }

    /// In systemd's journal, with these fields in every entry; the container waits for journald unless there is a
    /// `buffer`.
    pub fn in_journal(fields: &BTreeMap<String, String>, buffer: Option<u64>) -> Result<Log> {
        journal::check()?;
        Ok(Log::queued(Outlet::Journal(Journal::open(Path::new(journal::SOCKET), fields)?), buffer))
    }

    fn queued(outlet: Outlet, buffer: Option<u64>) -> Log {
        let max = buffer.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let queued = Queued {
            lines: Lines::default(),
            queue: Queue::new(max),
            outlet,
            is_blocking: max.is_none(),
            closing: false,
            moved: None,
        };
        Log { way: Way::Queued(Box::new(queued)), failing: false }
    }

    /// The file, if a client can be given from it what it missed: it has all that came, and reading it waits for
    /// nothing.
    pub fn file(&self) -> Option<&Writer> {
        match &self.way {
            Way::File(writer) => Some(writer),
            Way::Queued(_) => None,
        }
    }

    /// Whether the container may go on for all that its log cares.
    pub fn has_room(&self) -> bool {
        match &self.way {
            Way::File(_) => true,
            Way::Queued(queued) => !queued.is_blocking || queued.queue.is_empty(),
        }
    }

    /// How many bytes wait for it in memory.
    pub fn waiting(&self) -> usize {
        match &self.way {
            Way::File(_) => 0,
            Way::Queued(queued) => queued.queue.len(),
        }
    }

    /// Gives up what waits; how many lines that is.
    pub fn give_up(&mut self) -> u64 {
        let Way::Queued(queued) = &mut self.way else { return 0 };
        let before = queued.queue.dropped();
        queued.queue.clear();
        queued.queue.dropped() - before
    }

    /// How many lines are not in it for want of room or because they could not be written, as far as is known now: what
    /// still waits is not among them.
    pub fn dropped(&self) -> u64 {
        match &self.way {
            Way::File(writer) => writer.lost(),
            Way::Queued(queued) => queued.queue.dropped() + queued.outlet.lost(),
        }
    }

    /// Logs output. What goes wrong is said once, on standard error, until something goes right again.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let went = match &mut self.way {
            Way::File(writer) => writer.write(stream, bytes),
            Way::Queued(queued) => {
                let now = now();
                let Queued { lines, queue, .. } = &mut **queued;
                lines.push(stream, bytes, |line| queue.push(stream, now, line));
                queued.send()
            }
        };
        self.tell(went);
    }

    /// There is no more to come: logs what still waits for the end of its line. May be called again.
    pub fn finish(&mut self) {
        let went = match &mut self.way {
            Way::File(writer) => writer.flush_partial(),
            Way::Queued(queued) => {
                let now = now();
                let Queued { lines, queue, .. } = &mut **queued;
                lines.flush(|stream, line| queue.push(stream, now, line));
                queued.closing = true;
                queued.send()
            }
        };
        self.tell(went);
    }

    /// Whether all that came is where it belongs, after [`Log::finish`].
    pub fn is_finished(&self) -> bool {
        match &self.way {
            Way::File(_) => true,
            Way::Queued(queued) => queued.closing && queued.queue.is_empty() && queued.outlet.has_ended(),
        }
    }

    /// What to wait for; then [`Log::work`] is to be called.
    pub fn wish(&self) -> Option<Wish<'_>> {
        let Way::Queued(queued) = &self.way else { return None };
        let waits = !queued.queue.is_empty();
        match &queued.outlet {
            Outlet::File(aside) => aside.wish(waits),
            Outlet::Journal(journal) => journal.socket().filter(|_| waits).map(|socket| (socket, PollFlags::OUT)),
        }
    }

    /// When [`Log::work`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.way {
            Way::Queued(queued) if !queued.queue.is_empty() => match &queued.outlet {
                Outlet::File(aside) => aside.again(),
                Outlet::Journal(_) => None,
            },
            _ => None,
        }
    }

    /// When it took something last.
    pub fn moved(&self) -> Option<Instant> {
        match &self.way {
            Way::File(_) => None,
            Way::Queued(queued) => queued.moved,
        }
    }

    /// Does what can be done now.
    pub fn work(&mut self) {
        if let Way::Queued(queued) = &mut self.way {
            let went = queued.work();
            self.tell(went);
        }
    }

    fn tell(&mut self, went: Result<()>) {
        match went {
            Err(error) if !self.failing => {
                eprintln!("log: {error}");
                self.failing = true;
            }
            other => self.failing = other.is_err(),
        }
    }
}

impl Queued {
    fn work(&mut self) -> Result<()> {
        if self.closing && self.queue.is_empty() && self.outlet.is_closed() {
            return self.outlet.reap();
        }
        self.send()
    }

    /// Hands over what is taken now.
    fn send(&mut self) -> Result<()> {
        let went = match &mut self.outlet {
            Outlet::File(aside) => aside.send(&mut self.queue),
            Outlet::Journal(journal) => send_to(journal, &mut self.queue),
        };
        if matches!(went, Ok(true)) {
            self.moved = Some(Instant::now());
        }
        if self.closing && self.queue.is_empty() {
            self.outlet.close();
        }
        went.map(drop)
    }
}

impl Outlet {
    fn close(&mut self) {
        if let Outlet::File(aside) = self {
            aside.close();
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Outlet::File(aside) => aside.is_closed(),
            Outlet::Journal(_) => true,
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Outlet::File(aside) => aside.has_ended(),
            Outlet::Journal(_) => true,
        }
    }

    fn lost(&self) -> u64 {
        match self {
            Outlet::File(aside) => aside.lost(),
            Outlet::Journal(_) => 0,
        }
    }

    fn reap(&mut self) -> Result<()> {
        match self {
            Outlet::File(aside) => aside.reap(),
            Outlet::Journal(_) => Ok(()),
        }
    }
}

/// Sends entries until journald takes no more now; whether it took one.
fn send_to(journal: &mut Journal, queue: &mut Queue) -> Result<bool> {
    let mut moved = false;
    while let Some((message, length)) = queue.first() {
        match journal.send(&message) {
            Ok(false) => break,
            Ok(true) => {
                queue.advance(length);
                moved = true;
            }
            Err(error) => {
                // Nobody is there who could ever take them.
                queue.clear();
                return Err(error);
            }
        }
    }
    Ok(moved)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}
