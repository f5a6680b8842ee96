//! What differs between two trees: exact, with sizes, and content apart from metadata.
//!
//! Exact means: a file is changed if its type, bytes, target, device number, owner, mode or attributes are. Times
//! are not compared, so that a file that was only touched, or written again with the same bytes, is no change.
//!
//! The list is as Docker makes it: in the order of a walk (names by their bytes, a directory before what is in it),
//! everything in an added directory by itself, a deleted directory once for all of it, and a directory in which
//! something changed as modified even if it is the same itself (the root is left out then).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::Path;

use fs_base::Result;

use crate::erofs::FileKind;
use crate::tree::{Entry, Tree, Walk};

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
    /// Bytes of regular files that the second tree has more of. For a deleted directory, of all that was in it;
    /// for any other directory 0, because what is in it is listed by itself.
    pub size: i64,
    /// Whether type, bytes, target or device number differ.
    pub content: bool,
    /// Whether owner, mode or attributes differ. A modified directory for which both are false is listed only
    /// because of what is in it.
    pub metadata: bool,
}

/// What is to be done to `from` to make it `to`.
pub fn of_trees(from: &Tree, to: &Tree) -> Result<Vec<Change>> {
    let mut differ = Differ { from, to, changes: Vec::new(), todo: Vec::new() };
    match (from.root()?, to.root()?) {
        (Some(a), Some(b)) => differ.both(b"", &a, &b)?,
        (Some(a), None) => {
            for (name, child) in from.read_dir(&a)? {
                differ.deleted(&join(b"", &name), &child)?;
            }
        }
        (None, Some(b)) => differ.below(b"", &b)?,
        (None, None) => {}
    }
    differ.run()
}

/// What a container changed: `upper` is the directory that overlayfs wrote over `lower`. Only what lies in `upper`
/// is looked at, so the cost follows the changes and not the image.
pub fn of_upper(lower: &Tree, upper: &Path) -> Result<Vec<Change>> {
    of_trees(lower, &lower.over(upper)?)
}

struct Differ<'a> {
    from: &'a Tree,
    to: &'a Tree,
    changes: Vec<Change>,
    /// What is still to be done, the next at the end. Not the call stack: how deep a tree is, others have decided.
    todo: Vec<Step>,
}

enum Step {
    /// To compare what the two trees have under a path.
    Pair(Vec<u8>, Option<Entry>, Option<Entry>),
    /// All below a directory of both trees is done, whose change has this number.
    Close(usize),
}

impl Differ<'_> {
    fn run(mut self) -> Result<Vec<Change>> {
        while let Some(step) = self.todo.pop() {
            match step {
                Step::Pair(path, Some(a), Some(b)) => self.both(&path, &a, &b)?,
                Step::Pair(path, Some(a), None) => self.deleted(&path, &a)?,
                Step::Pair(path, None, Some(b)) => self.added(&path, &b)?,
                Step::Pair(_, None, None) => {}
                Step::Close(own) => self.close(own),
            }
        }
        Ok(self.changes)
    }

    fn both(&mut self, path: &[u8], a: &Entry, b: &Entry) -> Result<()> {
        if self.from.is_same_place(a, self.to, b) {
            return Ok(());
        }
        let content = self.content_differs(a, b)?;
        let metadata = permissions_and_owner(a) != permissions_and_owner(b) || self.from.xattrs(a)? != self.to.xattrs(b)?;
        if a.is_dir() && b.is_dir() {
            return self.directories(path, a, b, metadata);
        }
        if content || metadata {
            let removed = if a.is_dir() { self.total(a)? } else { file_size(a) };
            let size = file_size(b) - removed;
            self.changes.push(Change { path: shown(path), kind: ChangeKind::Modified, size, content, metadata });
        }
        // What was in a directory that a file has replaced went with it; what is in one that replaced a file is new.
        if b.is_dir() { self.below(path, b) } else { Ok(()) }
    }

    fn directories(&mut self, path: &[u8], a: &Entry, b: &Entry, metadata: bool) -> Result<()> {
        self.todo.push(Step::Close(self.changes.len()));
        self.changes.push(Change { path: shown(path), kind: ChangeKind::Modified, size: 0, content: false, metadata });
        let first = self.todo.len();
        if let Some(names) = a.touched_names(b)? {
            for name in names {
                self.todo.push(Step::Pair(join(path, &name), self.from.child(a, &name)?, self.to.child(b, &name)?));
            }
        } else {
            self.all_names(path, a, b)?;
        }
        self.todo[first..].reverse();
        Ok(())
    }

    /// A directory that is the same itself stays in the list for what changed in it; the root does not.
    fn close(&mut self, own: usize) {
        let is_parent = self.changes.len() > own + 1 && self.changes[own].path != b"/";
        if !self.changes[own].metadata && !is_parent {
            self.changes.remove(own);
        }
    }

    fn all_names(&mut self, path: &[u8], a: &Entry, b: &Entry) -> Result<()> {
        let mut left = self.from.read_dir(a)?.into_iter().peekable();
        let mut right = self.to.read_dir(b)?.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let one = if order == Ordering::Greater { None } else { left.next() };
            let other = if order == Ordering::Less { None } else { right.next() };
            let Some((name, _)) = one.as_ref().or(other.as_ref()) else { return Ok(()) };
            let path = join(path, name);
            self.todo.push(Step::Pair(path, one.map(|(_, entry)| entry), other.map(|(_, entry)| entry)));
        }
    }

    fn deleted(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let size = -self.total(entry)?;
        self.changes.push(Change { path: shown(path), kind: ChangeKind::Deleted, size, content: true, metadata: true });
        Ok(())
    }

    fn added(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let size = file_size(entry);
        self.changes.push(Change { path: shown(path), kind: ChangeKind::Added, size, content: true, metadata: true });
        self.below(path, entry)
    }

    fn below(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.is_dir() {
            for (name, child) in self.to.read_dir(entry)?.into_iter().rev() {
                self.todo.push(Step::Pair(join(path, &name), None, Some(child)));
            }
        }
        Ok(())
    }

    /// Bytes of the regular files at and below an entry of the first tree; a file with several names counts once.
    fn total(&self, entry: &Entry) -> Result<i64> {
        let (mut total, mut seen) = (0, HashSet::new());
        self.from.walk(entry, &mut |_, entry| {
            if entry.metadata.links < 2 || entry.is_dir() || seen.insert(entry.identity()?) {
                total += file_size(entry);
            }
            Ok(Walk::Continue)
        })?;
        Ok(total)
    }

    fn content_differs(&self, a: &Entry, b: &Entry) -> Result<bool> {
        if a.metadata.kind != b.metadata.kind {
            return Ok(true);
        }
        Ok(match a.metadata.kind {
            FileKind::File if a.metadata.size != b.metadata.size => true,
            FileKind::File => !self.from.open(a)?.same(&self.to.open(b)?)?,
            FileKind::Symlink => self.from.read_link(a)? != self.to.read_link(b)?,
            FileKind::CharDevice | FileKind::BlockDevice => a.metadata.device != b.metadata.device,
            _ => false,
        })
    }
}

fn permissions_and_owner(entry: &Entry) -> (u32, u32, u32) {
    // Nobody can change a symlink's mode; file systems answer what they like.
    let mode = if entry.metadata.kind == FileKind::Symlink { 0 } else { entry.metadata.permissions() };
    (mode, entry.metadata.uid, entry.metadata.gid)
}

fn file_size(entry: &Entry) -> i64 {
    if entry.metadata.kind == FileKind::File { entry.metadata.size as i64 } else { 0 }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn shown(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"/".to_vec() } else { path.to_vec() }
}
