//! Hard links of a lower layer, which copy-up keeps: all names of a file go up together.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::durable;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::attr::{Answer, errno};
use super::copy_up::restore_times;
use super::fs::Fs;
use super::lower::{Lower, for_each_name};
use super::node::{Key, Node, Place, ROOT};
use crate::erofs::{FileKind, Index, Nid};

/// The paths of each file of a layer that has several, by its number.
type Paths = HashMap<u64, Vec<Vec<u8>>>;

/// What is known of the layers' hard links; found out when the first file with several names is copied up.
#[derive(Debug, Default)]
pub(super) struct Links {
    layers: Mutex<HashMap<u16, Arc<Paths>>>,
}

impl Fs {
    /// Links the copy of a file to the other names that it has below, as far as they show. The caller has the exclusive
    /// lock on names.
    pub(super) fn link_others(&self, place: Place, node: &Arc<Node>, copy: BorrowedFd<'_>) -> Answer<()> {
        let paths = self.paths(place.layer)?;
        for path in paths.get(&place.number).into_iter().flatten() {
            let Some((dir, name)) = self.dir_of(path)? else { continue };
            let linked = self.find(&dir, name).and_then(|found| {
                if found.is_none_or(|found| found.upper || found.key != Key::Lower(place)) {
                    return Ok(());
                }
                let above = self.dir_up(&dir)?;
                let before = rustix::fs::fstat(&above)?;
                durable::link_fd_at(copy, above.as_fd(), name)?;
                restore_times(above.as_fd(), &before)?;
                node.spot().add_name(&dir, name);
                self.note_copy(&dir, name);
                Ok(())
            });
            self.put_back(dir);
            linked?;
        }
        Ok(())
    }

    /// The directory that holds the last name of a path, and that name; looked up, so to be put back.
    fn dir_of<'a>(&self, path: &'a [u8]) -> Answer<Option<(Arc<Node>, &'a [u8])>> {
        let mut names: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        let Some(last) = names.pop() else { return Ok(None) };
        let mut dir = self.nodes.get(ROOT)?;
        for name in names {
            let found = self.find(&dir, name)?.filter(|found| found.attr.is_dir());
            let next = found.map(|found| self.enter(&dir, name, &found));
            self.put_back(dir);
            let Some(next) = next else { return Ok(None) };
            dir = next;
        }
        Ok(Some((dir, last)))
    }

    fn put_back(&self, node: Arc<Node>) {
        let id = node.id;
        drop(node);
        if id != ROOT {
            self.nodes.forget(id, 1);
        }
    }

    fn paths(&self, layer: u16) -> Answer<Arc<Paths>> {
        let mut layers = self.links.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paths) = layers.get(&layer) {
            return Ok(Arc::clone(paths));
        }
        let mut paths = Paths::new();
        match &self.lowers[usize::from(layer)] {
            Lower::Indexed(indexed) => of_index(&indexed.index, &mut paths)?,
            Lower::Plain(plain) => of_directory(plain.root.as_fd(), &[], &mut paths)?,
        }
        let paths = Arc::new(paths);
        layers.insert(layer, Arc::clone(&paths));
        Ok(paths)
    }
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn of_index(index: &Index, paths: &mut Paths) -> Answer<()> {
    let mut todo = vec![(index.root(), Vec::new())];
    while let Some((dir, path)) = todo.pop() {
        for entry in index.read_dir(dir).map_err(|e| errno(&e))? {
            let inode = index.inode(Nid(entry.nid.0)).map_err(|e| errno(&e))?;
            if inode.kind == FileKind::Dir {
                todo.push((entry.nid, joined(&path, entry.name)));
            } else if inode.links > 1 {
                paths.entry(entry.nid.0).or_default().push(joined(&path, entry.name));
            }
        }
    }
    Ok(())
}

fn of_directory(dir: BorrowedFd<'_>, path: &[u8], paths: &mut Paths) -> Answer<()> {
    for_each_name(dir, |name, number, kind| {
        if kind == FileKind::Dir {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            return of_directory(inner.as_fd(), &joined(path, name), paths);
        }
        if rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_nlink > 1 {
            paths.entry(number).or_default().push(joined(path, name));
        }
        Ok(())
    })
}
