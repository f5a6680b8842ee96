//! Writes items as a tar stream: ustar headers, and a PAX header where ustar has no room.
//!
//! Source: POSIX.1-2017 pax(1); GNU tar manual, "PAX Format, Version 1.0" for sparse files; `SCHILY.xattr.` as star(1)
//! and GNU tar write it.

use std::io::{self, Write};

use fs_base::tar::{append_attribute, append_record};
use fs_base::{Error, IoContext, Result};
use tar::{EntryType, Header};

use super::item::{Attributes, Body, Data, Item, Sink};
use super::names::join;
use crate::erofs::FileKind;
use crate::metadata::Metadata;

const BLOCK: u64 = 512;
/// Bytes of holes from which on a file is written as a sparse one. Below it, a client that can't read sparse
/// entries should not have to.
const SPARSE_FROM: u64 = 64 << 10;
/// The longest name in a ustar header's name and link fields.
const NAME: usize = 100;
/// The largest number in an octal field of eight and of twelve bytes.
const OCTAL_8: u64 = 0o7_777_777;
const OCTAL_12: u64 = 0o77_777_777_777;

/// Counts of what went through a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Files of every kind.
    pub entries: u64,
    /// Bytes of regular files, holes left out.
    pub bytes: u64,
    /// Files that could not be represented and were left out: sockets in a tar, devices without privilege.
    pub skipped: u64,
    /// Attributes that the target refused.
    pub skipped_attributes: u64,
}

/// A tar stream that is being written.
pub struct TarWriter<'a> {
    out: &'a mut dyn Write,
    /// What stands for the top: a name, or nothing if the top itself is left out.
    base: Option<Vec<u8>>,
    sparse: bool,
    pub stats: Stats,
}

impl<'a> TarWriter<'a> {
    pub fn new(out: &'a mut dyn Write, base: Option<Vec<u8>>, sparse: bool) -> TarWriter<'a> {
        TarWriter { out, base, sparse, stats: Stats::default() }
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<Stats> {
        self.out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| self.out.flush()).at("write", "tar stream")?;
        Ok(self.stats)
    }

    fn name(&self, path: &[u8]) -> Vec<u8> {
        self.base.as_ref().map_or_else(|| path.to_vec(), |base| join(base, path))
    }

    fn write(&mut self, item: Item<'_>) -> Result<()> {
        let mut name = self.name(item.path);
        if item.metadata.is_dir() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        let mut entry = Entry::new(&item.metadata, item.attributes);
        match item.body {
            Body::None => {}
            Body::Symlink(target) => entry.link(EntryType::Symlink, target),
            Body::HardLink(first) => {
                // Attributes belong to the file, and came with its first name.
                entry = Entry::new(&item.metadata, Attributes::new());
                entry.link(EntryType::Link, &self.name(first));
            }
            Body::File(data) => return self.file(entry, &name, item.metadata.size, data),
        }
        entry.name(&name);
        entry.write(self.out)
    }

    fn file(&mut self, mut entry: Entry, name: &[u8], size: u64, data: &mut dyn Data) -> Result<()> {
        let stored: u64 = data.segments().iter().map(|(_, length)| length).sum();
        self.stats.bytes += stored;
        let holes = size.saturating_sub(stored);
        if !self.sparse || holes < SPARSE_FROM {
            entry.name(name);
            entry.size(size);
            entry.write(self.out)?;
            return self.plain(data, size);
        }
        let map = sparse_map(data.segments(), size);
        entry.record("GNU.sparse.major", b"1");
        entry.record("GNU.sparse.minor", b"0");
        entry.record("GNU.sparse.name", name);
        entry.record("GNU.sparse.realsize", size.to_string().as_bytes());
        entry.name(&sparse_name(name));
        entry.size(map.len() as u64 + stored);
        entry.write(self.out)?;
        self.out.write_all(&map).at("write", "tar stream")?;
        copy(self.out, data, stored)?;
        self.pad(stored)
    }

    fn plain(&mut self, data: &mut dyn Data, size: u64) -> Result<()> {
        let mut position = 0;
        for (offset, length) in data.segments().to_vec() {
            zeros(self.out, offset - position)?;
            copy(self.out, data, length)?;
            position = offset + length;
        }
        zeros(self.out, size - position)?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        zeros(self.out, size.next_multiple_of(BLOCK) - size)
    }
}

impl Sink for TarWriter<'_> {
    fn put(&mut self, item: Item<'_>) -> Result<()> {
        if item.path.is_empty() && self.base.is_none() {
            return Ok(());
        }
        if item.metadata.kind == FileKind::Socket {
            // No format has them; whoever made it makes it again.
            self.stats.skipped += 1;
            return Ok(());
        }
        self.stats.entries += 1;
        self.write(item)
    }
}

/// Reads exactly `length` bytes of data into the stream.
fn copy(out: &mut dyn Write, data: &mut dyn Data, length: u64) -> Result<()> {
    let mut buffer = vec![0; 1 << 17];
    let mut left = length;
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        match data.read(&mut buffer[..want]) {
            Ok(0) => return Err(Error::corrupt("a file ended before its size while it was copied")),
            Ok(got) => {
                out.write_all(&buffer[..got]).at("write", "tar stream")?;
                left -= got as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("read", "file"),
        }
    }
    Ok(())
}

fn zeros(out: &mut dyn Write, mut length: u64) -> Result<()> {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    while length > 0 {
        let step = length.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..step as usize]).at("write", "tar stream")?;
        length -= step;
    }
    Ok(())
}

/// The map of format 1.0: decimal lines, padded to a block. A segment of no bytes at the end tells the size to readers
/// that look there, as GNU tar writes it.
fn sparse_map(segments: &[(u64, u64)], size: u64) -> Vec<u8> {
    use std::fmt::Write as _;
    let ends_in_hole = segments.last().is_none_or(|(offset, length)| offset + length < size);
    let mut map = format!("{}\n", segments.len() + usize::from(ends_in_hole));
    for (offset, length) in segments {
        let _ = writeln!(map, "{offset}\n{length}");
    }
    if ends_in_hole {
        let _ = writeln!(map, "{size}\n0");
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

/// What a reader that knows no sparse files unpacks it as: the name under a directory of this name.
fn sparse_name(name: &[u8]) -> Vec<u8> {
    let (directory, file) = super::names::split(name);
    join(&join(directory, b"GNUSparseFile.0"), file)
}

/// A header and the PAX records before it.
struct Entry {
    header: Header,
    records: Vec<u8>,
}

impl Entry {
    fn new(metadata: &Metadata, attributes: Attributes) -> Entry {
        let mut header = Header::new_ustar();
        header.set_mode(metadata.permissions());
        header.set_size(0);
        header.set_entry_type(match metadata.kind {
            FileKind::Dir => EntryType::Directory,
            FileKind::Symlink => EntryType::Symlink,
            FileKind::CharDevice => EntryType::Char,
            FileKind::BlockDevice => EntryType::Block,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::File | FileKind::Socket => EntryType::Regular,
        });
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.set_device_major(metadata.device.0);
            ustar.set_device_minor(metadata.device.1);
        }
        let mut entry = Entry { header, records: Vec::new() };
        entry.owner(metadata.uid, metadata.gid);
        entry.time(metadata.mtime, metadata.mtime_nanos);
        for (name, value) in attributes {
            append_attribute(&mut entry.records, &name, &value);
        }
        entry
    }

    fn owner(&mut self, uid: u32, gid: u32) {
        for (key, id) in [("uid", u64::from(uid)), ("gid", u64::from(gid))] {
            if id > OCTAL_8 {
                self.record(key, id.to_string().as_bytes());
            }
        }
        self.header.set_uid(uid.into());
        self.header.set_gid(gid.into());
    }

    fn time(&mut self, seconds: i64, nanos: u32) {
        if nanos != 0 || seconds < 0 || seconds as u64 > OCTAL_12 {
            self.record("mtime", decimal_time(seconds, nanos).as_bytes());
        }
        self.header.set_mtime(seconds.clamp(0, OCTAL_12 as i64) as u64);
    }

    fn size(&mut self, size: u64) {
        if size > OCTAL_12 {
            self.record("size", size.to_string().as_bytes());
        }
        self.header.set_size(size);
    }

    fn link(&mut self, kind: EntryType, target: &[u8]) {
        self.header.set_entry_type(kind);
        if target.len() > NAME {
            self.record("linkpath", target);
        }
        let field = &mut self.header.as_old_mut().linkname;
        field[..target.len().min(NAME)].copy_from_slice(&target[..target.len().min(NAME)]);
    }

    fn name(&mut self, name: &[u8]) {
        if name.len() > NAME {
            self.record("path", name);
        }
        let field = &mut self.header.as_old_mut().name;
        field[..name.len().min(NAME)].copy_from_slice(&name[..name.len().min(NAME)]);
    }

    fn record(&mut self, key: &str, value: &[u8]) {
        append_record(&mut self.records, key.as_bytes(), value);
    }

    fn write(mut self, out: &mut dyn Write) -> Result<()> {
        if !self.records.is_empty() {
            let mut pax = Header::new_ustar();
            pax.set_entry_type(EntryType::XHeader);
            pax.as_old_mut().name[..9].copy_from_slice(b"PaxHeader");
            pax.set_mode(0o644);
            pax.set_uid(0);
            pax.set_gid(0);
            pax.set_mtime(0);
            pax.set_size(self.records.len() as u64);
            pax.set_cksum();
            let padding = self.records.len().next_multiple_of(BLOCK as usize);
            self.records.resize(padding, 0);
            out.write_all(pax.as_bytes()).and_then(|()| out.write_all(&self.records)).at("write", "tar stream")?;
        }
        self.header.set_cksum();
        out.write_all(self.header.as_bytes()).at("write", "tar stream")
    }
}

/// Seconds with a fraction; the nanoseconds count forward from the second, also before 1970.
fn decimal_time(seconds: i64, nanos: u32) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let text = if seconds < 0 {
        // -2 and half a second after it is -1.5.
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_written_as_they_are_read() {
        assert_eq!(decimal_time(-2, 500_000_000), "-1.5");
        assert_eq!(decimal_time(-1, 500_000_000), "-0.5");
        assert_eq!(decimal_time(12, 1), "12.000000001");
        assert_eq!(decimal_time(-3, 0), "-3");
    }
}
