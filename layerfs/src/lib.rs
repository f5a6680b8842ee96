//! Image layers as a tar plus an EROFS index: ingest, mounts, merged trees, diff, check.
//!
//! Words: a **layer** is `data`, the uncompressed tar byte for byte, and `index`, an EROFS image of its metadata
//! that points into `data`. Its name is its **diffID**, the digest of `data`. A **chain** is the layers of an image,
//! bottom first; a [`tree::Tree`] shows it as one tree without a mount, a [`driver::Mounter`] mounts it.
//!
//! Start from [`store::Store`], [`tree::Tree`] and [`driver::Mounter`].
//!
//! ```no_run
//! use layerfs::{ingest::IngestOptions, store::Store, tree::Tree};
//! let store = Store::open(std::path::Path::new("/var/lib/fsd"))?;
//! let built = store.ingest(&mut std::fs::File::open("layer.tar.gz").unwrap(), &IngestOptions::default())?;
//! let tree = Tree::new(vec![store.layer(&built.id)?]);
//! for (name, entry) in tree.read_dir(&tree.root()?.unwrap())? {
//!     println!("{} {}", String::from_utf8_lossy(&name), entry.metadata.size);
//! }
//! # Ok::<(), fs_base::Error>(())
//! ```

pub mod archive;
mod capability;
pub mod diff;
pub mod driver;
pub mod duplicates;
pub mod erofs;
pub mod ingest;
mod merge;
mod metadata;
mod overlayfs;
pub mod store;
pub mod tree;

pub use fs_base::tar;
pub use metadata::Metadata;
