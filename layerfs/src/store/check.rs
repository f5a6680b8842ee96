//! Verifying a layer.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::{Class, Error, IoContext, LayerId, Result, id};
use sha2::{Digest as _, Sha256};

use super::{Layer, Store, unpacked};
use crate::erofs::{Extent, FileKind, Index, Source};
use crate::ingest::rebuild_index_into;
use crate::tar::{self, Limits};

const GET_AGAIN: &str = "load or pull an image that has the layer: that replaces it";
const UNPACK_AGAIN: &str = "run `ctl system check --repair`: it is unpacked again from the data";
const BUILT_AGAIN: &str = "nothing: the index is built again from the data when the layer is next used";

/// What a layer's folder holds.
const FILES: [&str; 3] = ["data", "index", unpacked::NAME];

/// What kind of thing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindingKind {
    /// A file of the layer is not there or can't be read.
    Missing,
    /// The index is damaged, or is not the index of this data.
    Index,
    /// The data is damaged.
    Data,
    /// The unpacked copy is not what the data says.
    Unpacked,
    /// There is a file of this name that nobody knows.
    Stray(OsString),
}

/// Something wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The layer.
    pub layer: LayerId,
    /// What kind of thing is wrong.
    pub kind: FindingKind,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// What a check has found out about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Sizes, if nothing is.
    pub sizes: Option<Sizes>,
    /// It was given up.
    pub stopped: bool,
}

/// What a sound layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the tar.
    pub data: u64,
    /// Bytes of the index.
    pub index: u64,
    /// Bytes of its regular files, holes included, hard links once.
    pub files: u64,
}

impl Store {
    /// Verifies a layer. What is wrong with it is found, not failed on.
    ///
    /// Without `data` its structure: that its files are there, that the index can be read to its last entry and is
    /// one for data of this size, that before each file's bytes there is a tar header, and that the unpacked copy, if
    /// there is one, has the files that the index has. With `data` every byte: the tar against the diffID, the index
    /// against one made anew, and the unpacked copy's files.
    pub fn check(&self, id: &LayerId, data: bool) -> Result<Vec<Finding>> {
        self.check_with(id, data, &mut |_| true).map(|checked| checked.findings)
    }

    /// Like [`Store::check`]; `progress` is told how many bytes have been read, now and then, and ends the check by
    /// answering `false`.
    pub fn check_with(&self, id: &LayerId, data: bool, progress: &mut dyn FnMut(u64) -> bool) -> Result<Checked> {
        let mut check = Check { id: *id, findings: Vec::new(), stopped: false };
        let dir = self.dir(id);
        check.stray(&dir)?;
        let Some(tar) = check.open(&dir.join("data")) else { return Ok(check.done(None)) };
        let index = match Index::open(&dir.join("index")) {
            Ok(index) => Some(index),
            Err(error) => {
                check.add(FindingKind::Index, error.to_string(), BUILT_AGAIN);
                None
            }
        };
        let files = match &index {
            Some(index) => check.structure(index, &tar)?,
            None => None,
        };
        if data && check.digest(&tar, progress) && index.is_some() {
            check.index_again(self, &tar, &dir.join("index"))?;
        }
        if let Some(index) = index.filter(|_| check.is_sound() && dir.join(unpacked::NAME).exists()) {
            let layer = Arc::new(Layer { id: *id, data: tar, index, dir: dir.clone() });
            check.unpacked(&layer, data, progress)?;
        }
        let length = |file: &str| dir.join(file).metadata().map(|metadata| metadata.len()).at("stat", &dir);
        let sizes = match files {
            Some(files) => Some(Sizes { data: length("data")?, index: length("index")?, files }),
            None => None,
        };
        Ok(check.done(sizes))
    }

    /// Builds a layer's index again from its data, in place of the one that is there or not. Who has the old one open
    /// or mounted keeps it.
    pub fn rebuild_index(&self, id: &LayerId) -> Result<()> {
        let dir = self.dir(id);
        let path = dir.join("data");
        let data = File::open(&path).at("open", &path)?;
        self.rebuild(id, &data, &dir.join("index"))?;
        self.forget(id);
        Ok(())
    }

    /// Takes a file that is none of the layer's out of its folder.
    pub fn remove_stray(&self, id: &LayerId, name: &std::ffi::OsStr) -> Result<()> {
        if FILES.iter().any(|file| name == *file) {
            return Err(Error::invalid(format!("{} belongs to layer {id}", name.display())));
        }
        self.trash.discard(&self.dir(id).join(name)).map(drop)
    }
}

struct Check {
    id: LayerId,
    findings: Vec<Finding>,
    stopped: bool,
}

impl Check {
    /// Whether data and index are what they should be, as far as that is known.
    fn is_sound(&self) -> bool {
        let aside = |kind: &FindingKind| matches!(kind, FindingKind::Stray(_) | FindingKind::Unpacked);
        !self.stopped && self.findings.iter().all(|finding| aside(&finding.kind))
    }

    fn done(self, sizes: Option<Sizes>) -> Checked {
        let sound = self.is_sound();
        Checked { sizes: sizes.filter(|_| sound), findings: self.findings, stopped: self.stopped }
    }

    /// The unpacked copy against the layer.
    fn unpacked(&mut self, layer: &Arc<Layer>, data: bool, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        let size = layer.data.metadata().at("stat", "layer data")?.len();
        let mut stopped = false;
        let found = unpacked::difference(layer, &layer.dir.join(unpacked::NAME), data, &mut || {
            stopped = stopped || !progress(size);
            !stopped
        })?;
        self.stopped |= stopped;
        if let Some(what) = found {
            self.add(FindingKind::Unpacked, format!("its unpacked copy is not what its data says: {what}"), UNPACK_AGAIN);
        }
        Ok(())
    }

    fn add(&mut self, kind: FindingKind, message: impl Into<String>, remedy: &str) {
        self.findings.push(Finding { layer: self.id, kind, message: message.into(), remedy: remedy.to_owned() });
    }

    fn open(&mut self, path: &Path) -> Option<File> {
        match File::open(path) {
            Ok(file) => Some(file),
            Err(error) => {
                self.add(FindingKind::Missing, Error::io("open", path, error).to_string(), GET_AGAIN);
                None
            }
        }
    }

    fn stray(&mut self, dir: &Path) -> Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.at("read directory", dir)?,
        };
        for entry in entries {
            let entry = entry.at("read directory", dir)?;
            if !FILES.iter().any(|name| entry.file_name() == *name) {
                let message = format!("{} is no file of a layer", entry.path().display());
                self.add(FindingKind::Stray(entry.file_name()), message, "look at it, and remove it");
            }
        }
        Ok(())
    }

    /// The bytes of the layer's regular files, if nothing is wrong.
    fn structure(&mut self, index: &Index, data: &File) -> Result<Option<u64>> {
        let size = data.metadata().at("stat", "layer data")?.len();
        if index.data_digest() != self.id.0 {
            self.add(FindingKind::Index, format!("its index is that of layer {}", LayerId(index.data_digest())), BUILT_AGAIN);
            return Ok(None);
        }
        if !index.fits(size) {
            self.add(FindingKind::Data, format!("its data has {size} bytes, which is not the size its index is for"), GET_AGAIN);
            return Ok(None);
        }
        match walk_index(index, data) {
            Ok(Walked::Whole(files)) => return Ok(Some(files)),
            Ok(Walked::Lost(offset)) => {
                let message = format!("its data is damaged: there is no tar header at {offset}");
                self.add(FindingKind::Data, message, GET_AGAIN);
            }
            Err(error) => self.add(FindingKind::Index, error.to_string(), BUILT_AGAIN),
        }
        Ok(None)
    }

    /// Whether the data is what the layer's name says.
    fn digest(&mut self, data: &File, progress: &mut dyn FnMut(u64) -> bool) -> bool {
        // Where the kernel knows it (6.3): what is read once does not push out what others read again.
        let _ = rustix::fs::fadvise(data, 0, None, rustix::fs::Advice::NoReuse);
        let (mut hasher, mut buffer, mut offset) = (Sha256::new(), vec![0; 1 << 18], 0);
        loop {
            match data.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(got) => {
                    hasher.update(&buffer[..got]);
                    offset += got as u64;
                    if offset % (16 << 20) < got as u64 && !progress(offset) {
                        self.stopped = true;
                        return false;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let message = format!("its data can't be read at {offset}: {error}");
                    self.add(FindingKind::Data, message, GET_AGAIN);
                    return false;
                }
            }
        }
        let found = LayerId(fs_base::Digest::from_bytes(hasher.finalize().into()));
        if found != self.id {
            self.add(FindingKind::Data, format!("its data has the digest {found}"), GET_AGAIN);
        }
        found == self.id
    }

    fn index_again(&mut self, store: &Store, data: &File, path: &Path) -> Result<()> {
        use std::io::Seek;
        let scratch = Scratch::new(store, path.metadata().at("stat", path)?.len())?;
        let mut data = data;
        data.rewind().at("read", "layer data")?;
        let built = rebuild_index_into(&self.id, data, &scratch.file, &scratch.path, Limits::of_stored());
        match built.and_then(|_| super::same_bytes(&scratch.path, path)) {
            Ok(true) => {}
            Ok(false) => {
                let remedy = format!("remove {}: it is built again from the data when the layer is next used", path.display());
                self.add(FindingKind::Index, "its index is not the index of its data", &remedy);
            }
            Err(error) if matches!(error.class(), Class::Corrupt | Class::Invalid) => {
                self.add(FindingKind::Index, format!("no index can be made of its data: {error}"), GET_AGAIN);
            }
            // That says nothing of the layer.
            Err(error) => return Err(error.context(format!("verify layer {}", self.id))),
        }
        Ok(())
    }
}

/// A file that is gone when it is dropped: in memory, or in `tmp/` if it will be large.
struct Scratch {
    file: File,
    path: PathBuf,
    on_disk: bool,
}

impl Scratch {
    /// Bytes that are kept in memory at most. An index of 100,000 files takes a fifth of that.
    const SMALL: u64 = 64 << 20;

    fn new(store: &Store, size: u64) -> Result<Scratch> {
        if size <= Scratch::SMALL {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let file = File::from(rustix::fs::memfd_create("index", flags).at("make", "a file in memory")?);
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            return Ok(Scratch { file, path, on_disk: false });
        }
        let path = store.tmp().join(id::random_hex::<16>()?);
        let file = File::options().read(true).write(true).create_new(true).open(&path).at("create", &path)?;
        Ok(Scratch { file, path, on_disk: true })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.on_disk {
            // What can't be removed now is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

enum Walked {
    /// All is there: the bytes of the regular files.
    Whole(u64),
    /// Where in the tar a file's header should be and is not.
    Lost(u64),
}

/// Reads every inode of an index, so that damage in any of them is found.
fn walk_index(index: &Index, data: &File) -> Result<Walked> {
    let mut files = 0;
    let (mut todo, mut seen, mut directories) = (vec![index.root()], HashSet::new(), HashSet::from([index.root()]));
    while let Some(nid) = todo.pop() {
        if !seen.insert(nid) {
            continue;
        }
        index.xattrs(nid)?;
        let inode = index.inode(nid)?;
        match inode.kind {
            FileKind::Dir => {
                let mut last: &[u8] = b"";
                for entry in index.read_dir(nid)? {
                    if entry.name <= last {
                        return Err(Error::corrupt("the layer's index can't be used: a directory is not in order"));
                    }
                    last = entry.name;
                    if index.inode(entry.nid)?.kind == FileKind::Dir && !directories.insert(entry.nid) {
                        return Err(Error::corrupt("the layer's index can't be used: a directory has two names"));
                    }
                    todo.push(entry.nid);
                }
            }
            FileKind::File => {
                files += inode.size;
                if let Some(lost) = lost_header(&index.extents(nid)?, data)? {
                    return Ok(Walked::Lost(lost));
                }
            }
            FileKind::Symlink => drop(index.read_link(nid)?),
            _ => {}
        }
    }
    if seen.len() as u64 != index.inodes() {
        return Err(Error::corrupt("the layer's index can't be used: it does not have as many files as it says"));
    }
    Ok(Walked::Whole(files))
}

/// A file that lies in the tar in one piece has its header right before it. A block of a sparse map may stand
/// between: digits, spaces and zeros, but never only zeros, which is what a lost write leaves.
fn lost_header(extents: &[Extent], data: &File) -> Result<Option<u64>> {
    let [Extent { file_offset: 0, source: Source::Data(at), .. }] = extents else { return Ok(None) };
    let Some(offset) = at.checked_sub(512) else { return Ok(None) };
    let mut block = [0; 512];
    data.read_exact_at(&mut block, offset).at("read", "layer data")?;
    let is_map = block.iter().all(|b| matches!(b, 0 | b'\n' | b' ' | b'0'..=b'9')) && block.iter().any(|&b| b != 0);
    Ok((!is_map && !tar::is_header(&block)).then_some(offset))
}
