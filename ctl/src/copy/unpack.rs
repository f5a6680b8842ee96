//! A daemon's tar onto the local disk. The daemon is not trusted: every name is walked from the destination's descriptor,
//! one component at a time, and no link is followed on the way, be it there before or made by the tar itself.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::sparse;

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Unpack {
    /// The directory that takes it; its own links are followed, as the person named it.
    pub dir: PathBuf,
    /// The one name under `dir` that everything goes to; `None`: what the tar's top directory holds goes right into `dir`.
    pub name: Option<String>,
    /// The tar's top entry is `.`: its names have no directory to take off.
    pub content: bool,
    /// Keep owners, set-user-ID and set-group-ID.
    pub archive: bool,
}

/// Directories whose times and modes are set last.
type Late = Vec<(PathBuf, Meta)>;

#[derive(Debug, Clone, Copy)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

impl Unpack {
    /// Unpacks to the end of the tar.
    pub fn run(&self, input: impl Read) -> Result<()> {
        let root = rustix::fs::openat(CWD, &self.dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("open {}", self.dir.display()))?;
        let mut late: Late = Vec::new();
        let mut archive = tar::Archive::new(input);
        for entry in archive.entries()? {
            let mut entry = entry.context("read the tar that the daemon sent")?;
            let sparse = sparse::of(&mut entry)?;
            let (given, size) = match sparse {
                Some(sparse::Sparse { name, size }) => (name, Some(size)),
                None => (entry.path_bytes().into_owned(), None),
            };
            let Some(path) = self.place(&given)? else { continue };
            self.entry(&root, &path, &mut entry, size, &mut late)
                .with_context(|| format!("copy to {}", self.dir.join(&path).display()))?;
        }
        for (path, meta) in late.iter().rev() {
            let dir = descend(&root, path, false)?;
            self.finish(&dir, *meta).with_context(|| format!("copy to {}", self.dir.join(path).display()))?;
        }
        Ok(())
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

    fn entry(
        &self,
        root: &OwnedFd,
        path: &Path,
        entry: &mut Entry<'_, impl Read>,
        sparse: Option<u64>,
        late: &mut Late,
    ) -> Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let mode = header.mode()? & if self.archive { 0o7777 } else { 0o1777 };
        let meta = Meta { mode, uid: header.uid()? as u32, gid: header.gid()? as u32, mtime: header.mtime()? as i64 };
        let name = path.file_name().ok_or_else(|| anyhow!("a name is missing"))?;
        let parent = descend(root, path.parent().unwrap_or(Path::new("")), true)?;
        make_room(&parent, name, kind == EntryType::Directory, path)?;
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                late.push((path.to_owned(), meta));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&parent, name, meta, sparse, entry)?,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| anyhow!("a link has no target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, name)?;
                self.own_link(&parent, name, meta)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| anyhow!("a link has no target"))?;
                let target = self.place(&target)?.ok_or_else(|| anyhow!("a hard link to the destination itself"))?;
                let target_name = target.file_name().ok_or_else(|| anyhow!("a name is missing"))?;
                let target_parent = descend(root, target.parent().unwrap_or(Path::new("")), false)?;
                rustix::fs::linkat(&target_parent, target_name, &parent, name, AtFlags::empty())?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => self.node(&parent, name, meta, entry)?,
            other => bail!("an entry of a kind that can't be copied: {other:?}"),
        }
        Ok(())
    }

    fn file(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        meta: Meta,
        sparse: Option<u64>,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        if let Some(size) = sparse {
            sparse::write(entry, &file, size)?;
        } else {
            let expected = entry.size();
            let copied = io::copy(entry, &mut file)?;
            if copied != expected {
                bail!("the daemon's tar broke off: {copied} of {expected} bytes");
            }
        }
        self.finish(&OwnedFd::from(file), meta)
    }

    fn node(&self, parent: &OwnedFd, name: &OsStr, meta: Meta, entry: &Entry<'_, impl Read>) -> Result<()> {
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Fifo => FileType::Fifo,
            EntryType::Char => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        let device = rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(meta.mode), device)?;
        self.own_link(parent, name, meta)
    }

    fn own_link(&self, parent: &OwnedFd, name: &OsStr, meta: Meta) -> Result<()> {
        if self.archive && rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let _ = rustix::fs::utimensat(parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    fn finish(&self, fd: &OwnedFd, meta: Meta) -> Result<()> {
        if self.archive && rustix::process::geteuid().is_root() {
            rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))?;
        rustix::fs::futimens(fd, &times(meta))?;
        Ok(())
    }
}

fn times(meta: Meta) -> Timestamps {
    let moment = Timespec { tv_sec: meta.mtime, tv_nsec: 0 };
    Timestamps { last_access: moment, last_modification: moment }
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

        fn unpack(self, dir: &Path, name: Option<&str>) -> Result<()> {
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
