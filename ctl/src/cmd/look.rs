//! Looking into images without a mount: `image ls-tree` and `cat`.

use anyhow::Result;
use clap::Args;
use fsd_api::{EntryKind, TreeEntry};
use hyper::Method;

use crate::client::query::escape;
use crate::client::stream::next_data;
use crate::client::{Client, Query, whole};
use crate::format::tabs;
use crate::out;

/// List the files in an image, without a container
#[derive(Debug, Args)]
pub struct LsTree {
    /// The whole subtree
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// Modes, owners, sizes, times, and the layer that each comes from
    #[arg(short = 'l', long)]
    long: bool,
    /// 'json' for one object a line
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// The image
    image: String,
    /// Where to start
    #[arg(default_value = "/")]
    path: String,
}

impl LsTree {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let path = Query::new(format!("/fsd/v1/images/{}/tree", escape(&self.image)))
            .with("path", &self.path)
            .with("recursive", self.recursive.to_string());
        let entries: Vec<TreeEntry> = serde_json::from_slice(&client.get_bytes(&path.build()).await?)?;
        if self.format.as_deref() == Some("json") {
            for entry in &entries {
                out::line(serde_json::to_string(entry)?);
            }
            return Ok(());
        }
        let base = self.path.trim_end_matches('/');
        let mut text = String::new();
        for entry in &entries {
            let inside = entry.path.strip_prefix(base).map(|rest| rest.trim_start_matches('/')).filter(|rest| !rest.is_empty());
            let name = inside.unwrap_or(&entry.path);
            text.push_str(&if self.long { long_line(entry, name) } else { printable(name) });
            text.push('\n');
        }
        out::bytes(if self.long { tabs::align_with(&text, 0, 2) } else { text }.as_bytes());
        Ok(())
    }
}

/// As `ls -l` has it, and the layer.
fn long_line(entry: &TreeEntry, name: &str) -> String {
    let size = entry.device.clone().unwrap_or_else(|| entry.size.to_string());
    let when = entry.mtime.get(..16).unwrap_or(&entry.mtime).replace('T', " ");
    let target = entry.link_target.as_ref().map(|target| format!(" -> {}", printable(target))).unwrap_or_default();
    format!("{}\t{}:{}\t{size}\t{when}\t{}\t{}{target}", mode(entry), entry.uid, entry.gid, entry.layer, printable(name))
}

fn mode(entry: &TreeEntry) -> String {
    let kind = match entry.kind {
        EntryKind::File => '-',
        EntryKind::Dir => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Char => 'c',
        EntryKind::Block => 'b',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, entry.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A name without what would drive a terminal.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Write a file of an image to standard output
#[derive(Debug, Args)]
pub struct Cat {
    /// The image
    image: String,
    /// The files
    #[arg(required = true)]
    path: Vec<String>,
}

impl Cat {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        for path in &self.path {
            let path = Query::new(format!("/fsd/v1/images/{}/file", escape(&self.image))).with("path", path).build();
            let mut body = client.send(Method::GET, &path, None, whole("")).await?.into_body();
            while let Some(data) = next_data(&mut body).await? {
                out::bytes(&data);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_like_ls() {
        let entry = TreeEntry {
            path: "/bin/su".into(),
            path_base64: None,
            kind: EntryKind::File,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            size: 71_912,
            mtime: "2026-01-02T03:04:05Z".into(),
            link_target: None,
            device: None,
            layer: 1,
        };
        assert_eq!(long_line(&entry, "su"), "-rwsr-xr-x\t0:0\t71912\t2026-01-02 03:04\t1\tsu");
        assert_eq!(printable("a\u{1b}[31m"), "a?[31m");
    }
}
