//! Names moved, as overlayfs does it without `redirect_dir`: a directory that is not wholly in the upper is not moved
//! (EXDEV, which makes `mv` copy it).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fs_base::durable;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::attr::Answer;
use super::change::{cover, cover_dir, remove_dir, unmark};
use super::file::{path_fd, stat_at};
use super::fs::{Found, Fs};
use super::lower::{WHITEOUT_PREFIX, must_have_data};
use super::node::Node;
use super::upper::Upper;
use crate::erofs::FileKind;

/// What happens to a name that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It is replaced.
    Replace,
    /// Nothing is done.
    Keep,
    /// It gets the other name.
    Exchange,
}

/// One end of a move.
struct End<'a> {
    dir: Arc<Node>,
    name: &'a [u8],
    found: Option<Found>,
    fd: Arc<OwnedFd>,
    /// Layers below have something of this name.
    below: bool,
}

impl Fs {
    /// Moves a name.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), over: Over) -> Answer<()> {
        let upper = self.upper()?;
        if to.1.starts_with(WHITEOUT_PREFIX) {
            return Err(Errno::INVAL);
        }
        self.bring_up(from)?;
        if over == Over::Exchange {
            self.bring_up(to)?;
        }
        let _names = self.exclusive();
        let (from, to) = (self.end(from)?, self.end(to)?);
        let Some(moved) = &from.found else { return Err(Errno::NOENT) };
        movable(moved)?;
        match (&to.found, over) {
            (Some(_), Over::Keep) => return Err(Errno::EXIST),
            (None, Over::Exchange) => return Err(Errno::NOENT),
            (Some(other), Over::Exchange) => movable(other)?,
            (Some(other), Over::Replace) if other.key == moved.key => return Ok(()),
            (Some(other), Over::Replace) => match (moved.attr.is_dir(), other.attr.is_dir()) {
                (false, true) => return Err(Errno::ISDIR),
                (true, false) => return Err(Errno::NOTDIR),
                (true, true) => self.must_be_empty(&to.dir, to.name, other)?,
                (false, false) => {}
            },
            (None, _) => {}
        }
        has_data(&from)?;
        hide_below(upper, &from, &to)?;
        if over == Over::Exchange {
            has_data(&to)?;
            hide_below(upper, &to, &from)?;
            durable::rename_at(from.fd.as_fd(), from.name, to.fd.as_fd(), to.name, RenameFlags::EXCHANGE)?;
            self.renamed(&to, &from);
        } else {
            let held = to.found.as_ref().map(|found| self.hold(&to.dir, to.name, found)).transpose()?.flatten();
            move_over(upper, &from, &to, moved.attr.is_dir())?;
            unmark(to.fd.as_fd(), to.name)?;
            if let Some(other) = &to.found {
                self.retire(&to.dir, to.name, other, held);
            }
        }
        self.renamed(&from, &to);
        Ok(())
    }

    /// A file that is to be moved must be in the upper.
    fn bring_up(&self, (parent, name): (u64, &[u8])) -> Answer<()> {
        let dir = self.nodes.get(parent)?;
        let node = {
            let _names = self.shared();
            match self.find(&dir, name)? {
                Some(found) if !found.upper && !found.attr.is_dir() => self.enter(&dir, name, &found),
                _ => return Ok(()),
            }
        };
        let result = self.copy_up(&node, false);
        let id = node.id;
        drop(node);
        self.nodes.forget(id, 1);
        result
    }

    fn end<'a>(&self, (parent, name): (u64, &'a [u8])) -> Answer<End<'a>> {
        let dir = self.nodes.get(parent)?;
        let found = self.find(&dir, name)?;
        let below = self.below(&dir, name)?.is_some();
        let fd = self.dir_up(&dir)?;
        Ok(End { dir, name, found, fd, below })
    }

    /// The node that was at one end is at the other.
    fn renamed(&self, from: &End<'_>, to: &End<'_>) {
        self.note_name(&from.dir, from.name);
        self.note_name(&to.dir, to.name);
        let Some(node) = from.found.as_ref().and_then(|found| self.nodes.known(found.key)) else { return };
        let mut spot = node.spot();
        spot.drop_name(&from.dir, from.name);
        spot.add_name(&to.dir, to.name);
    }
}

/// Only what is wholly in the upper can be moved.
fn movable(found: &Found) -> Answer<()> {
    if found.upper && found.lowers.is_empty() { Ok(()) } else { Err(Errno::XDEV) }
}

/// What the kernel's overlayfs finds the data of by its name keeps that name.
fn has_data(end: &End<'_>) -> Answer<()> {
    if end.found.as_ref().is_some_and(|found| found.attr.kind == FileKind::File) {
        must_have_data(path_fd(end.fd.as_fd(), end.name)?.as_fd())?;
    }
    Ok(())
}

/// A directory that comes to where layers below have one must not be merged with it.
fn hide_below(upper: &Upper, from: &End<'_>, to: &End<'_>) -> Answer<()> {
    if to.below && from.found.as_ref().is_some_and(|found| found.attr.is_dir()) {
        upper.make_opaque(path_fd(from.fd.as_fd(), from.name)?)?;
    }
    Ok(())
}

/// The move in the upper. Where layers below have the old name, a whiteout takes its place.
fn move_over(upper: &Upper, from: &End<'_>, to: &End<'_>, is_dir: bool) -> Answer<()> {
    let (old, new) = (from.fd.as_fd(), to.fd.as_fd());
    let in_the_way = if is_dir { stat_at(new, to.name)? } else { None };
    if let Some(other) = in_the_way {
        // A whiteout, or a directory that is empty but for whiteouts: neither can be replaced by a directory.
        let other_is_dir = rustix::fs::FileType::from_raw_mode(other.st_mode).is_dir();
        durable::rename_at(old, from.name, new, to.name, RenameFlags::EXCHANGE)?;
        return match (from.below, other_is_dir) {
            (true, false) => Ok(()),
            (true, true) => cover_dir(upper, old, from.name, true),
            (false, true) => remove_dir(upper, old, from.name),
            (false, false) => rustix::fs::unlinkat(old, from.name, rustix::fs::AtFlags::empty()),
        };
    }
    if !from.below {
        return durable::rename_at(old, from.name, new, to.name, RenameFlags::empty());
    }
    match durable::rename_at(old, from.name, new, to.name, RenameFlags::WHITEOUT) {
        Err(Errno::INVAL | Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => {
            durable::rename_at(old, from.name, new, to.name, RenameFlags::empty())?;
            cover(upper, old, from.name, false)
        }
        other => other,
    }
}
