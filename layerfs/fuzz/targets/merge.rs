//! Any steps as a chain of layers: what the merged tree shows must be what a model shows that keeps the rules of the OCI
//! image spec (layer.md, "Applying Changesets") in plain maps. And a chain compared with itself is the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use fs_base::{Digest, LayerId};
use layerfs::diff::{self, ChangeKind};
use layerfs::erofs::{FileKind, Index};
use layerfs::ingest::rebuild_index;
use layerfs::store::Layer;
use layerfs::tar::Limits;
use layerfs::tree::{Entry, Tree};

/// Names that a step can use: few, so that they meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Layers of a chain.
const MOST: usize = 6;

/// What a path is in one layer, or merged.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(u8),
    Dir { names: BTreeMap<String, Node>, opaque: bool },
    Whiteout,
}

impl Node {
    fn dir(opaque: bool) -> Node {
        Node::Dir { names: BTreeMap::new(), opaque }
    }

    fn names(&mut self) -> Option<&mut BTreeMap<String, Node>> {
        match self {
            Node::Dir { names, .. } => Some(names),
            _ => None,
        }
    }

    fn set_opaque(&mut self) {
        if let Node::Dir { opaque, .. } = self {
            *opaque = true;
        }
    }
}

/// One entry of a layer.
#[derive(Debug)]
enum Step {
    File(Vec<&'static str>, u8),
    Dir(Vec<&'static str>),
    Whiteout(Vec<&'static str>),
    Opaque(Vec<&'static str>),
    Link(Vec<&'static str>, Vec<&'static str>),
}

/// Three bytes are a step: what, where, and with what. A byte of all ones begins the next layer.
fn steps(bytes: &[u8]) -> Vec<Vec<Step>> {
    let mut layers = vec![Vec::new()];
    for step in bytes.chunks_exact(3).take(200) {
        if step[0] == 0xff {
            layers.push(Vec::new());
            continue;
        }
        let path = path(step[1]);
        let step = match step[0] % 8 {
            0..=2 => Step::File(path, step[2]),
            3 => Step::Dir(path),
            4 | 5 => Step::Whiteout(path),
            6 => Step::Opaque(path),
            _ => Step::Link(path, self::path(step[2])),
        };
        layers.last_mut().expect("there is one").push(step);
    }
    layers.truncate(MOST);
    layers
}

/// One to three names out of a byte.
fn path(byte: u8) -> Vec<&'static str> {
    let name = |shift: u8| NAMES[usize::from(byte >> shift & 3)];
    (0..=(byte >> 6).min(2)).map(|n| name(n * 2)).collect()
}

/// Applies a step; `None` if it must be refused.
fn apply(root: &mut Node, step: &Step) -> Option<()> {
    match step {
        Step::File(path, content) => put(root, path, Node::File(*content)),
        Step::Dir(path) => {
            let (names, name) = parent(root, path)?;
            match names.get(*name) {
                Some(Node::Dir { .. }) => {}
                Some(Node::Whiteout) => drop(names.insert((*name).to_owned(), Node::dir(true))),
                _ => drop(names.insert((*name).to_owned(), Node::dir(false))),
            }
            Some(())
        }
        Step::Whiteout(path) => {
            let (names, name) = parent(root, path)?;
            names.entry((*name).to_owned()).or_insert(Node::Whiteout).set_opaque();
            Some(())
        }
        Step::Opaque(path) => {
            let below = [&path[..], &["x"]].concat();
            parent(root, &below)?;
            find(root, path)?.set_opaque();
            Some(())
        }
        Step::Link(path, target) => {
            let target = find(root, target).filter(|node| matches!(node, Node::File(_)))?.clone();
            put(root, path, target)
        }
    }
}

fn put(root: &mut Node, path: &[&str], node: Node) -> Option<()> {
    let (names, name) = parent(root, path)?;
    names.insert((*name).to_owned(), node);
    Some(())
}

/// The directory that a path is in, made if it is missing, and its last name.
fn parent<'a, 'b>(root: &'a mut Node, path: &'b [&'b str]) -> Option<(&'a mut BTreeMap<String, Node>, &'b &'b str)> {
    let (name, parents) = path.split_last()?;
    let mut here = root;
    for parent in parents {
        let next = here.names()?.entry((*parent).to_owned()).or_insert_with(|| Node::dir(false));
        if *next == Node::Whiteout {
            *next = Node::dir(true);
        }
        here = next;
    }
    Some((here.names()?, name))
}

fn find<'a>(root: &'a mut Node, path: &[&str]) -> Option<&'a mut Node> {
    path.iter().try_fold(root, |node, name| node.names()?.get_mut(*name))
}

/// What is seen of `upper` over `lower`, without marks.
fn merged(lower: Option<&Node>, upper: &Node) -> Option<Node> {
    match upper {
        Node::Whiteout => None,
        Node::File(content) => Some(Node::File(*content)),
        Node::Dir { names, opaque } => {
            let mut shown = match lower {
                Some(Node::Dir { names, .. }) if !opaque => names.clone(),
                _ => BTreeMap::new(),
            };
            for (name, node) in names {
                match merged(shown.get(name), node) {
                    Some(node) => drop(shown.insert(name.clone(), node)),
                    None => drop(shown.remove(name)),
                }
            }
            Some(Node::Dir { names: shown, opaque: false })
        }
    }
}

/// The tar of a layer.
fn tar(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in steps {
        match step {
            Step::File(path, content) => entry(&mut bytes, &path.join("/"), b'0', "", &[*content; 3]),
            Step::Dir(path) => entry(&mut bytes, &path.join("/"), b'5', "", b""),
            Step::Whiteout(path) => {
                let (name, parents) = path.split_last().expect("a path has a name");
                let mark = format!(".wh.{name}");
                entry(&mut bytes, &[parents, &[mark.as_str()]].concat().join("/"), b'0', "", b"");
            }
            Step::Opaque(path) => entry(&mut bytes, &[&path[..], &[".wh..wh..opq"]].concat().join("/"), b'0', "", b""),
            Step::Link(path, target) => entry(&mut bytes, &path.join("/"), b'1', &target.join("/"), b""),
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn entry(bytes: &mut Vec<u8>, path: &str, flag: u8, target: &str, data: &[u8]) {
    let mut block = [0u8; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..107].copy_from_slice(if flag == b'5' { b"0000755" } else { b"0000644" });
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[156] = flag;
    block[157..157 + target.len()].copy_from_slice(target.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(&block);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

/// What a tree shows, found by listing and by looking each name up.
fn shown(tree: &Tree, entry: &Entry) -> Node {
    match entry.metadata.kind {
        FileKind::Dir => {
            let child = |(name, child): (Vec<u8>, Entry)| {
                let found = tree.child(entry, &name).expect("lookup").expect("a name that was listed");
                assert_eq!(found.metadata, child.metadata);
                (String::from_utf8(name).expect("a name of ours"), shown(tree, &child))
            };
            Node::Dir { names: tree.read_dir(entry).expect("directory").into_iter().map(child).collect(), opaque: false }
        }
        FileKind::File => {
            let mut content = [0; 3];
            assert_eq!(tree.open(entry).expect("open").read_at(&mut content, 0).expect("read"), 3);
            Node::File(content[0])
        }
        other => panic!("no entry made a {other:?}"),
    }
}

/// The steps of a layer that can be done one after the other, what they make, and whether one that can't is among them:
/// of those only an input's own is kept, or hardly a layer would be taken.
fn possible(steps: Vec<Step>, keeps_bad: bool) -> (Vec<Step>, Node, bool) {
    let (mut kept, mut layer, mut is_good) = (Vec::new(), Node::dir(false), true);
    for step in steps {
        let mut next = layer.clone();
        if apply(&mut next, &step).is_some() {
            layer = next;
        } else if keeps_bad {
            is_good = false;
        } else {
            continue;
        }
        kept.push(step);
    }
    (kept, layer, is_good)
}

/// One input; `folder` is for the target alone.
pub fn run(bytes: &[u8], folder: &Path) {
    let (mut layers, mut model) = (Vec::<Arc<Layer>>::new(), Node::dir(false));
    let mut before = model.clone();
    let keeps_bad = bytes.last().is_some_and(|byte| byte.is_multiple_of(16));
    for (number, steps) in steps(bytes).into_iter().enumerate() {
        let (steps, layer, is_good) = possible(steps, keeps_bad);
        let id = LayerId(Digest::from_bytes([number as u8; 32]));
        let (data_path, index_path) = (folder.join(format!("data-{number}")), folder.join(format!("index-{number}")));
        std::fs::write(&data_path, tar(&steps)).expect("write to memory");
        let data = File::open(&data_path).expect("open in memory");
        // A new file each time: the last one may still be mapped.
        let _ = std::fs::remove_file(&index_path);
        let built = rebuild_index(&id, &data, &index_path, Limits::default());
        assert_eq!(built.is_ok(), is_good, "{steps:?}: {built:?}");
        if built.is_err() {
            return;
        }
        let index = Index::open(&index_path).expect("what was just written opens");
        layers.push(Arc::new(Layer { id, data, index, dir: folder.to_owned() }));
        before = model.clone();
        model = merged(Some(&model), &layer).expect("a root is a directory");
    }
    let tree = Tree::new(layers.clone());
    let root = tree.root().expect("root").expect("there is a layer");
    assert_eq!(shown(&tree, &root), model, "{:?}", steps(bytes));
    assert!(diff::of_trees(&tree, &tree).expect("diff").is_empty());
    layers.pop();
    compare(&Tree::new(layers), &tree, &before, &model);
}

/// The paths that a diff calls new or changed are those that are.
fn compare(from: &Tree, to: &Tree, before: &Node, after: &Node) {
    let mut expected = Vec::new();
    differences("", Some(before), after, &mut expected);
    let changes = diff::of_trees(from, to).expect("diff");
    let found: Vec<(String, bool)> = changes
        .iter()
        .filter(|change| change.kind == ChangeKind::Added || change.kind == ChangeKind::Modified && change.content)
        .map(|change| (String::from_utf8_lossy(&change.path).into_owned(), change.kind == ChangeKind::Added))
        .collect();
    assert_eq!(found, expected);
}

fn differences(path: &str, before: Option<&Node>, after: &Node, out: &mut Vec<(String, bool)>) {
    let same_kind = matches!((before, after), (Some(Node::Dir { .. }), Node::Dir { .. }));
    if !path.is_empty() && !same_kind && before != Some(after) {
        out.push((path.to_owned(), before.is_none()));
    }
    if let Node::Dir { names, .. } = after {
        for (name, node) in names {
            let old = match before {
                Some(Node::Dir { names, .. }) => names.get(name),
                _ => None,
            };
            differences(&format!("{path}/{name}"), old, node, out);
        }
    }
}
