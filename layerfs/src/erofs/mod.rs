//! A layer's index: an EROFS image that holds metadata only, and points into the layer's tar for the data.
//!
//! The image has two devices: itself, and the tar as external device 1. A file is a chunk index that names where
//! in the tar its bytes lie. Tar data is aligned to 512 bytes, so that is the block size.
//! Source: Linux `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

mod format;
mod model;
mod reader;
mod writer;

pub use model::{Extent, FileKind, Image, Node, NodeId, Source};
pub use reader::{DirEntry, Index, Inode, Nid};
pub use writer::{Written, write};
