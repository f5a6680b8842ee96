//! Looking into images without a mount.

use fs_base::{Error, Result};
use fsd_api::{ChangeKind, DiffEntry, EntryKind, TreeEntry};
use layerfs::diff;
use layerfs::erofs::FileKind;
use layerfs::tree::{Content, Entry, Tree, Walk};

use crate::app::App;

/// The tree of an image.
pub fn of(app: &App, name: &str) -> Result<Tree> {
    let image = super::find(app, name)?;
    let _pinned = super::pinned(app, &image)?;
    Ok(Tree::new(image.layers.iter().map(|id| app.store.layer(id)).collect::<Result<_>>()?))
}

fn missing(name: &str, path: &str) -> Error {
    Error::not_found(format!("{path}: no such file in image {name}"))
}

/// The entries below `path`, or the one that is there.
pub fn list(app: &App, name: &str, path: &str, recursive: bool) -> Result<Vec<TreeEntry>> {
    let tree = of(app, name)?;
    let entry = tree.lookup(path.as_bytes(), true)?.ok_or_else(|| missing(name, path))?;
    let mut entries = Vec::new();
    let base = path.trim_end_matches('/').as_bytes();
    if !entry.is_dir() {
        return Ok(vec![shown(&tree, base, &entry)?]);
    }
    tree.walk(&entry, &mut |path, child| {
        if path.is_empty() {
            return Ok(Walk::Continue);
        }
        entries.push(shown(&tree, &[base, b"/", path].concat(), child)?);
        Ok(if recursive { Walk::Continue } else { Walk::Skip })
    })?;
    Ok(entries)
}

fn shown(tree: &Tree, path: &[u8], entry: &Entry) -> Result<TreeEntry> {
    let inode = &entry.metadata;
    let link = if inode.kind == FileKind::Symlink { Some(tree.read_link(entry)?) } else { None };
    let mtime = jiff::Timestamp::new(inode.mtime, inode.mtime_nanos as i32).map_or_else(|_| String::new(), |t| t.to_string());
    Ok(TreeEntry {
        path: absolute(path),
        path_base64: exact(path),
        kind: match inode.kind {
            FileKind::File => EntryKind::File,
            FileKind::Dir => EntryKind::Dir,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::CharDevice => EntryKind::Char,
            FileKind::BlockDevice => EntryKind::Block,
            FileKind::Fifo => EntryKind::Fifo,
            FileKind::Socket => EntryKind::Socket,
        },
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        size: if matches!(inode.kind, FileKind::File | FileKind::Symlink) { inode.size } else { 0 },
        mtime,
        link_target: link.map(|target| String::from_utf8_lossy(&target).into_owned()),
        device: matches!(inode.kind, FileKind::CharDevice | FileKind::BlockDevice)
            .then(|| format!("{}:{}", inode.device.0, inode.device.1)),
        layer: entry.layer().unwrap_or_default() as u32,
    })
}

pub(super) fn absolute(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    if text.starts_with('/') { text.into_owned() } else { format!("/{text}") }
}

pub(super) fn exact(path: &[u8]) -> Option<String> {
    use base64::Engine;
    std::str::from_utf8(path).is_err().then(|| base64::engine::general_purpose::STANDARD.encode(path))
}

/// The bytes of a regular file.
pub fn open(app: &App, name: &str, path: &str) -> Result<Content> {
    let tree = of(app, name)?;
    let entry = tree.lookup(path.as_bytes(), true)?.ok_or_else(|| missing(name, path))?;
    if entry.metadata.kind != FileKind::File {
        return Err(Error::invalid(format!("{path} in image {name} is not a regular file")));
    }
    tree.open(&entry)
}

/// What differs between two trees, each `image:NAME`.
pub fn compare(app: &App, from: &str, to: &str) -> Result<Vec<DiffEntry>> {
    let side = |text: &str| match text.split_once(':') {
        Some(("image", name)) => of(app, name),
        _ => Err(Error::unsupported(format!("can't compare {text:?}: this version compares images, named image:NAME"))),
    };
    Ok(diff::of_trees(&side(from)?, &side(to)?)?.iter().map(difference).collect())
}

/// A change as our own API shows it.
pub fn difference(change: &diff::Change) -> DiffEntry {
    DiffEntry {
        path: String::from_utf8_lossy(&change.path).into_owned(),
        path_base64: exact(&change.path),
        kind: match change.kind {
            diff::ChangeKind::Modified => ChangeKind::Modified,
            diff::ChangeKind::Added => ChangeKind::Added,
            diff::ChangeKind::Deleted => ChangeKind::Deleted,
        },
        size: change.size,
        content: change.content,
    }
}
