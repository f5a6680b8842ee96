//! The writing side.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_base::{IoContext, Result, durable};

use super::{Stream, rotated};

/// The longest piece of a line that is logged as one, as in Docker.
const LINE_MAX: usize = 16 << 10;

/// When a new file is begun.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes after which; never if `None`.
    pub max_size: Option<u64>,
    /// How many files are kept, the newest included.
    pub max_files: u32,
}

/// Writes a log. A line is in the file whole or not at all, as far as this process can see to it.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    options: Options,
    partial: [Vec<u8>; 2],
    /// What one write takes; kept to spare its allocation.
    out: Vec<u8>,
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
        Ok(Writer { path: path.to_owned(), file, size, options, partial: [Vec::new(), Vec::new()], out: Vec::new() })
    }

    /// Logs output as it comes. What does not end in a newline waits for the rest of its line.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let time = now();
        let mut rest = bytes;
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        while !rest.is_empty() {
            let room = LINE_MAX - partial.len();
            let (end, whole) = match rest.iter().take(room).position(|byte| *byte == b'\n') {
                Some(newline) => (newline + 1, true),
                None => (rest.len().min(room), rest.len() >= room),
            };
            partial.extend(&rest[..end]);
            rest = &rest[end..];
            if whole {
                encode(&mut self.out, stream, &partial, &time);
                partial.clear();
            }
        }
        self.partial[stream as usize] = partial;
        self.put()
    }

    /// Logs what still waits for the end of its line: there is no more to come.
    pub fn flush_partial(&mut self) -> Result<()> {
        let time = now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                encode(&mut self.out, stream, &partial, &time);
            }
        }
        self.put()
    }

    fn put(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if self.options.max_size.is_some_and(|max| self.size >= max) {
            self.rotate()?;
        }
        let before = self.size;
        let written = self.file.write_all(&self.out);
        let length = self.out.len() as u64;
        self.out.clear();
        self.out.shrink_to(4 * LINE_MAX);
        if let Err(error) = written {
            // Half a line would hide the next one.
            let _ = self.file.set_len(before);
            return Err(error).at("write", &self.path);
        }
        self.size = before + length;
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let keep = self.options.max_files.max(1);
        if keep == 1 {
            self.file.set_len(0).at("truncate", &self.path)?;
        } else {
            for number in (1..keep - 1).rev() {
                let from = rotated(&self.path, number);
                if from.exists() {
                    durable::replace(&from, &rotated(&self.path, number + 1))?;
                }
            }
            durable::replace(&self.path, &rotated(&self.path, 1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).read(true).append(true).mode(0o640).open(path).at("open", path)
}

fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// One line. Bytes that are no UTF-8 become U+FFFD, as in Docker's own logs.
fn encode(out: &mut Vec<u8>, stream: Stream, line: &[u8], time: &str) {
    let text = String::from_utf8_lossy(line);
    out.extend(b"{\"log\":");
    // Writing text to memory can't fail.
    let _ = serde_json::to_writer(&mut *out, &text);
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    out.extend(format!(",\"stream\":\"{name}\",\"time\":\"{time}\"}}\n").as_bytes());
}
