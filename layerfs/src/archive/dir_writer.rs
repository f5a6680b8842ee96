//! Writes items below a directory of a root.
//!
//! Whatever a tar says, nothing is written outside of the root: every directory is opened by the kernel's own
//! resolution inside it, and every file is made new by name in such a directory. Inside the root, symlinks that were
//! there before are followed as a process in the container would follow them; one that the archive itself has brought
//! may not lead out of the directory that is unpacked to.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use fs_base::sys::root::Root;
use fs_base::sys::{copy, xattr};
use fs_base::{Class, Error, IoContext, Result, durable};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::item::{Body, Data, Item, Sink};
use super::mapped;
use super::names::{inside, join, split};
use super::stat::{as_path, below};
use super::tar_writer::Stats;
use crate::erofs::FileKind;
use crate::metadata::Metadata;
use crate::tar::acl;

/// How files are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// A directory is not replaced by something else, nor something else by a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// Who owns everything, whatever the items say.
    pub owner: Option<(u32, u32)>,
    /// The top's own metadata is set too, not only that of what is below it.
    pub top: bool,
    /// Attributes and devices that overlayfs takes for its own are kept: the directory is to be a layer.
    pub overlay_marks: bool,
    /// What becomes of attributes that this place has no room for.
    pub attributes: Attributes,
}

/// What becomes of attributes that are too large for the file system, and of ACLs that name somebody whom the user
/// namespace does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attributes {
    /// They are an error: what is written has to be what was given.
    #[default]
    Whole,
    /// They are left out: who copies files with other tools goes without attributes at all.
    AsFarAsPossible,
}

/// A directory that is being filled.
pub struct DirWriter<'a> {
    root: &'a Root,
    /// The directory, as a path below the root and open.
    path: Vec<u8>,
    top: Rc<OwnedFd>,
    /// Nothing is outside of the directory, because it is the root.
    is_root: bool,
    rules: Rules,
    /// Whether owners, devices and trusted attributes can be set.
    privileged: bool,
    /// Symlinks that this archive has brought.
    own_links: HashSet<Vec<u8>>,
    /// The directory of the last item: the next one is mostly its neighbour.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories that are finished when everything is in them.
    directories: Vec<Late>,
    pub stats: Stats,
}

/// What of a directory comes last.
struct Late {
    path: Vec<u8>,
    /// All that is made in it changes its times.
    times: Timestamps,
    /// All that is made in it would inherit this.
    default_acl: Option<Vec<u8>>,
}

impl<'a> DirWriter<'a> {
    /// Fills the directory at `path` of `root`, symlinks followed.
    pub fn new(root: &'a Root, path: &[u8], rules: Rules) -> Result<DirWriter<'a>> {
        let top = root.open_at(as_path(path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let same = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
        let is_root = same(&top).at("stat", as_path(path))? == same(&root).at("stat", "root")?;
        Ok(DirWriter {
            root,
            path: path.to_vec(),
            top: Rc::new(top),
            is_root,
            rules,
            privileged: rustix::process::geteuid().is_root(),
            own_links: HashSet::new(),
            last: None,
            directories: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Sets the times of directories, and what is inherited in them from now on. An item that fails leaves what was
    /// written before it.
    pub fn finish(mut self) -> Result<Stats> {
        let mut done = HashSet::new();
        for late in std::mem::take(&mut self.directories).into_iter().rev() {
            // Of several entries for one directory the last counts.
            if !done.insert(late.path.clone()) {
                continue;
            }
            let (parent, name) = split(&late.path);
            let directory = match self.directory(parent) {
                // Replaced by a later entry of the same archive.
                Err(error) if matches!(error.class(), Class::NotFound | Class::Invalid) => continue,
                other => other?,
            };
            let name = if late.path.is_empty() { b"." } else { name };
            if let Some(acl) = &late.default_acl {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match rustix::fs::openat(&*directory, name, flags, Mode::empty()) {
                    Ok(fd) => self.set_attribute(&fd, acl::DEFAULT, acl, &late.path)?,
                    Err(Errno::NOENT | Errno::NOTDIR) => continue,
                    Err(error) => return Err(error).at("open", self.shown(&late.path)),
                }
            }
            match rustix::fs::utimensat(&*directory, name, &late.times, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).at("set times of", self.shown(&late.path)),
            }
        }
        Ok(self.stats)
    }

    fn set_attribute(&mut self, fd: &OwnedFd, key: &[u8], value: &[u8], path: &[u8]) -> Result<()> {
        let in_place = |error: Error| error.context(self.shown(path).display().to_string());
        let set = |value: &[u8]| xattr::set(fd, std::ffi::OsStr::from_bytes(key), value);
        let mapped = self.root.ids().map(|ids| mapped::outside(ids, key, value.to_vec())).transpose();
        let has_no_place = mapped.is_err() && is_acl(key) && self.rules.attributes == Attributes::AsFarAsPossible;
        if has_no_place {
            self.stats.skipped_attributes += 1;
            return Ok(());
        }
        match set(mapped.map_err(in_place)?.as_deref().unwrap_or(value)) {
            Err(error) if self.may_refuse(key, &error) => {
                self.stats.skipped_attributes += 1;
                Ok(())
            }
            other => other.map_err(in_place),
        }
    }

    fn shown(&self, path: &[u8]) -> std::path::PathBuf {
        below(&self.path, path)
    }

    /// The directory at this path below the top; made if missing, as dockerd makes what an archive leaves out.
    fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.top));
        }
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.open_directory(path) {
            Err(error) if error.class() == Class::NotFound => {
                let (parent, name) = split(path);
                let parent = self.directory(parent)?;
                match rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).at("make directory", self.shown(path)),
                }
                self.open_directory(path)?
            }
            other => other?,
        };
        let fd = Rc::new(fd);
        self.last = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let leaves = |error: &Error| error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
        match self.root.open_beneath(self.top.as_fd(), as_path(path), flags) {
            Err(error) if leaves(&error) && (self.is_root || !self.is_behind_own_link(path)) => {
                self.root.open_at(&self.shown(path), flags, Mode::empty())
            }
            Err(error) if leaves(&error) => Err(Error::invalid(format!(
                "{} leads out of {} through a symbolic link of the archive",
                quoted(path),
                quoted(&self.path)
            ))),
            other => other.map_err(|error| error.context(format!("in {}", as_path(&self.path).display()))),
        }
    }

    fn is_behind_own_link(&self, path: &[u8]) -> bool {
        !self.own_links.is_empty()
            && (1..=path.len())
                .filter(|&end| end == path.len() || path[end] == b'/')
                .any(|end| self.own_links.contains(&path[..end]))
    }

    /// Takes away what an item replaces. `true` if a directory is there and stays.
    fn make_way(&mut self, directory: &OwnedFd, name: &[u8], item: &Item<'_>) -> Result<bool> {
        let there = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error).at("stat", self.shown(item.path)),
        };
        let comes = item.metadata.is_dir();
        if self.rules.no_overwrite_dir_non_dir && there != comes {
            // dockerd's words.
            let (old, new) = if there { ("directory", "non-directory") } else { ("non-directory", "directory") };
            let (path, to) = (quoted(&join(&self.path, item.path)), quoted(&self.path));
            return Err(Error::invalid(format!("cannot overwrite {old} {path} with {new} {to}")));
        }
        if there && comes {
            return Ok(true);
        }
        self.last = None;
        self.own_links.remove(item.path);
        remove(directory, name).map_err(|error| error.context(format!("replace {}", self.shown(item.path).display())))?;
        Ok(false)
    }

    fn make(&mut self, directory: &OwnedFd, name: &[u8], item: &mut Item<'_>) -> Result<Option<OwnedFd>> {
        let shown = self.shown(item.path);
        let path_flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match &mut item.body {
            Body::File(data) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).at("create", &shown)?;
                let file = File::from(fd);
                self.stats.bytes += fill(&file, *data, item.metadata.size, &shown)?;
                return Ok(Some(file.into()));
            }
            Body::Symlink(target) => {
                rustix::fs::symlinkat(*target, directory, name).at("make symlink", &shown)?;
                self.own_links.insert(item.path.to_vec());
            }
            Body::HardLink(first) => {
                let (parent, first_name) = split(first);
                let from = self.directory(parent)?;
                durable::link_at(from.as_fd(), as_path(first_name), directory.as_fd(), as_path(name))
                    .map_err(|error| error.context(format!("hard link {}", shown.display())))?;
                return Ok(None);
            }
            Body::None if item.metadata.is_dir() => {
                rustix::fs::mkdirat(directory, name, Mode::RWXU).at("make directory", &shown)?;
            }
            Body::None => {
                if !self.make_node(directory, name, &item.metadata, &shown)? {
                    return Ok(None);
                }
            }
        }
        rustix::fs::openat(directory, name, path_flags, Mode::empty()).at("open", &shown).map(Some)
    }

    /// `false` if devices can't be made without privilege.
    fn make_node(&mut self, directory: &OwnedFd, name: &[u8], metadata: &Metadata, shown: &std::path::Path) -> Result<bool> {
        let kind = match metadata.kind {
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            _ => return Err(Error::internal(format!("{} has no content", shown.display()))),
        };
        let device = rustix::fs::makedev(metadata.device.0, metadata.device.1);
        match rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device) {
            Ok(()) => Ok(true),
            Err(Errno::PERM) if !self.privileged => {
                self.stats.skipped += 1;
                Ok(false)
            }
            Err(error) => Err(error).at("make node", shown),
        }
    }

    /// Owner first: changing it clears set-user-id and file capabilities. Times last: all else changes them.
    fn finish_file(&mut self, directory: &OwnedFd, name: &[u8], fd: &OwnedFd, item: &Item<'_>) -> Result<()> {
        let shown = self.shown(item.path);
        let metadata = &item.metadata;
        let owner = self.rules.owner.unwrap_or((metadata.uid, metadata.gid));
        let (uid, gid) = self.outside(owner).map_err(|error| error.context(shown.display().to_string()))?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags) {
            Err(Errno::PERM) if !self.privileged => {}
            other => other.at("set owner of", &shown)?,
        }
        if metadata.kind != FileKind::Symlink {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            // An ACL that can't be set must not leave its mask to the group; one that is set changes the mode by itself.
            let acl = item.attributes.iter().find(|(key, _)| key == acl::ACCESS);
            let mode = acl.map_or(metadata.permissions(), |(_, value)| acl::mode_without(value, metadata.permissions()));
            rustix::fs::chmod(path, Mode::from_raw_mode(mode)).at("set mode of", &shown)?;
        }
        let mut default_acl = None;
        for (key, value) in &item.attributes {
            if !self.rules.overlay_marks && crate::overlayfs::is_private(key) {
                self.stats.skipped_attributes += 1;
            } else if key == acl::DEFAULT {
                default_acl = Some(value.clone());
            } else {
                self.set_attribute(fd, key, value, item.path)?;
            }
        }
        if metadata.is_dir() {
            self.directories.push(Late { path: item.path.to_vec(), times: times(metadata), default_acl });
            return Ok(());
        }
        rustix::fs::utimensat(directory, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW).at("set times of", &shown)
    }

    /// An owner as this process has to name it.
    fn outside(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32)> {
        let Some(ids) = self.root.ids() else { return Ok((uid, gid)) };
        let pair = ids.uid_outside(uid).zip(ids.gid_outside(gid));
        pair.ok_or_else(|| Error::invalid(format!("the container's user namespace has no user {uid} or no group {gid}")))
    }

    /// Attributes that the file system or the lack of privilege does not allow are left out, as dockerd leaves them.
    fn may_refuse(&self, key: &[u8], error: &Error) -> bool {
        let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else { return false };
        let has_no_room = match errno {
            Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => true,
            Errno::INVAL => is_acl(key),
            _ => false,
        };
        errno == Errno::NOTSUP
            || errno == Errno::PERM && !self.privileged
            || has_no_room && self.rules.attributes == Attributes::AsFarAsPossible
    }
}

fn is_acl(key: &[u8]) -> bool {
    key == acl::ACCESS || key == acl::DEFAULT
}

impl Sink for DirWriter<'_> {
    fn put(&mut self, mut item: Item<'_>) -> Result<()> {
        self.stats.entries += 1;
        if item.path.is_empty() {
            if !item.metadata.is_dir() {
                return Err(Error::invalid(format!("cannot overwrite directory {} with a file", quoted(&self.path))));
            }
            let top = Rc::clone(&self.top);
            return if self.rules.top { self.finish_file(&top, b".", &top, &item) } else { Ok(()) };
        }
        let (parent, name) = split(item.path);
        let directory = self.directory(parent)?;
        let stays = self.make_way(&directory, name, &item)?;
        let fd = if stays {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(rustix::fs::openat(&*directory, name, flags, Mode::empty()).at("open", self.shown(item.path))?)
        } else {
            self.make(&directory, name, &mut item)?
        };
        match fd {
            Some(fd) => self.finish_file(&directory, name, &fd, &item),
            None => Ok(()),
        }
    }
}

/// The path of an archive's entry below the top, or dockerd's refusal.
pub fn checked(path: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    inside(path).ok_or_else(|| Error::invalid(format!("{} is outside of {}", quoted(path), quoted(to))))
}

/// A path as Go's `%q` writes it.
fn quoted(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.mtime, tv_nsec: i64::from(metadata.mtime_nanos) };
    Timestamps { last_access: time, last_modification: time }
}

/// Writes the segments, and leaves the rest to be holes. Returns the bytes written.
fn fill(file: &File, data: &mut dyn Data, size: u64, shown: &std::path::Path) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let (mut written, mut buffer) = (0, Vec::new());
    for (offset, length) in data.segments().to_vec() {
        written += length;
        // A piece as large as this is not worth bringing through memory; a small one is not worth more calls.
        if length >= 256 << 10
            && let Some((from, at)) = data.on_disk(offset, length)
        {
            copy::copy_range(from, at, file, offset, length, shown)?;
            data.skip(length);
            continue;
        }
        buffer.resize(length.clamp(1, 1 << 17).max(buffer.len() as u64) as usize, 0);
        let mut done = 0;
        while done < length {
            let want = (length - done).min(buffer.len() as u64) as usize;
            let got = match data.read(&mut buffer[..want]) {
                Ok(0) => return Err(Error::corrupt(format!("{} ends before its size", shown.display()))),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.at("read", shown)?,
            };
            file.write_all_at(&buffer[..got], offset + done).at("write", shown)?;
            done += got as u64;
        }
    }
    rustix::fs::ftruncate(file, size).at("set size of", shown)?;
    Ok(written)
}

/// Removes a name and, if it is a directory, all below it. Symlinks are removed, not followed.
pub fn remove(directory: impl AsFd, name: &[u8]) -> Result<()> {
    match fs_base::sys::remove::tree(directory.as_fd(), name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at("remove", as_path(name)),
    }
}
