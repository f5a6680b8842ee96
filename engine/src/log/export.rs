//! What `journalctl -o export` says, read as it comes.
//!
//! Source: <https://systemd.io/JOURNAL_EXPORT_FORMATS/>: entries are told apart by an empty line, their fields are as in
//! the native protocol.

use std::collections::BTreeMap;

use fs_base::{Error, Result};

use super::Stream;
use super::journal::{DROPPED, ERROR, PARTIAL, TIME};
use super::reader::Record;

/// A longer entry is not one of ours.
const ENTRY_MAX: usize = 8 << 20;
/// What an entry has besides labels and variables of its container. Those with an underscore in front are journald's.
const KNOWN: &[&str] = &[
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "ERRNO",
    "SYSLOG_FACILITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    TIME,
    "CONTAINER_NAME",
    "CONTAINER_ID",
    super::journal::OWNER,
    "CONTAINER_TAG",
    "IMAGE_NAME",
    "CONTAINER_PARTIAL_ID",
    "CONTAINER_PARTIAL_ORDINAL",
    "CONTAINER_PARTIAL_LAST",
    PARTIAL,
    "CONTAINER_LOG_EPOCH",
    "CONTAINER_LOG_ORDINAL",
    DROPPED,
];

/// An entry of a container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the journal, for `journalctl --cursor`.
    pub cursor: String,
    /// What it says.
    pub record: Record,
}

/// Takes the bytes, and gives the entries.
#[derive(Debug, Default)]
pub struct Export {
    bytes: Vec<u8>,
    at: usize,
}

impl Export {
    /// Takes some.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend(bytes);
    }

    /// The next entry; `None` if it is not all there yet. What is no line of a container's is passed over.
    pub fn read(&mut self) -> Result<Option<Entry>> {
        loop {
            let rest = &self.bytes[self.at..];
            let Some((fields, length)) = fields(rest) else {
                if rest.len() > ENTRY_MAX {
                    return Err(Error::corrupt(format!("the journal has an entry of more than {ENTRY_MAX} bytes")));
                }
                return Ok(None);
            };
            let entry = entry(&fields);
            self.at += length;
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }
}

type Fields<'a> = BTreeMap<&'a str, &'a [u8]>;

/// The fields of the entry in front of `bytes`, and how many bytes it takes with the empty line behind it.
fn fields(bytes: &[u8]) -> Option<(Fields<'_>, usize)> {
    let mut all = BTreeMap::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = &rest[..end];
        at += end + 1;
        if line.is_empty() {
            return Some((all, at));
        }
        let (name, value) = if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            (&line[..equals], &line[equals + 1..])
        } else {
            let length = u64::from_le_bytes(*bytes[at..].first_chunk::<8>()?);
            let value = bytes.get(at + 8..)?.get(..usize::try_from(length).ok()?)?;
            at += 8 + value.len() + 1;
            if at > bytes.len() {
                return None;
            }
            (line, value)
        };
        if let Ok(name) = std::str::from_utf8(name) {
            all.insert(name, value);
        }
    }
}

fn entry(fields: &Fields<'_>) -> Option<Entry> {
    let text = |name: &str| fields.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let mut line = text("MESSAGE")?;
    if text(PARTIAL).as_deref() != Some("true") {
        line.push('\n');
    }
    let (time, nanos) = moment(text(TIME), text("__REALTIME_TIMESTAMP"))?;
    let stream = if text("PRIORITY").as_deref() == Some(ERROR) { Stream::Stderr } else { Stream::Stdout };
    let own = fields.iter().filter(|(name, _)| !name.starts_with('_') && !KNOWN.contains(name));
    let mut attributes: BTreeMap<String, String> =
        own.map(|(name, value)| ((*name).to_owned(), String::from_utf8_lossy(value).into_owned())).collect();
    // As with the other drivers, where it was asked for by its name.
    attributes.extend(text(DROPPED).map(|count| (super::DROPPED.to_owned(), count)));
    Some(Entry { cursor: text("__CURSOR")?, record: Record { time, nanos, stream, line, attributes } })
}

/// When a line came: by the shim, or, where somebody else has written it, by journald (in microseconds).
fn moment(ours: Option<String>, theirs: Option<String>) -> Option<(String, i64)> {
    let parsed = ours.and_then(|text| Some((text.parse::<jiff::Timestamp>().ok()?, text)));
    if let Some((time, text)) = parsed {
        return Some((text, time.as_nanosecond() as i64));
    }
    let time = jiff::Timestamp::from_microsecond(theirs?.parse().ok()?).ok()?;
    Some((format!("{time:.9}"), time.as_nanosecond() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut bytes = b"__CURSOR=s=1;i=1\n__REALTIME_TIMESTAMP=1795284182131077\n_UID=0\nPRIORITY=6\nTIER=front\n".to_vec();
        bytes.extend(
            b"MESSAGE\n\x05\0\0\0\0\0\0\0a\n\n=b\n\n__CURSOR=c2\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-11-21T06:00:00.123456789Z\n",
        );
        bytes.extend(b"CONTAINER_PARTIAL_MESSAGE=true\nCONTAINER_LOG_DROPPED=7\nMESSAGE=x=y\n\n__CURSOR=c3\nOTHER=1\n\n");
        bytes
    }

    #[test]
    fn entries_are_the_same_however_they_are_cut() {
        let whole = {
            let mut export = Export::default();
            export.push(&example());
            std::iter::from_fn(|| export.read().unwrap()).collect::<Vec<_>>()
        };
        let [first, second] = &whole[..] else { panic!("{whole:?}") };
        assert_eq!((first.cursor.as_str(), first.record.line.as_str()), ("s=1;i=1", "a\n\n=b\n"));
        assert_eq!((first.record.stream, first.record.nanos), (Stream::Stdout, 1_795_284_182_131_077_000));
        assert_eq!(first.record.attributes.iter().collect::<Vec<_>>(), [(&"TIER".to_owned(), &"front".to_owned())]);
        assert_eq!((second.record.line.as_str(), second.record.stream), ("x=y", Stream::Stderr));
        assert_eq!(second.record.time, "2026-11-21T06:00:00.123456789Z");
        assert_eq!(second.record.attributes["dropped"], "7");
        for size in [1, 2, 3, 7, 50] {
            let (mut export, mut all) = (Export::default(), Vec::new());
            for piece in example().chunks(size) {
                export.push(piece);
                all.extend(std::iter::from_fn(|| export.read().unwrap()));
            }
            assert_eq!(all, whole, "{size}");
        }
    }

    #[test]
    fn an_entry_without_an_end_is_given_up() {
        let mut export = Export::default();
        export.push(&vec![b'x'; ENTRY_MAX + 1]);
        assert!(export.read().is_err());
    }
}
