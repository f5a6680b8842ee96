//! The files that the kernel knows of: each a node, as long as the kernel, or a file below it, holds it.
//!
//! A node's id is its inode number too. It follows from where the file was found first (a layer and a number in it, or
//! the upper directory and the inode number there), so it is the same in the next session, and it stays when the file
//! is copied up.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::attr::{Answer, Attr};
use super::cache::Numbers;
use crate::erofs::FileKind;

/// The root directory's id. Source: linux/fuse.h, `FUSE_ROOT_ID`.
pub const ROOT: u64 = 1;
/// Numbers of sources are below this; the layer's number, counted from 1, lies above.
const NUMBER_BITS: u32 = 48;

/// A file in one of the lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The layer, 0 for the top one.
    pub layer: u16,
    /// Which file of it: the inode in an index, or the inode number in a directory.
    pub number: u64,
}

/// What makes two names one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// The inode number in the upper directory.
    Upper(u64),
    /// A file that is only below.
    Lower(Place),
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub struct Name {
    /// The directory.
    pub parent: Arc<Node>,
    /// The name.
    pub name: Box<[u8]>,
}

/// A file.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// Never used again, unlike the id: what caches know it by.
    pub serial: u64,
    /// What it is.
    pub kind: FileKind,
    lookups: AtomicU64,
    /// A directory: how many names it had when it was listed last.
    listed: AtomicU32,
    /// A directory: how many of its files were read, and their attributes not told since.
    read_files: AtomicU32,
    /// It was read, and its attributes were not told since.
    was_read: AtomicBool,
    spot: Mutex<Spot>,
}

/// As many requests for one file's attributes cost as much as listing a directory of this many times more names anew.
/// Measured: 2 to 3 microseconds a name against 20 a request.
const NAMES_PER_READ: u32 = 8;

/// Where a node lies now.
#[derive(Debug, Default)]
pub struct Spot {
    /// By what it is known in the table; none for the root.
    pub(super) key: Option<Key>,
    /// The names by which it was found; none if it has none any more.
    pub names: Vec<Name>,
    /// Whether it is in the upper directory.
    pub upper: bool,
    /// A directory: all the lower ones merged in it, top first. Another file: where it is, if it is not in the upper.
    pub lowers: Box<[Place]>,
    /// A file that has lost its last name while it was in use.
    pub held: Option<Arc<OwnedFd>>,
    /// What was known last of a file that has no name any more, and that nobody has open.
    pub last: Option<Box<Attr>>,
}

impl Node {
    fn new(id: u64, serial: u64, kind: FileKind, lookups: u64, spot: Spot) -> Node {
        let (lookups, spot) = (AtomicU64::new(lookups), Mutex::new(spot));
        let (listed, read_files, was_read) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
        Node { id, serial, kind, lookups, listed, read_files, was_read, spot }
    }

    /// Where it lies.
    pub fn spot(&self) -> MutexGuard<'_, Spot> {
        self.spot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is in the upper directory.
    pub fn in_upper(&self) -> bool {
        self.spot().upper
    }

    /// A name that it has.
    pub fn a_name(&self) -> Answer<Name> {
        self.spot().names.first().cloned().ok_or(Errno::NOENT)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }

    /// Reading of it begins: the kernel no longer knows when it was accessed last.
    pub fn note_read(&self) {
        if !self.was_read.swap(true, Ordering::Relaxed)
            && let Some(name) = self.spot().names.first()
        {
            name.parent.read_files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kernel is told its attributes.
    pub fn note_told(&self) {
        if self.was_read.load(Ordering::Relaxed)
            && self.was_read.swap(false, Ordering::Relaxed)
            && let Some(name) = self.spot().names.first()
        {
            let count = &name.parent.read_files;
            // It may have come from another directory meanwhile.
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        }
    }

    /// A directory was listed, with the attributes of so many files.
    pub fn note_listed(&self, names: usize) {
        self.listed.store(u32::try_from(names).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.read_files.store(0, Ordering::Relaxed);
    }

    /// Whether the kernel has forgotten so much of the files in this directory that listing it again costs less than its
    /// questions would.
    pub fn is_worth_listing(&self) -> bool {
        let read = self.read_files.load(Ordering::Relaxed);
        read > 0 && read.saturating_mul(NAMES_PER_READ) >= self.listed.load(Ordering::Relaxed)
    }
}

impl Spot {
    /// Adds a name, if it is a new one.
    pub fn add_name(&mut self, parent: &Arc<Node>, name: &[u8]) {
        if !self.names.iter().any(|known| Arc::ptr_eq(&known.parent, parent) && *known.name == *name) {
            self.names.push(Name { parent: Arc::clone(parent), name: name.into() });
        }
    }

    /// Makes a name that it has the one to be used.
    pub fn put_first(&mut self, parent: &Arc<Node>, name: &[u8]) {
        let is_it = |known: &Name| Arc::ptr_eq(&known.parent, parent) && *known.name == *name;
        if let Some(at) = self.names.iter().position(is_it) {
            self.names.swap(0, at);
        }
    }

    /// Takes a name away.
    pub fn drop_name(&mut self, parent: &Arc<Node>, name: &[u8]) {
        self.names.retain(|known| !(Arc::ptr_eq(&known.parent, parent) && *known.name == *name));
    }
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_id: HashMap<u64, Arc<Node>, Numbers>,
    by_key: HashMap<Key, u64, Numbers>,
    serial: u64,
}

impl Nodes {
    /// A table with the root directory.
    pub fn new(upper: bool, lowers: Box<[Place]>) -> Nodes {
        let spot = Spot { upper, lowers, ..Spot::default() };
        let root = Node::new(ROOT, 0, FileKind::Dir, u64::MAX / 2, spot);
        let mut tables = Tables::default();
        tables.by_id.insert(ROOT, Arc::new(root));
        Nodes { tables: Mutex::new(tables) }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of an id that the kernel was given.
    pub fn get(&self, id: u64) -> Answer<Arc<Node>> {
        self.lock().by_id.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// The id that this key is known by, or would be.
    pub fn id_of(&self, key: Key) -> u64 {
        let tables = self.lock();
        tables.by_key.get(&key).copied().unwrap_or_else(|| wanted_id(key))
    }

    /// The node of a file that was found under a name, looked up once more. `spot` says where, if it is a new one.
    pub fn enter(&self, key: Key, parent: &Arc<Node>, name: &[u8], kind: FileKind, spot: impl FnOnce() -> Spot) -> Arc<Node> {
        let mut tables = self.lock();
        if let Some(node) = tables.by_key.get(&key).and_then(|id| tables.by_id.get(id)).filter(|node| node.kind == kind) {
            node.lookups.fetch_add(1, Ordering::Relaxed);
            node.spot().add_name(parent, name);
            return Arc::clone(node);
        }
        let mut id = wanted_id(key);
        while id <= ROOT || tables.by_id.contains_key(&id) {
            id = (1 << 63) | (tables.serial + 1) << 8 | (id.wrapping_add(1) & 0xff);
        }
        tables.serial += 1;
        let spot = Spot { key: Some(key), names: vec![Name { parent: Arc::clone(parent), name: name.into() }], ..spot() };
        let node = Arc::new(Node::new(id, tables.serial, kind, 1, spot));
        tables.by_id.insert(id, Arc::clone(&node));
        tables.by_key.insert(key, id);
        node
    }

    /// The node of a key, if it is known.
    pub fn known(&self, key: Key) -> Option<Arc<Node>> {
        let tables = self.lock();
        tables.by_key.get(&key).and_then(|id| tables.by_id.get(id)).cloned()
    }

    /// A node is found by another key from now on: it was copied up. `None` if by none: its last name went.
    pub fn rekey(&self, node: &Arc<Node>, key: Option<Key>) {
        let mut tables = self.lock();
        let mut spot = node.spot();
        if let Some(old) = spot.key.take()
            && tables.by_key.get(&old) == Some(&node.id)
        {
            tables.by_key.remove(&old);
        }
        if let Some(key) = key {
            tables.by_key.insert(key, node.id);
        }
        spot.key = key;
    }

    /// The kernel is given an id once more, if it is one that it knows.
    pub fn remember(&self, id: u64) {
        if let Some(node) = self.lock().by_id.get(&id) {
            node.lookups.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kernel lets go of `count` of its lookups.
    pub fn forget(&self, id: u64, count: u64) {
        let mut tables = self.lock();
        let Some(node) = tables.by_id.get(&id).cloned() else { return };
        let before = node.lookups.fetch_sub(count, Ordering::Relaxed);
        if before > count {
            return;
        }
        node.lookups.store(0, Ordering::Relaxed);
        drop_unused(&mut tables, node);
    }

    /// How many files are known.
    pub fn count(&self) -> usize {
        self.lock().by_id.len()
    }
}

/// Lets go of a node that neither the kernel nor a file below it needs, and then of the directories above it.
fn drop_unused(tables: &mut Tables, node: Arc<Node>) {
    let mut todo = vec![node];
    while let Some(node) = todo.pop() {
        // One is the table's, one is ours; a file below, or an open one, has more.
        if node.id == ROOT || node.lookups.load(Ordering::Relaxed) > 0 || Arc::strong_count(&node) > 2 {
            continue;
        }
        tables.by_id.remove(&node.id);
        let mut spot = node.spot();
        if let Some(key) = spot.key.take()
            && tables.by_key.get(&key) == Some(&node.id)
        {
            tables.by_key.remove(&key);
        }
        let names = std::mem::take(&mut spot.names);
        drop(spot);
        drop(node);
        todo.extend(names.into_iter().map(|name| name.parent));
    }
}

/// The id that a file gets unless it is taken.
fn wanted_id(key: Key) -> u64 {
    match key {
        Key::Upper(number) if number >> NUMBER_BITS == 0 => number,
        Key::Lower(place) if place.number >> NUMBER_BITS == 0 => (u64::from(place.layer) + 1) << NUMBER_BITS | place.number,
        // No file system here numbers so high; if one does, the number may be taken and is then replaced.
        Key::Upper(number) => number,
        Key::Lower(place) => place.number.rotate_left(8) ^ u64::from(place.layer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key::Lower(Place { layer: 0, number })
    }

    #[test]
    fn a_directory_stays_while_a_file_below_it_is_known() {
        let nodes = Nodes::new(false, Box::default());
        let root = nodes.get(ROOT).unwrap();
        let dir = nodes.enter(key(7), &root, b"d", FileKind::Dir, Spot::default);
        let file = nodes.enter(key(8), &dir, b"f", FileKind::File, Spot::default);
        let (dir_id, file_id) = (dir.id, file.id);
        assert_eq!(nodes.enter(key(8), &dir, b"f", FileKind::File, Spot::default).id, file_id);
        drop((dir, file));
        nodes.forget(dir_id, 1);
        assert!(nodes.get(dir_id).is_ok());
        nodes.forget(file_id, 1);
        assert!(nodes.get(file_id).is_ok());
        nodes.forget(file_id, 1);
        assert_eq!((nodes.get(file_id).is_ok(), nodes.get(dir_id).is_ok(), nodes.count()), (false, false, 1));
    }

    #[test]
    fn an_id_stays_when_the_key_changes() {
        let nodes = Nodes::new(true, Box::default());
        let root = nodes.get(ROOT).unwrap();
        let file = nodes.enter(key(8), &root, b"f", FileKind::File, Spot::default);
        nodes.rekey(&file, Some(Key::Upper(99)));
        assert_eq!(nodes.enter(Key::Upper(99), &root, b"f", FileKind::File, Spot::default).id, file.id);
        assert_ne!(nodes.enter(key(8), &root, b"g", FileKind::File, Spot::default).id, file.id);
        assert_eq!(nodes.enter(Key::Upper(1), &root, b"h", FileKind::File, Spot::default).id >> 63, 1);
    }
}
