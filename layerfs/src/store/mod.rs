//! The layers on the disk: `layers/<hex>/{data,index}`, published whole or not there.
//!
//! The store knows no references: whoever removes a layer has made sure that nobody needs it, and [`Store::collect`]
//! that nobody is about to: what is being loaded or used has a [`Pin`]. A layer's folder is made in `tmp/`, verified
//! and synced there, and moved to its place in one step.

mod check;
mod pin;
mod unpacked;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fs_base::trash::Trash;
use fs_base::{Class, Digest, Error, IoContext, LayerId, Result, durable, id};

pub use check::{Checked, Finding, FindingKind, Sizes};
pub use pin::Pin;
use pin::Pins;

use crate::erofs::{FileKind, Index};
use crate::ingest::{Built, IngestOptions, OPAQUE_XATTR, ingest, rebuild_index};
use crate::tar::Limits;

/// A folder of layers.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    trash: Trash,
    open: Mutex<HashMap<LayerId, Weak<Layer>>>,
    pins: Arc<Pins>,
}

/// An open layer. Its files stay readable for as long as somebody holds it, removed or not.
#[derive(Debug)]
pub struct Layer {
    /// Its diffID.
    pub id: LayerId,
    /// The tar.
    pub data: File,
    /// The metadata.
    pub index: Index,
    /// The folder that holds both.
    pub dir: PathBuf,
}

impl Layer {
    /// Whether it has whiteouts or opaque directories.
    pub(crate) fn has_marks(&self) -> Result<bool> {
        let mut todo = vec![self.index.root()];
        while let Some(nid) = todo.pop() {
            if self.index.xattr(nid, OPAQUE_XATTR)?.is_some() {
                return Ok(true);
            }
            for entry in self.index.read_dir(nid)? {
                let inode = self.index.inode(entry.nid)?;
                if inode.is_whiteout() {
                    return Ok(true);
                }
                if inode.kind == FileKind::Dir {
                    todo.push(entry.nid);
                }
            }
        }
        Ok(false)
    }
}

/// What a layer takes on the disk, in bytes that its file system has set aside for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The tar.
    pub data: u64,
    /// The index.
    pub index: u64,
    /// The directory that it was unpacked to, if the `overlay` driver has needed one.
    pub unpacked: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.data + self.index + self.unpacked
    }
}

/// See [`Store::leftovers`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// What is beside the layers and is none.
    pub strangers: Vec<PathBuf>,
    /// What lies in `tmp/` and `trash/`.
    pub unfinished: Vec<PathBuf>,
}

impl Store {
    /// The store in `root`; its folders are made if missing. Nothing is scanned.
    pub fn open(root: &Path) -> Result<Store> {
        for name in ["layers", "tmp"] {
            let dir = root.join(name);
            std::fs::create_dir_all(&dir).at("make directory", &dir)?;
        }
        Ok(Store { root: root.to_owned(), trash: Trash::open(root.join("trash"))?, open: Mutex::default(), pins: Arc::default() })
    }

    /// What all of it lies in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where unfinished work lies.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A directory of ours in which nothing is ever opened by its path.
    pub(crate) fn unseen(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The folder of a layer, whether it is there or not: for another process that opens it.
    pub fn layer_dir(&self, id: &LayerId) -> PathBuf {
        self.dir(id)
    }

    fn dir(&self, id: &LayerId) -> PathBuf {
        self.root.join("layers").join(id.hex())
    }

    /// Reads a layer in and publishes it. A layer that is there already stays as it is, unless its bytes turn out not
    /// to be those that just came in and were verified: then it is replaced.
    pub fn ingest(&self, input: &mut (dyn Read + Send), options: &IngestOptions<'_>) -> Result<Built> {
        self.ingest_pinned(input, options).map(|(built, _)| built)
    }

    /// Like [`Store::ingest`]; the layer is not collected while the pin is held, which began before it was published.
    pub fn ingest_pinned(&self, input: &mut (dyn Read + Send), options: &IngestOptions<'_>) -> Result<(Built, Pin)> {
        let staging = self.tmp().join(id::random_hex::<16>()?);
        std::fs::create_dir(&staging).at("make directory", &staging)?;
        let result = ingest(input, &staging, options).and_then(|built| {
            let pin = self.pin(&built.id);
            self.publish(&staging, &built.id)?;
            Ok((built, pin))
        });
        // A replaced layer's unpacked tree may be mounted.
        if staging.exists() && !staging.join("fs").exists() {
            // What can't be thrown away now is removed at the next start.
            let _ = std::fs::remove_dir_all(&staging);
        }
        result
    }

    fn publish(&self, staging: &Path, id: &LayerId) -> Result<()> {
        let dir = self.dir(id);
        match durable::publish(staging, &dir) {
            Err(error) if error.class() == Class::Conflict => {}
            other => return other,
        }
        if same_bytes(&staging.join("data"), &dir.join("data")).unwrap_or(false) {
            // Whoever moved it there may not have come to syncing its name yet, or have failed to.
            return durable::sync_dir(&self.root.join("layers"));
        }
        tracing::warn!(layer = %id, "the stored layer is damaged; replacing it");
        self.forget(id);
        match durable::exchange(staging, &dir) {
            Err(error) if error.class() == Class::Unsupported => {
                self.remove(id)?;
                durable::publish(staging, &dir)
            }
            other => other,
        }
    }

    /// Opens a layer; holders share it.
    pub fn layer(&self, id: &LayerId) -> Result<Arc<Layer>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = open.get(id).and_then(Weak::upgrade) {
            return Ok(layer);
        }
        let layer = Arc::new(self.open_layer(id)?);
        open.retain(|_, weak| weak.strong_count() > 0);
        open.insert(*id, Arc::downgrade(&layer));
        Ok(layer)
    }

    fn open_layer(&self, id: &LayerId) -> Result<Layer> {
        self.open_at(id, self.dir(id))
    }

    /// The layer in `dir`, wherever that is.
    pub(crate) fn open_at(&self, id: &LayerId, dir: PathBuf) -> Result<Layer> {
        let data_path = dir.join("data");
        let data = File::open(&data_path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found(format!("layer {id} is not in the store")).with_hint("load or pull an image that has it")
            }
            _ => Error::io("open", &data_path, error),
        })?;
        let index_path = dir.join("index");
        let index = match Index::open(&index_path) {
            Ok(index) if index.data_digest() == id.0 => index,
            Err(error) if !matches!(error.class(), Class::Corrupt | Class::NotFound) => return Err(error),
            bad => {
                let why = bad.err().map_or_else(|| "it is that of another layer".to_owned(), |error| error.to_string());
                tracing::warn!(layer = %id, why, "the index can't be used; building it again");
                self.rebuild(id, &data, &index_path).map_err(|error| damaged(id, error))?;
                Index::open(&index_path)?
            }
        };
        let size = data.metadata().at("stat", &data_path)?.size();
        if !index.fits(size) {
            let why = format!("its data has {size} bytes, which is not the size its index is for");
            return Err(damaged(id, Error::corrupt(why)));
        }
        Ok(Layer { id: *id, data, index, dir })
    }

    /// An index is derived from the data: a bad one is replaced.
    fn rebuild(&self, layer: &LayerId, data: &File, index_path: &Path) -> Result<()> {
        let fresh = self.tmp().join(id::random_hex::<16>()?);
        let built = rebuild_index(layer, data, &fresh, Limits::of_stored());
        let placed = built.and_then(|_| durable::publish_over(&fresh, index_path));
        if placed.is_err() {
            // What can't be thrown away now is removed at the next start.
            let _ = std::fs::remove_file(&fresh);
        }
        placed
    }

    /// The next who opens the layer finds what is on the disk by then.
    fn forget(&self, id: &LayerId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Has the kernel begin to read what a mount of the layer will want first: the head of its index.
    pub(crate) fn read_ahead(&self, id: &LayerId) {
        // Superblock, table of devices, the root's inode and its first names.
        const HEAD: Option<std::num::NonZeroU64> = std::num::NonZeroU64::new(16 << 10);
        if let Ok(index) = File::open(self.dir(id).join("index")) {
            // Advice: if it is not taken, the mount waits for the disk.
            let _ = rustix::fs::fadvise(&index, 0, HEAD, rustix::fs::Advice::WillNeed);
        }
    }

    /// Whether the layer is there.
    pub fn contains(&self, id: &LayerId) -> bool {
        self.dir(id).join("data").exists()
    }

    /// Takes a layer out of the store: one rename, whatever its size. Its space is given back by [`Store::sweep`].
    pub fn remove(&self, id: &LayerId) -> Result<()> {
        self.forget(id);
        self.trash.discard(&self.dir(id)).map(drop)
    }

    /// Keeps a layer, there or not, from being collected until the pin is dropped.
    pub fn pin(&self, id: &LayerId) -> Pin {
        self.pins.pin(*id)
    }

    /// Whether somebody has it pinned.
    pub fn is_pinned(&self, id: &LayerId) -> bool {
        self.pins.lock().contains_key(id)
    }

    /// Removes the layers that `choose` returns. It is asked with what tells the layers that are pinned, none of which
    /// it may return, and makes durable that the others will be gone; nobody pins a layer between its answer and their
    /// end. Each layer is one rename; [`Store::sweep`] gives back the space.
    pub fn collect(&self, choose: impl FnOnce(&dyn Fn(&LayerId) -> bool) -> Result<Vec<LayerId>>) -> Result<()> {
        let pinned = self.pins.lock();
        let ids = choose(&|id| pinned.contains_key(id))?;
        ids.iter().try_for_each(|id| self.remove(id))
    }

    /// The layers that are there. Foreign names are passed over.
    pub fn list(&self) -> Result<Vec<LayerId>> {
        let dir = self.root.join("layers");
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&dir).at("read directory", &dir)? {
            let name = entry.at("read directory", &dir)?.file_name();
            ids.extend(name.to_str().and_then(|hex| Digest::from_hex(hex).ok()).map(LayerId));
        }
        ids.sort();
        Ok(ids)
    }

    /// What lies where only layers should, and what unfinished work left. While the store is used, some of the latter is
    /// work under way.
    pub fn leftovers(&self) -> Result<Leftovers> {
        let names = |folder: &str| -> Result<Vec<PathBuf>> {
            let dir = self.root.join(folder);
            let entries = std::fs::read_dir(&dir).at("read directory", &dir)?;
            entries.map(|entry| Ok(entry.at("read directory", &dir)?.path())).collect()
        };
        let mut strangers = names("layers")?;
        let is_layer = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|hex| Digest::from_hex(hex).is_ok())
        };
        strangers.retain(|path| !is_layer(path));
        Ok(Leftovers { strangers, unfinished: [names("tmp")?, names("trash")?].concat() })
    }

    /// Removes one of [`Leftovers::strangers`].
    pub fn remove_stranger(&self, path: &Path) -> Result<()> {
        self.trash.discard(path)?;
        self.sweep()
    }

    /// Gives back the space of what was removed.
    pub fn sweep(&self) -> Result<()> {
        self.trash.sweep()
    }

    /// Removes what unfinished work left in `tmp/`. Only for a process that has just taken the store's lock.
    pub fn clear_tmp(&self) -> Result<()> {
        let dir = self.tmp();
        for entry in std::fs::read_dir(&dir).at("read directory", &dir)? {
            self.trash.discard(&entry.at("read directory", &dir)?.path())?;
        }
        self.sweep()
    }

    /// What a layer takes on the disk. A layer that is not there takes nothing.
    pub fn usage(&self, id: &LayerId) -> Result<Usage> {
        let dir = self.dir(id);
        Ok(Usage {
            data: allocated(&dir.join("data"))?,
            index: allocated(&dir.join("index"))?,
            unpacked: allocated(&dir.join("fs"))?,
        })
    }
}

/// A layer that can't be used names itself, whatever of it is bad.
fn damaged(id: &LayerId, why: Error) -> Error {
    match why.class() {
        Class::Corrupt | Class::Invalid => {
            why.context(format!("layer {id} is damaged")).with_hint("load or pull an image that has it: that replaces it")
        }
        _ => why.context(format!("layer {id}")),
    }
}

/// Bytes set aside for a file, or for a directory and all in it; a file with several names counts once.
fn allocated(path: &Path) -> Result<u64> {
    let (mut total, mut seen, mut todo) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(path) = todo.pop() {
        let stat = match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("stat", &path)?,
        };
        if stat.is_dir() || stat.nlink() < 2 || seen.insert(stat.ino()) {
            total += stat.blocks() * 512;
        }
        if stat.is_dir() {
            for entry in std::fs::read_dir(&path).at("read directory", &path)? {
                todo.push(entry.at("read directory", &path)?.path());
            }
        }
    }
    Ok(total)
}

/// Whether two files hold the same bytes.
fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    let (mut left, mut right) = (File::open(a).at("open", a)?, File::open(b).at("open", b)?);
    if left.metadata().at("stat", a)?.len() != right.metadata().at("stat", b)?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    loop {
        let got = left.read(&mut one).at("read", a)?;
        right.read_exact(&mut other[..got]).at("read", b)?;
        if one[..got] != other[..got] {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
    }
}
