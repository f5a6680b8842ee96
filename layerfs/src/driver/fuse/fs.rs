//! The merged tree: which files there are, and what they are.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fs_base::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attr::{Answer, Attr, Owners, errno};
use super::cache::Cache;
use super::differ::Known;
use super::handle::Handles;
use super::journal::Journal;
use super::links::Links;
use super::list::Item;
use super::lower::{Indexed, Listing, Lower, Marks, OPAQUE_NAME, Plain, WHITEOUT_PREFIX, marks};
use super::node::{Key, Name, Node, Nodes, Place, Spot};
use super::upper::Upper;
use crate::erofs::{FileKind, Nid};

/// The number of the upper directory among the sources of a [`Cache`] key; layers are counted from 1.
pub(super) const UPPER: u16 = 0;
/// Directories whose listing is kept.
const LISTINGS: usize = 2048;
/// Directories whose merged listing is kept where the kernel opens none.
const UNASKED: usize = 32;
/// As good as for ever.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// The longest name.
const NAME_MAX: usize = 255;

/// A lower layer, before it is opened.
#[derive(Debug, Clone)]
pub enum LowerSpec {
    /// A folder with `data` and `index`.
    Indexed(PathBuf),
    /// A directory in overlayfs's format.
    Plain(PathBuf),
}

/// What a tree is made of.
#[derive(Debug, Default)]
pub struct FsOptions {
    /// The lower layers, top first.
    pub lowers: Vec<Lower>,
    /// Where changes go, and a folder of ours on the same file system; read-only without.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// How owners are shown and stored.
    pub owners: Owners,
    /// How many directories may be held open.
    pub open_dirs: usize,
    /// What is synced need not survive a crash of the machine.
    pub volatile: bool,
    /// Every directory has one link.
    pub static_links: bool,
    /// Directories among the lower layers may be changed by others meanwhile: what was seen of them is looked at again.
    pub live: bool,
}

/// A merged tree, read-only or with changes kept in an upper directory. All operations may be called from any thread;
/// they take and return the numbers of nodes.
///
/// Names are looked at under a shared lock and changed under an exclusive one; the bytes of open files need neither.
#[derive(Debug)]
pub struct Fs {
    pub(super) lowers: Vec<Lower>,
    pub(super) upper: Option<Upper>,
    pub(super) owners: Owners,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    pub(super) volatile: bool,
    /// One file is copied up at a time.
    pub(super) copying: Mutex<()>,
    pub(super) links: Links,
    pub(super) journal: Journal,
    /// What differs from the layers, as it was known last.
    pub(super) known: Mutex<Known>,
    static_links: bool,
    live: bool,
    /// Listings of directories that nobody opens, in a tree that does not change.
    pub(super) unasked: Cache<Arc<Vec<Item>>>,
    dirs: Cache<Arc<OwnedFd>>,
    listings: Cache<Arc<Listing>>,
    names: RwLock<()>,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Found {
    pub key: Key,
    pub attr: Attr,
    pub upper: bool,
    pub lowers: Vec<Place>,
}

impl LowerSpec {
    /// Opens it.
    pub fn open(&self) -> Result<Lower> {
        match self {
            LowerSpec::Indexed(dir) => Ok(Lower::Indexed(Arc::new(Indexed::open(dir)?))),
            LowerSpec::Plain(dir) => Ok(Lower::Plain(Plain::open(dir)?)),
        }
    }
}

impl Fs {
    /// The tree of these layers.
    pub fn new(options: FsOptions) -> Result<Fs> {
        let upper = options.upper.as_ref().map(|(upper, work)| Upper::open(upper, work)).transpose()?;
        if options.lowers.len() >= usize::from(u16::MAX) {
            return Err(Error::invalid("too many layers"));
        }
        if upper.is_none() && options.lowers.is_empty() {
            return Err(Error::invalid("a tree needs a layer"));
        }
        let mut fs = Fs {
            lowers: options.lowers,
            upper,
            owners: options.owners,
            nodes: Nodes::new(false, Box::default()),
            handles: Handles::default(),
            volatile: options.volatile,
            copying: Mutex::default(),
            links: Links::default(),
            journal: Journal::default(),
            known: Mutex::default(),
            static_links: options.static_links,
            live: options.live,
            unasked: Cache::new(UNASKED),
            dirs: Cache::new(options.open_dirs.max(16)),
            listings: Cache::new(LISTINGS),
            names: RwLock::default(),
        };
        let places = fs.root_places();
        fs.nodes = Nodes::new(fs.upper.is_some(), places.into());
        if fs.upper.as_ref().is_some_and(|upper| !upper.is_empty()) {
            fs.journal.forget();
        }
        fs.journal.look_at_root();
        Ok(fs)
    }

    /// The layers' roots, down to the first that is opaque.
    fn root_places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        if self.upper.as_ref().is_some_and(|upper| marks(&upper.root).is_ok_and(|marks| marks.opaque)) {
            return places;
        }
        for (number, lower) in self.lowers.iter().enumerate() {
            let (number, opaque) = match lower {
                Lower::Indexed(layer) => {
                    let root = layer.index.root();
                    (Place { layer: number as u16, number: root.0 }, layer.is_opaque(root.0).unwrap_or(false))
                }
                Lower::Plain(layer) => (Place { layer: number as u16, number: 0 }, marks(&layer.root).is_ok_and(|m| m.opaque)),
            };
            places.push(number);
            if opaque {
                break;
            }
        }
        places
    }

    /// Whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.upper.is_none()
    }

    /// Whether every file can be read by its number alone, without opening it: all layers are indexed, none changes.
    pub fn is_immutable(&self) -> bool {
        self.is_read_only() && self.lowers.iter().all(|lower| matches!(lower, Lower::Indexed(_)))
    }

    /// How long what was seen of a file holds. Names and attributes change only through the mount, of which the kernel
    /// knows, unless others change the layers.
    pub fn holds(&self) -> Duration {
        if self.live { Duration::ZERO } else { FOREVER }
    }

    pub(super) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn upper(&self) -> Answer<&Upper> {
        self.upper.as_ref().ok_or(Errno::ROFS)
    }

    /// A directory of the upper or of a plain layer as a path descriptor, opened name by name from the top, no symlink
    /// followed.
    pub(super) fn dir_fd(&self, source: u16, node: &Arc<Node>) -> Answer<Arc<OwnedFd>> {
        if let Some(held) = node.spot().held.clone().filter(|_| source == UPPER) {
            return Ok(held);
        }
        let mut missing = Vec::new();
        let mut here = Arc::clone(node);
        let mut fd = loop {
            if here.id == super::node::ROOT {
                break self.source_root(source)?;
            }
            if let Some(fd) = self.dirs.get((source, here.serial)).filter(|_| source == UPPER || !self.live) {
                break fd;
            }
            let Name { parent, name } = here.a_name()?;
            missing.push((here, name));
            here = parent;
        };
        while let Some((node, name)) = missing.pop() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fd = Arc::new(rustix::fs::openat(&fd, &*name, flags, Mode::empty())?);
            self.dirs.put((source, node.serial), Arc::clone(&fd));
        }
        Ok(fd)
    }

    fn source_root(&self, source: u16) -> Answer<Arc<OwnedFd>> {
        match source.checked_sub(1).map(|number| &self.lowers[usize::from(number)]) {
            None => self.upper().map(|upper| Arc::clone(&upper.root)),
            Some(Lower::Plain(layer)) => Ok(Arc::clone(&layer.root)),
            Some(Lower::Indexed(_)) => Err(Errno::IO),
        }
    }

    /// A directory is gone from the upper: nothing of it is kept.
    pub(super) fn forget_upper_dir(&self, node: &Node) {
        self.dirs.remove((UPPER, node.serial));
    }

    /// What a directory of a plain layer holds.
    pub(super) fn listing(&self, layer: u16, dir: &Arc<Node>) -> Answer<Arc<Listing>> {
        if let Some(listing) = self.listings.get((layer + 1, dir.serial)) {
            return Ok(listing);
        }
        let listing = Arc::new(Listing::read(self.dir_fd(layer + 1, dir)?.as_fd())?);
        if self.live {
            return Ok(listing);
        }
        self.listings.put((layer + 1, dir.serial), Arc::clone(&listing));
        Ok(listing)
    }

    /// What a directory has under a name.
    pub(super) fn find(&self, dir: &Arc<Node>, name: &[u8]) -> Answer<Option<Found>> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if !dir.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if name.starts_with(WHITEOUT_PREFIX) && !self.is_immutable() {
            return Ok(None);
        }
        let (upper, places) = {
            let spot = dir.spot();
            (spot.upper, spot.lowers.clone())
        };
        if upper {
            let fd = self.dir_fd(UPPER, dir)?;
            match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let attr = Attr::of_stat(&stat);
                    if attr.is_whiteout() {
                        return Ok(None);
                    }
                    let mut found = Found { key: Key::Upper(stat.st_ino), attr, upper: true, lowers: Vec::new() };
                    if attr.is_dir() {
                        if !is_opaque_at(&fd, name)? {
                            found.lowers = self.lowers_of(dir, &places, name)?;
                        }
                        // A directory that is merged keeps the number that it had before it was copied up.
                        found.key = found.lowers.first().map_or(found.key, |place| Key::Lower(*place));
                    }
                    return Ok(Some(found));
                }
                Err(Errno::NOENT) => {
                    let Some(found) = self.find_below(dir, &places, name)? else { return Ok(None) };
                    return Ok((!has_mark(&fd, name)?).then_some(found));
                }
                Err(error) => return Err(error),
            }
        }
        self.find_below(dir, &places, name)
    }

    /// What the lower layers have under a name.
    pub(super) fn find_below(&self, dir: &Arc<Node>, places: &[Place], name: &[u8]) -> Answer<Option<Found>> {
        let mut found: Option<Found> = None;
        for place in places {
            let Some(listed) = self.listed(dir, *place, name)? else { continue };
            if listed.whiteout || found.is_some() && listed.kind != FileKind::Dir {
                break;
            }
            let here = Place { layer: place.layer, number: listed.number };
            if let Some(found) = &mut found {
                found.lowers.push(here);
            } else {
                let attr = self.lower_attr(here, dir, name)?;
                found = Some(Found { key: Key::Lower(here), attr, upper: false, lowers: vec![here] });
            }
            if listed.kind != FileKind::Dir || self.is_opaque_below(dir, here, name)? {
                break;
            }
        }
        Ok(found)
    }

    fn lowers_of(&self, dir: &Arc<Node>, places: &[Place], name: &[u8]) -> Answer<Vec<Place>> {
        let found = self.find_below(dir, places, name)?.filter(|found| found.attr.is_dir());
        Ok(found.map(|found| found.lowers).unwrap_or_default())
    }

    fn listed(&self, dir: &Arc<Node>, place: Place, name: &[u8]) -> Answer<Option<super::lower::Listed>> {
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => layer.find(place.number, name),
            Lower::Plain(_) if self.live => super::lower::Listed::now(self.dir_fd(place.layer + 1, dir)?.as_fd(), name),
            Lower::Plain(_) => Ok(self.listing(place.layer, dir)?.find(name)),
        }
    }

    fn is_opaque_below(&self, dir: &Arc<Node>, place: Place, name: &[u8]) -> Answer<bool> {
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => layer.is_opaque(place.number),
            Lower::Plain(_) => is_opaque_at(&*self.dir_fd(place.layer + 1, dir)?, name),
        }
    }

    /// The attributes of a file in a layer; `dir` and `name` are where it is.
    pub(super) fn lower_attr(&self, place: Place, dir: &Arc<Node>, name: &[u8]) -> Answer<Attr> {
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => {
                let inode = layer.index.inode(Nid(place.number)).map_err(|e| errno(&e))?;
                Ok(Attr::of_metadata(&inode, place.number))
            }
            Lower::Plain(layer) => {
                let stat = rustix::fs::statat(&*self.dir_fd(place.layer + 1, dir)?, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if stat.st_dev == layer.device { Ok(Attr::of_stat(&stat)) } else { Err(Errno::XDEV) }
            }
        }
    }

    /// The node of what was found, looked up once more.
    pub(super) fn enter(&self, dir: &Arc<Node>, name: &[u8], found: &Found) -> Arc<Node> {
        let node = self.nodes.enter(found.key, dir, name, found.attr.kind, || Spot {
            upper: found.upper,
            lowers: found.lowers.clone().into(),
            ..Spot::default()
        });
        let mut spot = node.spot();
        if self.live && !found.upper {
            // Others may have taken its other names away.
            spot.put_first(dir, name);
        }
        if found.upper && (spot.held.is_some() || spot.last.is_some()) {
            // It had no name that was known; now it has one.
            (spot.held, spot.last) = (None, None);
        }
        drop(spot);
        node
    }

    /// Attributes as the caller sees them.
    pub(super) fn shown(&self, node: &Node, mut attr: Attr) -> Attr {
        node.note_told();
        attr.number = node.id;
        if attr.is_dir() && (self.static_links || node.is_merged()) {
            attr.links = 1;
        }
        self.owners.show(&mut attr);
        attr
    }

    /// A name in a directory; the kernel holds the node until it forgets it.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Answer<Option<Attr>> {
        let dir = self.nodes.get(parent)?;
        let _names = self.shared();
        let Some(found) = self.find(&dir, name)? else { return Ok(None) };
        let node = self.enter(&dir, name, &found);
        Ok(Some(self.shown(&node, found.attr)))
    }

    /// The kernel forgets `count` lookups of a node.
    pub fn forget(&self, node: u64, count: u64) {
        self.nodes.forget(node, count);
    }

    /// How many files are known at the moment.
    pub fn nodes(&self) -> usize {
        self.nodes.count()
    }

    /// The attributes of a file.
    pub fn getattr(&self, node: u64) -> Answer<Attr> {
        let node = self.nodes.get(node)?;
        let _names = self.shared();
        self.attr_of(&node)
    }

    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Answer<Attr> {
        let attr = self.raw_attr(node)?;
        Ok(self.shown(node, attr))
    }

    /// As stored, owners not mapped.
    pub(super) fn raw_attr(&self, node: &Arc<Node>) -> Answer<Attr> {
        let (upper, first, held, name) = {
            let spot = node.spot();
            if let Some(last) = &spot.last {
                return Ok(**last);
            }
            (spot.upper, spot.lowers.first().copied(), spot.held.clone(), spot.names.first().cloned())
        };
        if let Some(held) = held {
            return Ok(Attr::of_stat(&rustix::fs::fstat(&held)?));
        }
        if upper {
            let stat = match name {
                Some(Name { parent, name }) => {
                    rustix::fs::statat(&*self.dir_fd(UPPER, &parent)?, &*name, AtFlags::SYMLINK_NOFOLLOW)?
                }
                None => rustix::fs::fstat(&*self.dir_fd(UPPER, node)?)?,
            };
            return Ok(Attr::of_stat(&stat));
        }
        let place = first.ok_or(Errno::NOENT)?;
        match (name, &self.lowers[usize::from(place.layer)]) {
            (Some(Name { parent, name }), _) => self.lower_attr(place, &parent, &name),
            (None, Lower::Plain(layer)) => Ok(Attr::of_stat(&rustix::fs::fstat(&layer.root)?)),
            (None, Lower::Indexed(_)) => self.lower_attr(place, node, b""),
        }
    }
}

impl Node {
    /// Whether it is a directory made of several.
    pub(super) fn is_merged(&self) -> bool {
        let spot = self.spot();
        spot.lowers.len() + usize::from(spot.upper) > 1
    }
}

/// Whether the directory of this name hides what is below it. One that the kernel's overlayfs would look for elsewhere
/// below is refused as the kernel refuses it without `redirect_dir`: with EPERM.
pub(super) fn is_opaque_at(dir: impl AsFd, name: &[u8]) -> Answer<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    match marks(&fd)? {
        Marks { opaque: true, .. } => Ok(true),
        Marks { foreign: true, .. } => Err(Errno::PERM),
        Marks { .. } => exists(&fd, OPAQUE_NAME),
    }
}

/// Whether a whiteout that is a file lies in the directory for this name.
pub(super) fn has_mark(dir: impl AsFd, name: &[u8]) -> Answer<bool> {
    if name.len() + WHITEOUT_PREFIX.len() > NAME_MAX {
        return Ok(false);
    }
    exists(dir, &[WHITEOUT_PREFIX, name].concat())
}

fn exists(dir: impl AsFd, name: &[u8]) -> Answer<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
