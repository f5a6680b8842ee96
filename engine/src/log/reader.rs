//! The reading side: from the oldest file to the newest, then on as the log grows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_base::{IoContext, Result};
use serde::Deserialize;

use super::compress::{self, compressed};
use super::{Stream, rotated};

/// No line is longer: 16 KiB of output, every byte escaped, and some more. What is longer is garbage.
const LINE_MAX: u64 = 1 << 20;

/// What a reader wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query {
    /// Only so many of the last lines; all if `None`.
    pub tail: Option<u64>,
    /// Nothing older, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Nothing newer.
    pub until: Option<i64>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// One logged line, or a piece of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was logged, RFC 3339 with nanoseconds.
    pub time: String,
    /// When, in nanoseconds since the epoch.
    pub nanos: i64,
    /// Where it came from.
    pub stream: Stream,
    /// What it says, with its newline if it has one.
    pub line: String,
    /// What is said of it besides.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads a log while it may be written.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    query: Query,
    /// The file that is read, and older ones come before those in `later`.
    file: Option<BufReader<File>>,
    later: Vec<BufReader<File>>,
    line: Vec<u8>,
    /// Whether the start of the line was thrown away, as no line is so long.
    is_garbage: bool,
    /// How many bytes are still to be read, if not all that come.
    left: Option<u64>,
}

impl Reader {
    /// Opens the log at `path`, which need not be there yet.
    pub fn open(path: &Path, query: Query) -> Result<Reader> {
        Reader::open_with_length(path, query).map(|(reader, _)| reader)
    }

    /// Opens what the log has now: of one that grows faster than it is read there would be no end.
    pub fn open_as_it_is(path: &Path, query: Query) -> Result<Reader> {
        let (reader, length) = Reader::open_with_length(path, query)?;
        Ok(Reader { left: Some(length), ..reader })
    }

    /// Also returns how many bytes the log has now from where the reader stands.
    fn open_with_length(path: &Path, query: Query) -> Result<(Reader, u64)> {
        let mut files = open_all(path)?;
        let (mut kept, mut length, mut wanted) = (0, 0, query.tail);
        for file in &mut files {
            let end = file.metadata().at("stat", path)?.len();
            kept += 1;
            if let Some(wanted) = &mut wanted {
                *wanted -= seek_to_tail(file, end, &query, *wanted, path)?;
            }
            length += end.saturating_sub(file.stream_position().at("seek", path)?);
            if wanted == Some(0) {
                break;
            }
        }
        files.truncate(kept);
        let mut later: Vec<_> = files.into_iter().map(BufReader::new).collect();
        let file = later.pop();
        let (path, line) = (path.to_owned(), Vec::new());
        Ok((Reader { path, query, file, later, line, is_garbage: false, left: None }, length))
    }

    /// The next line. `None`: that is all for now; asked again later it goes on.
    pub fn read(&mut self) -> Result<Option<Record>> {
        loop {
            let Some(file) = &mut self.file else {
                if self.left != Some(0) && self.next_file()? {
                    continue;
                }
                return Ok(None);
            };
            let room = (LINE_MAX - self.line.len() as u64).min(self.left.unwrap_or(u64::MAX));
            let count = file.by_ref().take(room).read_until(b'\n', &mut self.line).at("read", &self.path)?;
            self.left = self.left.map(|left| left - count as u64);
            if self.line.last() != Some(&b'\n') {
                if self.line.len() as u64 == LINE_MAX {
                    self.line.clear();
                    self.is_garbage = true;
                } else if self.left == Some(0) || !self.next_file()? {
                    return Ok(None);
                }
                continue;
            }
            if std::mem::take(&mut self.is_garbage) {
                self.line.clear();
                continue;
            }
            let record = parse(&self.line);
            self.line.clear();
            match record {
                Some(record) if self.query.until.is_some_and(|until| record.nanos > until) => return Ok(None),
                Some(record) if self.query.wants(&record) => return Ok(Some(record)),
                // Another stream's, too old, or torn by a crash.
                _ => {}
            }
        }
    }

    /// After the end of one file: whether there is more, in it or in a further one.
    fn next_file(&mut self) -> Result<bool> {
        if self.later.is_empty() {
            let Some(file) = &mut self.file else {
                self.later = open_all(&self.path)?.into_iter().map(BufReader::new).collect();
                return Ok(self.move_on());
            };
            let number = file.get_ref().metadata().ok().map(|found| (found.dev(), found.ino()));
            let is_newest = match std::fs::metadata(&self.path) {
                Ok(newest) => number == Some((newest.dev(), newest.ino())),
                Err(_) => true,
            };
            let length = file.get_ref().metadata().at("stat", &self.path)?.len();
            let at = file.stream_position().at("seek", &self.path)?;
            if at != length {
                // More has come since, or somebody has cut it: then what it has now is new.
                if at > length {
                    file.seek(SeekFrom::Start(0)).at("seek", &self.path)?;
                    self.line.clear();
                }
                return Ok(length > 0);
            }
            if is_newest {
                return Ok(false);
            }
            // Nothing is added to a file after its rotation. Others may have come and been rotated meanwhile.
            let ours = identity(file.get_ref());
            let mut newer = open_all(&self.path)?;
            if let Some(known) = newer.iter().position(|other| identity(other) == ours) {
                newer.truncate(known);
            }
            self.later = newer.into_iter().map(BufReader::new).collect();
        }
        Ok(self.move_on())
    }

    fn move_on(&mut self) -> bool {
        let next = self.later.pop();
        let moved = next.is_some();
        if moved {
            self.file = next;
            self.line.clear();
            self.is_garbage = false;
        }
        moved
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.line.capacity()
    }
}

/// Which file of the log this is, whatever its name, compressed meanwhile or not: its first line has its time in it.
fn identity(file: &File) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    let mut piece = [0; 4096];
    while first.len() < LINE_MAX as usize {
        let count = file.read_at(&mut piece, first.len() as u64).ok().filter(|count| *count > 0)?;
        match piece[..count].iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                first.extend(&piece[..end]);
                return Some(first);
            }
            None => first.extend(&piece[..count]),
        }
    }
    Some(first)
}

/// The log's files, newest first. A file moves up by one name in a rotation: looked for in this order, it is found
/// twice at worst, and a name that is free for that moment doesn't hide those after it.
fn open_all(path: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut free = 0;
    for number in 0.. {
        let name = if number == 0 { path.to_owned() } else { rotated(path, number) };
        let opened = match File::open(&name) {
            Err(error) if number > 0 && error.kind() == std::io::ErrorKind::NotFound => compress::open(&compressed(&name)),
            other => other,
        };
        match opened {
            Ok(file) => files.push(file),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).at("open", &name),
            Err(_) if free == 1 => break,
            Err(_) => free += 1,
        }
    }
    files.dedup_by(|a, b| identity(a).is_some_and(|first| Some(first) == identity(b)));
    Ok(files)
}

impl Query {
    /// Whether a line is of a stream, and of a time, that is asked for; the end of the time aside.
    pub fn wants(&self, record: &Record) -> bool {
        let stream = match record.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| record.nanos >= since)
    }
}

fn parse(line: &[u8]) -> Option<Record> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let time: jiff::Timestamp = entry.time.parse().ok()?;
    Some(Record {
        nanos: time.as_nanosecond() as i64,
        time: entry.time.into_owned(),
        stream: entry.stream,
        line: entry.log.into_owned(),
        attributes: entry.attrs,
    })
}

/// Puts `file` before the last `wanted` records before `end` that the query takes, reading backwards. Returns how many
/// there are.
fn seek_to_tail(file: &mut File, end: u64, query: &Query, wanted: u64, path: &Path) -> Result<u64> {
    const PIECE: u64 = 64 << 10;
    let (mut start, mut found, mut tail) = (end, 0, Vec::new());
    let mut place = end;
    while start > 0 && found < wanted {
        let from = start.saturating_sub(PIECE);
        let mut piece = vec![0; (start - from) as usize];
        file.seek(SeekFrom::Start(from)).at("seek", path)?;
        file.read_exact(&mut piece).at("read", path)?;
        piece.extend(&tail);
        tail = piece;
        start = from;
        // The first line may have begun before this piece; unless it did not, it waits for the next one.
        let whole_from = if start == 0 { 0 } else { tail.iter().position(|b| *b == b'\n').map_or(tail.len(), |n| n + 1) };
        let mut stop = tail.len();
        while stop > whole_from && found < wanted {
            let begin = tail[whole_from..stop - 1].iter().rposition(|b| *b == b'\n').map_or(whole_from, |n| whole_from + n + 1);
            if parse(&tail[begin..stop]).is_some_and(|record| query.wants(&record)) {
                found += 1;
            }
            place = start + begin as u64;
            stop = begin;
        }
        tail.truncate(whole_from);
        if tail.len() as u64 > LINE_MAX {
            tail.clear();
        }
    }
    file.seek(SeekFrom::Start(if wanted == 0 { end } else { place })).at("seek", path)?;
    Ok(found)
}
