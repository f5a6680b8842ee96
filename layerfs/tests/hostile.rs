//! Tars that no tool would write, byte by byte: what is taken, what is refused, and that nothing panics or runs away.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod blocks;

use std::path::Path;
use std::sync::LazyLock;

use blocks::{Block, file, pax};
use fs_base::{Class, Error};
use layerfs::Metadata;
use layerfs::erofs::{FileKind, Index, Nid, Source};
use layerfs::ingest::{Built, IngestOptions, ingest, rebuild_index};
use layerfs::tar::Limits;
use proptest::prelude::*;

/// What an octal size field holds at most: 8 GiB less a byte.
const LARGEST: u64 = 0o77_777_777_777;

/// A layer that was taken in, its folder, and its index.
struct Taken {
    dir: tempfile::TempDir,
    built: Built,
    index: Index,
}

fn take_with(parts: &[Vec<u8>], limits: Limits) -> Result<Taken, Error> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len() + 1024, 0);
    let dir = tempfile::tempdir().unwrap();
    let built = ingest(&mut &bytes[..], dir.path(), &IngestOptions { limits, ..Default::default() })?;
    let index = Index::open(&dir.path().join("index")).unwrap();
    Ok(Taken { dir, built, index })
}

fn take(parts: &[Vec<u8>]) -> Result<Taken, Error> {
    take_with(parts, Limits::default())
}

impl Taken {
    fn nid(&self, path: &str) -> Nid {
        let find = |nid, name: &str| self.index.lookup(nid, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {path}"));
        path.split('/').filter(|name| !name.is_empty()).fold(self.index.root(), find)
    }

    fn inode(&self, path: &str) -> Metadata {
        self.index.inode(self.nid(path)).unwrap()
    }

    fn content(&self, path: &str) -> Vec<u8> {
        let data = std::fs::read(self.dir.path().join("data")).unwrap();
        let mut bytes = vec![0; self.inode(path).size as usize];
        for extent in self.index.extents(self.nid(path)).unwrap() {
            let part = &mut bytes[extent.file_offset as usize..][..extent.length as usize];
            match extent.source {
                Source::Hole => {}
                Source::Data(at) => part.copy_from_slice(&data[at as usize..][..part.len()]),
                Source::Index(at) => part.copy_from_slice(self.index.raw(at, extent.length).unwrap()),
            }
        }
        bytes
    }

    fn xattrs(&self, path: &str) -> Vec<String> {
        let xattrs = self.index.xattrs(self.nid(path)).unwrap();
        xattrs
            .iter()
            .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect()
    }
}

fn refused(parts: &[Vec<u8>], class: Class, text: &str) {
    let error = take(parts).map(|_| ()).unwrap_err();
    assert!(error.class() == class && error.to_string().contains(text), "{:?} {error}", error.class());
}

#[test]
fn numbers_in_base_256_and_below_zero() {
    let layer = take(&[Block::new(b"a", b'0', 0)
        .set(108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xf0])
        .set(116, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe])
        .set(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5])
        .set(136, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0])
        .with(b"hello")])
    .unwrap();
    let inode = layer.inode("a");
    assert_eq!((inode.uid, inode.gid, inode.size, inode.mtime), (0xffff_fff0, u32::MAX - 1, 5, -256));
    let id = |bytes: [u8; 8]| vec![Block::new(b"a", b'0', 0).set(108, &bytes).alone()];
    refused(&id([0xff; 8]), Class::Invalid, "uid -1 is out of range");
    refused(&id([0x80, 0, 0, 1, 0, 0, 0, 0]), Class::Invalid, "uid 4294967296 is out of range");
    refused(&[Block::new(b"a", b'0', 0).set(124, &[0xff; 12]).alone()], Class::Corrupt, "negative size");
    refused(&[Block::new(b"a", b'0', 0).set(124, b"9x").alone()], Class::Corrupt, "unreadable size");
    let device = |major: [u8; 8]| vec![Block::new(b"a", b'3', 0).set(329, &major).number(337, 8, 3).alone()];
    refused(&device([0x80, 0, 0, 1, 0, 0, 0, 0]), Class::Invalid, "device major number 4294967296");
    refused(&device(*b"0010000\0"), Class::Invalid, "device number 4096:3");
}

#[test]
fn names_come_from_the_prefix_the_long_name_or_the_pax_header() {
    let long = "d/".repeat(80) + "f";
    let gnu = |flag, text: &str| Block::new(b"././@LongLink", flag, text.len() as u64 + 1).with(format!("{text}\0").as_bytes());
    let layer = take(&[
        Block::new(b"name", b'0', 0).set(345, b"pre/fix").alone(),
        Block::new(b"star", b'0', 0).set(345, b"p").set(476, b"00000000001 00000000001 ").set(508, b"tar\0").alone(),
        Block::new(b"gnu", b'0', 0).set(257, b"ustar  \0").set(345, b"00000000001").alone(),
        gnu(b'L', &long),
        gnu(b'K', &"t".repeat(150)),
        Block::new(b"short", b'2', 0).alone(),
        gnu(b'L', "from-gnu"),
        pax(b'x', &[("path", b"from-pax"), ("mtime", b"-1.25"), ("uid", b"4000000000"), ("size", b"3")]),
        Block::new(b"short", b'0', 99).with(b"abc"),
        pax(b'x', &[("path", b"gone"), ("path", b"")]),
        file("kept", b""),
    ])
    .unwrap();
    for path in ["pre/fix/name", "p/star", "gnu", "from-pax", "kept"] {
        layer.inode(path);
    }
    assert_eq!(layer.index.read_link(layer.nid(&long)).unwrap().len(), 150);
    let inode = layer.inode("from-pax");
    assert_eq!((inode.mtime, inode.mtime_nanos, inode.uid, inode.size), (-2, 750_000_000, 4_000_000_000, 3));
    assert_eq!(layer.content("from-pax"), b"abc");
}

#[test]
fn what_is_no_file_has_no_data_whatever_its_size_says() {
    let size = |flag, link: &[u8]| Block::new(b"x", flag, 700).set(157, link).alone();
    for (flag, link) in [(b'1', &b"a"[..]), (b'2', b"a"), (b'3', b""), (b'5', b""), (b'6', b"")] {
        let layer = take(&[file("a", b"1"), size(flag, link), file("b", b"2")]).unwrap();
        assert_eq!(layer.content("b"), b"2", "{}", char::from(flag));
    }
    // A regular file by its flag, a directory by its name; its data is passed over.
    let layer = take(&[Block::new(b"d/", b'0', 600).with(&[7; 600]), file("d/b", b"2")]).unwrap();
    assert_eq!((layer.inode("d").kind, layer.content("d/b")), (FileKind::Dir, b"2".to_vec()));
}

#[test]
fn global_headers_are_passed_over() {
    let layer = take(&[pax(b'g', &[("comment", b"0123"), ("path", b"evil"), ("uid", b"7")]), file("a", b"1")]).unwrap();
    assert_eq!((layer.inode("a").uid, layer.built.entries), (0, 1));
}

#[test]
fn attributes_of_overlayfs_are_dropped_and_unknown_ones_too() {
    let smuggled = [
        ("SCHILY.xattr.trusted.overlay.opaque", &b"y"[..]),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.metacopy", b""),
        ("SCHILY.xattr.com.apple.quarantine", b"1"),
        ("SCHILY.xattr.system.posix_acl_accessible", b"1"),
        ("SCHILY.xattr.user.", b"1"),
        ("SCHILY.xattr.user.kept", b"a=b\nc"),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
    ];
    let layer = take(&[pax(b'x', &smuggled), Block::new(b"d", b'5', 0).alone()]).unwrap();
    assert_eq!(layer.xattrs("d"), ["security.capability=\u{1}\0\0\u{2}", "user.empty=", "user.kept=a=b\nc"]);
    let big = [("SCHILY.xattr.user.a", &vec![b'x'; 66_000][..])];
    refused(&[pax(b'x', &big), file("a", b"")], Class::Invalid, "65535 is the most");
}

#[test]
fn an_opaque_directory_stays_so_when_its_entry_comes_later() {
    let entry = || Block::new(b"d", b'5', 0).number(100, 8, 0o700).alone();
    let layer = take(&[file("d/.wh..wh..opq", b""), entry()]).unwrap();
    assert_eq!((layer.inode("d").mode & 0o7777, layer.xattrs("d")), (0o700, vec!["trusted.overlay.opaque=y".to_owned()]));
    let layer = take(&[file(".wh..wh..opq", b""), file("a", b"")]).unwrap();
    assert_eq!(layer.xattrs(""), Vec::<String>::new(), "overlayfs knows no opaque root");
    let layer = take(&[entry(), file(".wh.d", b""), file("d/.wh.x", b""), file("d/x", b"1")]).unwrap();
    assert_eq!(layer.xattrs("d"), ["trusted.overlay.opaque=y", "trusted.overlay.origin="]);
    assert_eq!(layer.content("d/x"), b"1");
}

fn old_sparse(pairs: &[(u64, u64)], real: u64, stored: u64) -> Block {
    let mut block = Block::new(b"s", b'S', stored).set(257, b"ustar  \0").number(483, 12, real);
    for (number, (offset, length)) in pairs.iter().enumerate() {
        block = block.number(386 + number * 24, 12, *offset).number(398 + number * 24, 12, *length);
    }
    block
}

#[test]
fn sparse_members_that_are_not_aligned_or_lie() {
    // Nothing here begins where a block does, neither in the file nor, from the second piece on, in the tar.
    let layer = take(&[old_sparse(&[(100, 10), (5000, 600), (9000, 0)], 9000, 610).with(&[b'x'; 610]), file("b", b"2")]).unwrap();
    let mut want = vec![0; 9000];
    want[100..110].fill(b'x');
    want[5000..5600].fill(b'x');
    assert!(layer.content("s") == want && layer.content("b") == b"2");
    assert_eq!(layer.built.file_bytes, 9001);
    let map = |text: &[u8]| {
        vec![
            pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"5000")]),
            file("m", text),
        ]
    };
    let mut stored = b"2\n0\n3\n4997\n3\n".to_vec();
    stored.resize(512, 0);
    stored.extend_from_slice(b"abcxyz");
    let layer = take(&map(&stored)).unwrap();
    assert!(layer.content("m").starts_with(b"abc\0") && layer.content("m").ends_with(b"\0xyz"));
    let by_header = [("GNU.sparse.map", &b"0,3,4997,3"[..]), ("GNU.sparse.size", b"5000")];
    let layer = take(&[pax(b'x', &by_header), file("m", b"abcxyz")]).unwrap();
    assert!(layer.content("m").ends_with(b"\0xyz"));

    refused(&[old_sparse(&[(600, 10), (0, 10)], 9000, 20).with(&[0; 20])], Class::Corrupt, "runs backwards");
    refused(&[old_sparse(&[(8995, 10)], 9000, 10).with(&[0; 10])], Class::Corrupt, "past the end");
    refused(&[old_sparse(&[(0, 800)], 9000, 10).with(&[0; 10])], Class::Corrupt, "past the end");
    refused(&[old_sparse(&[(u64::MAX >> 31, 10)], LARGEST, 10).with(&[0; 10])], Class::Corrupt, "past the end");
    let padded = |text: &[u8]| [text, &vec![0; 512 - text.len()]].concat();
    refused(&map(&padded(b"99999999999999999999999\n")), Class::Corrupt, "malformed sparse map");
    refused(&map(&padded(b"18446744073709551615\n")), Class::Invalid, "limit `segments`");
    refused(&map(&padded(b"1\n0\n600\n")), Class::Corrupt, "past the end");
    refused(&map(b"5\n1\n"), Class::Corrupt, "truncated");
    let huge = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.realsize", b"18446744073709551615")];
    refused(&[pax(b'x', &huge), file("m", &stored)], Class::Invalid, "limit `file_bytes`");
    refused(&[pax(b'x', &[("GNU.sparse.major", b"7")]), file("m", &stored)], Class::Unsupported, "sparse format");
}

/// A tiny archive that claims many terabytes must not make a large index.
#[test]
fn a_bomb_of_holes_stays_small() {
    let layer = take(&[old_sparse(&[(1 << 31, 1), (7 << 30, 1)], LARGEST, 2).with(b"ab")]).unwrap();
    assert!(layer.built.index_size < 8 << 20, "{}", layer.built.index_size);
    let many: Vec<_> = (0..200)
        .map(|n| {
            let size = [("GNU.sparse.size", &b"17592186044416"[..]), ("GNU.sparse.map", b"4194305,1,1099511627777,1")];
            [pax(b'x', &size), file(&format!("s{n}"), b"ab")].concat()
        })
        .collect();
    let error = take(&many).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("index would take more than 1073741824 bytes"), "{error}");
}

#[test]
fn every_limit_is_reported_by_its_name() {
    let with = |limits: Limits, parts: &[Vec<u8>], name: &str| {
        let error = take_with(parts, limits).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(&format!("limit `{name}`")) && error.hint().is_some(), "{error}");
    };
    let default = Limits::default();
    let files: Vec<_> = (0..40).map(|n| file(&format!("directory/file-{n}"), b"x")).collect();
    with(Limits { entries: 39, ..default }, &files, "entries");
    with(Limits { size: 20_000, ..default }, &files, "bytes");
    with(Limits { index: 3000, ..default }, &files, "index_bytes");
    with(Limits { path: 10, ..default }, &files, "path");
    with(Limits { file_size: 600, ..default }, &[file("a", &[1; 601])], "file_bytes");
    with(
        default,
        &[file("a", &[]), Block::new(b"a", b'0', 0).set(124, &[0x80, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]).alone()],
        "bytes",
    );
    let deep = [("path", "d/".repeat(1025))];
    with(default, &[pax(b'x', &[(deep[0].0, deep[0].1.as_bytes())]), file("a", b"")], "depth");
    with(default, &[Block::new(b"PaxHeaders/a", b'x', 2 << 20).alone()], "attributes");
    with(default, &[Block::new(b"././@LongLink", b'L', 5000).alone()], "path");
    with(default, &[pax(b'x', &[("path", &[b'a'; 4096])]), file("a", b"")], "path");
    refused(&[pax(b'x', &[("path", &[b'a'; 256])]), file("a", b"")], Class::Invalid, "longer than 255 bytes");
}

#[test]
fn damage_is_corrupt_and_says_where() {
    refused(&[pax(b'x', &[("path", b"a\0b")]), file("a", b"")], Class::Corrupt, "NUL");
    refused(&[Block::new(b"PaxHeaders/a", b'x', 9).with(b"99 path=a")], Class::Corrupt, "malformed PAX record");
    refused(&[Block::new(b"PaxHeaders/a", b'x', 9).with(b"9 path=ab")], Class::Corrupt, "malformed PAX record");
    refused(&[pax(b'x', &[("mtime", b"yesterday")]), file("a", b"")], Class::Corrupt, "malformed time");
    refused(&[file("a", b"1"), vec![7; 512]], Class::Corrupt, "not a tar header at offset 1024");
    for flag in [b'D', b'M', b'N', b'V', b'Z'] {
        refused(&[Block::new(b"odd", flag, 0).alone()], Class::Unsupported, "unknown type");
    }
    let cut = |length: usize| {
        let bytes = file("a", &[1; 3000]);
        ingest(&mut &bytes[..length], tempfile::tempdir().unwrap().path(), &IngestOptions::default())
    };
    for length in [100, 511, 513, 1000, 3583] {
        let error = cut(length).unwrap_err();
        assert!(error.class() == Class::Corrupt && error.to_string().contains("truncated"), "{error}");
    }
    assert!(cut(3584).is_ok(), "an archive may end without its end mark");
    assert!(cut(0).is_ok(), "and a layer of no bytes is an empty one, as for Docker");
    for (bytes, name) in [(&b"BZh91AY&SY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
        let error = ingest(&mut &bytes[..], tempfile::tempdir().unwrap().path(), &IngestOptions::default()).unwrap_err();
        assert!(error.class() == Class::Unsupported && error.to_string().contains(name), "{error}");
    }
}

/// An input that has no end and counts what is taken from it.
struct Endless<'a>(Vec<u8>, usize, &'a std::sync::atomic::AtomicUsize);

impl std::io::Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for byte in &mut *buffer {
            *byte = self.0[self.1 % self.0.len()];
            self.1 += 1;
        }
        self.2.fetch_add(buffer.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(buffer.len())
    }
}

#[test]
fn an_input_without_an_end_is_left_as_soon_as_it_is_refused() {
    let plain = file("../x", b"");
    for bytes in [plain.clone(), zstd::encode_all(&plain[..], 1).unwrap()] {
        let taken = std::sync::atomic::AtomicUsize::new(0);
        let mut input = Endless(bytes, 0, &taken);
        let error = ingest(&mut input, tempfile::tempdir().unwrap().path(), &IngestOptions::default()).unwrap_err();
        assert!(error.to_string().contains("leaves the layer's root"), "{error}");
        assert!(taken.into_inner() < 64 << 20);
    }
    let taken = std::sync::atomic::AtomicUsize::new(0);
    let options = IngestOptions { expected_blob: Some((fs_base::Digest::from_bytes([0; 32]), 1 << 20)), ..Default::default() };
    let error = ingest(&mut Endless(file("x", b"1"), 0, &taken), tempfile::tempdir().unwrap().path(), &options).unwrap_err();
    assert!(error.to_string().contains("more than the 1048576 bytes that the manifest says"), "{error}");
}

#[test]
fn an_input_that_fails_is_what_the_error_tells() {
    struct Fails(usize);
    impl std::io::Read for Fails {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other(Error::unavailable("the registry hung up")));
            }
            let bytes = file("x", b"1");
            let length = buffer.len().min(bytes.len());
            buffer[..length].copy_from_slice(&bytes[..length]);
            self.0 -= 1;
            Ok(length)
        }
    }
    let error = ingest(&mut Fails(3), tempfile::tempdir().unwrap().path(), &IngestOptions::default()).unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (Class::Unavailable, "the registry hung up"));
}

#[test]
fn a_full_disk_is_told_as_such() {
    use std::os::fd::{AsFd, AsRawFd};
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: root: a small file system can't be mounted without it");
        return;
    }
    let context = fs_base::sys::mount::FsContext::open("tmpfs").unwrap();
    context.string("size", "1m").unwrap();
    let mount = context.mount(rustix::mount::MountAttrFlags::empty()).unwrap();
    let dir = std::path::PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()));
    let bytes = file("a", &vec![1; 4 << 20]);
    let error = ingest(&mut &bytes[..], &dir, &IngestOptions::default()).unwrap_err();
    assert!(error.class() == Class::Unavailable && error.to_string().contains("No space left"), "{error}");
    assert!(error.hint().unwrap().contains("free some space"), "{:?}", error.hint());
}

/// Archives with one of everything, to be damaged.
static SAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut map = b"2\n0\n3\n4997\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abcxyz");
    let sparse = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"5000")];
    vec![
        [
            Block::new(b"d/", b'5', 0).alone(),
            file("d/a", &[1; 1500]),
            Block::new(b"d/h", b'1', 0).set(157, b"d/a").alone(),
            Block::new(b"l", b'2', 0).set(157, b"../d").alone(),
            file("l/x", b"1"),
            Block::new(b"c", b'3', 0).number(329, 8, 1).number(337, 8, 3).alone(),
            file("d/.wh.gone", b""),
            file("d/.wh..wh..opq", b""),
            Block::new(b"././@LongLink", b'L', 10).with(b"long/name\0"),
            file("short", b"2"),
        ]
        .concat(),
        [
            old_sparse(&[(0, 512), (1024, 600)], 9000, 1112).with(&[b'x'; 1112]),
            pax(b'x', &sparse),
            file("m", &map),
            pax(b'x', &[("GNU.sparse.map", b"0,3,4997,3"), ("GNU.sparse.size", b"5000"), ("SCHILY.xattr.user.a", b"1")]),
            file("n", b"abcxyz"),
            pax(b'x', &[("path", b"p/q"), ("mtime", b"1.5"), ("linkpath", b"m")]),
            Block::new(b"z", b'1', 0).alone(),
        ]
        .concat(),
    ]
});

/// Mends the checksum of every block that looks like a header.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn walk(index: &Index) {
    let mut todo = vec![index.root()];
    while let Some(nid) = todo.pop() {
        index.xattrs(nid).unwrap();
        match index.inode(nid).unwrap().kind {
            FileKind::Dir => todo.extend(index.read_dir(nid).unwrap().iter().map(|entry| entry.nid)),
            FileKind::File => drop(index.extents(nid).unwrap()),
            FileKind::Symlink => assert!(!index.read_link(nid).unwrap().is_empty()),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_parser_panic_and_what_it_takes_makes_a_sound_index(
        sample in 0..2usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9']), 1..8),
        cut in proptest::option::weighted(0.1, any::<proptest::sample::Index>()),
    ) {
        let mut bytes = SAMPLES[sample].clone();
        for (place, value) in changes {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        mend(&mut bytes);
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        let dir = tempfile::tempdir().unwrap();
        if let Ok(built) = ingest(&mut &bytes[..], dir.path(), &IngestOptions::default()) {
            let again = dir.path().join("again");
            walk(&Index::open(&dir.path().join("index")).unwrap());
            rebuild(&built, dir.path(), &again);
            prop_assert!(std::fs::read(dir.path().join("index")).unwrap() == std::fs::read(&again).unwrap());
        }
    }
}

fn rebuild(built: &Built, dir: &Path, to: &Path) {
    let data = std::fs::File::open(dir.join("data")).unwrap();
    rebuild_index(&built.id, &data, to, Limits::default()).unwrap();
}

#[test]
fn an_index_is_not_rebuilt_from_data_that_was_cut() {
    let layer = take(&[file("a", &vec![1; 300_000])]).unwrap();
    rebuild(&layer.built, layer.dir.path(), &layer.dir.path().join("again"));
    let data = std::fs::File::options().write(true).read(true).open(layer.dir.path().join("data")).unwrap();
    data.set_len(200_000).unwrap();
    let error = rebuild_index(&layer.built.id, &data, &layer.dir.path().join("third"), Limits::default()).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
}
