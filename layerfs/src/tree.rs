//! The merged, read-only view of a chain of layers in user space: what overlayfs would show, without a mount.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_base::{Error, Result};

use crate::erofs::{Extent, FileKind, Inode, Nid, Source};
use crate::ingest::OPAQUE_XATTR;
use crate::store::Layer;

/// The kernel's bound on symlinks in one resolution (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// A chain of layers seen as one tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Top first, as a lookup goes.
    layers: Vec<Arc<Layer>>,
}

/// A file in a tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its metadata.
    pub inode: Inode,
    /// The layer it comes from, counted from the bottom.
    pub layer: usize,
    /// For a directory: the places that are merged in it, top first, each a layer (from the top) and its directory.
    places: Vec<(usize, Nid)>,
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.inode.kind == FileKind::Dir
    }
}

impl Tree {
    /// The tree of a chain, bottom first as an image's config lists it.
    pub fn new(mut layers: Vec<Arc<Layer>>) -> Tree {
        layers.reverse();
        Tree { layers }
    }

    /// The root directory; `None` if there are no layers.
    pub fn root(&self) -> Result<Option<Entry>> {
        let places = self.layers.iter().enumerate().map(|(n, layer)| (n, layer.index.root())).collect();
        self.merge(places)
    }

    /// The file that the first of `places` gives, merged with directories below it as far as they show.
    fn merge(&self, places: Vec<(usize, Nid)>) -> Result<Option<Entry>> {
        let mut entry: Option<Entry> = None;
        for (number, nid) in places {
            let index = &self.layers[number].index;
            let inode = index.inode(nid)?;
            if inode.is_whiteout() || entry.is_some() && inode.kind != FileKind::Dir {
                break;
            }
            let merges = inode.kind == FileKind::Dir && index.xattr(nid, OPAQUE_XATTR)?.is_none();
            let layer = self.layers.len() - 1 - number;
            entry.get_or_insert_with(|| Entry { inode, layer, places: Vec::new() }).places.push((number, nid));
            if !merges {
                break;
            }
        }
        Ok(entry)
    }

    /// One name in a directory.
    pub fn child(&self, directory: &Entry, name: &[u8]) -> Result<Option<Entry>> {
        let mut places = Vec::new();
        for &(number, nid) in &directory.places {
            places.extend(self.layers[number].index.lookup(nid, name)?.map(|nid| (number, nid)));
        }
        self.merge(places)
    }

    /// The names in a directory in the order of their bytes.
    pub fn read_dir(&self, directory: &Entry) -> Result<Vec<(Vec<u8>, Entry)>> {
        if !directory.is_dir() {
            return Err(Error::invalid("not a directory"));
        }
        let mut names: BTreeMap<&[u8], Vec<(usize, Nid)>> = BTreeMap::new();
        for &(number, nid) in &directory.places {
            for entry in self.layers[number].index.read_dir(nid)? {
                names.entry(entry.name).or_default().push((number, entry.nid));
            }
        }
        let mut entries = Vec::with_capacity(names.len());
        for (name, places) in names {
            entries.extend(self.merge(places)?.map(|entry| (name.to_vec(), entry)));
        }
        Ok(entries)
    }

    /// The file at `path`, seen from the root. Symlinks on the way are followed inside the tree, a last one only
    /// if `follow`. `..` stops at the root.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Entry>> {
        let Some(root) = self.root()? else { return Ok(None) };
        let mut stack = vec![root];
        let mut pending = reversed_names(path);
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                stack.truncate(stack.len().max(2) - 1);
                continue;
            }
            let Some(here) = stack.last().filter(|entry| entry.is_dir()) else { return Ok(None) };
            let Some(entry) = self.child(here, &name)? else { return Ok(None) };
            if entry.inode.kind != FileKind::Symlink || pending.is_empty() && !follow {
                stack.push(entry);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Error::invalid(format!("{}: too many levels of symbolic links", String::from_utf8_lossy(path))));
            }
            let target = self.read_link(&entry)?;
            if target.starts_with(b"/") {
                stack.truncate(1);
            }
            pending.extend(reversed_names(&target));
        }
        Ok(stack.pop())
    }

    fn layer_of(&self, entry: &Entry) -> &Layer {
        &self.layers[self.layers.len() - 1 - entry.layer]
    }

    /// A symlink's target.
    pub fn read_link(&self, entry: &Entry) -> Result<Vec<u8>> {
        Ok(self.layer_of(entry).index.read_link(entry.inode.nid)?.into_owned())
    }

    /// Extended attributes, without overlayfs's own marks.
    pub fn xattrs(&self, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut attributes = self.layer_of(entry).index.xattrs(entry.inode.nid)?;
        attributes.retain(|(name, _)| name != OPAQUE_XATTR);
        Ok(attributes)
    }

    /// Opens a regular file for reading.
    pub fn open(&self, entry: &Entry) -> Result<Content> {
        let layer = Arc::clone(&self.layers[self.layers.len() - 1 - entry.layer]);
        let extents = layer.index.extents(entry.inode.nid)?;
        Ok(Content { layer, extents, size: entry.inode.size, position: 0 })
    }

    /// Whether two regular files hold the same bytes. Equal places in one layer are not read.
    pub fn same_content(&self, entry: &Entry, other: &Tree, its: &Entry) -> Result<bool> {
        if entry.inode.size != its.inode.size {
            return Ok(false);
        }
        let (mut a, mut b) = (self.open(entry)?, other.open(its)?);
        if a.layer.id == b.layer.id && a.extents == b.extents {
            return Ok(true);
        }
        let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            let got = a.fill(&mut left)?;
            if got != b.fill(&mut right)? || left[..got] != right[..got] {
                return Ok(false);
            }
            if got == 0 {
                return Ok(true);
            }
        }
    }
}

fn reversed_names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")).rev().map(<[u8]>::to_vec).collect()
}

/// The bytes of a file in a layer; holes read as zeros.
#[derive(Debug)]
pub struct Content {
    layer: Arc<Layer>,
    extents: Vec<Extent>,
    size: u64,
    position: u64,
}

impl Content {
    /// The file's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where its bytes are.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => return Err(Error::io("read", format!("layer {}", self.layer.id), error)),
            }
        }
        Ok(filled)
    }

    fn read_piece(&self, extent: &Extent, buffer: &mut [u8]) -> io::Result<usize> {
        let within = self.position - extent.file_offset;
        let length = buffer.len().min((extent.length - within) as usize);
        let buffer = &mut buffer[..length];
        match extent.source {
            Source::Hole => buffer.fill(0),
            Source::Data(at) => read_exact(&self.layer.data, buffer, at + within)?,
            Source::Index(at) => {
                let bytes = self.layer.index.raw(at + within, length as u64).map_err(|e| io::Error::other(e.to_string()))?;
                buffer.copy_from_slice(bytes);
            }
        }
        Ok(length)
    }
}

fn read_exact(data: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    data.read_exact_at(buffer, at)
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let next = self.extents.partition_point(|extent| extent.file_offset + extent.length <= self.position);
        let Some(extent) = self.extents.get(next).copied() else { return Ok(0) };
        let got = self.read_piece(&extent, buffer)?;
        self.position += got as u64;
        Ok(got)
    }
}
