//! What a session's tree has that its layers have not, by what was noted (`journal.rs`): the list that [`crate::diff`]
//! makes of the upper directory, without walking it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rustix::io::Errno;

use super::attr::{Answer, Attr};
use super::attributes::Attribute;
use super::fs::{Fs, FsOptions, UPPER};
use super::journal::{Key, Marks};
use super::list::DirEntry;
use super::lower::{WHITEOUT_PREFIX, for_each_name};
use super::node::ROOT;
use crate::diff::{Change, ChangeKind};
use crate::erofs::FileKind;

/// Bytes that are compared at once.
const PIECE: usize = 64 << 10;

/// What is known of the differences.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Not those that are listed only for what is in them.
    changes: BTreeMap<Key, Change>,
    /// Files with several names: a change by one is a change of all.
    linked: BTreeSet<Key>,
    /// The layers alone.
    base: Option<Box<Fs>>,
}

/// A file that was looked up, until it is let go of.
struct Held<'a> {
    fs: &'a Fs,
    nodes: Vec<u64>,
    attr: Attr,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            self.fs.forget(*node, 1);
        }
    }
}

impl Held<'_> {
    fn is_dir(&self) -> bool {
        self.attr.kind == FileKind::Dir
    }

    fn file_size(&self) -> i64 {
        if self.attr.kind == FileKind::File { self.attr.size as i64 } else { 0 }
    }

    fn in_upper(&self) -> Answer<bool> {
        Ok(self.fs.nodes.get(self.attr.number)?.in_upper())
    }

    fn attributes(&self) -> Answer<Vec<Attribute>> {
        let mut all = Vec::new();
        for name in self.fs.listxattr(self.attr.number)? {
            let value = self.fs.getxattr(self.attr.number, &name)?;
            all.push((name, value));
        }
        all.sort();
        Ok(all)
    }
}

/// The file at a path, if there is one.
fn find<'a>(fs: &'a Fs, key: &[u8]) -> Answer<Option<Held<'a>>> {
    let mut held = Held { fs, nodes: Vec::new(), attr: fs.getattr(ROOT)? };
    held.attr.number = ROOT;
    for name in key.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match fs.lookup(held.attr.number, name) {
            Ok(Some(attr)) => {
                held.nodes.push(attr.number);
                held.attr = attr;
            }
            Ok(None) | Err(Errno::NOTDIR | Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(held))
}

fn names(dir: &Held<'_>) -> Answer<Vec<Vec<u8>>> {
    let handle = dir.fs.opendir(dir.attr.number)?;
    let mut names = Vec::new();
    let listed = dir.fs.readdir(dir.attr.number, handle, 2, false, &mut |entry: &DirEntry<'_>| {
        names.push(entry.name.to_vec());
        true
    });
    dir.fs.releasedir(handle);
    listed.map(|()| names)
}

fn joined(key: &[u8], name: &[u8]) -> Key {
    if key.is_empty() { name.to_vec() } else { [key, &[0], name].concat() }
}

fn shown(key: &[u8]) -> Vec<u8> {
    let mut path = vec![b'/'];
    path.extend(key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }));
    path
}

impl Fs {
    /// What differs from the layers, in the order and with the meaning of [`crate::diff::of_upper`]. Nothing is walked but
    /// what is new since the last time; the first time, an upper directory that was not empty is.
    pub fn changes(&self) -> Answer<Vec<Change>> {
        if self.is_read_only() {
            return Ok(Vec::new());
        }
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = self.renew(&mut known);
        if result.is_err() {
            // What was noted is lost.
            self.journal.forget();
        }
        result.map(|()| listed(&known.changes))
    }

    fn renew(&self, known: &mut Known) -> Answer<()> {
        let marks: Marks = self.noted();
        if known.base.is_none() && !self.lowers.is_empty() {
            let options =
                FsOptions { lowers: self.lowers.clone(), owners: self.owners.clone(), open_dirs: 64, ..FsOptions::default() };
            known.base = Some(Box::new(Fs::new(options).map_err(|error| super::attr::errno(&error))?));
        }
        let Known { changes, linked, base } = known;
        let mut looking = Looking { now: self, base: base.as_deref(), changes, linked };
        for key in &marks.trees {
            looking.tree(key)?;
        }
        let again: Vec<Key> = looking.linked.iter().chain(&marks.files).cloned().collect();
        for key in again.iter().filter(|key| !marks.covers(key)) {
            looking.one(key)?;
        }
        Ok(())
    }

    /// Names that can differ between a directory and the same one of the layers; `None` if all can.
    fn touched(&self, dir: u64) -> Answer<Option<Vec<Vec<u8>>>> {
        let node = self.nodes.get(dir)?;
        let _names = self.shared();
        let (upper, merged) = {
            let spot = node.spot();
            (spot.upper, !spot.lowers.is_empty())
        };
        match (upper, merged) {
            (false, _) => Ok(Some(Vec::new())),
            (true, false) => Ok(None),
            (true, true) => {
                let mut names = Vec::new();
                for_each_name(std::os::fd::AsFd::as_fd(&*self.dir_fd(UPPER, &node)?), |name, _, _| {
                    names.push(name.strip_prefix(WHITEOUT_PREFIX).unwrap_or(name).to_vec());
                    Ok(())
                })?;
                Ok(Some(names))
            }
        }
    }
}

/// All changes, with the directories that are listed for what is in them.
fn listed(changes: &BTreeMap<Key, Change>) -> Vec<Change> {
    let mut list: Vec<Change> = Vec::with_capacity(changes.len());
    let mut above: BTreeSet<Key> = BTreeSet::new();
    for (key, change) in changes {
        for (at, _) in key.iter().enumerate().filter(|(_, byte)| **byte == 0) {
            let parent = &key[..at];
            if !changes.contains_key(parent) && above.insert(parent.to_vec()) {
                let kind = ChangeKind::Modified;
                list.push(Change { path: shown(parent), kind, size: 0, content: false, metadata: false });
            }
        }
        list.push(change.clone());
    }
    list
}

struct Looking<'a> {
    now: &'a Fs,
    base: Option<&'a Fs>,
    changes: &'a mut BTreeMap<Key, Change>,
    linked: &'a mut BTreeSet<Key>,
}

impl<'a> Looking<'a> {
    fn sides(&self, key: &[u8]) -> Answer<(Option<Held<'a>>, Option<Held<'a>>)> {
        let base = self.base.map(|base| find(base, key)).transpose()?.flatten();
        Ok((base, find(self.now, key)?))
    }

    /// Looks at all at and below a path.
    fn tree(&mut self, top: &Key) -> Answer<()> {
        if top.is_empty() {
            self.changes.clear();
            self.linked.clear();
        } else {
            let (from, to) = ([&top[..], &[0]].concat(), [&top[..], &[1]].concat());
            let below: Vec<Key> = self.changes.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
            for key in &below {
                self.changes.remove(key);
            }
            let below: Vec<Key> = self.linked.range(from..to).cloned().collect();
            for key in &below {
                self.linked.remove(key);
            }
        }
        let mut todo = vec![top.clone()];
        while let Some(key) = todo.pop() {
            let (base, now) = self.one(&key)?;
            let Some(now) = now.filter(Held::is_dir) else { continue };
            let names = match base.filter(Held::is_dir) {
                None => names(&now)?,
                Some(base) => match self.now.touched(now.attr.number)? {
                    Some(touched) => touched,
                    None => names(&base)?.into_iter().chain(names(&now)?).collect::<BTreeSet<_>>().into_iter().collect(),
                },
            };
            todo.extend(names.iter().map(|name| joined(&key, name)));
        }
        Ok(())
    }

    /// Looks at one file, or at a directory itself.
    fn one(&mut self, key: &Key) -> Answer<(Option<Held<'a>>, Option<Held<'a>>)> {
        self.changes.remove(key);
        self.linked.remove(key);
        let (base, now) = self.sides(key)?;
        if let Some(now) = &now
            && !now.is_dir()
            && now.attr.links > 1
            && now.in_upper()?
        {
            self.linked.insert(key.clone());
        }
        let change = |kind, size, content, metadata| Change { path: shown(key), kind, size, content, metadata };
        let found = match (&base, &now) {
            (None, None) => None,
            // The root is there without layers too.
            (None, Some(_)) if key.is_empty() => None,
            (None, Some(now)) => Some(change(ChangeKind::Added, now.file_size(), true, true)),
            (Some(base), None) => Some(change(ChangeKind::Deleted, -total(base)?, true, true)),
            (Some(base), Some(now)) => {
                let (content, metadata) = compared(base, now)?;
                let removed = if base.is_dir() && !now.is_dir() { total(base)? } else { base.file_size() };
                let size = if base.is_dir() && now.is_dir() { 0 } else { now.file_size() - removed };
                (content || metadata).then(|| change(ChangeKind::Modified, size, content, metadata))
            }
        };
        if let Some(found) = found {
            self.changes.insert(key.clone(), found);
        }
        Ok((base, now))
    }
}

/// Whether content and metadata differ.
fn compared(base: &Held<'_>, now: &Held<'_>) -> Answer<(bool, bool)> {
    if !now.in_upper()? {
        return Ok((false, false));
    }
    let (a, b) = (&base.attr, &now.attr);
    // Nobody can change a symlink's mode; file systems answer what they like.
    let who = |attr: &Attr| (if attr.kind == FileKind::Symlink { 0 } else { attr.mode & 0o7777 }, attr.uid, attr.gid);
    let metadata = who(a) != who(b) || base.attributes()? != now.attributes()?;
    let content = match a.kind {
        _ if a.kind != b.kind => true,
        FileKind::File => a.size != b.size || !same_bytes(base, now)?,
        FileKind::Symlink => base.fs.readlink(a.number)? != now.fs.readlink(b.number)?,
        FileKind::CharDevice | FileKind::BlockDevice => a.device != b.device,
        _ => false,
    };
    Ok((content, metadata))
}

fn same_bytes(base: &Held<'_>, now: &Held<'_>) -> Answer<bool> {
    let sides = [base, now];
    let mut open = Vec::with_capacity(2);
    for side in sides {
        match side.fs.open(side.attr.number) {
            Ok(handle) => open.push((side, handle)),
            Err(error) => {
                close(&open);
                return Err(error);
            }
        }
    }
    let mut buffers = [vec![0; PIECE], vec![0; PIECE]];
    let mut compare = || {
        let mut offset = 0;
        loop {
            let mut got = [0; 2];
            for ((got, buffer), (side, handle)) in got.iter_mut().zip(&mut buffers).zip(&open) {
                *got = side.fs.read(side.attr.number, *handle, buffer, offset)?;
            }
            if buffers[0][..got[0]] != buffers[1][..got[1]] {
                return Ok(false);
            }
            if got[0] == 0 {
                return Ok(true);
            }
            offset += got[0] as u64;
        }
    };
    let same = compare();
    close(&open);
    same
}

/// Nothing was written by these handles: it is not noted.
fn close(open: &[(&Held<'_>, u64)]) {
    for (side, handle) in open {
        drop(side.fs.handles.close_file(*handle));
    }
}

/// Bytes of the regular files at and below a file of the layers; one with several names counts once.
fn total(top: &Held<'_>) -> Answer<i64> {
    let mut sum = top.file_size();
    let mut seen = HashSet::new();
    let mut todo = Vec::new();
    if top.is_dir() {
        todo.push(top.attr.number);
    }
    let fs = top.fs;
    let mut held: Vec<u64> = Vec::new();
    let mut walk = || -> Answer<()> {
        while let Some(dir) = todo.pop() {
            let handle = fs.opendir(dir)?;
            let mut entries = Vec::new();
            let listed = fs.readdir(dir, handle, 2, true, &mut |entry: &DirEntry<'_>| {
                entries.extend(entry.attr);
                true
            });
            fs.releasedir(handle);
            held.extend(entries.iter().map(|attr| attr.number));
            listed?;
            for attr in entries {
                match attr.kind {
                    FileKind::Dir => todo.push(attr.number),
                    FileKind::File if attr.links < 2 || seen.insert(attr.number) => sum += attr.size as i64,
                    _ => {}
                }
            }
        }
        Ok(())
    };
    let walked = walk();
    for node in held {
        fs.forget(node, 1);
    }
    walked.map(|()| sum)
}
