//! What differs between two trees, as a layer: the files that are new or other, and whiteouts for those that are gone.
//! Source: OCI image spec, layer.md, "Representing Changes" and "Whiteouts".

use fs_base::Result;

use super::from_tree::{Links, put};
use super::item::{Attributes, Body, Item, Sink};
use super::names::{join, split};
use crate::diff::{Change, ChangeKind};
use crate::erofs::FileKind;
use crate::metadata::Metadata;
use crate::tree::Tree;

/// What a whiteout's name begins with.
const WHITEOUT: &[u8] = b".wh.";

/// Brings the changes that lead to `tree` to a sink.
pub fn walk(tree: &Tree, changes: &[Change], sink: &mut dyn Sink) -> Result<()> {
    let mut links = Links::new();
    for change in changes {
        let path = change.path.strip_prefix(b"/").unwrap_or(&change.path);
        if change.kind == ChangeKind::Deleted {
            whiteout(path, sink)?;
            continue;
        }
        // What has gone since the changes were listed is as if it had never been.
        let Some(entry) = tree.lookup(&change.path, false)? else { continue };
        // The top itself has no name in a layer.
        if !path.is_empty() {
            put(tree, path, &entry, &mut links, sink)?;
        }
    }
    Ok(())
}

fn whiteout(path: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let (directory, name) = split(path);
    let metadata =
        Metadata { kind: FileKind::File, mode: 0, uid: 0, gid: 0, links: 1, size: 0, mtime: 0, mtime_nanos: 0, device: (0, 0) };
    let path = join(directory, &[WHITEOUT, name].concat());
    sink.put(Item { path: &path, metadata, attributes: Attributes::new(), body: Body::None })
}
