//! What a mount has changed, told to whoever may look at its root: as the value of an attribute that is not listed.
//!
//! A value holds 64 KiB at most (`XATTR_SIZE_MAX`), so the report comes in pieces. The attribute [`CHANGES_XATTR`] makes a
//! new report: its value is a line, `NUMBER BYTES` and a newline, with the number of the report and how many bytes it has,
//! and the first of those. `CHANGES_XATTR.NUMBER.OFFSET` has the bytes from an offset on, until somebody asks for a new
//! report: then there is no such attribute any more, and one begins again.
//!
//! A report is a list of changes, each ended by NUL: `A`, `C` or `D` as `docker diff` has it, `c` if the content differs,
//! `m` if only the metadata does or `-` for a directory that is listed for what is in it, a blank, the bytes that are more,
//! a blank, and the path.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::sys::xattr;
use fs_base::{Error, Result};
use rustix::io::Errno;

use super::attr::Answer;
use super::fs::Fs;
use crate::diff::{Change, ChangeKind};

/// The attribute of a mount's root that has what was changed.
pub const CHANGES_XATTR: &str = "user.fsd-fuse.changes";
/// Bytes of a report in one value; the line before the first ones fits too.
const PIECE: usize = 60 << 10;

/// How often a report is begun again that somebody else has asked for meanwhile.
const ATTEMPTS: u32 = 100;

/// The last report.
#[derive(Debug, Default)]
pub(super) struct Report {
    last: Mutex<(u64, Arc<[u8]>)>,
}

impl Report {
    /// The value of an attribute of the root, if it is one of ours.
    pub fn value(&self, fs: &Fs, name: &[u8]) -> Option<Answer<Vec<u8>>> {
        let rest = name.strip_prefix(CHANGES_XATTR.as_bytes())?;
        if rest.is_empty() {
            return Some(fs.changes().map(|changes| self.first(&changes)));
        }
        let mut numbers = std::str::from_utf8(rest).ok()?.strip_prefix('.')?.split('.').map(str::parse::<u64>);
        let (Some(Ok(number)), Some(Ok(offset)), None) = (numbers.next(), numbers.next(), numbers.next()) else { return None };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if last.0 != number {
            return Some(Err(Errno::NODATA));
        }
        let from = last.1.len().min(offset as usize);
        Some(Ok(last.1[from..last.1.len().min(from + PIECE)].to_vec()))
    }

    fn first(&self, changes: &[Change]) -> Vec<u8> {
        let bytes: Arc<[u8]> = written(changes).into();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (last.0 + 1, Arc::clone(&bytes));
        let mut value = format!("{} {}\n", last.0, bytes.len()).into_bytes();
        value.extend(&bytes[..bytes.len().min(PIECE)]);
        value
    }
}

/// What a mount has changed, asked of its root; `None` if it keeps no list. Whether the metadata of a file differs whose
/// content does is not said. Who may not look at the root is refused.
pub fn changes_of(root: impl AsFd) -> Result<Option<Vec<Change>>> {
    for _ in 0..ATTEMPTS {
        let Some(first) = xattr::get(&root, CHANGES_XATTR)? else { return Ok(None) };
        if let Some(bytes) = whole(&root, &first)? {
            return bytes
                .split(|byte| *byte == 0)
                .filter(|record| !record.is_empty())
                .map(read)
                .collect::<Option<_>>()
                .map_or_else(|| Err(bad()), |list| Ok(Some(list)));
        }
    }
    Err(Error::busy("others ask for what was changed in a mount all the time"))
}

fn bad() -> Error {
    Error::corrupt("a mount gives no list of what was changed in it")
}

/// All of a report; nothing if another was made meanwhile.
fn whole(root: impl AsFd, first: &[u8]) -> Result<Option<Vec<u8>>> {
    let end = first.iter().position(|byte| *byte == b'\n').ok_or_else(bad)?;
    let line = std::str::from_utf8(&first[..end]).ok().and_then(|line| line.split_once(' ')).ok_or_else(bad)?;
    let length: usize = line.1.parse().map_err(|_| bad())?;
    let mut bytes = first[end + 1..].to_vec();
    while bytes.len() < length {
        match xattr::get(&root, format!("{CHANGES_XATTR}.{}.{}", line.0, bytes.len()))? {
            Some(more) if !more.is_empty() => bytes.extend(more),
            _ => return Ok(None),
        }
    }
    Ok(Some(bytes))
}

fn read(record: &[u8]) -> Option<Change> {
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let (letters, size, path) = (parts.next()?, parts.next()?, parts.next()?);
    let [kind, what] = letters else { return None };
    let kind = match kind {
        b'A' => ChangeKind::Added,
        b'C' => ChangeKind::Modified,
        b'D' => ChangeKind::Deleted,
        _ => return None,
    };
    let (content, metadata) = (*what == b'c', *what == b'm' || kind != ChangeKind::Modified);
    Some(Change { path: path.to_vec(), kind, size: std::str::from_utf8(size).ok()?.parse().ok()?, content, metadata })
}

fn written(changes: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        let what = match (change.content, change.metadata) {
            (true, _) => 'c',
            (false, true) => 'm',
            (false, false) => '-',
        };
        bytes.extend(format!("{kind}{what} {} ", change.size).as_bytes());
        bytes.extend(&change.path);
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_report_comes_in_pieces_until_a_new_one_is_made() {
        let report = Report::default();
        let change = |n: usize| Change {
            path: format!("/{n}").into_bytes(),
            kind: ChangeKind::Added,
            size: 3,
            content: true,
            metadata: true,
        };
        let changes: Vec<Change> = (0..10_000).map(change).collect();
        let first = report.first(&changes);
        assert!(first.starts_with(b"1 ") && first.len() < 64 << 10);
        let head = first.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let mut whole = first[head..].to_vec();
        let dir = tempfile::tempdir().unwrap();
        let lower = super::super::LowerSpec::Plain(dir.path().to_owned()).open().unwrap();
        let fs = Fs::new(super::super::FsOptions { lowers: vec![lower], ..Default::default() }).unwrap();
        loop {
            let name = format!("{CHANGES_XATTR}.1.{}", whole.len());
            let next = report.value(&fs, name.as_bytes()).unwrap().unwrap();
            if next.is_empty() {
                break;
            }
            whole.extend(next);
        }
        assert_eq!(whole, written(&changes));
        let records: Option<Vec<Change>> = whole.split(|byte| *byte == 0).filter(|r| !r.is_empty()).map(read).collect();
        assert_eq!(records, Some(changes));
        assert!(read(b"Xc 1 /a").is_none() && read(b"Ac 1").is_none());
        assert!(report.value(&fs, CHANGES_XATTR.as_bytes()).unwrap().unwrap().starts_with(b"2 0\n"));
        assert_eq!(report.value(&fs, format!("{CHANGES_XATTR}.1.0").as_bytes()), Some(Err(Errno::NODATA)));
        assert!(report.value(&fs, b"user.note").is_none());
    }
}
