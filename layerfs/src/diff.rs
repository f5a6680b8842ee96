//! What differs between two trees: exact, with sizes, and content apart from metadata.

use std::cmp::Ordering;

use fs_base::Result;

use crate::erofs::FileKind;
use crate::tree::{Entry, Tree};

/// How a path differs. The numbers are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// There in both, and not the same.
    Modified = 0,
    /// Only in the second.
    Added = 1,
    /// Only in the first.
    Deleted = 2,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the root, with a leading slash.
    pub path: Vec<u8>,
    /// How.
    pub kind: ChangeKind,
    /// Bytes of regular files that the second tree has more of at this path.
    pub size: i64,
    /// Whether the content differs, not only owner, mode, time or attributes.
    pub content: bool,
}

/// What is to be done to `from` to make it `to`, in the order of paths. A removed or added directory is listed
/// with everything in it; a directory is listed as modified only for its own metadata.
pub fn of_trees(from: &Tree, to: &Tree) -> Result<Vec<Change>> {
    let mut differ = Differ { from, to, changes: Vec::new() };
    match (from.root()?, to.root()?) {
        (Some(a), Some(b)) => differ.both(b"", &a, &b)?,
        (Some(a), None) => differ.below(from, b"", &a, ChangeKind::Deleted)?,
        (None, Some(b)) => differ.below(to, b"", &b, ChangeKind::Added)?,
        (None, None) => {}
    }
    Ok(differ.changes)
}

struct Differ<'a> {
    from: &'a Tree,
    to: &'a Tree,
    changes: Vec<Change>,
}

impl Differ<'_> {
    fn both(&mut self, path: &[u8], a: &Entry, b: &Entry) -> Result<()> {
        if a.inode.kind != b.inode.kind {
            self.one(self.from, path, a, ChangeKind::Deleted)?;
            return self.one(self.to, path, b, ChangeKind::Added);
        }
        // The same inode of the same layer, below the same place, needs no look.
        let content = self.content_differs(a, b)?;
        if content || self.metadata_differs(a, b)? {
            let size = file_size(b) - file_size(a);
            self.changes.push(Change { path: shown(path), kind: ChangeKind::Modified, size, content });
        }
        if !a.is_dir() {
            return Ok(());
        }
        let (left, right) = (self.from.read_dir(a)?, self.to.read_dir(b)?);
        let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let one = if order == Ordering::Greater { None } else { left.next() };
            let other = if order == Ordering::Less { None } else { right.next() };
            match (one, other) {
                (Some((name, a)), Some((_, b))) => self.both(&join(path, name), a, b)?,
                (Some((name, a)), None) => self.one(self.from, &join(path, name), a, ChangeKind::Deleted)?,
                (None, Some((name, b))) => self.one(self.to, &join(path, name), b, ChangeKind::Added)?,
                (None, None) => {}
            }
        }
    }

    fn one(&mut self, tree: &Tree, path: &[u8], entry: &Entry, kind: ChangeKind) -> Result<()> {
        let sign = if kind == ChangeKind::Deleted { -1 } else { 1 };
        self.changes.push(Change { path: shown(path), kind, size: sign * file_size(entry), content: true });
        self.below(tree, path, entry, kind)
    }

    fn below(&mut self, tree: &Tree, path: &[u8], entry: &Entry, kind: ChangeKind) -> Result<()> {
        if entry.is_dir() {
            for (name, child) in tree.read_dir(entry)? {
                self.one(tree, &join(path, &name), &child, kind)?;
            }
        }
        Ok(())
    }

    fn content_differs(&self, a: &Entry, b: &Entry) -> Result<bool> {
        Ok(match a.inode.kind {
            FileKind::File => !self.from.same_content(a, self.to, b)?,
            FileKind::Symlink => self.from.read_link(a)? != self.to.read_link(b)?,
            FileKind::CharDevice | FileKind::BlockDevice => a.inode.device != b.inode.device,
            _ => false,
        })
    }

    fn metadata_differs(&self, a: &Entry, b: &Entry) -> Result<bool> {
        let of = |e: &Entry| (e.inode.mode, e.inode.uid, e.inode.gid, e.inode.mtime, e.inode.mtime_nanos);
        Ok(of(a) != of(b) || self.from.xattrs(a)? != self.to.xattrs(b)?)
    }
}

fn file_size(entry: &Entry) -> i64 {
    if entry.inode.kind == FileKind::File { entry.inode.size as i64 } else { 0 }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn shown(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"/".to_vec() } else { path.to_vec() }
}
