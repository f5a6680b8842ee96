//! Trees made at random, and what they should look like.

use std::collections::BTreeMap;

use layerfs::erofs::{Body, Image, Meta, NodeId, Segment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;

/// Bytes of the file that segments point into.
pub const DATA: usize = 64 << 10;

/// One step in making a tree.
#[derive(Debug, Clone)]
pub struct Step {
    parent: Pick,
    name: Vec<u8>,
    kind: Kind,
    meta: (u32, u32, u32, i64, u32),
    xattrs: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Gaps, lengths and data offsets of segments, and a hole behind them.
    File(Vec<(u64, u64, u64)>, u64),
    Dir,
    Symlink(Vec<u8>),
    Device(bool, u32, u32),
    Fifo,
    Socket,
    Link(Pick),
}

/// What a file should be.
#[derive(Debug, Clone)]
pub struct Node {
    pub meta: Meta,
    pub kind: &'static str,
    pub size: u64,
    pub segments: Vec<Segment>,
    pub target: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub links: u32,
}

/// A tree by its paths; each names a node by number, and number 0 is the root's.
#[derive(Debug, Default)]
pub struct Model {
    pub nodes: Vec<Node>,
    pub paths: BTreeMap<Vec<Vec<u8>>, usize>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no separator", |b| *b != 0 && *b != b'/');
    let some = prop_oneof![
        4 => vec(byte.clone(), 1..20),
        1 => vec(byte, 200..=255),
        3 => "[-!.a-c]{1,3}".prop_map(String::into_bytes),
    ];
    some.prop_filter("a real name", |name| name != b"." && name != b"..")
}

fn kind() -> impl Strategy<Value = Kind> {
    let gap = prop_oneof![3 => Just(0u64), 2 => 1..5000u64, 3 => (1..40u64).prop_map(|n| n * 512), 1 => (1..9u64).prop_map(|n| n << 31)];
    let length = prop_oneof![2 => 1..6000u64, 2 => (1..20u64).prop_map(|n| n * 512)];
    let offset = prop_oneof![1 => 0..40_000u64, 3 => (0..80u64).prop_map(|n| n * 512)];
    let plain =
        (1..9000u64, (0..80u64).prop_map(|n| n * 512)).prop_map(|(length, offset)| Kind::File(vec![(0, length, offset)], 0));
    prop_oneof![
        4 => plain,
        1 => Just(Kind::File(Vec::new(), 0)),
        3 => (vec((gap.clone(), length, offset), 0..4), gap).prop_map(|(segments, hole)| Kind::File(segments, hole)),
        5 => Just(Kind::Dir),
        2 => vec(1..=255u8, 1..60).prop_map(Kind::Symlink),
        1 => vec(1..=255u8, 300..4096).prop_map(Kind::Symlink),
        1 => (any::<bool>(), 0..4096u32, 0..(1u32 << 20)).prop_map(|(c, major, minor)| Kind::Device(c, major, minor)),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => any::<Pick>().prop_map(Kind::Link),
    ]
}

/// Steps that make a tree.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let meta = (0..0o10000u32, 0..u32::MAX, 0..u32::MAX, -(1i64 << 40)..(1i64 << 40), 0..1_000_000_000u32);
    let xattrs = vec((0..XATTRS.len(), vec(any::<u8>(), 0..300)), 0..3);
    let step = (any::<Pick>(), name(), kind(), meta, prop_oneof![2 => Just(Vec::new()), 1 => xattrs]);
    vec(step.prop_map(|(parent, name, kind, meta, xattrs)| Step { parent, name, kind, meta, xattrs }), 0..60)
}

const XATTRS: [&str; 7] = [
    "user.a",
    "user.long-name-of-an-attribute-that-goes-on",
    "trusted.overlay.opaque",
    "trusted.x",
    "security.something",
    "security.capability",
    "system.posix_acl_access",
];
/// Revision 2 file capabilities with CAP_NET_RAW, as `setcap` writes them.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// An ACL of version 2: owner, user 7, group, mask and others.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255,
    255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

impl Model {
    /// Makes the tree of `steps`, and the image that should be equal to it.
    pub fn of(steps: &[Step]) -> (Model, Image) {
        let mut model = Model::default();
        let root = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };
        let mut image = Image::new(root);
        let mut ids = vec![image.root()];
        model.nodes.push(Node::new(root, "dir"));
        model.paths.insert(Vec::new(), 0);
        for step in steps {
            model.step(step, &mut image, &mut ids);
        }
        model.count_links();
        (model, image)
    }

    fn step(&mut self, step: &Step, image: &mut Image, ids: &mut Vec<NodeId>) {
        let directories: Vec<_> = self.paths.iter().filter(|(_, n)| self.nodes[**n].kind == "dir").collect();
        let (parent, number) = *step.parent.get(&directories);
        let (path, parent_id) = ([&parent[..], std::slice::from_ref(&step.name)].concat(), ids[*number]);
        // Names are replaced now and then, whole directories too.
        let replaced: Vec<_> =
            self.paths.range(path.clone()..).map(|(p, _)| p.clone()).take_while(|p| p.starts_with(&path)).collect();
        for path in &replaced {
            self.paths.remove(path);
        }
        if let Kind::Link(to) = &step.kind {
            let files: Vec<_> = self.paths.values().copied().filter(|n| self.nodes[*n].kind != "dir").collect();
            if files.is_empty() {
                return self.add(path, parent_id, step, &Kind::Fifo, image, ids);
            }
            let to = *to.get(&files);
            image.put(parent_id, &step.name, ids[to]).unwrap();
            self.paths.insert(path, to);
            return;
        }
        self.add(path, parent_id, step, &step.kind, image, ids);
    }

    fn add(&mut self, path: Vec<Vec<u8>>, parent: NodeId, step: &Step, kind: &Kind, image: &mut Image, ids: &mut Vec<NodeId>) {
        let (mode, uid, gid, mtime, mtime_nanos) = step.meta;
        let mut node = Node::new(Meta { mode, uid, gid, mtime, mtime_nanos }, "file");
        let id = match kind {
            Kind::File(segments, hole) => {
                for &(gap, length, offset) in segments {
                    node.segments.push(Segment { file_offset: node.size + gap, length, data_offset: offset });
                    node.size += gap + length;
                }
                node.size += hole;
                image.add(node.meta, Body::File { size: node.size, segments: &node.segments })
            }
            Kind::Dir => {
                node.kind = "dir";
                image.add(node.meta, Body::Dir)
            }
            Kind::Symlink(target) => {
                node.kind = "symlink";
                node.target.clone_from(target);
                node.size = target.len() as u64;
                image.add(node.meta, Body::Symlink(target))
            }
            Kind::Device(is_char, major, minor) => {
                node.kind = if *is_char { "char" } else { "block" };
                node.device = (*major, *minor);
                image.add(node.meta, if *is_char { Body::CharDevice(*major, *minor) } else { Body::BlockDevice(*major, *minor) })
            }
            Kind::Socket => {
                node.kind = "socket";
                image.add(node.meta, Body::Socket)
            }
            Kind::Fifo | Kind::Link(_) => {
                node.kind = "fifo";
                image.add(node.meta, Body::Fifo)
            }
        };
        let id = id.unwrap();
        node.xattrs = xattrs(&step.xattrs, node.kind);
        image.set_xattrs(id, node.xattrs.clone().into_iter().collect()).unwrap();
        image.put(parent, &step.name, id).unwrap();
        ids.push(id);
        self.paths.insert(path, self.nodes.len());
        self.nodes.push(node);
    }

    fn count_links(&mut self) {
        self.nodes[0].links = 2;
        for (path, number) in &self.paths {
            if path.is_empty() {
                continue;
            }
            if self.nodes[*number].kind == "dir" {
                self.nodes[*number].links += 2;
                let parent = self.paths[&path[..path.len() - 1]];
                self.nodes[parent].links += 1;
            } else {
                self.nodes[*number].links += 1;
            }
        }
    }
}

/// Attributes that the kernel shows on this kind of file.
fn xattrs(picked: &[(usize, Vec<u8>)], kind: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let takes_all = matches!(kind, "file" | "dir");
    let named = picked.iter().map(|(pick, value)| (XATTRS[*pick], value.clone()));
    named
        .filter(|(name, _)| takes_all || name.starts_with("trusted.") || name.starts_with("security."))
        .map(|(name, value)| match name {
            "security.capability" => (name, CAPABILITY.to_vec()),
            "system.posix_acl_access" => (name, ACL.to_vec()),
            _ => (name, value),
        })
        .map(|(name, value)| (name.as_bytes().to_vec(), value))
        .collect()
}

impl Node {
    fn new(meta: Meta, kind: &'static str) -> Node {
        Node { meta, kind, size: 0, segments: Vec::new(), target: Vec::new(), device: (0, 0), xattrs: BTreeMap::new(), links: 0 }
    }

    /// The bytes of a file from `offset`.
    pub fn content(&self, data: &[u8], offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length.min(self.size.saturating_sub(offset) as usize)];
        let end = offset + bytes.len() as u64;
        for segment in &self.segments {
            let (from, to) = (segment.file_offset.max(offset), (segment.file_offset + segment.length).min(end));
            if from < to {
                let at = (segment.data_offset + (from - segment.file_offset)) as usize;
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&data[at..at + (to - from) as usize]);
            }
        }
        bytes
    }
}
