//! What a session has changed, noted as it happens: so that what differs from the layers is known without a walk.
//!
//! Only paths are noted here; what became of them is looked at when somebody asks (`differ.rs`), and kept. So the price of
//! a change is a path, and that of a question follows what has changed since the last one.
//!
//! A key is a path whose names are separated by NUL, which sorts as a walk goes: a directory before what is in it, and
//! that before its neighbours. The root is the empty key.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fs::Fs;
use super::handle::Bytes;
use super::node::{Name, Node, ROOT};

/// More paths than these cost more than a walk.
const MOST: usize = 100_000;

/// A path, its names separated by NUL.
pub(super) type Key = Vec<u8>;

/// What is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Names that were made, removed or moved: all at and below them.
    pub trees: BTreeSet<Key>,
    /// Files of which bytes or metadata were changed, and directories of which metadata were.
    pub files: BTreeSet<Key>,
}

/// The paths that were changed since somebody asked.
#[derive(Debug, Default)]
pub(super) struct Journal {
    marks: Mutex<Marks>,
}

impl Marks {
    /// Everything.
    pub fn all() -> Marks {
        Marks { trees: BTreeSet::from([Key::new()]), files: BTreeSet::new() }
    }

    /// Whether all at a path is looked at anyway.
    pub fn covers(&self, key: &[u8]) -> bool {
        if self.trees.is_empty() {
            return false;
        }
        let ends = key.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
        self.trees.contains(&key[..0]) || ends.chain([key.len()]).any(|end| self.trees.contains(&key[..end]))
    }

    fn add_tree(&mut self, key: Key) {
        if self.trees.len() + self.files.len() >= MOST {
            *self = Marks::all();
        }
        if !self.covers(&key) {
            self.trees.insert(key);
        }
    }

    fn add_file(&mut self, key: Key) {
        if self.trees.len() + self.files.len() >= MOST {
            *self = Marks::all();
        }
        if !self.covers(&key) {
            self.files.insert(key);
        }
    }
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted, which is forgotten.
    pub fn take(&self) -> Marks {
        std::mem::take(&mut *self.lock())
    }

    /// The upper directory's own owner and mode are what shows, whoever made it.
    pub fn look_at_root(&self) {
        self.lock().add_file(Key::new());
    }

    /// Nothing is known of the tree any more.
    pub fn forget(&self) {
        *self.lock() = Marks::all();
    }
}

/// The key of a name in a directory; `None` if the directory has no name any more.
fn key_of(dir: &Arc<Node>, name: &[u8]) -> Option<Key> {
    let mut names: Vec<Box<[u8]>> = vec![name.into()];
    let mut here = Arc::clone(dir);
    while here.id != ROOT {
        let Name { parent, name } = here.a_name().ok()?;
        names.push(name);
        here = parent;
    }
    names.reverse();
    Some(names.join(&0))
}

impl Fs {
    /// A name was made, removed or moved. The caller has the exclusive lock on names.
    pub(super) fn note_name(&self, dir: &Arc<Node>, name: &[u8]) {
        if let Some(key) = key_of(dir, name) {
            self.journal.lock().add_tree(key);
        }
    }

    /// A file by this name was copied up.
    pub(super) fn note_copy(&self, dir: &Arc<Node>, name: &[u8]) {
        if let Some(key) = key_of(dir, name) {
            self.journal.lock().add_file(key);
        }
    }

    /// Bytes or metadata of a file were changed.
    pub(super) fn note_file(&self, node: &Arc<Node>) {
        if node.id == ROOT {
            self.journal.lock().add_file(Key::new());
            return;
        }
        let names = node.spot().names.clone();
        for key in names.iter().filter_map(|Name { parent, name }| key_of(parent, name)) {
            self.journal.lock().add_file(key);
        }
    }

    /// What was noted since the last time. Files that are open may be written to without our seeing it, by the kernel
    /// itself: they are always among it.
    pub(super) fn noted(&self) -> Marks {
        for file in self.handles.files() {
            if matches!(file.bytes(), Bytes::Upper(_)) {
                self.note_file(&file.node);
            }
        }
        self.journal.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_new_directory_needs_no_note() {
        let mut marks = Marks::default();
        marks.add_file(b"a\0b".to_vec());
        marks.add_tree(b"a".to_vec());
        marks.add_tree(b"a\0c".to_vec());
        marks.add_file(b"a-b".to_vec());
        assert!(marks.covers(b"a\0c\0d") && marks.covers(b"a") && !marks.covers(b"a-b") && !marks.covers(b""));
        assert_eq!((marks.trees.len(), marks.files.len()), (1, 2));
        assert!(Marks::all().covers(b"") && Marks::all().covers(b"x\0y"));
    }
}
