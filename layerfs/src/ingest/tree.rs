//! The tree of one layer as its entries come in.

use std::collections::{BTreeMap, HashMap, VecDeque};

use fs_base::{Error, Result};

use crate::erofs::{FileKind, Image, Node, NodeId};
use crate::tar::{Entry, EntryKind, Limits};

const ROOT: NodeId = NodeId(0);
/// The kernel's bound on symlinks in one resolution (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;
/// AUFS's marks, which layers carry whatever the driver. Source: OCI image spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_INTERNAL: &[u8] = b".wh..wh.";
/// overlayfs's mark for a directory that hides what is below it.
pub(crate) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// Collects entries, later ones over earlier ones.
pub struct TreeBuilder {
    nodes: Vec<Node>,
    /// By directory: its names.
    names: HashMap<NodeId, BTreeMap<Vec<u8>, NodeId>>,
    limits: Limits,
    entries: u64,
    file_bytes: u64,
    /// Directory of the last entry: the next one is mostly its neighbour.
    last: (Vec<u8>, NodeId),
}

impl TreeBuilder {
    pub fn new(limits: Limits) -> TreeBuilder {
        TreeBuilder {
            nodes: vec![Node::new(FileKind::Dir, 0o755)],
            names: HashMap::from([(ROOT, BTreeMap::new())]),
            limits,
            entries: 0,
            file_bytes: 0,
            last: (Vec::new(), ROOT),
        }
    }

    /// Entries taken so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes one entry.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        self.place(entry).map_err(|e| e.context(format!("layer entry {:?}", String::from_utf8_lossy(&entry.path))))
    }

    fn place(&mut self, entry: &Entry) -> Result<()> {
        let components = components(&entry.path, self.limits.depth)?;
        let Some((name, parents)) = components.split_last() else {
            // The root's own entry: only a directory can stand for it.
            if entry.kind == EntryKind::Dir {
                set_metadata(&mut self.nodes[0], entry);
                self.nodes[0].xattrs = kept_xattrs(entry, self.limits)?;
            }
            return Ok(());
        };
        let directory = self.directory(parents)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if *name == OPAQUE {
                self.make_opaque(directory);
            } else if !name.starts_with(AUFS_INTERNAL) {
                self.white_out(directory, hidden)?;
            }
            return Ok(());
        }
        self.put(directory, name, entry)
    }

    fn put(&mut self, directory: NodeId, name: &[u8], entry: &Entry) -> Result<()> {
        if let EntryKind::HardLink(target) = &entry.kind {
            let target = self.find(target)?.ok_or_else(|| {
                Error::invalid(format!("hard link to {:?}, which is not in this layer", String::from_utf8_lossy(target)))
            })?;
            if self.node(target).kind == FileKind::Dir {
                return Err(Error::invalid("hard link to a directory"));
            }
            self.node_mut(target).links += 1;
            self.insert(directory, name, target);
            return Ok(());
        }
        let xattrs = kept_xattrs(entry, self.limits)?;
        let existing = self.names[&directory].get(name).copied();
        if let (EntryKind::Dir, Some(old)) = (&entry.kind, existing.filter(|id| self.node(*id).kind == FileKind::Dir)) {
            let opaque = self.is_opaque(old);
            set_metadata(self.node_mut(old), entry);
            self.node_mut(old).xattrs = xattrs;
            if opaque {
                self.make_opaque(old);
            }
            return Ok(());
        }
        let was_whiteout = existing.is_some_and(|id| is_whiteout(self.node(id)));
        let id = self.new_node(node_of(entry, xattrs)?)?;
        self.insert(directory, name, id);
        if was_whiteout && entry.kind == EntryKind::Dir {
            self.make_opaque(id);
        }
        Ok(())
    }

    /// `.wh.NAME`: what lower layers have under the name is gone; what this layer has stays.
    fn white_out(&mut self, directory: NodeId, name: &[u8]) -> Result<()> {
        check_name(name)?;
        match self.names[&directory].get(name).copied() {
            Some(id) if self.node(id).kind == FileKind::Dir => self.make_opaque(id),
            Some(_) => {}
            None => {
                let id = self.new_node(Node::new(FileKind::CharDevice, 0))?;
                self.insert(directory, name, id);
            }
        }
        Ok(())
    }

    fn is_opaque(&self, id: NodeId) -> bool {
        self.node(id).xattrs.iter().any(|(name, _)| name == OPAQUE_XATTR)
    }

    fn make_opaque(&mut self, id: NodeId) {
        if !self.is_opaque(id) {
            let xattrs = &mut self.node_mut(id).xattrs;
            xattrs.push((OPAQUE_XATTR.to_vec(), b"y".to_vec()));
            xattrs.sort();
        }
    }

    /// The directory of this path; symlinks of this layer are followed inside it, what is missing is made.
    fn directory(&mut self, parents: &[&[u8]]) -> Result<NodeId> {
        let key = parents.join(&b'/');
        if key == self.last.0 && self.names.contains_key(&self.last.1) {
            return Ok(self.last.1);
        }
        let id = self.walk(parents)?;
        self.last = (key, id);
        Ok(id)
    }

    fn walk(&mut self, path: &[&[u8]]) -> Result<NodeId> {
        let mut stack = vec![ROOT];
        let mut pending: VecDeque<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            let here = *stack.last().unwrap_or(&ROOT);
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            match self.names[&here].get(&name).copied() {
                Some(id) if self.node(id).kind == FileKind::Dir => stack.push(id),
                Some(id) if self.node(id).kind == FileKind::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Error::invalid("too many symbolic links in its path"));
                    }
                    let target = self.node(id).target.clone();
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
                        return Err(crate::tar::limit(format!("a path of more than {} components", self.limits.depth)));
                    }
                }
                existing => {
                    // A file in the way of a directory is replaced by it, as a later entry replaces an earlier one.
                    let was_whiteout = existing.is_some_and(|id| is_whiteout(self.node(id)));
                    let id = self.new_node(Node::new(FileKind::Dir, 0o755))?;
                    self.insert(here, &name, id);
                    if was_whiteout {
                        self.make_opaque(id);
                    }
                    stack.push(id);
                }
            }
        }
        Ok(*stack.last().unwrap_or(&ROOT))
    }

    /// The node of a hard link's target: names are taken as they are, and no last symlink is followed.
    fn find(&mut self, path: &[u8]) -> Result<Option<NodeId>> {
        let components = components(path, self.limits.depth)?;
        let Some((name, parents)) = components.split_last() else { return Ok(None) };
        let mut here = ROOT;
        for parent in parents {
            match self.names.get(&here).and_then(|names| names.get(*parent)) {
                Some(id) if self.node(*id).kind == FileKind::Symlink => {
                    here = self.walk(parents)?;
                    break;
                }
                Some(id) => here = *id,
                None => return Ok(None),
            }
        }
        Ok(self.names.get(&here).and_then(|names| names.get(*name)).copied().filter(|id| !is_whiteout(self.node(*id))))
    }

    fn new_node(&mut self, node: Node) -> Result<NodeId> {
        let id = u32::try_from(self.nodes.len()).map(NodeId).map_err(|_| Error::invalid("too many entries"))?;
        self.file_bytes += node.size;
        if node.kind == FileKind::Dir {
            self.names.insert(id, BTreeMap::new());
        }
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives `name` to `id`; what had it before loses it.
    fn insert(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        let old = self.names.get_mut(&directory).and_then(|names| names.insert(name.to_vec(), id));
        if let Some(old) = old
            && old != id
        {
            self.release(old);
        } else if old == Some(id) {
            self.node_mut(id).links -= 1;
        }
    }

    fn release(&mut self, id: NodeId) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            self.last = (Vec::new(), ROOT);
            gone.extend(self.names.remove(&id).into_iter().flat_map(BTreeMap::into_values));
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if node.links == 0 {
                self.file_bytes -= self.node(id).size;
            }
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The finished tree, and the bytes of its regular files.
    pub fn finish(mut self) -> (Image, u64) {
        let mut directories: Vec<(NodeId, BTreeMap<Vec<u8>, NodeId>)> = self.names.drain().collect();
        directories.sort_by_key(|(id, _)| *id);
        for (id, names) in directories {
            let children: Vec<_> = names.into_iter().collect();
            let subdirectories = children.iter().filter(|(_, c)| self.nodes[c.0 as usize].kind == FileKind::Dir).count();
            self.nodes[id.0 as usize].links = 2 + subdirectories as u32;
            self.nodes[id.0 as usize].children = children;
        }
        (Image { nodes: self.nodes }, self.file_bytes)
    }
}

fn is_whiteout(node: &Node) -> bool {
    node.kind == FileKind::CharDevice && node.device == (0, 0)
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
        return Err(crate::tar::limit(format!("a path of more than {depth} components")));
    }
    Ok(names)
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name == b"." || name == b".." {
        return Err(Error::invalid("a name of its path is empty or longer than 255 bytes"));
    }
    Ok(())
}

fn set_metadata(node: &mut Node, entry: &Entry) {
    node.mode = entry.mode;
    node.uid = entry.uid;
    node.gid = entry.gid;
    node.mtime = entry.mtime;
    node.mtime_nanos = entry.mtime_nanos;
}

fn node_of(entry: &Entry, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Node> {
    let kind = match &entry.kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => FileKind::File,
        EntryKind::Symlink(_) => FileKind::Symlink,
        EntryKind::CharDevice(..) => FileKind::CharDevice,
        EntryKind::BlockDevice(..) => FileKind::BlockDevice,
        EntryKind::Dir => FileKind::Dir,
        EntryKind::Fifo => FileKind::Fifo,
    };
    let mut node = Node::new(kind, entry.mode);
    set_metadata(&mut node, entry);
    node.xattrs = xattrs;
    match &entry.kind {
        EntryKind::File(segments) => {
            node.size = entry.size;
            node.data = segments.iter().map(|s| (s.file_offset, s.length, s.stream_offset)).collect();
        }
        EntryKind::Symlink(target) if target.is_empty() => return Err(Error::invalid("symbolic link without a target")),
        EntryKind::Symlink(target) => {
            node.target.clone_from(target);
            node.mode = 0o777;
        }
        EntryKind::CharDevice(major, minor) | EntryKind::BlockDevice(major, minor) => node.device = (*major, *minor),
        _ => {}
    }
    Ok(node)
}

/// The attributes that a layer may bring. Those of overlayfs itself would let an image forge whiteouts and
/// redirects; namespaces that the kernel doesn't have can't be stored.
fn kept_xattrs(entry: &Entry, limits: Limits) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let total: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > limits.attributes {
        return Err(crate::tar::limit(format!("more than {} bytes of extended attributes on one file", limits.attributes)));
    }
    let known = [&b"user."[..], b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];
    let mut kept: Vec<_> = entry
        .xattrs
        .iter()
        .filter(|(name, _)| known.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|(name, _)| !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay."))
        .cloned()
        .collect();
    kept.sort();
    Ok(kept)
}
