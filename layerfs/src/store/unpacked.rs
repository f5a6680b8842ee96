//! The unpacked copy of a layer, `fs/`, which the `overlay` driver mounts: made, and held against the layer's index.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::sys::root::Root;
use fs_base::sys::xattr;
use fs_base::{Class, IoContext, LayerId, Result, durable, id};
use rustix::fs::{Mode, OFlags};

use super::{Layer, Store};
use crate::archive::unpack_layer;
use crate::erofs::FileKind;
use crate::metadata::Metadata;
use crate::tree::{Entry, Origin, Tree, names_of, reopen};

/// The copy's name in the layer's folder.
pub const NAME: &str = "fs";
/// Differences that are told in words; of more only the number.
const TOLD: usize = 3;
/// Attributes that a security module gives to every file.
const OF_MODULES: [&str; 4] = ["security.selinux", "security.ima", "security.evm", "security.SMACK64"];

impl Store {
    /// The unpacked copy of a layer; made if there is none, and published whole.
    pub(crate) fn unpacked(&self, layer: &Arc<Layer>) -> Result<PathBuf> {
        let unpacked = layer.dir.join(NAME);
        if unpacked.exists() {
            return Ok(unpacked);
        }
        let staging = self.tmp().join(id::random_hex::<16>()?);
        std::fs::create_dir(&staging).at("make directory", &staging)?;
        let made = unpack_layer(layer, &staging).and_then(|_| {
            durable::sync_file_system(&staging)?;
            match durable::publish(&staging, &unpacked) {
                // Somebody else was faster.
                Err(error) if error.class() == Class::Conflict => Ok(()),
                other => other,
            }
        });
        if staging.exists() {
            let _ = std::fs::remove_dir_all(&staging);
        }
        made.map(|()| unpacked)
    }

    /// Throws away the unpacked copy of a layer, and makes it again from the data. Nothing may stand on the old one.
    pub fn unpack_again(&self, id: &LayerId) -> Result<()> {
        let layer = self.layer(id)?;
        self.trash.discard(&layer.dir.join(NAME))?;
        self.unpacked(&layer)?;
        self.sweep()
    }
}

/// In what the unpacked copy at `path` is not what the layer's index says, in words; `None` if in nothing. With `data`
/// every byte is compared. `go_on` is asked now and then, and ends it by answering `false`.
pub fn difference(layer: &Arc<Layer>, path: &Path, data: bool, go_on: &mut dyn FnMut() -> bool) -> Result<Option<String>> {
    let tree = Tree::raw(Arc::clone(layer));
    let mut comparison =
        Comparison { tree: &tree, root: Root::open(path)?, data, links: HashMap::new(), told: Vec::new(), count: 0 };
    let Some(top) = tree.root()? else { return Ok(None) };
    let mut todo = vec![(Vec::new(), top)];
    let mut seen = 0;
    while let Some((path, entry)) = todo.pop() {
        seen += 1;
        if (seen % 1024 == 0 || data && entry.metadata.size > 16 << 20) && !go_on() {
            break;
        }
        let children = match comparison.compare(&path, &entry) {
            Ok(children) => children,
            // The disk may have gone bad in one place; the rest is looked at.
            Err(error) => {
                comparison.tell(&path, &error.to_string());
                continue;
            }
        };
        for (name, child) in children {
            let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            todo.push((path, child));
        }
    }
    Ok(comparison.in_words())
}

struct Comparison<'a> {
    tree: &'a Tree,
    root: Root,
    data: bool,
    /// Files with several names: where the first was found.
    links: HashMap<(Origin, u64, u64), (u64, u64)>,
    told: Vec<String>,
    count: usize,
}

impl Comparison<'_> {
    fn tell(&mut self, path: &[u8], what: &str) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("/{}: {what}", String::from_utf8_lossy(path)));
        }
    }

    fn in_words(self) -> Option<String> {
        let more = self.count - self.told.len();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (self.count > 0).then(|| self.told.join("; ") + &more)
    }

    /// Compares one file, and returns what is to be compared below it.
    fn compare(&mut self, path: &[u8], entry: &Entry) -> Result<Vec<(Vec<u8>, Entry)>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = match self.root.open_at(Path::new(OsStr::from_bytes(path)), flags, Mode::empty()) {
            Err(error) if error.class() == Class::NotFound => {
                self.tell(path, "it is missing");
                return Ok(Vec::new());
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&fd).at("stat", "unpacked file")?;
        let (want, got) = (entry.metadata, Metadata::of_stat(&stat));
        for what in metadata_differs(&want, &got) {
            self.tell(path, &what);
        }
        if want.kind != got.kind {
            return Ok(Vec::new());
        }
        if want.links > 1 && !want.is_dir() {
            let place = (stat.st_dev, stat.st_ino);
            let first = *self.links.entry(entry.identity()?).or_insert(place);
            if first != place {
                self.tell(path, "it is a file of its own, not one more name of another");
            }
        }
        self.attributes(path, entry, &fd)?;
        match want.kind {
            FileKind::Dir => return self.names(path, entry, &fd),
            FileKind::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).at("read", "unpacked symlink")?;
                if target.as_bytes() != self.tree.read_link(entry)? {
                    self.tell(path, "it points elsewhere");
                }
            }
            FileKind::File if self.data && want.size == got.size => {
                if let Some(offset) = self.first_difference(entry, &fd)? {
                    self.tell(path, &format!("its content differs at {offset}"));
                }
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn names(&mut self, path: &[u8], entry: &Entry, fd: &OwnedFd) -> Result<Vec<(Vec<u8>, Entry)>> {
        let children = self.tree.read_dir(entry)?;
        for name in names_of(fd.as_fd())? {
            if children.binary_search_by(|(known, _)| known.cmp(&name)).is_err() {
                let path = if path.is_empty() { name } else { [path, b"/", &name].concat() };
                self.tell(&path, "the layer has no such file");
            }
        }
        Ok(children)
    }

    fn attributes(&mut self, path: &[u8], entry: &Entry, fd: &OwnedFd) -> Result<()> {
        let want = self.tree.xattrs(entry)?;
        let mut got = xattr::list(fd)?;
        got.retain(|(name, _)| !OF_MODULES.iter().any(|module| name == module));
        for (name, value) in &want {
            let found = got.iter().find(|(other, _)| other.as_bytes() == name);
            let is_as_wanted = found.is_some_and(|(_, found)| found == value) || found.is_none() && !can_have(fd, name);
            if !is_as_wanted {
                self.tell(path, &format!("its attribute {} differs", String::from_utf8_lossy(name)));
            }
        }
        for (name, _) in &got {
            if !want.iter().any(|(known, _)| known == name.as_bytes()) {
                self.tell(path, &format!("it has an attribute {}", name.display()));
            }
        }
        Ok(())
    }

    /// Where the file's bytes are others first.
    fn first_difference(&self, entry: &Entry, fd: &OwnedFd) -> Result<Option<u64>> {
        use std::os::unix::fs::FileExt;
        const PIECE: u64 = 1 << 17;
        let (content, size) = (self.tree.open(entry)?, entry.metadata.size);
        let file = reopen(fd.as_fd(), OFlags::RDONLY).at("open", "unpacked file")?;
        let (mut want, mut got) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
        // Two holes are equal: a file of a terabyte is not read for its zeros.
        let (ours, theirs) =
            (content.segments(), crate::tree::Content::of_file(file.try_clone().at("open", "unpacked file")?, size).segments());
        let mut offset = 0;
        while let Some(start) = next_at(&ours, offset).into_iter().chain(next_at(&theirs, offset)).min() {
            let length = PIECE.min(size - start) as usize;
            let mut filled = 0;
            while filled < length {
                match content.read_at(&mut want[filled..length], start + filled as u64).at("read", "layer data")? {
                    0 => break,
                    read => filled += read,
                }
            }
            if file.read_exact_at(&mut got[..length], start).is_err() {
                return Ok(Some(start));
            }
            if let Some(at) = want[..length].iter().zip(&got[..length]).position(|(a, b)| a != b) {
                return Ok(Some(start + at as u64));
            }
            offset = start + length as u64;
        }
        Ok(None)
    }
}

/// The first offset from `offset` on that lies in a segment.
fn next_at(segments: &[(u64, u64)], offset: u64) -> Option<u64> {
    let next = segments.partition_point(|(start, length)| start + length <= offset);
    segments.get(next).map(|(start, _)| offset.max(*start))
}

/// Whether the file system keeps attributes of this name at all; what it doesn't keep was left out.
fn can_have(fd: &OwnedFd, name: &[u8]) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let answer = rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut [0u8; 0][..]);
    answer != Err(rustix::io::Errno::NOTSUP)
}

fn metadata_differs(want: &Metadata, got: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    if want.kind != got.kind {
        return vec![format!("it is a {:?}, not a {:?}", got.kind, want.kind)];
    }
    let mut differ = |what: &str, want: String, got: String| {
        if want != got {
            found.push(format!("its {what} is {got}, not {want}"));
        }
    };
    if want.kind != FileKind::Symlink {
        differ("mode", format!("{:o}", want.permissions()), format!("{:o}", got.permissions()));
    }
    differ("owner", format!("{}:{}", want.uid, want.gid), format!("{}:{}", got.uid, got.gid));
    if matches!(want.kind, FileKind::File | FileKind::Symlink) {
        differ("size", want.size.to_string(), got.size.to_string());
    }
    if !want.is_dir() {
        differ("number of names", want.links.to_string(), got.links.to_string());
    }
    differ("device number", format!("{:?}", want.device), format!("{:?}", got.device));
    // What a file system can't keep it has moved to what it can: not every one goes past 2038, or to nanoseconds.
    let kept = (0..i64::from(i32::MAX)).contains(&want.mtime);
    let nanos = if got.mtime_nanos == 0 { 0 } else { want.mtime_nanos };
    if kept {
        differ("time", format!("{}.{nanos:09}", want.mtime), format!("{}.{:09}", got.mtime, got.mtime_nanos));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::IngestOptions;
    use crate::store::FindingKind;

    fn sh(dir: &Path, script: &str) {
        let output = std::process::Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    const TREE: &str =
        "mkdir -p t/dir/sub t/opaque; seq 20000 > t/long; ln t/long t/dir/hard; ln -s ../long t/dir/link; mkfifo t/pipe
        mknod t/null c 1 3; chmod 4711 t/dir/hard; chown 3:4 t/dir; truncate -s 1M t/sparse; echo end >> t/sparse
        setfattr -n user.note -v hello t/long; touch t/.wh.gone t/opaque/.wh..wh..opq; touch -d @1234567890.5 t/pipe
        touch -d @-5 t/opaque; touch t/dir/sub/$(printf '\\377'); tar --xattrs --format=pax -S -cf t.tar -C t .";

    #[test]
    fn every_difference_is_found_and_unpacking_again_mends_it() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: unpacked layers: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        sh(dir.path(), TREE);
        let store = Store::open(&dir.path().join("store")).unwrap();
        let tar = std::fs::read(dir.path().join("t.tar")).unwrap();
        let id = store.ingest(&mut &tar[..], &IngestOptions::default()).unwrap().id;
        let unpacked = store.unpacked(&store.layer(&id).unwrap()).unwrap();
        assert_eq!(store.check(&id, true).unwrap(), [], "as it was unpacked");
        for (harm, said) in [
            ("rm dir/link", "/dir/link: it is missing"),
            ("rm -r dir", "/dir: it is missing"),
            ("touch new", "/new: the layer has no such file"),
            ("rm gone", "/gone: it is missing"),
            ("chmod 755 long", "mode is 755, not 4711"),
            ("chown 5 dir", "/dir: its owner is 5:4, not 3:4"),
            ("truncate -s 7 sparse", "/sparse: its size is 7"),
            ("rm pipe; touch pipe", "/pipe: it is a File, not a Fifo"),
            ("rm null; mknod null c 1 5", "/null: its device number is (1, 5), not (1, 3)"),
            ("touch -d @77 pipe", "/pipe: its time is 77"),
            ("setfattr -x user.note long", "its attribute user.note differs"),
            ("setfattr -n user.note -v other long", "its attribute user.note differs"),
            ("setfattr -n user.new -v 1 sparse", "/sparse: it has an attribute user.new"),
            ("setfattr -x trusted.overlay.opaque opaque", "/opaque: its attribute trusted.overlay.opaque differs"),
            ("ln -sf ../lonG dir/link; chown -h 0:0 dir/link", "/dir/link: it points elsewhere"),
            ("cp -p long x; setfattr -n user.note -v hello x; mv x dir/hard", "/long: its number of names is 1, not 2"),
            ("for i in 1 2 3 4 5; do touch $i; done; touch -d @9 pipe", "and "),
        ] {
            sh(&unpacked, harm);
            let found = store.check(&id, false).unwrap();
            assert!(found.len() == 1 && found[0].kind == FindingKind::Unpacked, "{harm}: {found:?}");
            assert!(found[0].message.contains(said), "{harm}: {found:?}");
            assert!(store.check_with(&id, false, &mut |_| true).unwrap().sizes.is_some(), "{harm}: the layer itself is sound");
            store.unpack_again(&id).unwrap();
            assert_eq!(store.check(&id, true).unwrap(), [], "mended: {harm}");
        }
        for (harm, said) in [
            ("printf X | dd of=long bs=1 seek=70000 conv=notrunc; touch -d @0 long", "content differs at 70000"),
            ("printf X | dd of=sparse bs=1 seek=500000 conv=notrunc; touch -d @0 sparse", "content differs at 500000"),
        ] {
            // Not told by a time either: the disk did it, not a program.
            sh(&dir.path().join("t"), "touch -r long ../long.time; touch -r sparse ../sparse.time");
            sh(&unpacked, harm);
            sh(&unpacked, &format!("touch -r {0}/long.time long; touch -r {0}/sparse.time sparse", dir.path().display()));
            assert_eq!(store.check(&id, false).unwrap(), [], "{harm}: the bytes are not read");
            let found = store.check(&id, true).unwrap();
            assert!(found.len() == 1 && found[0].message.contains(said), "{harm}: {found:?}");
            store.unpack_again(&id).unwrap();
            assert_eq!(store.check(&id, true).unwrap(), [], "mended: {harm}");
        }
        let mut asked = 0;
        let stopped = store.check_with(&id, true, &mut |_| {
            asked += 1;
            false
        });
        assert_eq!(stopped.unwrap().findings, [], "{asked}");
    }
}
