//! A daemon's tar onto the local disk. The daemon is not trusted: every name is walked from the destination's descriptor,
//! one component at a time, and no link is followed on the way, be it there before or made by the tar itself.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use fs_base::tar::{Entry, EntryKind, Limits, Reader, Segment};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;

use super::attributes::{self, Attributes, Left};

/// What the daemon's tar may claim: what a person copies may be as large as their disk, its headers may not.
fn limits() -> Limits {
    Limits { entries: u64::MAX, path: 1 << 20, size: 1 << 62, file_size: 1 << 62, ..Limits::default() }
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Unpack {
    /// The directory that takes it; its own links are followed, as the person named it.
    pub dir: PathBuf,
    /// The one name under `dir` that everything goes to; `None`: what the tar's top directory holds goes right into `dir`.
    pub name: Option<String>,
    /// The tar's top entry is `.`: its names have no directory to take off.
    pub content: bool,
    /// Keep owners, and what a file may do for whoever runs it: set-user-ID, set-group-ID, capabilities.
    pub archive: bool,
}

/// Directories whose times, modes and attributes are set last.
type Late = Vec<(PathBuf, Meta)>;

#[derive(Debug)]
struct Meta {
    mode: u32,
    /// While it has no ACL, which may be one that this place does not take.
    mode_without_acl: u32,
    uid: u32,
    gid: u32,
    mtime: Timespec,
    attributes: Attributes,
}

impl Unpack {
    /// Unpacks to the end of the tar. Answers which attributes this place does not take.
    pub fn run(&self, input: impl Read) -> Result<Left> {
        let root = rustix::fs::openat(CWD, &self.dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("open {}", self.dir.display()))?;
        let (mut late, mut left): (Late, Left) = Default::default();
        let mut tar = Reader::new(input, limits());
        while let Some(entry) = tar.next_entry().context("read the tar that the daemon sent")? {
            let Some(path) = self.place(&entry.path)? else { continue };
            self.entry(&root, &path, entry, &mut tar, &mut late, &mut left)
                .with_context(|| format!("copy to {}", self.dir.join(&path).display()))?;
        }
        for (path, meta) in late.iter().rev() {
            let dir = descend(&root, path, false)?;
            self.finish(&dir, meta, path, &mut left).with_context(|| format!("copy to {}", self.dir.join(path).display()))?;
        }
        Ok(left)
    }

    /// Where under `dir` a name of the tar goes; `None` for `dir` itself.
    fn place(&self, given: &[u8]) -> Result<Option<PathBuf>> {
        let mut inside = PathBuf::new();
        for part in Path::new(OsStr::from_bytes(given)).components() {
            match part {
                Component::Normal(name) => inside.push(name),
                // The tree's own root; it can only be the first part, and what follows is walked from `dir` all the same.
                Component::CurDir | Component::RootDir => {}
                _ => bail!("the daemon sent a name that leads out of the destination: {:?}", String::from_utf8_lossy(given)),
            }
        }
        let mut path = PathBuf::new();
        path.extend(self.name.as_ref());
        if self.content {
            path.push(inside);
        } else {
            path.extend(inside.components().skip(1));
        }
        let path: PathBuf = path.components().collect();
        Ok((!path.as_os_str().is_empty()).then_some(path))
    }

    fn entry<R: Read>(
        &self,
        root: &OwnedFd,
        path: &Path,
        entry: Entry,
        tar: &mut Reader<R>,
        late: &mut Late,
        left: &mut Left,
    ) -> Result<()> {
        let mode = entry.mode & if self.archive { 0o7777 } else { 0o1777 };
        let meta = Meta {
            mode,
            mode_without_acl: attributes::mode_without_acl(&entry.xattrs, mode),
            uid: entry.uid,
            gid: entry.gid,
            mtime: Timespec { tv_sec: entry.mtime, tv_nsec: entry.mtime_nanos.into() },
            attributes: attributes::wanted(entry.xattrs, self.archive),
        };
        let name = path.file_name().ok_or_else(|| anyhow!("a name is missing"))?;
        let parent = descend(root, path.parent().unwrap_or(Path::new("")), true)?;
        make_room(&parent, name, entry.kind == EntryKind::Dir, path)?;
        match &entry.kind {
            EntryKind::Dir => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                late.push((path.to_owned(), meta));
            }
            EntryKind::File(segments) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = std::fs::File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                write(tar, segments, &file)?;
                file.set_len(entry.size)?;
                self.finish(&file.into(), &meta, path, left)?;
            }
            EntryKind::Symlink(target) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name)?;
                self.own_link(&parent, name, &meta, path, left)?;
            }
            EntryKind::HardLink(target) => {
                let target = self.place(target)?.ok_or_else(|| anyhow!("a hard link to the destination itself"))?;
                let target_name = target.file_name().ok_or_else(|| anyhow!("a name is missing"))?;
                let target_parent = descend(root, target.parent().unwrap_or(Path::new("")), false)?;
                rustix::fs::linkat(&target_parent, target_name, &parent, name, AtFlags::empty())?;
            }
            EntryKind::Fifo | EntryKind::CharDevice(..) | EntryKind::BlockDevice(..) => {
                let (kind, major, minor) = match entry.kind {
                    EntryKind::CharDevice(major, minor) => (FileType::CharacterDevice, major, minor),
                    EntryKind::BlockDevice(major, minor) => (FileType::BlockDevice, major, minor),
                    _ => (FileType::Fifo, 0, 0),
                };
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(meta.mode_without_acl), device)?;
                self.own_link(&parent, name, &meta, path, left)?;
            }
        }
        Ok(())
    }

    fn own_link(&self, parent: &OwnedFd, name: &OsStr, meta: &Meta, path: &Path, left: &mut Left) -> Result<()> {
        if self.archive && rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if !meta.attributes.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            attributes::set(&fd, &meta.attributes, path, left)?;
        }
        let _ = rustix::fs::utimensat(parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// The owner first, as a change of it takes capabilities away; then attributes, which a read-only mode would forbid.
    fn finish(&self, fd: &OwnedFd, meta: &Meta, path: &Path, left: &mut Left) -> Result<()> {
        if self.archive && rustix::process::geteuid().is_root() {
            rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        let has_acl = attributes::set(fd, &meta.attributes, path, left)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(if has_acl { meta.mode } else { meta.mode_without_acl }))?;
        rustix::fs::futimens(fd, &times(meta))?;
        Ok(())
    }
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps { last_access: meta.mtime, last_modification: meta.mtime }
}

/// Writes the current entry's data; its holes stay holes.
fn write<R: Read>(tar: &mut Reader<R>, segments: &[Segment], file: &std::fs::File) -> Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    for segment in segments {
        let (mut offset, mut left) = (segment.file_offset, segment.length);
        while left > 0 {
            let length = tar.read_data(&mut buffer, &mut left).context("the daemon's tar broke off")?;
            file.write_all_at(&buffer[..length], offset)?;
            offset += length as u64;
        }
    }
    Ok(())
}

/// Opens a directory under the root, following no link. `make`: missing ones are made.
fn descend(root: &OwnedFd, path: &Path, make: bool) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = root.try_clone()?;
    for name in path.components() {
        let name = name.as_os_str();
        let next = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
                rustix::fs::openat(&dir, name, flags, Mode::empty())
            }
            other => other,
        };
        dir = next.map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => anyhow!("{} is not a directory, and no link is followed", path.display()),
            other => anyhow!(other),
        })?;
    }
    Ok(dir)
}

/// Takes away what stands in the way, as docker does: anything but a directory for anything but a directory.
fn make_room(parent: &OwnedFd, name: &OsStr, is_dir: bool, path: &Path) -> Result<()> {
    let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match (there == FileType::Directory, is_dir) {
        (true, true) => Ok(()),
        (true, false) => bail!("cannot overwrite directory {:?} with non-directory", path.display().to_string()),
        (false, true) => bail!("cannot overwrite non-directory {:?} with directory", path.display().to_string()),
        (false, false) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tar::EntryType;

    struct Tar(tar::Builder<Vec<u8>>);

    impl Tar {
        fn new() -> Tar {
            Tar(tar::Builder::new(Vec::new()))
        }

        /// Adds an entry whose name is written as it is, however bad.
        fn add(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Tar {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_uid(1234);
            header.set_gid(1234);
            header.set_mtime(1_000_000);
            header.set_size(data.len() as u64);
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn unpack(self, dir: &Path, name: Option<&str>) -> Result<Left> {
            let unpack = Unpack { dir: dir.to_owned(), name: name.map(str::to_owned), content: false, archive: false };
            unpack.run(self.0.into_inner().unwrap().as_slice())
        }
    }

    #[test]
    fn a_tree_arrives_with_modes_times_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::new()
            .add(EntryType::Directory, "etc/", "", b"")
            .add(EntryType::Regular, "etc/a", "", b"hello")
            .add(EntryType::Link, "etc/b", "etc/a", b"")
            .add(EntryType::Symlink, "etc/c", "/nowhere", b"");
        tar.unpack(dir.path(), Some("new")).unwrap();
        let new = dir.path().join("new");
        assert_eq!(fs::read(new.join("b")).unwrap(), b"hello");
        assert_eq!(fs::metadata(new.join("a")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(new.join("c")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::metadata(&new).unwrap().mtime(), 1_000_000);
        assert_eq!(fs::metadata(new.join("a")).unwrap().permissions().mode() & 0o7777, 0o755, "no set-user-ID without -a");
        assert_eq!(fs::metadata(new.join("a")).unwrap().uid(), rustix::process::geteuid().as_raw());
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["top/../../evil", "/../evil", "../evil"] {
            let dir = tempfile::tempdir().unwrap();
            let error = Tar::new().add(EntryType::Regular, name, "", b"x").unpack(dir.path(), Some("t")).unwrap_err();
            assert!(error.to_string().contains("leads out of the destination"), "{error}");
        }
    }

    #[test]
    fn a_whole_tree_whose_names_begin_at_its_root_stays_under_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::new().add(EntryType::Directory, "/", "", b"").add(EntryType::Regular, "/etc/passwd", "", b"mine");
        let unpack = Unpack { dir: dir.path().into(), name: Some("all".into()), content: true, archive: false };
        unpack.run(tar.0.into_inner().unwrap().as_slice()).unwrap();
        assert_eq!(fs::read(dir.path().join("all/etc/passwd")).unwrap(), b"mine");
    }

    #[test]
    fn links_of_the_tar_itself_are_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = outside.path().to_str().unwrap();
        let tar = Tar::new().add(EntryType::Symlink, "t/out", target, b"").add(EntryType::Regular, "t/out/evil", "", b"x");
        assert!(tar.unpack(dir.path(), Some("t")).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let secret = outside.path().join("secret");
        fs::write(&secret, "s").unwrap();
        let tar =
            Tar::new().add(EntryType::Symlink, "t/f", secret.to_str().unwrap(), b"").add(EntryType::Regular, "t/f", "", b"x");
        tar.unpack(dir.path(), Some("u")).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"s", "a file over a link takes the link's place");
        let tar = Tar::new().add(EntryType::Symlink, "t/out", target, b"").add(EntryType::Link, "t/h", "t/out/secret", b"");
        assert!(tar.unpack(dir.path(), Some("v")).is_err());
        let tar = Tar::new().add(EntryType::Symlink, "t", target, b"").add(EntryType::Regular, "t/evil", "", b"x");
        assert!(tar.unpack(dir.path(), Some("w")).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_that_were_there_are_not_followed_and_kinds_not_mixed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join("t")).unwrap();
        let tar = Tar::new().add(EntryType::Directory, "t/", "", b"").add(EntryType::Regular, "t/x", "", b"x");
        let error = format!("{:#}", tar.unpack(dir.path(), Some("t")).unwrap_err());
        assert!(error.contains("cannot overwrite non-directory"), "{error}");
        fs::create_dir(dir.path().join("d")).unwrap();
        let error = format!("{:#}", Tar::new().add(EntryType::Regular, "d", "", b"x").unpack(dir.path(), Some("d")).unwrap_err());
        assert!(error.contains("cannot overwrite directory"), "{error}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tar_that_breaks_off_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = Tar::new().add(EntryType::Regular, "f", "", &[7; 5000]).0.into_inner().unwrap();
        let unpack = Unpack { dir: dir.path().into(), name: Some("f".into()), content: false, archive: false };
        assert!(unpack.run(&bytes[..2000]).is_err());
    }
}
