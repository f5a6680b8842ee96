//! The merged, read-only view of a chain of layers in user space, with a container's writable directory over it if
//! there is one: what overlayfs would show, without a mount and without privilege.

mod content;
mod upper;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fs_base::{Error, Result};

use crate::erofs::{FileKind, Nid};
use crate::ingest::OPAQUE_XATTR;
use crate::metadata::Metadata;
use crate::overlayfs::Namespace;
use crate::store::Layer;

pub use content::Content;
use upper::{Node, Upper};
pub(crate) use upper::{names_of, reopen};

/// The kernel's bound on symlinks in one resolution (`MAXSYMLINKS`).
pub(crate) const MOST_LINKS: usize = 40;

/// A chain of layers seen as one tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Top first, as a lookup goes.
    layers: Vec<Arc<Layer>>,
    upper: Option<Upper>,
    /// Whiteouts and private attributes are shown as files and attributes.
    raw: bool,
}

/// Where a file of a tree comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A layer, counted from the bottom as in the image's config.
    Layer(usize),
    /// The writable directory.
    Upper,
}

/// A file in a tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its metadata.
    pub metadata: Metadata,
    /// Where it comes from; for a directory that several places share, the topmost.
    pub origin: Origin,
    /// Where it lies. For a directory: all the places that are merged in it, top first.
    places: Vec<Place>,
}

/// A file in one of the sources of a tree.
#[derive(Debug, Clone)]
enum Place {
    /// A layer, counted from the top, and the inode in it.
    Layer(usize, Nid),
    Upper(Node),
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.metadata.is_dir()
    }

    /// The layer it comes from, counted from the bottom; `None` if it comes from the writable directory.
    pub fn layer(&self) -> Option<usize> {
        match self.origin {
            Origin::Layer(number) => Some(number),
            Origin::Upper => None,
        }
    }
}

impl Entry {
    /// Names that can differ between this directory of a lower tree and the same directory with an upper over it:
    /// what the upper holds. `None` if everything can.
    pub(crate) fn touched_names(&self, with_upper: &Entry) -> Result<Option<Vec<Vec<u8>>>> {
        match with_upper.places.split_first() {
            Some((Place::Upper(node), below)) if same_places(below, &self.places) => node.names().map(Some),
            _ => Ok(None),
        }
    }

    /// The layer, counted from the top, and the inode in it; of a directory the topmost. `None` in an upper directory.
    pub(crate) fn place_in_layer(&self) -> Option<(usize, Nid)> {
        match self.places.first() {
            Some(Place::Layer(number, nid)) => Some((*number, *nid)),
            _ => None,
        }
    }

    /// What tells two names of one file (hard links) from two files.
    pub(crate) fn identity(&self) -> Result<(Origin, u64, u64)> {
        match &self.places[0] {
            Place::Layer(_, nid) => Ok((self.origin, 0, nid.0)),
            Place::Upper(node) => node.number().map(|(device, inode)| (self.origin, device, inode)),
        }
    }
}

/// What a [`Tree::walk`] does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Into the directory, or on.
    Continue,
    /// Past what is in this directory.
    Skip,
}

impl Tree {
    /// The tree of a chain, bottom first as an image's config lists it.
    pub fn new(mut layers: Vec<Arc<Layer>>) -> Tree {
        layers.reverse();
        Tree { layers, upper: None, raw: false }
    }

    /// The tree of a container: `upper` is the directory that overlayfs writes to.
    pub fn with_upper(layers: Vec<Arc<Layer>>, upper: &Path) -> Result<Tree> {
        Ok(Tree { upper: Some(Upper::open(upper)?), ..Tree::new(layers) })
    }

    /// One layer as it is, its whiteouts and marks included.
    pub(crate) fn raw(layer: Arc<Layer>) -> Tree {
        Tree { layers: vec![layer], upper: None, raw: true }
    }

    /// The same layers under another upper directory.
    pub(crate) fn over(&self, upper: &Path) -> Result<Tree> {
        Ok(Tree { layers: self.layers.clone(), upper: Some(Upper::open(upper)?), raw: false })
    }

    /// The root directory; `None` if there is neither a layer nor an upper directory.
    pub fn root(&self) -> Result<Option<Entry>> {
        let upper = self.upper.iter().map(|upper| Place::Upper(upper.root.clone()));
        let layers = self.layers.iter().enumerate().map(|(number, layer)| Place::Layer(number, layer.index.root()));
        self.merge(upper.chain(layers).collect())
    }

    fn namespace(&self) -> Namespace {
        self.upper.as_ref().map_or(Namespace::Trusted, |upper| upper.namespace)
    }

    fn metadata_of(&self, place: &Place) -> Result<Option<Metadata>> {
        match place {
            Place::Layer(number, nid) => self.layers[*number].index.inode(*nid).map(Some),
            Place::Upper(node) => node.metadata(),
        }
    }

    fn is_opaque(&self, place: &Place) -> Result<bool> {
        match place {
            Place::Layer(number, nid) => Ok(self.layers[*number].index.xattr(*nid, OPAQUE_XATTR)?.is_some()),
            Place::Upper(node) => node.is_opaque(self.namespace()),
        }
    }

    /// The file that the first of `places` gives, merged with directories below it as far as they show.
    fn merge(&self, places: Vec<Place>) -> Result<Option<Entry>> {
        let last = places.len().saturating_sub(1);
        let mut entry: Option<Entry> = None;
        for (number, place) in places.into_iter().enumerate() {
            let Some(metadata) = self.metadata_of(&place)? else { continue };
            if metadata.is_whiteout() && !self.raw || entry.is_some() && !metadata.is_dir() {
                break;
            }
            let ends = !metadata.is_dir() || number < last && self.is_opaque(&place)?;
            let origin = match place {
                Place::Layer(number, _) => Origin::Layer(self.layers.len() - 1 - number),
                Place::Upper(_) => Origin::Upper,
            };
            entry.get_or_insert_with(|| Entry { metadata, origin, places: Vec::new() }).places.push(place);
            if ends {
                break;
            }
        }
        Ok(entry)
    }

    /// One name in a directory.
    pub fn child(&self, directory: &Entry, name: &[u8]) -> Result<Option<Entry>> {
        let mut places = Vec::with_capacity(directory.places.len());
        for place in &directory.places {
            match place {
                Place::Layer(number, nid) => {
                    let found = self.layers[*number].index.lookup(*nid, name)?;
                    places.extend(found.map(|nid| Place::Layer(*number, nid)));
                }
                Place::Upper(node) => places.push(Place::Upper(node.child(name)?)),
            }
        }
        self.merge(places)
    }

    /// The names in a directory in the order of their bytes.
    pub fn read_dir(&self, directory: &Entry) -> Result<Vec<(Vec<u8>, Entry)>> {
        if !directory.is_dir() {
            return Err(Error::invalid("not a directory"));
        }
        let mut names: BTreeMap<Cow<'_, [u8]>, Vec<Place>> = BTreeMap::new();
        for place in &directory.places {
            match place {
                Place::Layer(number, nid) => {
                    for entry in self.layers[*number].index.read_dir(*nid)? {
                        names.entry(Cow::Borrowed(entry.name)).or_default().push(Place::Layer(*number, entry.nid));
                    }
                }
                Place::Upper(node) => {
                    for name in node.names()? {
                        let child = node.child(&name)?;
                        names.entry(Cow::Owned(name)).or_default().push(Place::Upper(child));
                    }
                }
            }
        }
        let mut entries = Vec::with_capacity(names.len());
        for (name, places) in names {
            entries.extend(self.merge(places)?.map(|entry| (name.into_owned(), entry)));
        }
        Ok(entries)
    }

    /// Whether two entries, each of its own tree, are the same file of the same layer, or directories merged from
    /// the same places, so that all below them is the same too.
    pub(crate) fn is_same_place(&self, entry: &Entry, other: &Tree, its: &Entry) -> bool {
        let place = |tree: &Tree, place: &Place| match place {
            Place::Layer(number, nid) => Some((tree.layers[*number].id, *nid)),
            Place::Upper(_) => None,
        };
        entry.places.len() == its.places.len()
            && entry.places.iter().zip(&its.places).all(|(a, b)| match (place(self, a), place(other, b)) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            })
    }

    /// The file at `path`, seen from the root. Symlinks on the way are followed inside the tree, a last one only
    /// if `follow` or if the path ends in a slash. `..` stops at the root.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Entry>> {
        Ok(self.resolve(path, follow)?.map(|(_, entry)| entry))
    }

    /// Like [`Tree::lookup`], with the path that was found, no symlink in it.
    pub(crate) fn resolve(&self, path: &[u8], follow: bool) -> Result<Option<(Vec<u8>, Entry)>> {
        let follow = follow || path.ends_with(b"/") || path.ends_with(b"/.");
        let Some(root) = self.root()? else { return Ok(None) };
        let mut stack = vec![(Vec::new(), root)];
        let mut pending = reversed_names(path);
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                stack.truncate(stack.len().max(2) - 1);
                continue;
            }
            let Some((_, here)) = stack.last().filter(|(_, entry)| entry.is_dir()) else { return Ok(None) };
            let Some(entry) = self.child(here, &name)? else { return Ok(None) };
            if entry.metadata.kind != FileKind::Symlink || pending.is_empty() && !follow {
                stack.push((name, entry));
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
        let found: Vec<u8> = stack[1..].iter().flat_map(|(name, _)| [b"/", &name[..]].concat()).collect();
        Ok(stack.pop().map(|(_, entry)| (if found.is_empty() { b"/".to_vec() } else { found }, entry)))
    }

    /// Calls `visit` for `top` (with an empty path) and all below it, each directory before what is in it, names in
    /// the order of their bytes. Paths are relative to `top`.
    pub fn walk(&self, top: &Entry, visit: &mut dyn FnMut(&[u8], &Entry) -> Result<Walk>) -> Result<()> {
        let mut todo = vec![(Vec::new(), top.clone())];
        while let Some((path, entry)) = todo.pop() {
            if visit(&path, &entry)? == Walk::Skip || !entry.is_dir() {
                continue;
            }
            for (name, child) in self.read_dir(&entry)?.into_iter().rev() {
                let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                todo.push((path, child));
            }
        }
        Ok(())
    }

    /// A symlink's target.
    pub fn read_link(&self, entry: &Entry) -> Result<Vec<u8>> {
        match &entry.places[0] {
            Place::Layer(number, nid) => Ok(self.layers[*number].index.read_link(*nid)?.into_owned()),
            Place::Upper(node) => node.read_link(),
        }
    }

    /// Extended attributes by name, without overlayfs's own marks.
    pub fn xattrs(&self, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match &entry.places[0] {
            Place::Layer(number, nid) => {
                let mut attributes = self.layers[*number].index.xattrs(*nid)?;
                attributes.retain(|(name, _)| self.raw || !crate::overlayfs::is_private(name));
                Ok(attributes)
            }
            Place::Upper(node) => node.xattrs(self.namespace()),
        }
    }

    /// Opens a regular file for reading.
    pub fn open(&self, entry: &Entry) -> Result<Content> {
        let size = entry.metadata.size;
        match &entry.places[0] {
            Place::Layer(number, nid) => {
                let layer = &self.layers[*number];
                Ok(Content::in_layer(Arc::clone(layer), layer.index.extents(*nid)?, size))
            }
            Place::Upper(node) => node.open().map(|file| Content::of_file(file, size)),
        }
    }
}

fn same_places(a: &[Place], b: &[Place]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (a, b) {
            (Place::Layer(n, a), Place::Layer(m, b)) => (n, a) == (m, b),
            _ => false,
        })
}

fn reversed_names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")).rev().map(<[u8]>::to_vec).collect()
}
