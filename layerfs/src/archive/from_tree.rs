//! Files of layers: a merged tree, or one layer as it is.

use std::collections::HashMap;
use std::sync::Arc;

use fs_base::Result;

use super::item::{Attributes, Body, Item, Seekable, Sink};
use super::stat::{as_path, not_found};
use crate::erofs::FileKind;
use crate::store::Layer;
use crate::tree::{Entry, Origin, Tree, Walk};

/// Brings `path` of a tree and all below it to a sink.
pub fn walk(tree: &Tree, path: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let top = tree.lookup(path, false)?.ok_or_else(|| not_found(as_path(path)))?;
    let mut links = HashMap::new();
    tree.walk(&top, &mut |path, entry| put(tree, path, entry, &mut links, sink).map(|()| Walk::Continue))
}

/// Files with several names, by what tells them apart, and the path that came first.
pub type Links = HashMap<(Origin, u64, u64), Vec<u8>>;

/// Brings one entry of a tree to a sink.
pub fn put(tree: &Tree, path: &[u8], entry: &Entry, links: &mut Links, sink: &mut dyn Sink) -> Result<()> {
    let metadata = entry.metadata;
    if metadata.links > 1 && !metadata.is_dir() {
        let identity = entry.identity()?;
        if let Some(first) = links.get(&identity) {
            return sink.put(Item { path, metadata, attributes: Attributes::new(), body: Body::HardLink(first) });
        }
        links.insert(identity, path.to_vec());
    }
    let attributes = tree.xattrs(entry)?;
    match metadata.kind {
        FileKind::File => {
            let mut data = Seekable::new(tree.open(entry)?);
            sink.put(Item { path, metadata, attributes, body: Body::File(&mut data) })
        }
        FileKind::Symlink => {
            let target = tree.read_link(entry)?;
            sink.put(Item { path, metadata, attributes, body: Body::Symlink(&target) })
        }
        _ => sink.put(Item { path, metadata, attributes, body: Body::None }),
    }
}

/// Brings all of one layer to a sink, whiteouts and opaque directories as overlayfs keeps them.
pub fn walk_layer(layer: &Arc<Layer>, sink: &mut dyn Sink) -> Result<()> {
    let tree = Tree::raw(Arc::clone(layer));
    walk(&tree, b"/", sink)
}
