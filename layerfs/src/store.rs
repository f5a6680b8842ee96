//! The layers on the disk: `layers/<hex>/{data,index}`, published whole or not there.
//!
//! The store knows no references: whoever removes a layer has made sure that nobody needs it. A layer's folder is
//! made in `tmp/`, verified and synced there, and moved to its place in one step.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fs_base::trash::Trash;
use fs_base::{Class, Digest, Error, IoContext, LayerId, Result, durable, id};

use crate::erofs::Index;
use crate::ingest::{Built, IngestOptions, ingest, rebuild_index};
use crate::tar::Limits;

/// A folder of layers.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    trash: Trash,
    open: Mutex<HashMap<LayerId, Weak<Layer>>>,
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

/// Something wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The layer.
    pub layer: LayerId,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Store {
    /// The store in `root`; its folders are made if missing. Nothing is scanned.
    pub fn open(root: &Path) -> Result<Store> {
        for name in ["layers", "tmp"] {
            let dir = root.join(name);
            std::fs::create_dir_all(&dir).at("make directory", &dir)?;
        }
        Ok(Store { root: root.to_owned(), trash: Trash::open(root.join("trash"))?, open: Mutex::default() })
    }

    /// Where unfinished work lies.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn dir(&self, id: &LayerId) -> PathBuf {
        self.root.join("layers").join(id.hex())
    }

    /// Reads a layer in and publishes it. A layer that is there already stays as it is.
    pub fn ingest(&self, input: &mut (dyn Read + Send), options: &IngestOptions<'_>) -> Result<Built> {
        let staging = self.tmp().join(id::random_hex::<16>()?);
        std::fs::create_dir(&staging).at("make directory", &staging)?;
        let result = ingest(input, &staging, options).and_then(|built| {
            match durable::publish(&staging, &self.dir(&built.id)) {
                Err(error) if error.class() == Class::Conflict => {}
                other => other?,
            }
            Ok(built)
        });
        if staging.exists() {
            // What can't be thrown away now is removed at the next start.
            let _ = std::fs::remove_dir_all(&staging);
        }
        result
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
            Err(error) if matches!(error.class(), Class::Corrupt | Class::NotFound) => {
                tracing::warn!(layer = %id, %error, "the index can't be used; building it again");
                self.rebuild(id, &data, &index_path)?;
                Index::open(&index_path)?
            }
            other => other?,
        };
        Ok(Layer { id: *id, data, index, dir })
    }

    /// An index is derived from the data: a bad one is replaced.
    fn rebuild(&self, layer: &LayerId, data: &File, index_path: &Path) -> Result<()> {
        let fresh = self.tmp().join(id::random_hex::<16>()?);
        rebuild_index(layer, data, &fresh, Limits::default())?;
        self.trash.discard(index_path)?;
        durable::publish(&fresh, index_path)
    }

    /// Whether the layer is there.
    pub fn contains(&self, id: &LayerId) -> bool {
        self.dir(id).join("data").exists()
    }

    /// Takes a layer out of the store: one rename, whatever its size. Its space is given back by [`Store::sweep`].
    pub fn remove(&self, id: &LayerId) -> Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.trash.discard(&self.dir(id)).map(drop)
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

    /// Verifies a layer: its files, and with `deep` every byte of the data against the diffID.
    pub fn check(&self, id: &LayerId, deep: bool) -> Result<Vec<Finding>> {
        let finding = |message: String| Finding {
            layer: *id,
            message,
            remedy: "remove the images that use it and load or pull them again".to_owned(),
        };
        let dir = self.dir(id);
        let mut findings = Vec::new();
        let data = match File::open(dir.join("data")) {
            Ok(data) => data,
            Err(error) => return Ok(vec![finding(format!("its data can't be opened: {error}"))]),
        };
        let size = data.metadata().at("stat", dir.join("data"))?.size();
        match Index::open(&dir.join("index")) {
            Err(error) => findings.push(finding(error.to_string())),
            Ok(index) if u64::from(index.tar_blocks()) != size.div_ceil(512) => {
                findings.push(finding(format!("its data has {size} bytes, and its index is for another size")));
            }
            Ok(index) => findings.extend(walk_index(&index).err().map(|error| finding(error.to_string()))),
        }
        if deep {
            let found = crate::digest_of(&data)?;
            if found != id.0 {
                findings.push(finding(format!("its data has the digest {found}")));
            }
        }
        Ok(findings)
    }
}

/// Reads every inode of an index, so that damage in any of them is found.
fn walk_index(index: &Index) -> Result<()> {
    use crate::erofs::FileKind;
    let (mut todo, mut seen) = (vec![index.root()], 0u64);
    while let Some(nid) = todo.pop() {
        seen += 1;
        if seen > index.inodes().saturating_mul(64) {
            return Err(Error::corrupt("the layer's index can't be used: its directories form a loop"));
        }
        index.xattrs(nid)?;
        match index.inode(nid)?.kind {
            FileKind::Dir => todo.extend(index.read_dir(nid)?.iter().map(|entry| entry.nid)),
            FileKind::File => drop(index.extents(nid)?),
            FileKind::Symlink => drop(index.read_link(nid)?),
            _ => {}
        }
    }
    Ok(())
}
