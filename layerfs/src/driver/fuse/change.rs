//! Names made and removed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fs_base::durable;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::attr::{Answer, Attr};
use super::copy_up::set_mode;
use super::file::{path_fd, stat_at};
use super::fs::{Found, Fs, UPPER, has_mark};
use super::handle::Bytes;
use super::lower::{Lower, WHITEOUT_PREFIX, must_have_data};
use super::node::{Key, Node};
use super::upper::{Upper, remove_all_in};
use crate::erofs::FileKind;

/// Who makes a file, and with what permissions.
#[derive(Debug, Clone, Copy)]
pub struct Maker {
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// Permission bits before the umask.
    pub mode: u32,
    /// The caller's umask; a default ACL of the directory takes its place.
    pub umask: u32,
}

/// What is made.
#[derive(Debug, Clone, Copy)]
pub enum New<'a> {
    /// A directory.
    Dir,
    /// A symlink to this target.
    Symlink(&'a [u8]),
    /// A regular file, pipe or socket, or a device with this number.
    Node(FileKind, (u32, u32)),
}

/// A directory in which a name is to be made.
struct Site {
    dir: Arc<Node>,
    fd: Arc<OwnedFd>,
    /// Where the directory belongs, and its permission bits.
    gid: u32,
    mode: u32,
    /// Layers below have something of this name, hidden now.
    hides: bool,
}

impl Fs {
    /// Makes a file of any kind under a name that is free. The kernel holds the node.
    pub fn make(&self, parent: u64, name: &[u8], new: New<'_>, maker: Maker) -> Answer<Attr> {
        let upper = self.upper()?;
        if matches!(new, New::Node(FileKind::CharDevice, (0, 0))) {
            // It would be a whiteout. The kernel's overlayfs refuses it too.
            return Err(Errno::PERM);
        }
        let _names = self.exclusive();
        let site = self.site(parent, name)?;
        let mode = mode_for(&site, &maker);
        let is_dir = matches!(new, New::Dir);
        place(upper, &site, name, is_dir, &|dir, name| match new {
            New::Dir => {
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))?;
                let fd = path_fd(dir, name)?;
                if site.hides {
                    upper.make_opaque(&fd)?;
                }
                self.own(fd.as_fd(), &site, &maker, mode, true)
            }
            New::Symlink(target) => {
                rustix::fs::symlinkat(target, dir, name)?;
                self.own(path_fd(dir, name)?.as_fd(), &site, &maker, mode, false)
            }
            New::Node(kind, (major, minor)) => {
                let number = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(dir, name, file_type(kind)?, Mode::from_raw_mode(mode), number)?;
                self.own(path_fd(dir, name)?.as_fd(), &site, &maker, mode, false)
            }
        })?;
        let attr = Attr::of_stat(&rustix::fs::statat(&site.fd, name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(self.entered(&site.dir, name, attr).1)
    }

    /// Makes a regular file and opens it.
    pub fn create(&self, parent: u64, name: &[u8], maker: Maker) -> Answer<(Attr, u64)> {
        let upper = self.upper()?;
        let _names = self.exclusive();
        let site = self.site(parent, name)?;
        let mode = mode_for(&site, &maker);
        let made = std::cell::OnceCell::new();
        place(upper, &site, name, false, &|dir, name| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?);
            self.own(file.as_fd(), &site, &maker, mode, false)?;
            let _ = made.set(file);
            Ok(())
        })?;
        let file = made.into_inner().ok_or(Errno::IO)?;
        let attr = Attr::of_stat(&rustix::fs::fstat(&file)?);
        let (node, attr) = self.entered(&site.dir, name, attr);
        Ok((attr, self.handles.add_file(node, Bytes::Upper(Arc::new(file)))))
    }

    fn entered(&self, dir: &Arc<Node>, name: &[u8], attr: Attr) -> (Arc<Node>, Attr) {
        self.note_name(dir, name);
        let found = Found { key: Key::Upper(attr.number), attr, upper: true, lowers: Vec::new() };
        let node = self.enter(dir, name, &found);
        let attr = self.shown(&node, attr);
        (node, attr)
    }

    /// The directory, brought up; the name must be free.
    fn site(&self, parent: u64, name: &[u8]) -> Answer<Site> {
        let dir = self.nodes.get(parent)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(Errno::INVAL);
        }
        if self.find(&dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let fd = self.dir_up(&dir)?;
        let stat = rustix::fs::fstat(&fd)?;
        let hides = self.below(&dir, name)?.is_some();
        Ok(Site { dir, fd, gid: stat.st_gid, mode: stat.st_mode, hides })
    }

    /// What the layers have under a name, whether the upper hides it or not.
    pub(super) fn below(&self, dir: &Arc<Node>, name: &[u8]) -> Answer<Option<Found>> {
        let places = dir.spot().lowers.clone();
        self.find_below(dir, &places, name)
    }

    /// Gives a new file to who makes it; in a set-group-id directory the group is the directory's.
    fn own(&self, fd: BorrowedFd<'_>, site: &Site, maker: &Maker, mode: u32, is_dir: bool) -> Answer<()> {
        let inherits = site.mode & 0o2000 != 0;
        let own = self.upper()?.owner;
        let uid = Some(self.owners.stored_uid(maker.uid)?).filter(|uid| *uid != own.0);
        let gid = if inherits { None } else { Some(self.owners.stored_gid(maker.gid)?).filter(|gid| *gid != own.1) };
        if uid.is_some() || gid.is_some() {
            self.chown(fd, uid, gid.or(inherits.then_some(site.gid)))?;
            if mode & 0o7000 != 0 && !is_dir {
                // A change of owner takes these bits away.
                set_mode(fd, mode)?;
            }
        }
        Ok(())
    }

    /// Gives a file one more name. The kernel holds the node once more.
    pub fn link(&self, node: u64, parent: u64, name: &[u8]) -> Answer<Attr> {
        let upper = self.upper()?;
        let node = self.nodes.get(node)?;
        if node.is_dir() {
            return Err(Errno::PERM);
        }
        self.copy_up(&node, false)?;
        let _names = self.exclusive();
        let site = self.site(parent, name)?;
        let fd = self.upper_fd(&node)?;
        if node.kind == FileKind::File {
            must_have_data(fd.as_fd())?;
        }
        place(upper, &site, name, false, &|dir, name| durable::link_fd_at(fd.as_fd(), dir, name))?;
        let attr = Attr::of_stat(&rustix::fs::fstat(&fd)?);
        let (_, attr) = self.entered(&site.dir, name, attr);
        Ok(attr)
    }

    /// Removes a name of a file that is no directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Answer<()> {
        let upper = self.upper()?;
        let dir = self.nodes.get(parent)?;
        let _names = self.exclusive();
        let found = self.find(&dir, name)?.ok_or(Errno::NOENT)?;
        if found.attr.is_dir() {
            return Err(Errno::ISDIR);
        }
        let fd = self.dir_up(&dir)?;
        let hold = self.hold(&dir, name, &found)?;
        if self.below(&dir, name)?.is_some() {
            cover(upper, fd.as_fd(), name, found.upper)?;
        } else {
            rustix::fs::unlinkat(&fd, name, AtFlags::empty())?;
        }
        self.retire(&dir, name, &found, hold);
        Ok(())
    }

    /// What the kernel needs of a file that is about to lose a name: a descriptor, if it is the last name known and
    /// somebody has the file open. Others need no more than what was known of it last: a descriptor for each until the
    /// kernel forgets it would be too many.
    pub(super) fn hold(&self, dir: &Arc<Node>, name: &[u8], found: &Found) -> Answer<Option<OwnedFd>> {
        // One is the table's, one is ours; who has it open holds another.
        let needed = |node: Arc<Node>| node.spot().names.len() <= 1 && Arc::strong_count(&node) > 2;
        if !self.nodes.known(found.key).is_some_and(needed) {
            return Ok(None);
        }
        let source = match (found.upper, found.lowers.first()) {
            (true, _) => UPPER,
            (false, Some(place)) if matches!(self.lowers[usize::from(place.layer)], Lower::Plain(_)) => place.layer + 1,
            _ => return Ok(None),
        };
        path_fd(self.dir_fd(source, dir)?.as_fd(), name).map(Some)
    }

    /// A name is gone.
    pub(super) fn retire(&self, dir: &Arc<Node>, name: &[u8], found: &Found, hold: Option<OwnedFd>) {
        self.note_name(dir, name);
        let Some(node) = self.nodes.known(found.key) else { return };
        let last = {
            let mut spot = node.spot();
            spot.drop_name(dir, name);
            if spot.names.is_empty() {
                match hold {
                    Some(held) => spot.held = Some(Arc::new(held)),
                    None => spot.last = Some(Box::new(Attr { links: found.attr.links.saturating_sub(1), ..found.attr })),
                }
                if node.is_dir() {
                    spot.lowers = Box::default();
                }
            }
            spot.names.is_empty()
        };
        // With names left on the disk that nobody has asked for yet, it is to be found by them.
        if last && (node.is_dir() || !found.upper || found.attr.links <= 1) {
            self.nodes.rekey(&node, None);
        }
        if node.is_dir() {
            self.forget_upper_dir(&node);
        }
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Answer<()> {
        let upper = self.upper()?;
        let dir = self.nodes.get(parent)?;
        let _names = self.exclusive();
        let found = self.find(&dir, name)?.ok_or(Errno::NOENT)?;
        if !found.attr.is_dir() {
            return Err(Errno::NOTDIR);
        }
        self.must_be_empty(&dir, name, &found)?;
        let fd = self.dir_up(&dir)?;
        let hold = self.hold(&dir, name, &found)?;
        if self.below(&dir, name)?.is_some() {
            cover_dir(upper, fd.as_fd(), name, found.upper)?;
        } else {
            remove_dir(upper, fd.as_fd(), name)?;
        }
        self.retire(&dir, name, &found, hold);
        Ok(())
    }

    pub(super) fn must_be_empty(&self, dir: &Arc<Node>, name: &[u8], found: &Found) -> Answer<()> {
        let node = self.enter(dir, name, found);
        let items = self.list_locked(&node);
        let id = node.id;
        drop(node);
        self.nodes.forget(id, 1);
        if items?.is_empty() { Ok(()) } else { Err(Errno::NOTEMPTY) }
    }
}

/// Puts a whiteout where a file is, or was below.
pub(super) fn cover(upper: &Upper, dir: BorrowedFd<'_>, name: &[u8], there: bool) -> Answer<()> {
    if !there {
        return Upper::make_whiteout(dir, name);
    }
    let temporary = upper.temporary();
    if rustix::fs::mknodat(&upper.work, &*temporary, FileType::CharacterDevice, Mode::empty(), 0).is_ok() {
        return durable::rename_at(upper.work.as_fd(), &temporary, dir, name, RenameFlags::empty());
    }
    Upper::make_whiteout(dir, name)?;
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// Puts a whiteout where a directory is, or was below.
pub(super) fn cover_dir(upper: &Upper, dir: BorrowedFd<'_>, name: &[u8], there: bool) -> Answer<()> {
    if !there {
        return Upper::make_whiteout(dir, name);
    }
    let temporary = upper.temporary();
    if rustix::fs::mknodat(&upper.work, &*temporary, FileType::CharacterDevice, Mode::empty(), 0).is_ok() {
        durable::rename_at(upper.work.as_fd(), &temporary, dir, name, RenameFlags::EXCHANGE)?;
        return remove_dir(upper, upper.work.as_fd(), &temporary);
    }
    Upper::make_whiteout(dir, name)?;
    remove_dir(upper, dir, name)
}

/// Removes a directory of the upper that is empty but for whiteouts.
pub(super) fn remove_dir(upper: &Upper, dir: BorrowedFd<'_>, name: &[u8]) -> Answer<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return other,
    }
    let temporary = upper.temporary();
    durable::rename_at(dir, name, upper.work.as_fd(), &temporary, RenameFlags::empty())?;
    remove_all_in(path_fd(upper.work.as_fd(), &temporary)?)?;
    rustix::fs::unlinkat(&upper.work, &*temporary, AtFlags::REMOVEDIR)
}

fn file_type(kind: FileKind) -> Answer<FileType> {
    match kind {
        FileKind::File => Ok(FileType::RegularFile),
        FileKind::CharDevice => Ok(FileType::CharacterDevice),
        FileKind::BlockDevice => Ok(FileType::BlockDevice),
        FileKind::Fifo => Ok(FileType::Fifo),
        FileKind::Socket => Ok(FileType::Socket),
        FileKind::Dir | FileKind::Symlink => Err(Errno::INVAL),
    }
}

/// A directory's default ACL takes the place of the umask. Source: acl(5).
fn mode_for(site: &Site, maker: &Maker) -> u32 {
    let acl =
        maker.umask != 0 && fs_base::sys::xattr::get(&site.fd, "system.posix_acl_default").is_ok_and(|value| value.is_some());
    if acl { maker.mode & 0o7777 } else { maker.mode & !maker.umask & 0o7777 }
}

/// Moves what was prepared over a whiteout, or to where nothing is.
fn put(upper: &Upper, dir: BorrowedFd<'_>, name: &[u8], temporary: &[u8], is_dir: bool) -> Answer<()> {
    if is_dir && stat_at(dir, name)?.is_some() {
        durable::rename_at(upper.work.as_fd(), temporary, dir, name, RenameFlags::EXCHANGE)?;
        return rustix::fs::unlinkat(&upper.work, temporary, AtFlags::empty());
    }
    durable::rename_at(upper.work.as_fd(), temporary, dir, name, RenameFlags::empty())
}

/// Removes a whiteout that is a file.
pub(super) fn unmark(dir: BorrowedFd<'_>, name: &[u8]) -> Answer<()> {
    if !has_mark(dir, name)? {
        return Ok(());
    }
    rustix::fs::unlinkat(dir, [WHITEOUT_PREFIX, name].concat(), AtFlags::empty())
}

/// Runs `make` for the name itself, or, if a whiteout lies there, in the work directory, and puts it in its place.
fn place(
    upper: &Upper,
    site: &Site,
    name: &[u8],
    is_dir: bool,
    make: &dyn Fn(BorrowedFd<'_>, &[u8]) -> Answer<()>,
) -> Answer<()> {
    // A directory that hides one below must be opaque from its first moment.
    let covered = site.hides && (is_dir || stat_at(site.fd.as_fd(), name)?.is_some());
    if !covered {
        match make(site.fd.as_fd(), name) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
    let temporary = upper.temporary();
    make(upper.work.as_fd(), &temporary)?;
    put(upper, site.fd.as_fd(), name, &temporary, is_dir)?;
    unmark(site.fd.as_fd(), name)
}
