//! A layer's index: an EROFS image that holds metadata only, and points into the layer's tar for the data.
//!
//! One file with several readers: the kernel mounts it with the tar as external device 1; the merged tree, the diff
//! and the copies read it by [`Index`], without any privilege. [`write()`] makes it from a [`Image`]:
//!
//! ```text
//! 0       1024         1152          1536
//! | zeros | superblock | device slot | inodes ...                            | blocks ...
//!         | checksum over this block |   64 bytes each, then attributes, then    large directories, long
//!                                        a chunk index or an inline tail         symlinks, copied chunks
//! ```
//!
//! An index over a whole chain (`crate::merge`) has a device slot for each file that it points into.
//!
//! - Blocks have 512 bytes, because that is how a tar aligns its data (Linux reads such images from 6.4 on).
//! - A regular file is cut into chunks. Where it is one piece in the tar, that is one chunk; holes are null chunks;
//!   what is not aligned in the tar (some sparse members) is copied into the index.
//! - The inodes of a directory lie side by side in the order of their names, so `ls -l` reads one stretch.
//! - Attributes lie with their inodes. Shared ones would only help layers with an SELinux label on every file.
//! - The bytes follow from the tar alone: an index that is built again is equal to the old one.
//!
//! Source: Linux `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

mod chunks;
mod format;
mod image;
mod layout;
mod model;
mod reader;
mod writer;
mod xattr;

pub use image::{Body, Image, Meta, NodeId, Segment};
pub(crate) use image::{ChunkAt, ChunkTable};
pub use model::{Extent, FileKind, Source};
pub use reader::{DirEntry, Index, Nid};
pub(crate) use writer::{Device, write_merged};
pub use writer::{Params, Written, write};
pub use xattr::is_supported as xattr_is_supported;
