//! Any bytes as a layer: the parser must not panic, and what it takes must make an index that our reader reads whole.

use std::fs::File;
use std::path::Path;

use fs_base::{Digest, LayerId};
use layerfs::erofs::{FileKind, Index};
use layerfs::ingest::rebuild_index;
use layerfs::tar::Limits;

/// One input; `folder` is for the target alone, best in memory, where a sync costs nothing.
pub fn run(bytes: &[u8], folder: &Path) {
    let mut tar = bytes.to_vec();
    mend(&mut tar);
    let (data, index) = (folder.join("data"), folder.join("index"));
    std::fs::write(&data, &tar).expect("write to memory");
    let _ = std::fs::remove_file(&index);
    // Small, so that the fuzzer finds inputs and not the limits of the machine.
    let limits = Limits { index: 1 << 22, ..Limits::default() };
    let id = LayerId(Digest::from_bytes([0; 32]));
    if rebuild_index(&id, &File::open(&data).expect("open in memory"), &index, limits).is_ok() {
        read_whole(&Index::open(&index).expect("what was just written opens"));
    }
}

/// Makes the checksum of every block right, so that what is behind it is reached.
pub fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| block.iter().any(|byte| *byte != 0)) {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn read_whole(index: &Index) {
    let mut todo = vec![(index.root(), 0)];
    while let Some((nid, depth)) = todo.pop() {
        assert!(depth <= Limits::default().depth, "deeper than the limit");
        index.xattrs(nid).expect("attributes");
        match index.inode(nid).expect("inode").kind {
            FileKind::Dir => todo.extend(index.read_dir(nid).expect("directory").iter().map(|entry| {
                assert_eq!(index.lookup(nid, entry.name).expect("lookup"), Some(entry.nid));
                (entry.nid, depth + 1)
            })),
            FileKind::File => drop(index.extents(nid).expect("extents")),
            FileKind::Symlink => drop(index.read_link(nid).expect("target")),
            _ => {}
        }
    }
}
