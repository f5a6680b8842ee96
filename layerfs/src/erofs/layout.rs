//! Where everything of a tree goes in its index.

use fs_base::Result;

use super::chunks::{Plan, plan, plan_whole};
use super::format::{CHUNK_INDEX, DIRENT, INODE_SIZE, INODE_SLOT};
use super::image::{Image, NodeId, Segment};
use super::model::FileKind;

/// Places, by node number. What can't be reached from the root has none.
pub(super) struct Layout {
    /// Bytes in a block.
    pub block: u64,
    /// Nodes in the order of their inodes: the children of a directory side by side, in the order of their names.
    pub order: Vec<u32>,
    /// Number of the inode: its offset in [`INODE_SLOT`]s. 0 is no place.
    pub nid: Vec<u32>,
    /// Count of names; of a directory 2 and its subdirectories.
    pub links: Vec<u32>,
    /// Directory of a directory; the root's is the root.
    parent: Vec<u32>,
    /// Numbers of the tree's entries, by directory and name.
    sorted: Vec<u32>,
    /// Where in `sorted` a directory's entries begin; they end where the next node's begin.
    first: Vec<u32>,
    /// Where the inodes end and blocks begin.
    pub blocks_at: u64,
    /// Where the blocks end.
    pub end: u64,
}

/// How a node's data is kept.
pub(super) enum Body {
    /// No data.
    Empty,
    /// This many bytes behind the inode.
    Inline(u64),
    /// This many bytes in blocks.
    Blocks(u64),
    /// In the tar, in holes and in copies.
    Chunks(Plan),
    /// In this many chunks that were cut before, of a power of two of blocks.
    Ready { bits: u32, count: u64 },
}

impl Layout {
    /// Places all inodes from `start` on, and their blocks behind.
    pub fn of(image: &Image, start: u64, block: u64) -> Result<Layout> {
        let nodes = image.inodes.len();
        let mut layout = Layout {
            block,
            order: Vec::with_capacity(nodes),
            nid: vec![0; nodes],
            links: vec![0; nodes],
            parent: vec![0; nodes],
            sorted: vec![0; image.entries.len()],
            first: vec![0; nodes + 1],
            blocks_at: start,
            end: 0,
        };
        layout.sort(image);
        let mut blocks = layout.place(image, NodeId(0))?;
        layout.links[0] = 2;
        let mut next = 0;
        while let Some(&directory) = layout.order.get(next) {
            next += 1;
            if image.kind(NodeId(directory)) == FileKind::Dir {
                blocks += layout.place_children(image, directory)?;
            }
        }
        for (node, links) in image.set_counts() {
            layout.links[node as usize] = links;
        }
        layout.blocks_at = layout.blocks_at.next_multiple_of(block);
        layout.end = layout.blocks_at + blocks;
        Ok(layout)
    }

    /// Sorts the entries: into directories by counting, and within each by name.
    fn sort(&mut self, image: &Image) {
        for entry in &image.entries {
            self.first[entry.parent as usize + 1] += 1;
        }
        for node in 1..self.first.len() {
            self.first[node] += self.first[node - 1];
        }
        let mut next = self.first.clone();
        for (number, entry) in image.entries.iter().enumerate() {
            let place = &mut next[entry.parent as usize];
            self.sorted[*place as usize] = number as u32;
            *place += 1;
        }
        for range in self.first.windows(2) {
            self.sorted[range[0] as usize..range[1] as usize]
                .sort_unstable_by(|a, b| image.name(image.entries[*a as usize]).cmp(image.name(image.entries[*b as usize])));
        }
    }

    fn children(&self, directory: u32) -> &[u32] {
        &self.sorted[self.first[directory as usize] as usize..self.first[directory as usize + 1] as usize]
    }

    /// Gives places to those children of a directory that have none yet. Returns the blocks' bytes that they need.
    fn place_children(&mut self, image: &Image, directory: u32) -> Result<u64> {
        let mut blocks = 0;
        for place in self.first[directory as usize]..self.first[directory as usize + 1] {
            let child = image.entries[self.sorted[place as usize] as usize].child;
            self.links[child as usize] += 1;
            if image.kind(NodeId(child)) == FileKind::Dir {
                self.links[child as usize] = 2;
                self.links[directory as usize] += 1;
                self.parent[child as usize] = directory;
            }
            if self.nid[child as usize] == 0 {
                blocks += self.place(image, NodeId(child))?;
            }
        }
        Ok(blocks)
    }

    fn place(&mut self, image: &Image, id: NodeId) -> Result<u64> {
        let head = INODE_SIZE + image.encoded_xattrs(id).len() as u64;
        let mut at = self.blocks_at.next_multiple_of(INODE_SLOT);
        let (tail, blocks) = match self.body(image, id) {
            Body::Inline(length) => {
                // The kernel wants the tail to end in the block in which it begins.
                if (at + head) % self.block + length > self.block {
                    at = at.next_multiple_of(self.block);
                }
                (length, 0)
            }
            Body::Chunks(plan) => {
                ((at + head).next_multiple_of(CHUNK_INDEX) - (at + head) + plan.count.saturating_mul(CHUNK_INDEX), plan.copied)
            }
            Body::Ready { count, .. } => ((at + head).next_multiple_of(CHUNK_INDEX) - (at + head) + count * CHUNK_INDEX, 0),
            Body::Blocks(length) => (0, length.next_multiple_of(self.block)),
            Body::Empty => (0, 0),
        };
        self.blocks_at = (at + head).saturating_add(tail);
        self.nid[id.0 as usize] = u32::try_from(at / INODE_SLOT).map_err(|_| super::writer::too_large(self.blocks_at))?;
        self.order.push(id.0);
        Ok(blocks)
    }

    /// How this node's data is kept.
    pub fn body(&self, image: &Image, id: NodeId) -> Body {
        let inode = &image.inodes[id.0 as usize];
        let length = match image.kind(id) {
            FileKind::File if inode.size > 0 => {
                if let Some(table) = image.table(id) {
                    return Body::Ready { bits: table.bits, count: table.chunks.len() as u64 };
                }
                let whole = with_segments(image, id, |segments| match segments {
                    [] => true,
                    [only] => only.length == inode.size && only.data_offset % self.block == 0,
                    _ => false,
                });
                return Body::Chunks(if whole {
                    plan_whole(inode.size, self.block)
                } else {
                    with_segments(image, id, |segments| plan(inode.size, segments, self.block))
                });
            }
            FileKind::Dir => self.directory_size(image, id),
            FileKind::Symlink => inode.size,
            _ => return Body::Empty,
        };
        // The attributes may end anywhere in a block; what fits together with all of them in one block always fits.
        let fits = INODE_SIZE + image.encoded_xattrs(id).len() as u64 + length <= self.block;
        if fits { Body::Inline(length) } else { Body::Blocks(length) }
    }

    /// The names of a directory with `.` and `..` in their places, and the nodes that they name.
    fn names<'a>(&'a self, image: &'a Image, id: NodeId) -> impl Iterator<Item = (&'a [u8], u32)> {
        let children = self.children(id.0);
        let named = |number: &u32| {
            let entry = image.entries[*number as usize];
            (image.name(entry), entry.child)
        };
        let split = |dots: &[u8]| children.partition_point(|number| named(number).0 < dots);
        let (before, between) = (split(b"."), split(b".."));
        let parts = [&children[..before], &children[before..between], &children[between..]];
        let [a, b, c] = parts.map(|part| part.iter().map(named));
        let dot = std::iter::once((b".".as_slice(), id.0));
        let dots = std::iter::once((b"..".as_slice(), self.parent[id.0 as usize]));
        a.chain(dot).chain(b).chain(dots).chain(c)
    }

    /// Hands out the names of a directory block by block, as many as fit into each.
    pub fn for_each_block<'a>(
        &'a self,
        image: &'a Image,
        id: NodeId,
        mut each: impl FnMut(&[(&'a [u8], u32)]) -> Result<()>,
    ) -> Result<()> {
        let (mut block, mut used) = (Vec::new(), 0);
        for (name, child) in self.names(image, id) {
            let need = DIRENT + name.len();
            if used + need > self.block as usize {
                each(&block)?;
                block.clear();
                used = 0;
            }
            used += need;
            block.push((name, child));
        }
        each(&block)
    }

    /// The size of a directory's bytes: all blocks full but the last.
    fn directory_size(&self, image: &Image, id: NodeId) -> u64 {
        let (mut full, mut used) = (0, 0);
        for (name, _) in self.names(image, id) {
            let need = (DIRENT + name.len()) as u64;
            if used + need > self.block {
                full += self.block;
                used = 0;
            }
            used += need;
        }
        full + used
    }
}

/// Calls `with` with the segments of a regular file.
pub(super) fn with_segments<T>(image: &Image, id: NodeId, with: impl FnOnce(&[Segment]) -> T) -> T {
    let inode = &image.inodes[id.0 as usize];
    match inode.block() {
        Some(block) => with(&[Segment { file_offset: 0, length: inode.size, data_offset: u64::from(block) * 512 }]),
        None => with(image.segments(id)),
    }
}
