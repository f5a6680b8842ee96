//! The one engine that copies files: into a tar, out of a tar, and from tree to tree.
//!
//! A source (a root on the disk, a [`Tree`] of layers, a tar stream) brings one file at a time, a sink (a tar
//! stream, a directory in a root) takes it. Whatever the pair, owners, modes, times to the nanosecond, attributes,
//! devices, hard links and holes come across. Everything on the disk is done relative to descriptors, so that
//! neither the names in a tar nor a container that runs meanwhile can lead out of the root.
//!
//! The rules for names are those of dockerd's `archive` calls, so that `docker cp` works on it: the top entry of
//! an archive has the last name of the path that was asked for; a path that ends in `/.` gives `./` and its
//! contents; a last symlink is the object itself unless the path ends in `/` or `/.`.

mod dir_writer;
mod from_changes;
mod from_root;
mod from_tar;
mod from_tree;
mod item;
mod mapped;
mod names;
mod stat;
mod tar_writer;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, Result};
use rustix::fs::OFlags;

use crate::diff::Change;
use crate::store::Layer;
use crate::tar::Limits;
use crate::tree::Tree;
use dir_writer::{DirWriter, Rules};
use from_root::Bounds;
use item::Sink;
use names::UserPath;
use tar_writer::TarWriter;

pub use stat::{PathStat, go_mode, stat_in_root, stat_in_tree};
pub use tar_writer::Stats;

/// How a tar is written.
#[derive(Debug, Clone, Copy)]
pub struct TarOptions {
    /// Leave the top itself out and name everything relative to it, as `docker export` does, instead of putting it
    /// under the base name of the path.
    pub contents_only: bool,
    /// Write files with large holes as sparse entries (PAX, GNU format 1.0).
    pub sparse: bool,
    /// Take no mounts along that are below the top.
    pub one_file_system: bool,
}

impl Default for TarOptions {
    fn default() -> TarOptions {
        TarOptions { contents_only: false, sparse: true, one_file_system: false }
    }
}

impl TarOptions {
    fn base(self, user: &UserPath) -> Option<Vec<u8>> {
        (!self.contents_only).then(|| user.base.clone())
    }
}

/// How a tar is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract {
    /// Refuse to replace a directory by something else, and something else by a directory
    /// (`noOverwriteDirNonDir` of the API).
    pub no_overwrite_dir_non_dir: bool,
    /// Who owns what is unpacked, in place of what the tar says (`copyUIDGID` of the API gives everything to the
    /// container's user).
    pub owner: Option<(u32, u32)>,
    /// Bounds on what the tar may claim.
    pub limits: Limits,
}

/// Writes `path` of a tree, and all below it, as a tar. What is not there is [`Class::NotFound`], before a byte is
/// written.
pub fn tar_of_tree(tree: &Tree, path: &Path, out: &mut dyn Write, options: TarOptions) -> Result<Stats> {
    let user = UserPath::new(stat::as_bytes(path))?;
    let mut writer = TarWriter::new(out, options.base(&user), options.sparse);
    from_tree::walk(tree, &user.path, &mut writer)?;
    writer.finish()
}

/// Writes `path` of a root, and all below it, as a tar. Kernel file systems (proc, sysfs, …) that are mounted below
/// it are empty directories. What is not there is [`Class::NotFound`], before a byte is written.
pub fn tar_of_root(root: &Root, path: &Path, out: &mut dyn Write, options: TarOptions) -> Result<Stats> {
    let user = UserPath::new(stat::as_bytes(path))?;
    let mut writer = TarWriter::new(out, options.base(&user), options.sparse);
    from_root::walk(root, &user.path, Bounds { one_file_system: options.one_file_system }, &mut writer)?;
    writer.finish()
}

/// Writes changes that lead to `tree` ([`crate::diff`] lists them) as a layer's tar: what is new or other whole, what
/// is gone as whiteouts.
pub fn tar_of_changes(tree: &Tree, changes: &[Change], out: &mut dyn Write) -> Result<Stats> {
    let mut writer = TarWriter::new(out, None, true);
    from_changes::walk(tree, changes, &mut writer)?;
    writer.finish()
}

/// Unpacks a tar, plain or compressed with gzip or zstd, into the directory `to` of a root; symlinks in `to` are
/// followed inside the root. A later entry replaces an earlier one and what was there, a directory is merged.
/// Attributes that this place has no room for are left out. If it fails in the middle, what came before stays, as with
/// dockerd.
pub fn extract(root: &Root, to: &Path, input: &mut dyn Read, options: &Extract) -> Result<Stats> {
    let user = UserPath::new(stat::as_bytes(to))?;
    let rules = Rules {
        no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
        owner: options.owner,
        top: false,
        overlay_marks: false,
        attributes: dir_writer::Attributes::AsFarAsPossible,
    };
    let mut writer = directory_writer(root, &user.path, rules)?;
    from_tar::read(input, options.limits, &user.path, &mut writer)?;
    writer.finish()
}

fn directory_writer<'a>(root: &'a Root, path: &[u8], rules: Rules) -> Result<DirWriter<'a>> {
    DirWriter::new(root, path, rules).map_err(|error| {
        // dockerd's words.
        let not_a_directory = error.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error());
        match error.class() {
            Class::Invalid if not_a_directory => Error::invalid("extraction point is not a directory"),
            _ => error,
        }
    })
}

/// Copies the directory `path` of a tree, with its own owner, mode and times, onto the directory `to`.
/// Symlinks in `path` are followed inside the tree.
pub fn copy_of_tree(tree: &Tree, path: &Path, to: &Root) -> Result<Stats> {
    let path = followed(path)?;
    copy_to(to, |writer| from_tree::walk(tree, &path, writer))
}

/// Copies the directory `path` of a root, with its own owner, mode and times, onto the directory `to`.
pub fn copy_of_root(from: &Root, path: &Path, to: &Root) -> Result<Stats> {
    let path = followed(path)?;
    copy_to(to, |writer| from_root::walk(from, &path, Bounds::default(), writer))
}

fn followed(path: &Path) -> Result<Vec<u8>> {
    UserPath::new(names::join(stat::as_bytes(path), b".").as_slice()).map(|user| user.path)
}

fn copy_to(to: &Root, walk: impl FnOnce(&mut DirWriter<'_>) -> Result<()>) -> Result<Stats> {
    let mut writer = DirWriter::new(to, b"/", Rules { top: true, ..Rules::default() })?;
    walk(&mut writer)?;
    writer.finish()
}

/// Fills a new volume with what the image has where the volume is mounted, as Docker does on a volume's first use:
/// only if the image has a directory at `path` and the volume is empty. `None` if there was nothing to do.
/// If it fails, the volume is empty again.
pub fn populate(tree: &Tree, path: &Path, volume: &Root) -> Result<Option<Stats>> {
    let there = tree.lookup(&followed(path)?, true)?.is_some_and(|entry| entry.is_dir());
    if !there || !names_in(volume)?.is_empty() {
        return Ok(None);
    }
    let copied = copy_of_tree(tree, path, volume);
    if copied.is_err() {
        for name in names_in(volume)? {
            dir_writer::remove(volume, &name)?;
        }
    }
    copied.map(Some)
}

fn names_in(root: &Root) -> Result<Vec<Vec<u8>>> {
    use std::os::fd::AsFd;
    crate::tree::names_of(root.as_fd())
}

/// Writes one layer into the empty directory `to` in overlayfs's format: whiteouts as devices 0:0, opaque
/// directories by attribute.
pub(crate) fn unpack_layer(layer: &Arc<Layer>, to: &Path) -> Result<Stats> {
    let root = Root::open(to)?;
    let mut writer = DirWriter::new(&root, b"/", Rules { top: true, overlay_marks: true, ..Rules::default() })?;
    from_tree::walk_layer(layer, &mut writer).map_err(|error| error.context(format!("unpack layer {}", layer.id)))?;
    writer.finish()
}

/// Makes the directory `to`, with owner, mode and attributes of a tree's root; those of a new directory if it has none.
pub(crate) fn make_root_like(tree: &Tree, to: &Path) -> Result<()> {
    std::fs::create_dir(to).at("make directory", to)?;
    let Some(entry) = tree.root()? else { return Ok(()) };
    let root = Root::open(to)?;
    let mut writer = DirWriter::new(&root, b"/", Rules { top: true, ..Rules::default() })?;
    let (metadata, attributes) = (entry.metadata, tree.xattrs(&entry)?);
    writer.put(item::Item { path: b"", metadata, attributes, body: item::Body::None })?;
    writer.finish().map(drop)
}

/// Opens a file below a root for reading, to hand out its bytes (`cat`). Anything but a regular file is refused.
pub fn open_in_root(root: &Root, path: &Path) -> Result<crate::tree::Content> {
    use std::os::fd::AsFd;
    let fd = root.resolve(path).map_err(|error| stat::missing(error, path))?;
    let stat = rustix::fs::fstat(&fd).at("stat", path)?;
    let metadata = crate::metadata::Metadata::of_stat(&stat);
    if metadata.kind != crate::erofs::FileKind::File {
        return Err(Error::invalid(format!("{} is not a regular file", path.display())));
    }
    let file = crate::tree::reopen(fd.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK).at("open", path)?;
    Ok(crate::tree::Content::of_file(file, metadata.size))
}
