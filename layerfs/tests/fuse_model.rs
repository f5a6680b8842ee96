//! The FUSE file system as a library, held against the kernel's overlayfs: the same operations on both, the same answers
//! and the same tree after them; then each opens the upper directory that the other wrote, and sees the same again.

#![allow(clippy::unwrap_used)] // a failed step fails the test
#![allow(clippy::format_push_string)] // reads better than write! where nothing can fail

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_base::LayerId;
use layerfs::driver::fuse::{Fs, FsOptions, LowerSpec, Maker, New, Over, ROOT, SetAttr};
use layerfs::erofs::FileKind;
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use proptest::prelude::*;
use rustix::io::Errno;

/// What is done. Paths are of a few names, so that operations meet.
#[derive(Debug, Clone)]
enum Op {
    Write(String, usize),
    Append(String),
    Truncate(String, u64),
    MakeDir(String),
    Symlink(String),
    Fifo(String),
    Unlink(String),
    RemoveDir(String),
    Rename(String, String, u8),
    Link(String, String),
    Chmod(String, u32),
    Chown(String, u32),
    Touch(String),
    SetXattr(String, bool),
    RemoveXattr(String),
    List(String),
    Read(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (path(), 1..9000usize).prop_map(|(p, n)| Op::Write(p, n)),
        path().prop_map(Op::Append),
        (path(), 0..9000u64).prop_map(|(p, n)| Op::Truncate(p, n)),
        path().prop_map(Op::MakeDir),
        path().prop_map(Op::MakeDir),
        path().prop_map(Op::Symlink),
        path().prop_map(Op::Fifo),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::RemoveDir),
        path().prop_map(Op::RemoveDir),
        (path(), path(), 0..3u8).prop_map(|(p, q, how)| Op::Rename(p, q, how)),
        (path(), path(), 0..1u8).prop_map(|(p, q, how)| Op::Rename(p, q, how)),
        (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        (path(), 0..0o1000u32).prop_map(|(p, m)| Op::Chmod(p, m)),
        (path(), 0..9u32).prop_map(|(p, u)| Op::Chown(p, u)),
        path().prop_map(Op::Touch),
        (path(), any::<bool>()).prop_map(|(p, inner)| Op::SetXattr(p, inner)),
        path().prop_map(Op::RemoveXattr),
        path().prop_map(Op::List),
        path().prop_map(Op::Read),
    ]
}

/// What a tree shows: path, and all that is to be equal.
type Shown = BTreeMap<String, String>;
type Answer = Result<Vec<u8>, i32>;

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + n) as u8).collect()
}

fn attribute(inner: bool) -> &'static str {
    if inner { "trusted.overlay.own" } else { "user.note" }
}

/// A tree that operations are done on.
trait Tree {
    fn run(&self, op: &Op) -> Answer;
    fn shown(&self) -> Shown;
}

/// A mounted one.
struct Kernel(PathBuf);

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

impl Tree for Kernel {
    fn run(&self, op: &Op) -> Answer {
        let at = |path: &str| self.0.join(path);
        let io = |result: std::io::Result<()>| result.map(|()| Vec::new()).map_err(|e| errno(&e));
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let open = |options: &mut std::fs::OpenOptions, path: &str| {
            use std::os::unix::fs::OpenOptionsExt;
            // Pipes are not opened: they would wait.
            if at(path).symlink_metadata().is_ok_and(|m| m.file_type().is_fifo()) {
                return Err(std::io::Error::from_raw_os_error(22));
            }
            options.custom_flags(nofollow).open(at(path))
        };
        let raw = |result: rustix::io::Result<()>| result.map(|()| Vec::new()).map_err(Errno::raw_os_error);
        let cwd = rustix::fs::CWD;
        match op {
            Op::Write(path, n) => {
                let file = open(std::fs::File::options().write(true).create(true).truncate(true), path);
                io(file.and_then(|mut file| file.write_all(&bytes(*n))))
            }
            Op::Append(path) => {
                let file = open(std::fs::File::options().append(true), path);
                io(file.and_then(|mut file| file.write_all(b"more")))
            }
            Op::Truncate(path, n) => io(open(std::fs::File::options().write(true), path).and_then(|file| file.set_len(*n))),
            Op::MakeDir(path) => io(std::fs::create_dir(at(path))),
            Op::Symlink(path) => io(std::os::unix::fs::symlink("target/of/link", at(path))),
            Op::Fifo(path) => {
                raw(rustix::fs::mknodat(cwd, at(path), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0))
            }
            Op::Unlink(path) => raw(rustix::fs::unlinkat(cwd, at(path), rustix::fs::AtFlags::empty())),
            Op::RemoveDir(path) => raw(rustix::fs::unlinkat(cwd, at(path), rustix::fs::AtFlags::REMOVEDIR)),
            Op::Rename(from, to, how) => {
                let flags =
                    [rustix::fs::RenameFlags::empty(), rustix::fs::RenameFlags::NOREPLACE, rustix::fs::RenameFlags::EXCHANGE]
                        [usize::from(*how)];
                raw(rustix::fs::renameat_with(cwd, at(from), cwd, at(to), flags))
            }
            Op::Link(from, to) => raw(rustix::fs::linkat(cwd, at(from), cwd, at(to), rustix::fs::AtFlags::empty())),
            Op::Chmod(path, mode) => match at(path).symlink_metadata() {
                Ok(m) if m.is_symlink() => Err(95),
                _ => io(std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(*mode))),
            },
            Op::Chown(path, uid) => io(std::os::unix::fs::lchown(at(path), Some(*uid), Some(*uid))),
            Op::Touch(path) => {
                let time = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 7 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                raw(rustix::fs::utimensat(cwd, at(path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW))
            }
            Op::SetXattr(path, inner) => {
                raw(rustix::fs::lsetxattr(at(path), attribute(*inner), b"value", rustix::fs::XattrFlags::empty()))
            }
            Op::RemoveXattr(path) => raw(rustix::fs::lremovexattr(at(path), "user.note")),
            Op::List(path) => {
                let entries = std::fs::read_dir(at(path)).map_err(|e| errno(&e))?;
                let mut names: Vec<Vec<u8>> = entries.map(|entry| entry.unwrap().file_name().into_vec()).collect();
                names.sort();
                Ok(names.join(&b'/'))
            }
            Op::Read(path) => {
                let mut content = Vec::new();
                open(std::fs::File::options().read(true), path)
                    .and_then(|mut file| file.read_to_end(&mut content))
                    .map_err(|e| errno(&e))?;
                Ok(content)
            }
        }
    }

    fn shown(&self) -> Shown {
        let mut shown = Shown::new();
        show_dir(&self.0, "", &mut shown);
        shown
    }
}

fn show_dir(dir: &Path, base: &str, shown: &mut Shown) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
        let name = format!("{base}{}", entry.file_name().to_str().unwrap());
        let mut line = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_file() {
            line += &format!(
                " {} {:x?} mtime {}",
                meta.nlink(),
                std::fs::read(&path).unwrap(),
                if meta.mtime() == 1_000_000 { "set" } else { "now" }
            );
        } else if meta.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        }
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let mut names: Vec<_> = names[..length].split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            line += &format!(" {}", String::from_utf8_lossy(name));
        }
        shown.insert(name.clone(), line);
        if meta.is_dir() {
            show_dir(&path, &format!("{name}/"), shown);
        }
    }
}

/// The library, with what the kernel's VFS does above a file system.
struct Library(Fs);

impl Library {
    /// Node and attributes of a path, no symlink followed.
    fn find(&self, path: &str) -> Result<u64, i32> {
        let mut node = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            self.must_be_dir(node)?;
            let found = self.0.lookup(node, name.as_bytes()).map_err(Errno::raw_os_error)?;
            node = found.ok_or(2)?.number;
        }
        Ok(node)
    }

    fn kind(&self, node: u64) -> Result<FileKind, i32> {
        self.0.getattr(node).map(|attr| attr.kind).map_err(Errno::raw_os_error)
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(u64, &'a [u8]), i32> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let node = self.find(dir)?;
        self.must_be_dir(node)?;
        Ok((node, name.as_bytes()))
    }

    /// On the way of a path. All symlinks here lead nowhere.
    fn must_be_dir(&self, node: u64) -> Result<(), i32> {
        match self.kind(node)? {
            FileKind::Dir => Ok(()),
            FileKind::Symlink => Err(2),
            _ => Err(20),
        }
    }

    fn writable(&self, path: &str) -> Result<u64, i32> {
        let node = self.find(path)?;
        match self.kind(node)? {
            FileKind::File => Ok(node),
            FileKind::Dir => Err(21),
            FileKind::Symlink => Err(40),
            _ => Err(22),
        }
    }

    fn rename(&self, from: &str, to: &str, how: u8) -> Result<(), i32> {
        let (old, new) = (self.parent(from)?, self.parent(to)?);
        let node = self.find(from)?;
        let is_dir = self.kind(node)? == FileKind::Dir;
        let there = match self.find(to) {
            Ok(there) => Some(there),
            Err(2) => None,
            Err(error) => return Err(error),
        };
        if how == 1 && there.is_some() {
            return Err(17);
        }
        if how == 2 && there.is_none() {
            return Err(2);
        }
        // An ancestor of the other end.
        if to.starts_with(&format!("{from}/")) {
            return Err(22);
        }
        if from.starts_with(&format!("{to}/")) {
            return Err(if how == 2 { 22 } else { 39 });
        }
        if there == Some(node) {
            return Ok(());
        }
        if let Some(there) = there.filter(|_| how == 0) {
            match (is_dir, self.kind(there)? == FileKind::Dir) {
                (true, false) => return Err(20),
                (false, true) => return Err(21),
                _ => {}
            }
        }
        let over = [Over::Replace, Over::Keep, Over::Exchange][usize::from(how)];
        self.0.rename(old, new, over).map_err(Errno::raw_os_error)
    }
}

const MAKER: Maker = Maker { uid: 0, gid: 0, mode: 0o666, umask: 0o022 };

impl Tree for Library {
    fn run(&self, op: &Op) -> Answer {
        let fs = &self.0;
        let raw = |result: Result<(), rustix::io::Errno>| result.map(|()| Vec::new()).map_err(Errno::raw_os_error);
        let set = |path: &str, set: SetAttr| raw(fs.setattr(self.find(path)?, None, &set).map(drop));
        let make = |path: &str, new: New<'_>, mode: u32| {
            let (dir, name) = self.parent(path)?;
            raw(fs.make(dir, name, new, Maker { mode, ..MAKER }).map(drop))
        };
        match op {
            Op::Write(path, n) => {
                let handle = match self.writable(path) {
                    Ok(node) => fs.open_to_write(node, true, false),
                    Err(2) => {
                        let (dir, name) = self.parent(path)?;
                        fs.create(dir, name, MAKER).map(|(_, handle)| handle)
                    }
                    Err(error) => return Err(error),
                };
                let handle = handle.map_err(Errno::raw_os_error)?;
                let written = fs.write(handle, &bytes(*n), 0, false);
                fs.release(handle);
                raw(written)
            }
            Op::Append(path) => {
                let node = self.writable(path)?;
                let handle = fs.open_to_write(node, false, false).map_err(Errno::raw_os_error)?;
                let size = fs.getattr(node).unwrap().size;
                let written = fs.write(handle, b"more", size, false);
                fs.release(handle);
                raw(written)
            }
            Op::Truncate(path, n) => {
                self.writable(path)?;
                set(path, SetAttr { size: Some(*n), ..SetAttr::default() })
            }
            Op::MakeDir(path) => make(path, New::Dir, 0o777),
            Op::Symlink(path) => make(path, New::Symlink(b"target/of/link"), 0o777),
            Op::Fifo(path) => make(path, New::Node(FileKind::Fifo, (0, 0)), 0o644),
            Op::Unlink(path) => {
                let (dir, name) = self.parent(path)?;
                raw(fs.unlink(dir, name))
            }
            Op::RemoveDir(path) => {
                let (dir, name) = self.parent(path)?;
                raw(fs.rmdir(dir, name))
            }
            Op::Rename(from, to, how) => self.rename(from, to, *how).map(|()| Vec::new()),
            Op::Link(from, to) => {
                let node = self.find(from)?;
                let (dir, name) = self.parent(to)?;
                if self.find(to).is_ok() {
                    return Err(17);
                }
                raw(fs.link(node, dir, name).map(drop))
            }
            Op::Chmod(path, mode) => set(path, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
            Op::Chown(path, uid) => set(path, SetAttr { uid: Some(*uid), gid: Some(*uid), ..SetAttr::default() }),
            Op::Touch(path) => {
                let time = Some((1_000_000, 7));
                set(path, SetAttr { atime: time, mtime: time, ..SetAttr::default() })
            }
            Op::SetXattr(path, inner) => {
                let node = self.find(path)?;
                if !inner && !matches!(self.kind(node)?, FileKind::File | FileKind::Dir) {
                    return Err(1);
                }
                raw(fs.setxattr(node, attribute(*inner).as_bytes(), b"value", 0))
            }
            Op::RemoveXattr(path) => {
                let node = self.find(path)?;
                if !matches!(self.kind(node)?, FileKind::File | FileKind::Dir) {
                    return Err(1);
                }
                raw(fs.removexattr(node, b"user.note"))
            }
            Op::List(path) => {
                let node = self.find(path)?;
                match self.kind(node)? {
                    FileKind::Dir => {}
                    // The kernel's side follows it.
                    FileKind::Symlink => return Err(2),
                    _ => return Err(20),
                }
                Ok(self.names(node).join(&b'/'))
            }
            Op::Read(path) => {
                let node = self.find(path)?;
                match self.kind(node)? {
                    FileKind::File => {}
                    FileKind::Dir => return Err(21),
                    FileKind::Symlink => return Err(40),
                    _ => return Err(22),
                }
                Ok(self.content(node))
            }
        }
    }

    fn shown(&self) -> Shown {
        let mut shown = Shown::new();
        self.show(ROOT, "", &mut shown);
        shown
    }
}

impl Library {
    fn names(&self, node: u64) -> Vec<Vec<u8>> {
        let handle = self.0.opendir(node).unwrap();
        let mut names = Vec::new();
        self.0
            .readdir(node, handle, 0, false, &mut |entry| {
                names.extend((entry.name != b"." && entry.name != b"..").then(|| entry.name.to_vec()));
                true
            })
            .unwrap();
        self.0.releasedir(handle);
        names.sort();
        names
    }

    fn content(&self, node: u64) -> Vec<u8> {
        let handle = self.0.open(node).unwrap();
        let mut content = vec![0; 1 << 16];
        let got = self.0.read(node, handle, &mut content, 0).unwrap();
        self.0.release(handle);
        content.truncate(got);
        content
    }

    fn show(&self, dir: u64, base: &str, shown: &mut Shown) {
        for name in self.names(dir) {
            let attr = self.0.lookup(dir, &name).unwrap().unwrap();
            let path = format!("{base}{}", std::str::from_utf8(&name).unwrap());
            let mut line = format!("{:o} {}:{}", attr.mode, attr.uid, attr.gid);
            match attr.kind {
                FileKind::File => {
                    let mtime = if attr.mtime.0 == 1_000_000 { "set" } else { "now" };
                    line += &format!(" {} {:x?} mtime {mtime}", attr.links, self.content(attr.number));
                }
                FileKind::Symlink => {
                    line += &format!(" -> {}", std::ffi::OsStr::from_bytes(&self.0.readlink(attr.number).unwrap()).display());
                }
                _ => {}
            }
            let mut names = self.0.listxattr(attr.number).unwrap();
            names.sort();
            for name in names {
                line += &format!(" {}", String::from_utf8_lossy(&name));
            }
            shown.insert(path.clone(), line);
            if attr.kind == FileKind::Dir {
                self.show(attr.number, &format!("{path}/"), shown);
            }
        }
    }
}

/// Two lower layers with all kinds of meetings: files over files, directories over directories, whiteouts, opaque ones.
fn make_lowers(dir: &Path) {
    let script = "mkdir -p l1/a/b/c l1/b/a l1/c/c l1/d l2/a/a l2/c/d l2/b/b l2/d
        echo 1 > l1/a/d; echo 2 > l1/a/b/a; echo 3 > l1/b/c; echo 4 > l1/c/a; ln -s there l1/c/b; echo 5 > l1/d/a; echo 6 > l1/d/b
        echo 7 > l2/a/c; echo 8 > l2/c/a; mknod l2/d/a c 0 0; mknod l2/b/c c 0 0; setfattr -n trusted.overlay.opaque -v y l2/a/a
        setfattr -n user.note -v v l1/a/d; mkfifo l1/b/d; chmod 700 l1/a/b; chown 3:4 l1/c/a; echo 9 > l1/a/b/d";
    assert!(Command::new("bash").args(["-ec", script]).current_dir(dir).status().unwrap().success());
}

struct Mounted(PathBuf);

impl Mounted {
    fn overlay(dir: &Path, upper: &str, work: &str, at: &str) -> Mounted {
        let target = dir.join(at);
        for name in [upper, work, at] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let options = format!("lowerdir=l2:l1,upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off");
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "overlay", "-o", &options, at]).current_dir(dir);
        assert!(command.status().unwrap().success());
        Mounted(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = fs_base::sys::mount::unmount(&self.0, true);
    }
}

fn library(dir: &Path, upper: &str, work: &str) -> Library {
    for name in [upper, work] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let lowers = ["l2", "l1"].map(|name| LowerSpec::Plain(dir.join(name)).open().unwrap()).into();
    let upper = Some((dir.join(upper), dir.join(work)));
    Library(Fs::new(FsOptions { lowers, upper, open_dirs: 64, ..FsOptions::default() }).unwrap())
}

fn may() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        println!("SKIPPED: kernel mounts: needs root");
    }
    may
}

fn compare(ops: &[Op]) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_lowers(dir);
    let ours = library(dir, "u1", "w1");
    {
        let mounted = Mounted::overlay(dir, "u2", "w2", "kernel");
        let kernel = Kernel(mounted.0.clone());
        assert_eq!(ours.shown(), kernel.shown(), "before anything");
        for (number, op) in ops.iter().enumerate() {
            let (a, b) = (ours.run(op), kernel.run(op));
            assert_eq!(a, b, "ours and the kernel's at {number}: {op:?} of {ops:?}");
        }
        assert_eq!(ours.shown(), kernel.shown(), "after {ops:?}");
    }
    let wanted = ours.shown();
    drop(ours);
    assert_eq!(library(dir, "u1", "w1").shown(), wanted, "opened again");
    assert_eq!(library(dir, "u2", "w3").shown(), wanted, "what the kernel wrote, opened by us");
    let mounted = Mounted::overlay(dir, "u1", "w1", "again");
    assert_eq!(Kernel(mounted.0.clone()).shown(), wanted, "what we wrote, opened by the kernel");
}

#[test]
fn the_same_operations_give_the_same_tree_as_the_kernel() {
    if !may() {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..40))| compare(&ops));
}

/// The same meetings as [`make_lowers`] makes, as layers of a store.
fn make_layers(dir: &Path) -> (Store, Vec<LayerId>) {
    let script = "mkdir -p l1/a/b/c l1/b/a l1/c/c l1/d l2/a/a l2/c/d l2/b/b l2/d
        echo 1 > l1/a/d; echo 2 > l1/a/b/a; echo 3 > l1/b/c; echo 4 > l1/c/a; ln -s there l1/c/b; echo 5 > l1/d/a; echo 6 > l1/d/b
        echo 7 > l2/a/c; echo 8 > l2/c/a; : > l2/d/.wh.a; : > l2/b/.wh.c; : > l2/a/a/.wh..wh..opq; mkfifo l1/b/d
        chmod 700 l1/a/b; chown 3:4 l1/c/a; echo 9 > l1/a/b/d; ln l1/a/b/d l1/c/d; ln l1/a/b/d l1/a/b/c/a
        tar -C l1 -cf l1.tar .; tar -C l2 -cf l2.tar .";
    assert!(Command::new("bash").args(["-ec", script]).current_dir(dir).status().unwrap().success());
    let store = Store::open(&dir.join("store")).unwrap();
    let ingest = |name| store.ingest(&mut &std::fs::read(dir.join(name)).unwrap()[..], &IngestOptions::default()).unwrap().id;
    let ids = ["l1.tar", "l2.tar"].map(ingest).into();
    (store, ids)
}

/// What the session says that it has changed is what the walk of its upper directory says, at every moment.
fn compare_changes(ops: &[(Op, bool)]) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (store, ids) = make_layers(dir);
    let (upper, work) = (dir.join("u"), dir.join("w"));
    for path in [&upper, &work] {
        std::fs::create_dir(path).unwrap();
    }
    let open = || {
        let lowers = ids.iter().rev().map(|id| LowerSpec::Indexed(store.layer_dir(id)).open().unwrap()).collect();
        let upper = Some((upper.clone(), work.clone()));
        Library(Fs::new(FsOptions { lowers, upper, open_dirs: 64, ..FsOptions::default() }).unwrap())
    };
    let layers = layerfs::tree::Tree::new(ids.iter().map(|id| store.layer(id).unwrap()).collect());
    let tree = open();
    let check = |tree: &Library, when: &dyn std::fmt::Debug| {
        let walked = layerfs::diff::of_upper(&layers, &upper).unwrap();
        assert_eq!(tree.0.changes().unwrap(), walked, "{when:?} of {ops:?}");
    };
    let mut left_open = Vec::new();
    for (number, (op, asked)) in ops.iter().enumerate() {
        let _ = tree.run(op);
        if let (Op::Append(path), true) = (op, asked)
            && let Ok(node) = tree.writable(path)
        {
            // It is written to later, with nothing asked in between.
            left_open.extend(tree.0.open_to_write(node, false, false));
        }
        if number % 5 == 4 {
            for handle in &left_open {
                tree.0.write(*handle, &[number as u8; 3], number as u64, false).unwrap();
            }
        }
        if *asked {
            check(&tree, &number);
        }
    }
    for handle in left_open {
        tree.0.release(handle);
    }
    check(&tree, &"at the end");
    check(&tree, &"asked again");
    drop(tree);
    check(&open(), &"opened again");
}

#[test]
fn what_was_changed_is_known_without_a_walk() {
    if !may() {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() };
    let step = (op(), prop::bool::weighted(0.3));
    proptest!(config, |(ops in prop::collection::vec(step, 1..40))| compare_changes(&ops));
}

#[test]
fn a_file_that_lost_its_name_is_there_for_who_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["l1", "l2"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("l1/low"), "low").unwrap();
    let tree = library(dir.path(), "u", "w");
    let fs = &tree.0;
    let low = fs.lookup(ROOT, b"low").unwrap().unwrap().number;
    let reader = fs.open(low).unwrap();
    fs.unlink(ROOT, b"low").unwrap();
    assert_eq!(fs.lookup(ROOT, b"low").unwrap(), None);
    // Written to after it has no name any more: the copy has none either, and who reads it sees it.
    let writer = fs.open_to_write(low, false, false).unwrap();
    fs.write(writer, b"LOW", 0, false).unwrap();
    let mut content = [0; 8];
    assert_eq!(fs.read(low, reader, &mut content, 0).unwrap(), 3);
    assert_eq!(&content[..3], b"LOW");
    assert_eq!(fs.getattr(low).unwrap().size, 3);
    let (attr, handle) = fs.create(ROOT, b"low", MAKER).unwrap();
    assert_ne!(attr.number, low);
    fs.write(handle, b"new file", 0, false).unwrap();
    fs.unlink(ROOT, b"low").unwrap();
    assert_eq!(fs.getattr(attr.number).unwrap().size, 8);
    assert_eq!(fs.getattr(attr.number).unwrap().links, 0);
    for handle in [reader, writer, handle] {
        fs.release(handle);
    }
}

#[test]
fn a_directory_whose_files_were_read_is_worth_listing_once() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("f{number}")).collect();
    for name in ["l1/d", "l2"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in &names {
        std::fs::write(dir.path().join("l1/d").join(name), "low").unwrap();
    }
    let tree = library(dir.path(), "u", "w");
    let fs = &tree.0;
    let folder = fs.lookup(ROOT, b"d").unwrap().unwrap().number;
    let list = || {
        let handle = fs.opendir(folder).unwrap();
        let mut seen = 0;
        fs.readdir(folder, handle, 0, true, &mut |_| {
            seen += 1;
            true
        })
        .unwrap();
        fs.releasedir(handle);
        assert_eq!(seen, names.len() + 2);
    };
    let read = |name: &str| {
        let file = fs.lookup(folder, name.as_bytes()).unwrap().unwrap().number;
        let handle = fs.open(file).unwrap();
        assert_eq!(fs.read(file, handle, &mut [0; 8], 0).unwrap(), 3);
        fs.release(handle);
    };
    list();
    assert!(!fs.is_worth_listing(folder), "nothing was read");
    read("f0");
    assert!(!fs.is_worth_listing(folder), "one question costs less than twenty names");
    for name in &names {
        read(name);
    }
    assert!(fs.is_worth_listing(folder) && !fs.is_worth_listing(ROOT));
    list();
    assert!(!fs.is_worth_listing(folder), "the kernel knows all of them again");
    for name in &names {
        read(name);
        let file = fs.lookup(folder, name.as_bytes()).unwrap().unwrap().number;
        fs.getattr(file).unwrap();
    }
    assert!(!fs.is_worth_listing(folder), "it has asked already");
}

#[test]
fn copy_up_keeps_holes_hard_links_attributes_and_the_number() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["l1/sub", "l2"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let file = std::fs::File::create(at("l1/holes")).unwrap();
    file.write_all_at(b"end", 8 << 20).unwrap();
    std::fs::hard_link(at("l1/holes"), at("l1/sub/other")).unwrap();
    std::fs::set_permissions(at("l1/holes"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567, 89);
    file.set_modified(time).unwrap();
    let before = std::fs::metadata(at("l1/sub")).unwrap().mtime_nsec();
    let tree = library(dir.path(), "u", "w");
    let fs = &tree.0;
    let low = fs.lookup(ROOT, b"holes").unwrap().unwrap();
    fs.setattr(low.number, None, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    let up = fs.lookup(ROOT, b"holes").unwrap().unwrap();
    assert_eq!((up.number, up.mode & 0o7777, up.mtime, up.links), (low.number, 0o600, (1_234_567, 89), 2));
    assert_eq!(tree.find("sub/other").unwrap(), low.number, "the other name is the same file");
    let upper = std::fs::metadata(at("u/sub/other")).unwrap();
    assert_eq!((upper.ino(), upper.nlink()), (std::fs::metadata(at("u/holes")).unwrap().ino(), 2));
    assert!(upper.blocks() < 64, "holes stay");
    assert_eq!(std::fs::metadata(at("u/sub")).unwrap().mtime_nsec(), before, "a copy-up changes no directory's time");
}
