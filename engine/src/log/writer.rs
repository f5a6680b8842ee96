//! The writing side.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_base::{IoContext, Result, durable};

use super::compress::{self, Compressing, compressed};
use super::lines::{LINE_MAX, Lines};
use super::{DROPPED, Message, Stream, rotated};

/// When a new file is begun.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bytes after which; never if `None`.
    pub max_size: Option<u64>,
    /// How many files are kept, the newest included.
    pub max_files: u32,
    /// Whether the older ones are compressed.
    pub compress: bool,
    /// What is said of every line.
    pub attributes: BTreeMap<String, String>,
}

/// Writes a log. A line is in the file whole or not at all, as far as this process can see to it.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    options: Options,
    lines: Lines,
    /// What one write takes; kept to spare its allocation.
    out: Vec<u8>,
    /// How many lines are in it, and of how many lost ones they tell.
    waiting: [u64; 2],
    lost: u64,
    /// How many of those no line in the file tells of yet.
    untold: u64,
    /// What is said of every line, as it is written.
    attributes: Vec<u8>,
    compressing: Option<Compressing>,
}

impl Writer {
    /// Goes on with the log at `path`, or begins it. A line that a crash tore is ended.
    pub fn open(path: &Path, options: Options) -> Result<Writer> {
        let mut file = open(path)?;
        let mut size = file.seek(SeekFrom::End(0)).at("seek", path)?;
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).at("seek", path)?;
            file.read_exact(&mut last).at("read", path)?;
            if last != *b"\n" {
                file.write_all(b"\n").at("write", path)?;
                size += 1;
            }
        }
        Ok(Writer {
            path: path.to_owned(),
            file,
            size,
            attributes: encoded(&options.attributes),
            compressing: None,
            options,
            lines: Lines::default(),
            out: Vec::new(),
            waiting: [0; 2],
            lost: 0,
            untold: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has come of a stream and waits for the end of its line: it is not in the file yet.
    pub fn partial(&self, stream: Stream) -> &[u8] {
        self.lines.partial(stream)
    }

    /// How many lines could not be written, as the disk was full, say. The next one that can be tells of them, by the
    /// attribute [`DROPPED`].
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the last line that came is lost.
    pub(super) fn is_failing(&self) -> bool {
        self.untold > 0
    }

    /// Logs output as it comes. What does not end in a newline waits for the rest of its line.
    ///
    /// After an error the lines of this call are lost or, if only the rotation failed, in the old file; the log goes on
    /// with the next call.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let time = now();
        let mut lines = std::mem::take(&mut self.lines);
        let mut went = Ok(());
        lines.push(stream, bytes, |line| {
            self.add(stream, line, &time, 0);
            if let Err(error) = self.put_if_full() {
                went = Err(error);
            }
        });
        self.lines = lines;
        self.put().and(went)
    }

    /// Logs what still waits for the end of its line: there is no more to come.
    pub fn flush_partial(&mut self) -> Result<()> {
        let time = now();
        let mut lines = std::mem::take(&mut self.lines);
        lines.flush(|stream, line| self.add(stream, line, &time, 0));
        self.put()
    }

    /// Adds what somebody else has cut into lines; [`Writer::put`] writes the rest of it.
    pub(super) fn add_message(&mut self, message: &Message<'_>) -> Result<()> {
        let time = jiff::Timestamp::from_nanosecond(message.nanos.into()).map_or_else(|_| now(), |time| format!("{time:.9}"));
        self.add(message.stream, message.line, &time, message.dropped);
        self.put_if_full()
    }

    /// Writes what was added if with it the file has its size: what comes then is in the next one.
    fn put_if_full(&mut self) -> Result<()> {
        let is_full = self.options.max_size.is_some_and(|max| self.size + self.out.len() as u64 >= max);
        if is_full { self.put() } else { Ok(()) }
    }

    fn add(&mut self, stream: Stream, line: &[u8], time: &str, dropped: u64) {
        let untold = std::mem::take(&mut self.untold) + dropped;
        if untold > 0 {
            let mut attributes = self.options.attributes.clone();
            attributes.insert(DROPPED.to_owned(), untold.to_string());
            encode(&mut self.out, stream, line, time, &encoded(&attributes));
        } else {
            encode(&mut self.out, stream, line, time, &self.attributes);
        }
        self.waiting[0] += 1;
        self.waiting[1] += untold;
    }

    /// Writes what was added.
    pub(super) fn put(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // If that fails, the old file still takes lines.
        let rotated = if self.options.max_size.is_some_and(|max| self.size >= max) { self.rotate() } else { Ok(()) };
        let written = self.file.write_all(&self.out);
        let (length, [lines, told]) = (self.out.len() as u64, std::mem::take(&mut self.waiting));
        self.out.clear();
        self.out.shrink_to(4 * LINE_MAX);
        if let Err(error) = written {
            self.lost += lines;
            self.untold += lines + told;
            self.take_back();
            return Err(error).at("write", &self.path);
        }
        self.size += length;
        rotated
    }

    /// Takes off what a write left of a line, as it would hide the next one.
    fn take_back(&mut self) {
        let now = self.file.metadata().map_or(self.size, |file| file.len());
        // Shorter than it was: somebody else has cut it, and what there is begins with our write.
        let keep = if now < self.size { 0 } else { self.size };
        if now != keep && self.file.set_len(keep).is_err() {
            // Then the next line begins with the end of this one.
            self.out.push(b'\n');
        }
        self.size = keep;
    }

    fn rotate(&mut self) -> Result<()> {
        // The new file first: a full disk must not leave the log without one.
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let file = open(&fresh)?;
        file.set_len(0).at("truncate", &fresh)?;
        // It would be looked for under its old name.
        if let Some(compressing) = self.compressing.take() {
            compressing.wait();
        }
        for number in (1..self.options.max_files.max(1)).rev() {
            let from = if number == 1 { self.path.clone() } else { rotated(&self.path, number - 1) };
            let to = rotated(&self.path, number);
            for (from, to, other) in [(from.clone(), to.clone(), compressed(&to)), (compressed(&from), compressed(&to), to)] {
                if from.exists() {
                    durable::replace(&from, &to)?;
                    // The file of this name that was there before may have been of the other kind.
                    let _ = std::fs::remove_file(other);
                }
            }
        }
        durable::replace(&fresh, &self.path)?;
        self.file = file;
        self.size = 0;
        if self.options.compress && self.options.max_files > 1 {
            self.compressing = compress::begin(&rotated(&self.path, 1))?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).read(true).append(true).mode(0o640).open(path).at("open", path)
}

fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// One line, byte for byte as Docker writes it.
fn encode(out: &mut Vec<u8>, stream: Stream, line: &[u8], time: &str, attributes: &[u8]) {
    out.reserve(line.len() + 128);
    out.extend(b"{\"log\":\"");
    for chunk in line.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|_| out.extend(b"\\ufffd"));
    }
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    for part in [&b"\",\"stream\":\""[..], name.as_bytes(), b"\"", attributes, b",\"time\":\"", time.as_bytes(), b"\"}\n"] {
        out.extend(part);
    }
}

/// The attributes as a field of every line; nothing if there are none.
fn encoded(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in attributes {
        out.extend(if out.is_empty() { &b",\"attrs\":{\""[..] } else { b",\"" });
        escape(&mut out, name.as_bytes());
        out.extend(b"\":\"");
        escape(&mut out, value.as_bytes());
        out.push(b'"');
    }
    if !out.is_empty() {
        out.push(b'}');
    }
    out
}

/// A JSON string's inside as Go's encoder has it: also safe in HTML and in JavaScript.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        let escaped: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            0..0x20 | b'<' | b'>' | b'&' => &[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]],
            0xe2 if text[at..].starts_with(b"\xe2\x80\xa8") => b"\\u2028",
            0xe2 if text[at..].starts_with(b"\xe2\x80\xa9") => b"\\u2029",
            _ => continue,
        };
        out.extend(&text[plain..at]);
        out.extend(escaped);
        plain = at + if *byte == 0xe2 { 3 } else { 1 };
    }
    out.extend(&text[plain..]);
}
