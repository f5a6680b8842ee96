//! Looking into images from the host: `image ls-tree`, `cat`, `mount`, `umount`, and `mount ls`.

use anyhow::{Result, bail};
use clap::Args;
use fsd_api::{EntryKind, MountInfo, Mounted, TreeEntry};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::query::escape;
use crate::client::stream::next_data;
use crate::client::{Client, Query, whole};
use crate::cmd::fuse;
use crate::failure::Several;
use crate::format::list::{Columns, Style, print, row};
use crate::format::{tabs, time};
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

/// Mount an image on the host and print where; without an image, list what is mounted
#[derive(Debug, Args)]
pub struct MountImage {
    /// Serve it by FUSE; an image file is served without the daemon
    #[arg(long)]
    fuse: bool,
    /// Let it be written to; what is written goes when it is unmounted
    #[arg(long, requires = "fuse")]
    rw: bool,
    /// Which image of the file, if it has several
    #[arg(long, value_name = "name", requires = "fuse")]
    name: Option<String>,
    /// The image; with --fuse also a file or directory: what `docker save` writes, or an OCI layout
    image: Option<String>,
    /// An existing directory; without it the daemon makes one
    target: Option<String>,
}

impl MountImage {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some(image) = &self.image else { return MountLs::default().run(client).await };
        if self.fuse && (self.name.is_some() || fuse::is_file(image)) {
            return fuse::mount_file(image, self.name.as_deref(), self.target.as_deref(), self.rw);
        }
        let target = match &self.target {
            Some(target) => Some(std::path::absolute(target)?),
            None => None,
        };
        let mut body = json!({});
        if let Some(target) = target {
            body["target"] = json!(target);
        }
        if self.fuse {
            body["fuse"] = json!(true);
        }
        if self.rw {
            body["rw"] = json!(true);
        }
        let answer = client.post(&format!("/fsd/v1/images/{}/mount", escape(image)), Some(&body)).await?;
        let mounted: Mounted = serde_json::from_value(answer)?;
        out::line(mounted.target);
        Ok(())
    }
}

/// Unmount what `image mount` mounted
#[derive(Debug, Args)]
pub struct Umount {
    /// Detach now, even if files on it are open
    #[arg(short = 'l', long)]
    lazy: bool,
    /// Everything that is mounted
    #[arg(short = 'a', long)]
    all: bool,
    /// Mounts by id or by target, or images
    #[arg(value_name = "ID|TARGET|IMAGE", required_unless_present = "all")]
    mounts: Vec<String>,
}

impl Umount {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let mut several = Several::default();
        // What was mounted without the daemon is unmounted without it too.
        let (alone, others): (Vec<&String>, Vec<&String>) = self.mounts.iter().partition(|name| fuse::is_mounted(name));
        let mounted = if others.is_empty() && !self.all { Vec::new() } else { mounts(client).await? };
        for name in alone {
            if several.note(fuse::unmount(name)).is_some() {
                out::line(name);
            }
        }
        let all: Vec<String> = mounted.iter().map(|mount| mount.id.clone()).collect();
        let wanted: Vec<&String> = if self.all { all.iter().collect() } else { others };
        for name in wanted {
            if let Some(id) = several.note(find(&mounted, name)) {
                let path = Query::new(format!("/fsd/v1/mounts/{}", escape(&id))).with("lazy", self.lazy.to_string()).build();
                if several.note(client.delete(&path).await).is_some() {
                    out::line(name);
                }
            }
        }
        several.finish()
    }
}

/// What a person names, as an id: an id or its beginning, a target, or an image that is mounted once.
fn find(mounts: &[MountInfo], name: &str) -> Result<String> {
    let target = std::path::absolute(name).ok().and_then(|path| path.to_str().map(str::to_owned));
    let target = target.map(|target| target.trim_end_matches('/').to_owned());
    let exact = mounts.iter().find(|mount| mount.id == name || Some(&mount.target) == target.as_ref());
    if let Some(mount) = exact {
        return Ok(mount.id.clone());
    }
    let like: Vec<&MountInfo> = mounts.iter().filter(|mount| mount.object == name || mount.id.starts_with(name)).collect();
    match like.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => bail!("Error: no such mount: {name}"),
        several => {
            let targets: Vec<&str> = several.iter().map(|mount| mount.target.as_str()).collect();
            bail!("{name} is mounted more than once; say which: {}", targets.join(", "))
        }
    }
}

async fn mounts(client: &Client) -> Result<Vec<MountInfo>> {
    Ok(serde_json::from_slice(&client.get_bytes("/fsd/v1/mounts").await?)?)
}

/// List what is mounted on the host
#[derive(Debug, Default, Args)]
pub struct MountLs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show targets
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl MountLs {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let columns = Columns {
            titles: &[
                ("ID", "MOUNT ID"),
                ("Kind", "KIND"),
                ("Object", "NAME"),
                ("Target", "TARGET"),
                ("Driver", "DRIVER"),
                ("CreatedSince", "CREATED"),
                ("State", "STATE"),
            ],
            table: "{{.ID}}\t{{.Kind}}\t{{.Object}}\t{{.Target}}\t{{.Driver}}\t{{.CreatedSince}}\t{{.State}}",
            quiet: "Target",
        };
        let rows = mounts(client).await?.iter().map(mount_row).collect::<Result<Vec<Value>>>()?;
        print(&columns, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })
    }
}

fn mount_row(mount: &MountInfo) -> Result<Value> {
    Ok(row([
        ("ID", mount.id.as_str().into()),
        ("Kind", serde_json::to_value(mount.kind)?),
        ("Object", mount.object.as_str().into()),
        ("Target", mount.target.as_str().into()),
        ("Driver", mount.driver.as_str().into()),
        ("CreatedSince", time::unix(&mount.created).map(time::ago).unwrap_or_default().into()),
        ("State", serde_json::to_value(mount.state)?),
    ]))
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
