//! The stream of entries.

use std::io::{self, BufRead, BufReader, Read, Seek};

use crate::{Error, Result};

use super::header::{BLOCK, Header, sparse_entries};
use super::pax::{Pax, integer};
use super::{Limits, acl, limit, sparse};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file with these data segments; what is between them reads as zeros.
    File(Vec<Segment>),
    /// A further name of an earlier entry, by that entry's path.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// Bytes of a file that lie in one piece in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub file_offset: u64,
    /// How many bytes, not zero.
    pub length: u64,
    /// Where in the uncompressed stream.
    pub stream_offset: u64,
}

/// One entry: its metadata, all dialects resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written: any bytes but NUL, perhaps hostile.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a regular file, holes included; 0 for all else.
    pub size: u64,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// Extended attributes by full name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries from an uncompressed tar stream.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Passes over bytes of the input; answers how many.
    skip: fn(&mut R, u64) -> io::Result<u64>,
    limits: Limits,
    /// Bytes read so far.
    position: u64,
    /// Bytes of the current entry's data and padding still to be passed over.
    pending: u64,
    entries: u64,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of a stream, which reads what it passes over.
    pub fn new(input: R, limits: Limits) -> Reader<R> {
        let skip = |input: &mut R, length| io::copy(&mut input.take(length), &mut io::sink());
        Reader { input, skip, limits, position: 0, pending: 0, entries: 0 }
    }

    /// A reader that passes over the bytes in the input's buffers without copying them.
    pub fn buffered(input: R, limits: Limits) -> Reader<R>
    where
        R: BufRead,
    {
        Reader { skip: consume, ..Reader::new(input, limits) }
    }

    /// A reader that seeks over data. That the input ends within data shows by [`Reader::position`] only.
    pub fn seekable(input: BufReader<R>, limits: Limits) -> Reader<BufReader<R>>
    where
        R: Seek,
    {
        let skip = |input: &mut BufReader<R>, length| {
            let step = i64::try_from(length).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            input.seek_relative(step).map(|()| length)
        };
        Reader { skip, ..Reader::new(input, limits) }
    }

    /// How many bytes of the stream have been read or passed over.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` at the archive's end. Data of the entry before that was not read is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip(self.pending)?;
        self.pending = 0;
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        // One entry may have many extended headers; what they say adds up.
        let mut extended = 0usize;
        loop {
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? {
                return Ok(None);
            }
            let offset = self.position - BLOCK as u64;
            let Some(header) = Header::parse(&block, offset)? else { return Ok(None) };
            self.count()?;
            match header.type_flag() {
                b'L' => long_name = Some(self.text(&header)?),
                b'K' => long_link = Some(self.text(&header)?),
                b'x' | b'X' => {
                    let bytes = self.small_data(&header, self.limits.attributes.saturating_sub(extended), "attributes")?;
                    extended += bytes.len().max(1);
                    pax.read(&bytes)?;
                }
                // For all entries that follow: not applied, as Go's readers of layers don't.
                b'g' => {
                    let size = header.size()?;
                    self.check_stored(size)?;
                    self.skip(padded(size))?;
                }
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// What the stream is read from.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads from the current entry's stored data (of a sparse file: its segments one after the other).
    pub fn read_data(&mut self, buffer: &mut [u8], left: &mut u64) -> io::Result<usize> {
        let want = (buffer.len() as u64).min(*left) as usize;
        let got = self.input.read(&mut buffer[..want])?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += got as u64;
        self.pending -= got as u64;
        *left -= got as u64;
        Ok(got)
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(limit("entries", format_args!("more than {} entries", self.limits.entries)));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = pax.sparse_name.take().or(pax.path.take()).or(long_name).unwrap_or_else(|| header.path());
        let link = pax.link_path.take().or(long_link).unwrap_or_else(|| header.link_target());
        self.check_path(&path)?;
        self.check_path(&link)?;
        let (mtime, mtime_nanos) = match pax.mtime {
            Some(time) => time,
            None => (header.mtime()?, 0),
        };
        let xattrs = pax.attributes();
        let acl = xattrs.iter().find(|(name, _)| name == acl::ACCESS);
        let mut entry = Entry {
            kind: EntryKind::Dir,
            mode: acl.map_or(header.mode(), |(_, acl)| header.mode().map(|mode| acl::mode(acl, mode)))?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            size: 0,
            mtime,
            mtime_nanos,
            xattrs,
            path,
        };
        entry.kind = match header.type_flag() {
            // A name that ends in a slash was a directory before ustar had a flag for it.
            0 | b'0' | b'7' if entry.path.ends_with(b"/") => {
                let stored = pax.size.map_or_else(|| header.size(), Ok)?;
                self.check_stored(stored)?;
                self.pending = padded(stored);
                EntryKind::Dir
            }
            0 | b'0' | b'7' | b'S' => {
                let (size, segments) = self.file(header, &pax)?;
                entry.size = size;
                EntryKind::File(segments)
            }
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => header.device().map(|(major, minor)| EntryKind::CharDevice(major, minor))?,
            b'4' => header.device().map(|(major, minor)| EntryKind::BlockDevice(major, minor))?,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(Error::unsupported(format!(
                    "tar entry {:?} has the unknown type {:?}",
                    String::from_utf8_lossy(&entry.path),
                    char::from(other)
                )));
            }
        };
        Ok(entry)
    }

    /// Size and segments of a regular file whose header was just read; what is stored becomes pending.
    fn file(&mut self, header: &Header<'_>, pax: &Pax) -> Result<(u64, Vec<Segment>)> {
        let stored = pax.size.map_or_else(|| header.size(), Ok)?;
        self.check_stored(stored)?;
        let (size, pairs, map_bytes) = match (header.type_flag(), pax.sparse_major, pax.sparse_size) {
            (b'S', ..) => {
                let (pairs, size) = self.old_gnu_map(header)?;
                (size, pairs, 0)
            }
            (_, Some(1), Some(size)) => {
                let (pairs, map_bytes) = self.map_1_0(stored)?;
                (size, pairs, map_bytes)
            }
            (_, None | Some(0), Some(size)) => (size, sparse::pairs(&pax.sparse_map)?, 0),
            (_, Some(_), _) => {
                return Err(Error::unsupported("a sparse format of tar that is not known (old, 0.0, 0.1, 1.0 are)"));
            }
            (_, None, None) => (stored, vec![(0, stored)], 0),
        };
        if size > self.limits.file_size {
            return Err(limit("file_bytes", format_args!("a file of more than {} bytes", self.limits.file_size)));
        }
        self.pending = padded(stored) - map_bytes;
        Ok((size, sparse::segments(&pairs, size, self.position, stored - map_bytes)?))
    }

    fn check_stored(&self, stored: u64) -> Result<()> {
        if stored > self.limits.size {
            return Err(limit("bytes", format_args!("more than {} bytes uncompressed", self.limits.size)));
        }
        Ok(())
    }

    fn old_gnu_map(&mut self, header: &Header<'_>) -> Result<(Vec<(u64, u64)>, u64)> {
        let (mut pairs, mut more, size) = header.gnu_sparse()?;
        while more {
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(truncated());
            }
            pairs.extend(sparse_entries(&block[..504])?);
            more = block[504] != 0;
            self.check_segments(pairs.len())?;
        }
        Ok((pairs, size))
    }

    /// The map of format 1.0 stands before the data, as decimal lines padded to a block.
    fn map_1_0(&mut self, stored: u64) -> Result<(Vec<(u64, u64)>, u64)> {
        let (mut numbers, mut line, mut used) = (Vec::new(), Vec::new(), 0u64);
        let mut want = 1usize;
        while numbers.len() < want {
            let mut block = [0u8; BLOCK];
            used += BLOCK as u64;
            if used > stored || !self.read_block(&mut block)? {
                return Err(truncated());
            }
            for &byte in &block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(Error::corrupt("malformed sparse map in a tar entry"));
                    }
                    continue;
                }
                numbers.push(integer(&line)?);
                line.clear();
                if numbers.len() == 1 {
                    let count = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                    self.check_segments(count)?;
                    want = 1 + count * 2;
                }
                if numbers.len() == want {
                    break;
                }
            }
        }
        Ok((sparse::pairs(&numbers[1..])?, used))
    }

    fn check_segments(&self, count: usize) -> Result<()> {
        if count > self.limits.segments {
            return Err(limit("segments", format_args!("a sparse file of more than {} segments", self.limits.segments)));
        }
        Ok(())
    }

    fn check_path(&self, path: &[u8]) -> Result<()> {
        if path.len() > self.limits.path {
            return Err(limit("path", format_args!("a path of more than {} bytes", self.limits.path)));
        }
        if path.contains(&0) {
            return Err(Error::corrupt("a path with a NUL byte in a tar header"));
        }
        Ok(())
    }

    /// The text of a GNU long name.
    fn text(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let mut bytes = self.small_data(header, self.limits.path + 1, "path")?;
        bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
        Ok(bytes)
    }

    /// The data of an extension header, at most `most` bytes, which is the limit `name`.
    fn small_data(&mut self, header: &Header<'_>, most: usize, name: &str) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > most as u64 {
            return Err(limit(name, format_args!("an extension header of {size} bytes, more than {most}")));
        }
        let mut bytes = vec![0; padded(size) as usize];
        self.input.read_exact(&mut bytes).map_err(stream_error)?;
        self.position += bytes.len() as u64;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// One block; `false` at a clean end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(truncated()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(stream_error(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(true)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let skipped = (self.skip)(&mut self.input, length).map_err(stream_error)?;
        self.position += skipped;
        if skipped == length { Ok(()) } else { Err(truncated()) }
    }
}

/// Passes over bytes in the buffers of `input`.
fn consume<R: BufRead>(input: &mut R, length: u64) -> io::Result<u64> {
    let mut left = length;
    while left > 0 {
        let step = match input.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => (bytes.len() as u64).min(left),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        input.consume(step as usize);
        left -= step;
    }
    Ok(length - left)
}

/// The error of an input: ours if it wraps one, and "truncated" if it just ended.
pub fn stream_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => truncated(),
        Err(error) => Error::io("read", "tar stream", error),
    }
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

fn truncated() -> Error {
    Error::corrupt("the tar stream ends in the middle of an entry: it is truncated")
}
