//! Directories as they are listed.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

use rustix::io::Errno;

use super::attr::{Answer, Attr, errno};
use super::fs::{Fs, UPPER};
use super::handle::OpenDir;
use super::lower::{Listed, Lower, WHITEOUT_PREFIX, for_each_name};
use super::node::{Key, Node, Place, ROOT};
use crate::erofs::{FileKind, Nid};

/// One name of a directory.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub name: Box<[u8]>,
    pub kind: FileKind,
    pub key: Key,
}

/// An entry that is handed out.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The number that `stat` shows.
    pub number: u64,
    /// What it is.
    pub kind: FileKind,
    /// What the next call passes to go on behind it.
    pub next: u64,
    /// Its attributes, if they were asked for. The kernel then holds the node, unless the name is `.` or `..`.
    pub attr: Option<Attr>,
}

impl Fs {
    /// Opens a directory.
    pub fn opendir(&self, node: u64) -> Answer<u64> {
        let node = self.nodes.get(node)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        Ok(self.handles.add_dir(node))
    }

    /// Whether the kernel had better list a directory anew, though no name in it has changed: it asks for the attributes
    /// of every file that was read since they were listed, because the time of the last access may be another one.
    pub fn is_worth_listing(&self, node: u64) -> bool {
        self.nodes.get(node).is_ok_and(|node| node.is_worth_listing())
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.handles.close_dir(handle);
    }

    /// Lists a directory from `offset` on until `take` answers that it has no room for what it was given. `handle` is 0
    /// if it was never opened. With `attributes` each entry is looked up too.
    pub fn readdir(
        &self,
        node: u64,
        handle: u64,
        offset: u64,
        attributes: bool,
        take: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Answer<()> {
        let (dir, items) = self.items(node, handle, offset)?;
        let parent = dir.a_name().map_or(ROOT, |name| name.parent.id);
        for (number, (name, id)) in [(&b"."[..], dir.id), (b"..", parent)].into_iter().enumerate().skip(offset as usize) {
            let attr = attributes.then(|| dot(id));
            if !take(&DirEntry { name, number: id, kind: FileKind::Dir, next: number as u64 + 1, attr }) {
                return Ok(());
            }
        }
        for (at, item) in items.iter().enumerate().skip(offset.saturating_sub(2) as usize) {
            let attr = if attributes { self.looked_up(&dir, item).unwrap_or_else(|_| Some(self.unknown(item))) } else { None };
            if attributes && attr.is_none() {
                continue;
            }
            let number = attr.map_or_else(|| self.nodes.id_of(item.key), |attr| attr.number);
            let entry = DirEntry { name: &item.name, number, kind: item.kind, next: at as u64 + 3, attr };
            if !take(&entry) {
                if let Some(attr) = attr {
                    self.forget(attr.number, 1);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn items(&self, node: u64, handle: u64, offset: u64) -> Answer<(Arc<Node>, Arc<Vec<Item>>)> {
        if handle == 0 {
            // Nothing tells us when the kernel is done with it: the ones used last are kept, or each piece of a large
            // directory would cost a listing of all of it.
            let dir = self.nodes.get(node)?;
            let key = (super::fs::UPPER, dir.serial);
            if let Some(items) = self.unasked.get(key) {
                return Ok((dir, items));
            }
            let items = Arc::new(self.list(&dir)?);
            self.unasked.put(key, Arc::clone(&items));
            return Ok((dir, items));
        }
        let open: Arc<OpenDir> = self.handles.dir(handle)?;
        let mut items = open.items.lock().unwrap_or_else(PoisonError::into_inner);
        // From the start again: as rewinddir(3) has it, what changed meanwhile shows.
        let items = match items.as_ref().filter(|_| offset > 0) {
            Some(items) => Arc::clone(items),
            None => Arc::clone(items.insert(Arc::new(self.list(&open.node)?))),
        };
        open.node.note_listed(items.len());
        Ok((Arc::clone(&open.node), items))
    }

    /// An entry's attributes; `None` if it is gone by now.
    fn looked_up(&self, dir: &Arc<Node>, item: &Item) -> Answer<Option<Attr>> {
        let _names = self.shared();
        // Where nothing can have changed since the listing, nothing is searched for again.
        if let Key::Lower(place) = item.key
            && item.kind != FileKind::Dir
            && !dir.in_upper()
        {
            let attr = self.lower_attr(place, dir, &item.name)?;
            let found = super::fs::Found { key: item.key, attr, upper: false, lowers: vec![place] };
            let node = self.enter(dir, &item.name, &found);
            if !node.in_upper() {
                return Ok(Some(self.shown(&node, attr)));
            }
            self.forget(node.id, 1);
        }
        let Some(found) = self.find(dir, &item.name)? else { return Ok(None) };
        let node = self.enter(dir, &item.name, &found);
        Ok(Some(self.shown(&node, found.attr)))
    }

    /// What is listed of a file that can't be looked up: the rest of the directory can. The kernel shows the name, sees by
    /// the size that the attributes are none, forgets the node that it was given, and asks again when they are wanted.
    fn unknown(&self, item: &Item) -> Attr {
        let number = self.nodes.id_of(item.key);
        self.nodes.remember(number);
        Attr { size: u64::MAX, ..Attr::bare(number, item.kind) }
    }

    /// All names of a directory.
    pub(super) fn list(&self, dir: &Arc<Node>) -> Answer<Vec<Item>> {
        let _names = self.shared();
        self.list_locked(dir)
    }

    /// The same, for who has the lock on names.
    pub(super) fn list_locked(&self, dir: &Arc<Node>) -> Answer<Vec<Item>> {
        let (upper, places) = {
            let spot = dir.spot();
            (spot.upper, spot.lowers.clone())
        };
        let mut items = Vec::new();
        let mut seen: HashSet<Box<[u8]>> = HashSet::new();
        // Names need to be remembered only if another source follows that may have them too.
        let mut sources = places.len() + usize::from(upper);
        if upper {
            sources -= 1;
            self.list_upper(dir, sources > 0, &mut items, &mut seen)?;
        }
        for place in &places {
            sources -= 1;
            self.list_lower(dir, *place, sources > 0, &mut items, &mut seen)?;
        }
        Ok(items)
    }

    fn list_upper(&self, dir: &Arc<Node>, remember: bool, items: &mut Vec<Item>, seen: &mut HashSet<Box<[u8]>>) -> Answer<()> {
        let fd = self.dir_fd(UPPER, dir)?;
        for_each_name(fd.as_fd(), |name, number, kind| {
            if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
                seen.insert(hidden.into());
                return Ok(());
            }
            let gone = kind == FileKind::CharDevice
                && rustix::fs::statat(&fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_rdev == 0;
            if remember {
                seen.insert(name.into());
            }
            if !gone {
                items.push(Item { name: name.into(), kind, key: Key::Upper(number) });
            }
            Ok(())
        })?;
        if remember && !items.is_empty() {
            self.number_merged(dir, items);
        }
        Ok(())
    }

    /// A directory that is merged with lower ones has the number of the first of them.
    fn number_merged(&self, dir: &Arc<Node>, items: &mut [Item]) {
        for item in items.iter_mut().filter(|item| item.kind == FileKind::Dir) {
            // One that can't be looked up is listed all the same.
            if let Ok(Some(found)) = self.find(dir, &item.name) {
                item.key = found.key;
            }
        }
    }

    fn list_lower(
        &self,
        dir: &Arc<Node>,
        place: Place,
        remember: bool,
        items: &mut Vec<Item>,
        seen: &mut HashSet<Box<[u8]>>,
    ) -> Answer<()> {
        let merging = remember || !seen.is_empty();
        let mut add = |name: &[u8], listed: Listed| {
            let new = if remember { seen.insert(name.into()) } else { !merging || !seen.contains(name) };
            if new && !listed.whiteout {
                let key = Key::Lower(Place { layer: place.layer, number: listed.number });
                items.push(Item { name: name.into(), kind: listed.kind, key });
            }
        };
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => {
                for entry in layer.index.read_dir(Nid(place.number)).map_err(|e| errno(&e))? {
                    // One that is damaged is listed all the same.
                    let unknown = Listed { number: entry.nid.0, kind: FileKind::File, whiteout: false };
                    add(entry.name, layer.listed(entry.nid).unwrap_or(unknown));
                }
            }
            Lower::Plain(_) => {
                for (name, listed) in &self.listing(place.layer, dir)?.entries {
                    add(name, *listed);
                }
            }
        }
        Ok(())
    }
}

/// `.` and `..` of a listing with attributes: the kernel looks at number and type only.
pub(super) fn dot(number: u64) -> Attr {
    Attr { mode: FileKind::Dir.mode_bits() | 0o755, ..Attr::bare(number, FileKind::Dir) }
}
