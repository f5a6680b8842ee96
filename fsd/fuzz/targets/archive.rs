//! Any bytes as an image archive: reading it must not panic, what it takes for an image must be whole, and nothing
//! unfinished stays behind.

use std::cell::RefCell;
use std::io::{Cursor, Read};
use std::path::Path;

use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tar::Limits;

use crate::image::load::{Candidate, digest_of, load};

/// One input; `folder` is for the target alone.
pub fn run(bytes: &[u8], folder: &Path) {
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let root = folder.join("store");
    let store = Store::open(&root).expect("a store in memory");
    let limits = Limits { index: 1 << 22, size: 1 << 24, ..Limits::default() };
    let published = RefCell::new(Vec::new());
    let bring = |member: Candidate<'_>, options: &IngestOptions<'_>| {
        let built = store.ingest(&mut Cursor::new(member.head).chain(member.rest), options)?;
        published.borrow_mut().push(built.id);
        Ok(built)
    };
    if let Ok(images) = load(&mut &bytes[..], limits, &bring) {
        for image in images {
            assert_eq!(image.id, digest_of(&image.config), "an image is named by its config");
            for layer in &image.layers {
                assert!(published.borrow().contains(layer), "a layer of an image was published");
                store.layer(layer).expect("it opens");
            }
        }
    }
    let left = std::fs::read_dir(root.join("tmp")).expect("tmp").count();
    assert_eq!(left, 0, "unfinished work stays behind");
    for layer in published.into_inner() {
        store.remove(&layer).expect("remove");
    }
    store.sweep().expect("sweep");
    assert!(store.list().expect("list").is_empty(), "a layer that nobody was told of");
}

/// Makes the checksums of headers right, so that what is behind them is reached; of layers inside the archive too.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
