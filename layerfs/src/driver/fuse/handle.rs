//! Open files and directories.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::io::Errno;

use super::attr::Answer;
use super::cache::Numbers;
use super::list::Item;
use super::lower::Indexed;
use super::node::Node;
use crate::erofs::Extent;

/// What an open file reads from and writes to.
#[derive(Debug, Clone)]
pub(super) enum Bytes {
    /// The file in the upper directory.
    Upper(Arc<File>),
    /// A file of a plain layer.
    Plain(Arc<File>),
    /// A file of a plain layer that nobody has asked for a byte of: the kernel may have all of it.
    Unopened,
    /// A file of an indexed layer.
    Indexed(Arc<Indexed>, Arc<[Extent]>, u64),
}

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub(super) node: Arc<Node>,
    /// Replaced when the file is copied up while it is open for reading.
    pub(super) bytes: RwLock<Bytes>,
}

impl OpenFile {
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file on the disk that holds exactly these bytes, if there is one: for passthrough. Whether it may be written.
    pub fn on_disk(&self) -> Option<(Arc<File>, bool)> {
        match self.bytes() {
            Bytes::Upper(file) => Some((file, true)),
            Bytes::Plain(file) => Some((file, false)),
            Bytes::Indexed(..) | Bytes::Unopened => None,
        }
    }

    /// The number of the file that is open.
    pub fn number(&self) -> u64 {
        self.node.id
    }
}

/// An open directory: what it held when it was opened, so that offsets stay what they are.
#[derive(Debug)]
pub(super) struct OpenDir {
    pub node: Arc<Node>,
    pub items: Mutex<Option<Arc<Vec<Item>>>>,
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<OpenFile>, Numbers>>,
    dirs: Mutex<HashMap<u64, Arc<OpenDir>, Numbers>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handles {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn add_file(&self, node: Arc<Node>, bytes: Bytes) -> u64 {
        let number = self.number();
        lock(&self.files).insert(number, Arc::new(OpenFile { node, bytes: RwLock::new(bytes) }));
        number
    }

    pub fn file(&self, number: u64) -> Answer<Arc<OpenFile>> {
        lock(&self.files).get(&number).cloned().ok_or(Errno::BADF)
    }

    /// All files that are open.
    pub fn files(&self) -> Vec<Arc<OpenFile>> {
        lock(&self.files).values().cloned().collect()
    }

    pub fn close_file(&self, number: u64) -> Option<Arc<OpenFile>> {
        lock(&self.files).remove(&number)
    }

    pub fn add_dir(&self, node: Arc<Node>) -> u64 {
        let number = self.number();
        lock(&self.dirs).insert(number, Arc::new(OpenDir { node, items: Mutex::default() }));
        number
    }

    pub fn dir(&self, number: u64) -> Answer<Arc<OpenDir>> {
        lock(&self.dirs).get(&number).cloned().ok_or(Errno::BADF)
    }

    pub fn close_dir(&self, number: u64) {
        let closed = lock(&self.dirs).remove(&number);
        drop(closed);
    }
}
