//! Any bytes as an index: our reader must not panic, loop, or show bytes from outside of it.

use std::path::Path;

use layerfs::erofs::{Index, Source};

/// One input; `folder` is for the target alone.
pub fn run(bytes: &[u8], folder: &Path) {
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let file = folder.join("index");
    // A new file each time: the last one may still be mapped.
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, &bytes).expect("write to memory");
    let Ok(index) = Index::open(&file) else { return };
    let (mut todo, mut seen) = (vec![index.root()], 0);
    while let Some(nid) = todo.pop() {
        seen += 1;
        if seen > 100 {
            return;
        }
        let _ = (index.inode(nid), index.xattrs(nid), index.read_link(nid), index.lookup(nid, b"name"));
        for extent in index.extents(nid).unwrap_or_default() {
            if let Source::Index(at) = extent.source {
                index.raw(at, extent.length).expect("extents lie inside");
            }
        }
        for entry in index.read_dir(nid).unwrap_or_default() {
            assert!(!entry.name.is_empty() && !entry.name.contains(&b'/') && !entry.name.contains(&0));
            todo.push(entry.nid);
        }
    }
}

/// Makes size, version and checksum of the superblock right, so that what is behind it is reached.
pub fn mend(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().max(2048).next_multiple_of(512), 0);
    let blocks = (bytes.len() / 512) as u32;
    bytes[1024 + 12] = 9;
    bytes[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    bytes[1024 + 64..1024 + 80].copy_from_slice(b"fsd-index-3\0\0\0\0\0");
    bytes[1024 + 4..1024 + 8].fill(0);
    let mut sum = u32::MAX;
    for byte in &bytes[1024..1536] {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    bytes[1024 + 4..1024 + 8].copy_from_slice(&sum.to_le_bytes());
}
