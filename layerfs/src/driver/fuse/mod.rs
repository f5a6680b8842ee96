//! Trees served by FUSE: any tree, for any user, without privilege and without the kernel's EROFS or overlayfs.
//!
//! [`Fs`] is the file system as a library, without FUSE: it is tested that way. It merges lower layers, indexed ones
//! whose metadata is mapped memory and plain directories, under an optional upper directory that takes changes, in
//! overlayfs's own on-disk format; what one of overlayfs, fuse-overlayfs and this wrote, the others open. [`Session`]
//! serves it: it mounts, hands the kernel's requests to several threads, and unmounts.
//!
//! The way of a request: `adapter.rs` (translates) → `fs.rs` (finds names), `list.rs`, `file.rs`, `attributes.rs` (read)
//! or `change.rs`, `rename.rs`, `write.rs` (change) → `copy_up.rs`, `upper.rs` (where changes go).
//!
//! What it does otherwise than the kernel's overlayfs is listed where users look for it: in `fsd-fuse --help` and its
//! manual page. Marks of overlayfs that are not followed here (`redirect_dir`, `metacopy`) are refused as the kernel
//! refuses them without those options, with EPERM; contents are never wrong in silence. What is damaged in a layer, or
//! cut off while it is mounted, is EIO for the files that it concerns.
//!
//! Files that can't change are cached by the kernel for ever. Where no file can change, the kernel is told so and opens
//! files and directories without asking.

mod adapter;
mod attr;
mod attributes;
mod cache;
mod change;
mod convert;
mod copy_up;
mod differ;
mod file;
mod fs;
mod handle;
mod journal;
mod links;
mod list;
mod lower;
mod node;
mod passthrough;
mod rename;
mod report;
mod session;
mod upper;
mod write;

pub use attr::{Answer, Attr, IdRange, Owners, Time};
pub use change::{Maker, New};
pub use file::Seek;
pub use fs::{Fs, FsOptions, LowerSpec};
pub use handle::OpenFile;
pub use list::DirEntry;
pub use lower::{Indexed, Lower, Plain};
pub use node::{Place, ROOT};
pub use rename::Over;
pub use report::{CHANGES_XATTR, changes_of};
pub use session::{Session, SessionOptions};
pub use write::SetAttr;

/// A path as `fsd-fuse` wants it in a list of options.
pub fn option_path(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}
