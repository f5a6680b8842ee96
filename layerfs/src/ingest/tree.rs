//! The tree of one layer as its entries come in: names made safe, marks translated, links resolved.
//!
//! Where dockerd has a rule, it is followed: later entries win, a directory's entry changes the directory that is
//! there, missing parents are root's with mode 0755, a hard link must point at what this layer has. Symlinks in an
//! entry's path are followed inside the layer, as in a chroot. Two things differ on purpose. A missing parent has the
//! time 0, not that of unpacking, so that a layer always gives the same index. A name that climbs out of the root
//! is refused; dockerd, in its chroot, would put it into the root.

use std::collections::VecDeque;
use std::io::BufRead;

use fs_base::{Error, Result};

use super::estargz::{self, Role};
use crate::erofs::{Body, FileKind, Image, Meta, NodeId, Segment, xattr_is_supported};
use crate::tar::{Entry, EntryKind, Limits, Reader, acl, limit};

/// The kernel's bound on symlinks in one resolution (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;
/// Names that links may lead through in all of a layer: so many, and so many more for each entry. Layers that people make
/// have one or two links in some paths; 40 in each, of a thousand names each, would keep a core busy for hours.
const LINK_STEPS: u64 = 100_000;
const LINK_STEPS_EACH: u64 = 100;
/// AUFS's marks, which layers carry whatever the driver. Source: OCI image spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_INTERNAL: &[u8] = b".wh..wh.";
/// overlayfs's mark for a directory that hides what is below it.
pub(crate) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";
/// A mark without a value on a directory that has whiteouts. Without it overlayfs lists the whiteouts of a directory that
/// only this layer has as names that are not there. Source: Linux `fs/overlayfs/inode.c`, `ovl_get_inode`,
/// "non-merge dir that may have whiteouts".
const ORIGIN_XATTR: &[u8] = b"trusted.overlay.origin";
/// What a directory has that no entry describes, the root too.
const IMPLIED: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };

/// Collects entries, later ones over earlier ones.
pub(super) struct TreeBuilder {
    image: Image,
    limits: Limits,
    entries: u64,
    /// Names that links have led through so far.
    link_steps: u64,
    /// Directory of the last entry: the next one is mostly its neighbour.
    last: Option<(Vec<u8>, NodeId)>,
}

impl TreeBuilder {
    /// Reads all entries of a layer.
    pub fn read<R: BufRead>(reader: &mut Reader<R>, limits: Limits) -> Result<TreeBuilder> {
        let mut tree = TreeBuilder { image: Image::new(IMPLIED), limits, entries: 0, link_steps: 0, last: None };
        let mut table = None;
        while let Some(entry) = reader.next_entry()? {
            tree.count()?;
            if let Some(file) = table.take() {
                tree.add(&file)?;
            }
            match estargz::role(&entry, reader)? {
                Role::Content => tree.add(&entry)?,
                Role::Landmark => {}
                Role::Toc => table = Some(entry),
            }
        }
        Ok(tree)
    }

    /// Entries taken so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The tree so far.
    pub fn image(&self) -> &Image {
        &self.image
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.image.weight() > self.limits.index {
            return Err(limit("index_bytes", format_args!("its tree takes more than {} bytes", self.limits.index)));
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        self.place(entry).map_err(|e| e.context(format!("layer entry {:?}", String::from_utf8_lossy(&entry.path))))
    }

    fn place(&mut self, entry: &Entry) -> Result<()> {
        let components = components(&entry.path, self.limits.depth)?;
        let Some((name, parents)) = components.split_last() else {
            // The root's own entry: only a directory can stand for it.
            return if entry.kind == EntryKind::Dir { self.describe(self.image.root(), entry) } else { Ok(()) };
        };
        if components.iter().any(|name| name.starts_with(AUFS_INTERNAL) && *name != OPAQUE) {
            return Ok(());
        }
        let directory = self.directory(parents)?;
        match name.strip_prefix(WHITEOUT) {
            // overlayfs takes no mark on the root of a layer, so dockerd, containerd and Podman show what is below. To
            // leave it out is what makes the tree in user space and every driver show the same.
            Some(_) if *name == OPAQUE && directory == self.image.root() => Ok(()),
            Some(_) if *name == OPAQUE => self.make_opaque(directory),
            Some(hidden) => self.white_out(directory, hidden, entry),
            None => self.put(directory, name, entry),
        }
    }

    fn put(&mut self, directory: NodeId, name: &[u8], entry: &Entry) -> Result<()> {
        if let EntryKind::HardLink(target) = &entry.kind {
            let target = self.find(target)?;
            return self.insert(directory, name, target);
        }
        let existing = self.image.get(directory, name);
        let is_dir = entry.kind == EntryKind::Dir;
        if let Some(old) = existing.filter(|id| is_dir && self.image.kind(*id) == FileKind::Dir) {
            return self.describe(old, entry);
        }
        let was_whiteout = existing.is_some_and(|id| self.is_whiteout(id));
        let id = self.add_node(entry)?;
        self.insert(directory, name, id)?;
        if was_whiteout && is_dir { self.make_opaque(id) } else { Ok(()) }
    }

    fn add_node(&mut self, entry: &Entry) -> Result<NodeId> {
        let segments: Vec<Segment>;
        let body = match &entry.kind {
            EntryKind::File(pieces) => {
                segments = pieces
                    .iter()
                    .map(|p| Segment { file_offset: p.file_offset, length: p.length, data_offset: p.stream_offset })
                    .collect();
                Body::File { size: entry.size, segments: &segments }
            }
            EntryKind::Symlink(target) if target.is_empty() => return Err(Error::invalid("symbolic link without a target")),
            EntryKind::Symlink(target) => Body::Symlink(target),
            EntryKind::CharDevice(major, minor) => Body::CharDevice(*major, *minor),
            EntryKind::BlockDevice(major, minor) => Body::BlockDevice(*major, *minor),
            EntryKind::Dir => Body::Dir,
            EntryKind::Fifo => Body::Fifo,
            EntryKind::HardLink(_) => return Err(Error::internal("a hard link is no file of its own")),
        };
        let id = self.image.add(meta_of(entry), body)?;
        self.image.set_xattrs(id, kept_xattrs(entry, self.limits)?)?;
        Ok(id)
    }

    /// Gives a directory the metadata of its entry; the mark that it is opaque stays.
    fn describe(&mut self, id: NodeId, entry: &Entry) -> Result<()> {
        let mut xattrs = kept_xattrs(entry, self.limits)?;
        // Marks that other entries have made stay: no entry can bring one.
        xattrs.extend(self.image.xattrs(id).into_iter().filter(|(name, _)| name == OPAQUE_XATTR || name == ORIGIN_XATTR));
        xattrs.sort();
        self.image.set_meta(id, meta_of(entry));
        self.image.set_xattrs(id, xattrs)
    }

    /// `.wh.NAME`: what lower layers have under the name is gone; what this layer has stays.
    fn white_out(&mut self, directory: NodeId, name: &[u8], entry: &Entry) -> Result<()> {
        check_name(name)?;
        match self.image.get(directory, name) {
            Some(id) if self.image.kind(id) == FileKind::Dir => self.make_opaque(id),
            Some(_) => Ok(()),
            None => {
                let id = self.image.add(Meta { mode: 0, ..meta_of(entry) }, Body::CharDevice(0, 0))?;
                self.insert(directory, name, id)?;
                self.mark(directory, ORIGIN_XATTR, b"")
            }
        }
    }

    fn make_opaque(&mut self, id: NodeId) -> Result<()> {
        self.mark(id, OPAQUE_XATTR, b"y")
    }

    fn mark(&mut self, id: NodeId, name: &[u8], value: &[u8]) -> Result<()> {
        let mut xattrs = self.image.xattrs(id);
        if xattrs.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        xattrs.push((name.to_vec(), value.to_vec()));
        xattrs.sort();
        self.image.set_xattrs(id, xattrs)
    }

    fn is_whiteout(&self, id: NodeId) -> bool {
        self.image.body(id) == Body::CharDevice(0, 0)
    }

    /// The directory of this path; symlinks of this layer are followed inside it, what is missing is made.
    fn directory(&mut self, parents: &[&[u8]]) -> Result<NodeId> {
        let key = parents.join(&b'/');
        if let Some((last, id)) = &self.last
            && *last == key
        {
            return Ok(*id);
        }
        let id = self.walk(parents, true)?.ok_or_else(|| Error::internal("a directory was not made"))?;
        self.last = Some((key, id));
        Ok(id)
    }

    /// The directory of this path. What is missing is made if `make`, else the answer is `None`.
    fn walk(&mut self, path: &[&[u8]], make: bool) -> Result<Option<NodeId>> {
        let root = self.image.root();
        let mut stack = vec![root];
        let mut pending: VecDeque<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            // Each link leads to a path that is short enough, but one into the next leads as deep as it likes.
            if stack.len() > self.limits.depth {
                return Err(too_deep(self.limits.depth));
            }
            let here = *stack.last().unwrap_or(&root);
            if name == b".." {
                // Above the root is the root.
                stack.truncate(stack.len().max(2) - 1);
                continue;
            }
            let existing = self.image.get(here, &name);
            match existing.map(|id| (id, self.image.kind(id))) {
                Some((id, FileKind::Dir)) => stack.push(id),
                Some((id, FileKind::Symlink)) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Error::invalid("too many symbolic links in its path"));
                    }
                    let target = self.image.target(id);
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for name in target.split(|&b| b == b'/').rev().filter(|name| !matches!(*name, b"" | b".")) {
                        if name != b".." {
                            check_name(name)?;
                        }
                        pending.push_front(name.to_vec());
                    }
                    if pending.len() > self.limits.depth {
                        return Err(too_deep(self.limits.depth));
                    }
                    self.link_steps += pending.len() as u64;
                    if self.link_steps > LINK_STEPS + LINK_STEPS_EACH * self.entries {
                        return Err(limit("links", "its paths lead through very many symbolic links, again and again"));
                    }
                }
                Some((id, _)) if !self.is_whiteout(id) => {
                    return Err(Error::invalid(format!("{:?} in its path is not a directory", String::from_utf8_lossy(&name))));
                }
                _ if !make => return Ok(None),
                whiteout => {
                    let id = self.image.add(IMPLIED, Body::Dir)?;
                    self.insert(here, &name, id)?;
                    if whiteout.is_some() {
                        self.make_opaque(id)?;
                    }
                    stack.push(id);
                }
            }
        }
        Ok(stack.pop())
    }

    /// The target of a hard link. No last symlink is followed: the link is a second name for the symlink itself.
    fn find(&mut self, path: &[u8]) -> Result<NodeId> {
        let components = components(path, self.limits.depth)?;
        let missing = || {
            Error::invalid(format!("hard link to {:?}, which is not in this layer", String::from_utf8_lossy(path)))
                .with_hint("a layer's hard links lead to its own files: build it again with that file in it")
        };
        let (name, parents) = components.split_last().ok_or_else(missing)?;
        let directory = self.walk(parents, false)?.ok_or_else(missing)?;
        let id = self.image.get(directory, name).filter(|id| !self.is_whiteout(*id)).ok_or_else(missing)?;
        if self.image.kind(id) == FileKind::Dir {
            return Err(Error::invalid(format!("hard link to {:?}, which is a directory", String::from_utf8_lossy(path))));
        }
        Ok(id)
    }

    /// Gives `name` to `id`; what had it before loses it.
    fn insert(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Result<()> {
        if self.image.get(directory, name).is_some_and(|old| old != id) {
            // The path of the last entry may have led through it.
            self.last = None;
        }
        self.image.put(directory, name, id)
    }
}

fn meta_of(entry: &Entry) -> Meta {
    let mode = if matches!(entry.kind, EntryKind::Symlink(_)) { 0o777 } else { entry.mode };
    Meta { mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, mtime_nanos: entry.mtime_nanos }
}

/// Splits an entry's path. Leading slashes and `.` mean nothing; `..` is refused, as dockerd refuses what leaves
/// the root.
fn components(path: &[u8], depth: usize) -> Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop().ok_or_else(|| Error::invalid("its path leaves the layer's root"))?;
            }
            name => {
                check_name(name)?;
                names.push(name);
            }
        }
    }
    if names.len() > depth {
        return Err(too_deep(depth));
    }
    Ok(names)
}

fn too_deep(depth: usize) -> Error {
    limit("depth", format_args!("a path of more than {depth} components"))
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name == b"." || name == b".." {
        return Err(Error::invalid("a name of its path is empty or longer than 255 bytes"));
    }
    Ok(())
}

/// The attributes that a layer may bring. Those of overlayfs itself would let an image forge whiteouts and redirects;
/// namespaces that the kernel doesn't have can't be stored; and what the kernel does not keep on a file of this kind is
/// left out as it is by all that unpack.
fn kept_xattrs(entry: &Entry, limits: Limits) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let total: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > limits.attributes {
        let what = format_args!("more than {} bytes of extended attributes on one file", limits.attributes);
        return Err(limit("attributes", what));
    }
    let is_forged = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let mut kept = Vec::with_capacity(entry.xattrs.len());
    for (name, value) in &entry.xattrs {
        if xattr_is_supported(name) && !is_forged(name) && is_kept(&entry.kind, name, value)? {
            kept.push((name.clone(), value.clone()));
        }
    }
    Ok(kept)
}

/// Whether the kernel keeps this attribute on a file of this kind. Source: xattr(7), "Extended user attributes"; Linux
/// `fs/posix_acl.c`, `set_posix_acl` and `posix_acl_update_mode`.
fn is_kept(kind: &EntryKind, name: &[u8], value: &[u8]) -> Result<bool> {
    let is_dir = *kind == EntryKind::Dir;
    if name == acl::ACCESS || name == acl::DEFAULT {
        if !acl::is_valid(value) {
            return Err(Error::invalid(format!("its attribute {} is not an ACL", String::from_utf8_lossy(name))));
        }
        let is_access = name == acl::ACCESS;
        return Ok(is_dir && !is_access || is_access && !acl::is_mode(value) && !matches!(kind, EntryKind::Symlink(_)));
    }
    Ok(!name.starts_with(b"user.") || is_dir || matches!(kind, EntryKind::File(_)))
}
