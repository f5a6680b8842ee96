//! What was written to a mount. A tree that is served by FUSE is asked itself, without the daemon; of one that the kernel
//! serves the daemon knows.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use fsd_api::{ChangeKind, DiffEntry};
use rustix::io::Errno;

use super::mounts::{find, mounts};
use super::streams::show_difference;
use crate::client::Client;
use crate::client::query::escape;
use crate::out;

/// The attribute of a tree's root that has the list. Source: layerfs, `driver/fuse/report.rs`.
const ATTRIBUTE: &str = "user.fsd-fuse.changes";
/// The longest value of an attribute. Source: linux/limits.h, `XATTR_SIZE_MAX`.
const LONGEST: usize = 64 << 10;
/// How often a list is begun again that somebody else has asked for meanwhile.
const ATTEMPTS: u32 = 100;

/// List what was changed in a mount that can be written to
///
/// The session that serves a tree by FUSE has kept it, so nothing is looked through, and no daemon is needed. What was
/// written to a mount by the kernel is compared with what lies below.
#[derive(Debug, Args)]
pub struct MountDiff {
    /// Show sizes, and whether content or only metadata differs
    #[arg(short = 's', long)]
    size: bool,
    /// Only show how many bytes the files take more
    #[arg(long, conflicts_with_all = ["size", "format"])]
    total: bool,
    /// 'json' for one object a line
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Where it is mounted; one that the daemon has made also by its id
    #[arg(value_name = "TARGET|ID")]
    target: String,
}

impl MountDiff {
    /// Does it.
    pub async fn run(&self, client: &Client) -> Result<()> {
        let entries = self.entries(client).await?;
        if self.total {
            let total: i64 = entries.iter().map(|entry| entry.size).sum();
            out::line(total.to_string());
            return Ok(());
        }
        for entry in &entries {
            show_difference(entry, self.format.as_deref(), self.size)?;
        }
        Ok(())
    }

    async fn entries(&self, client: &Client) -> Result<Vec<DiffEntry>> {
        let target = &self.target;
        if Path::new(target).exists()
            && let Some(changes) = changes(target)?
        {
            return Ok(changes);
        }
        // Without a daemon there is only the tree to ask.
        let asked = mounts(client).await;
        let known = asked.as_deref().unwrap_or_default();
        let Ok(id) = find(known, target) else {
            let alone = || format!("{target} is not the top of a tree that FUSE serves, and the daemon can't be asked");
            asked.with_context(alone)?;
            bail!(
                "{target} is not the top of a tree that FUSE serves, nor a mount of the daemon: nobody knows what was changed in it"
            );
        };
        let target = known.iter().find(|mount| mount.id == id).map(|mount| mount.target.clone()).unwrap_or_default();
        if let Some(changes) = changes(&target).ok().flatten() {
            return Ok(changes);
        }
        let bytes = client.get_bytes(&format!("/fsd/v1/mounts/{}/changes", escape(&id))).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// What a tree that FUSE serves has changed; `None` if it is none.
fn changes(target: &str) -> Result<Option<Vec<DiffEntry>>> {
    for _ in 0..ATTEMPTS {
        match report(target)? {
            Report::Whole(bytes) => {
                let records = bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty());
                return records.map(entry).collect::<Result<_>>().map(Some);
            }
            Report::Broken => {}
            Report::None => return Ok(None),
        }
    }
    bail!("{target}: others ask for what was changed all the time; try again")
}

/// What a tree answers.
enum Report {
    /// All of it.
    Whole(Vec<u8>),
    /// Another report was made before all of it was read.
    Broken,
    /// It is not the top of a tree that FUSE serves.
    None,
}

fn report(target: &str) -> Result<Report> {
    let first = match value(target, ATTRIBUTE) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(Report::None),
        Err(error) => bail!("{target}: {}", std::io::Error::from(error)),
        Ok(first) => first,
    };
    let bad = || anyhow::anyhow!("{target} gives no list of changes");
    let end = first.iter().position(|byte| *byte == b'\n').ok_or_else(bad)?;
    let line = std::str::from_utf8(&first[..end])?;
    let (number, length) = line.split_once(' ').ok_or_else(bad)?;
    let length: usize = length.parse()?;
    let mut bytes = first[end + 1..].to_vec();
    while bytes.len() < length {
        match value(target, &format!("{ATTRIBUTE}.{number}.{}", bytes.len())) {
            Ok(more) if !more.is_empty() => bytes.extend(more),
            Ok(_) | Err(Errno::NODATA) => return Ok(Report::Broken),
            Err(error) => bail!("{target}: {}", std::io::Error::from(error)),
        }
    }
    Ok(Report::Whole(bytes))
}

fn value(target: &str, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; LONGEST];
    let length = rustix::fs::getxattr(Path::new(target), name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// One change: its letters, bytes, and path.
fn entry(record: &[u8]) -> Result<DiffEntry> {
    use base64::Engine;
    let bad = || anyhow::anyhow!("a change that can't be read: {:?}", String::from_utf8_lossy(record));
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let (Some([kind, what]), Some(size), Some(path)) = (parts.next(), parts.next(), parts.next()) else { return Err(bad()) };
    let kind = match kind {
        b'A' => ChangeKind::Added,
        b'C' => ChangeKind::Modified,
        b'D' => ChangeKind::Deleted,
        _ => return Err(bad()),
    };
    let exact = std::str::from_utf8(path).is_err().then(|| base64::engine::general_purpose::STANDARD.encode(path));
    Ok(DiffEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        path_base64: exact,
        kind,
        size: std::str::from_utf8(size)?.parse()?,
        content: *what == b'c',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_with_blanks_in_its_path() {
        let found = entry(b"Cm -12 /a b/\xff").unwrap();
        assert_eq!((found.kind, found.size, found.content), (ChangeKind::Modified, -12, false));
        assert!(found.path.starts_with("/a b/") && found.path_base64.is_some());
        assert!(entry(b"X 1 /a").is_err() && entry(b"Ac x /a").is_err() && entry(b"Ac 1").is_err());
    }
}
