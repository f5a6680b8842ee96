//! Layers as GNU tar makes them, ingested, mounted by the kernel, and compared entry by entry.
#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use fs_base::{Class, Error};
use layerfs::erofs::{FileKind, Index, Nid, Source};
use layerfs::ingest::{Built, IngestOptions, ingest};
use layerfs::tar::Limits;

fn run(bytes: &[u8], dir: &Path, options: &IngestOptions<'_>) -> Result<Built, Error> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir).unwrap();
    ingest(&mut &bytes[..], dir, options)
}

fn sh(dir: &Path, script: &str) {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Everything that one file is, as text, so that a difference reads well.
type Listing = BTreeMap<Vec<u8>, String>;

fn list_index(index: &Index, data: &[u8]) -> Listing {
    let mut listing = Listing::new();
    let mut todo = vec![(Vec::new(), index.root())];
    while let Some((path, nid)) = todo.pop() {
        listing.insert(path.clone(), describe_index(index, nid, data));
        if index.inode(nid).unwrap().kind == FileKind::Dir {
            for entry in index.read_dir(nid).unwrap() {
                assert_eq!(index.lookup(nid, entry.name).unwrap(), Some(entry.nid));
                todo.push(([&path[..], b"/", entry.name].concat(), entry.nid));
            }
        }
    }
    listing
}

fn describe_index(index: &Index, nid: Nid, data: &[u8]) -> String {
    let inode = index.inode(nid).unwrap();
    let content = match inode.kind {
        FileKind::File => {
            let mut bytes = vec![0; inode.size as usize];
            for extent in index.extents(nid).unwrap() {
                let part = &mut bytes[extent.file_offset as usize..(extent.file_offset + extent.length) as usize];
                match extent.source {
                    Source::Hole => {}
                    Source::Data(at) => part.copy_from_slice(&data[at as usize..(at + extent.length) as usize]),
                    Source::Index(at) => part.copy_from_slice(index.raw(at, extent.length).unwrap()),
                }
            }
            bytes
        }
        FileKind::Symlink => index.read_link(nid).unwrap().into_owned(),
        _ => Vec::new(),
    };
    let device = if inode.device == (0, 0) { 0 } else { rustix::fs::makedev(inode.device.0, inode.device.1) };
    describe(
        inode.mode,
        (inode.uid, inode.gid),
        (inode.mtime, i64::from(inode.mtime_nanos)),
        device,
        inode.links,
        &content,
        &index.xattrs(nid).unwrap(),
    )
}

fn describe(
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    links: u32,
    content: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> String {
    use sha2::Digest;
    let sum: [u8; 32] = sha2::Sha256::digest(content).into();
    let names: Vec<_> = xattrs.iter().map(|(n, v)| (String::from_utf8_lossy(n), v)).collect();
    format!("{mode:o} {owner:?} {mtime:?} dev {device} links {links} {} {:x?} {names:?}", content.len(), &sum[..4])
}

fn list_folder(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut todo = vec![(Vec::new(), root.to_owned())];
    while let Some((name, path)) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let file =
            rustix::fs::open(&path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW, rustix::fs::Mode::empty()).unwrap();
        let xattrs: Vec<_> =
            fs_base::sys::xattr::list(&file).unwrap().into_iter().map(|(n, v)| (n.as_bytes().to_vec(), v)).collect();
        let content = if stat.is_file() {
            std::fs::read(&path).unwrap()
        } else if stat.is_symlink() {
            std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let special = stat.file_type().is_char_device() || stat.file_type().is_block_device();
        // A directory's count of links is the file system's own business.
        let device = if special { stat.rdev() } else { 0 };
        listing.insert(
            name.clone(),
            describe(
                stat.mode(),
                (stat.uid(), stat.gid()),
                (stat.mtime(), stat.mtime_nsec()),
                device,
                stat.nlink() as u32,
                &content,
                &xattrs,
            ),
        );
        if stat.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                todo.push(([&name[..], b"/", entry.file_name().as_bytes()].concat(), entry.path()));
            }
        }
    }
    listing
}

fn assert_same(what: &str, a: &Listing, b: &Listing) {
    let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differences: Vec<_> = names
        .into_iter()
        .filter(|n| a.get(*n) != b.get(*n))
        .map(|n| format!("{}\n  {:?}\n  {:?}", String::from_utf8_lossy(n), a.get(n), b.get(n)))
        .take(10)
        .collect();
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

/// Makes a tree with all that tar can hold.
const TREE: &str = r#"
    mkdir -p src/dir/sub src/empty src/many "src/$(printf 'n%.0s' {1..255})"
    echo hello > src/file; chmod 4755 src/file; chown 12345:54321 src/file
    ln src/file src/dir/hard; ln -s ../file src/dir/soft; ln -s "$(printf 'x/%.0s' {1..1000})" src/long
    : > src/nothing
    head -c 1000000 /dev/urandom > src/big
    head -c 512 /dev/urandom > src/block
    truncate -s 3000000 src/sparse; printf data | dd of=src/sparse bs=1 seek=1048576 conv=notrunc status=none
    truncate -s 1000000 src/hole
    mkfifo src/pipe; mknod src/null c 1 3; mknod src/loop b 7 300
    touch -d '1960-01-02 03:04:05.678' src/old; touch -d '2020-05-06 07:08:09.123456789' src/dir
    for i in $(seq 1 2000); do : > "src/many/file-with-a-name-$i"; done
    printf x > "src/many/$(printf '\377\001z')"
    setfattr -n user.note -v value src/file 2>/dev/null || true
    setfattr -n trusted.mine -v "$(printf '%0300d' 7)" src/dir 2>/dev/null || true
    setfattr -n user.empty src/block 2>/dev/null || true
"#;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_kind_of_entry_is_what_gnu_tar_unpacks_and_what_the_kernel_mounts() {
    if !is_root() {
        println!("SKIPPED: root: device nodes and owners can't be made without it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), TREE);
    let formats = [
        ("gnu", "--format=gnu --sparse"),
        ("pax-0.0", "--format=posix --sparse --sparse-version=0.0 --xattrs --xattrs-include='*'"),
        ("pax-0.1", "--format=posix --sparse --sparse-version=0.1 --xattrs --xattrs-include='*'"),
        ("pax-1.0", "--format=posix --sparse --sparse-version=1.0 --xattrs --xattrs-include='*'"),
        ("plain", "--format=posix --xattrs --xattrs-include='*'"),
    ];
    for (name, flags) in formats {
        sh(
            dir.path(),
            &format!(
                "tar -C src {flags} -cf {name}.tar . ; rm -rf out; mkdir out; tar -C out --same-owner --xattrs --xattrs-include='*' -xpf {name}.tar"
            ),
        );
        let bytes = std::fs::read(dir.path().join(format!("{name}.tar"))).unwrap();
        let layer = dir.path().join("layer");
        let built = run(&bytes, &layer, &IngestOptions::default()).unwrap();
        let data = std::fs::read(layer.join("data")).unwrap();
        assert!(data == bytes, "{name}: data is the tar, byte for byte");
        let index = Index::open(&layer.join("index")).unwrap();
        let mut ours = list_index(&index, &data);
        let mut theirs = list_folder(&dir.path().join("out"));
        assert_same(name, &ours, &kernel(&layer, name));
        for listing in [&mut ours, &mut theirs] {
            drop_directory_links(listing);
        }
        assert_same(name, &ours, &theirs);
        assert_eq!(built.file_bytes, 6 + 1_000_000 + 512 + 3_000_000 + 1_000_000 + 1);
    }
}

fn drop_directory_links(listing: &mut Listing) {
    for text in listing.values_mut().filter(|t| t.starts_with('4')) {
        let (before, after) = text.split_once(" links ").unwrap();
        *text = format!("{before} {}", after.split_once(' ').unwrap().1);
    }
}

/// The same listing through the kernel's own EROFS.
fn kernel(layer: &Path, what: &str) -> Listing {
    use rustix::mount::MountAttrFlags;
    let context = fs_base::sys::mount::FsContext::open("erofs").unwrap();
    context.string("source", layer.join("index")).unwrap();
    context.string("device", layer.join("data")).unwrap();
    context.flag("ro").unwrap();
    let mount = context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap_or_else(|e| panic!("{what}: {e} {:?}", e.hint()));
    use std::os::fd::{AsFd, AsRawFd};
    list_folder(Path::new(&format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd())))
}

#[test]
fn compressed_layers_give_the_same_tree_and_the_digest_of_what_came_in() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir src; head -c 3000000 /dev/urandom > src/a; tar -C src -cf l.tar .; gzip -k l.tar; cat l.tar.gz > two.gz; head -c 0 l.tar | gzip >> two.gz; printf junk >> two.gz",
    );
    let plain = std::fs::read(dir.path().join("l.tar")).unwrap();
    let layer = dir.path().join("layer");
    let id = run(&plain, &layer, &IngestOptions::default()).unwrap();
    assert_eq!(id.id.0, id.blob);
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for name in ["l.tar.gz", "two.gz", "zstd"] {
        let bytes = if name == "zstd" { zstd.clone() } else { std::fs::read(dir.path().join(name)).unwrap() };
        let built = run(&bytes, &layer, &IngestOptions::default()).unwrap();
        assert_eq!((built.id, built.blob_size), (id.id, bytes.len() as u64), "{name}");
    }
}

#[test]
fn a_layer_of_nothing_is_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    // No bytes at all, an end mark, and an end mark with a piece of a block behind it.
    for length in [0, 1024, 1500] {
        let built = run(&vec![0; length], &layer, &IngestOptions::default()).unwrap();
        assert_eq!((built.entries, built.data_size, built.file_bytes), (0, length as u64, 0));
        let ours = list_index(&Index::open(&layer.join("index")).unwrap(), &[]);
        assert!(ours.len() == 1 && ours[&b""[..]].starts_with("40755 (0, 0) (0, 0)"), "{ours:?}");
        if is_root() {
            assert_same("empty", &ours, &kernel(&layer, "empty"));
        }
    }
}

fn tar_of(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, kind, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.as_gnu_mut().unwrap().typeflag = [*kind];
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_cksum();
        bytes.write_all(header.as_bytes()).unwrap();
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn tree_of(entries: &[(&str, u8, &str)]) -> Result<Vec<String>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    run(&tar_of(entries), &layer, &IngestOptions::default())?;
    let index = Index::open(&layer.join("index")).unwrap();
    let mut lines = Vec::new();
    let mut todo = vec![(String::new(), index.root())];
    while let Some((path, nid)) = todo.pop() {
        let inode = index.inode(nid).unwrap();
        let opaque = index.xattr(nid, b"trusted.overlay.opaque").unwrap().is_some();
        lines.push(format!("{path}{}{}", if inode.is_whiteout() { " gone" } else { "" }, if opaque { " opaque" } else { "" }));
        if inode.kind == FileKind::Dir {
            todo.extend(
                index.read_dir(nid).unwrap().iter().map(|e| (format!("{path}/{}", String::from_utf8_lossy(e.name)), e.nid)),
            );
        }
    }
    lines.sort();
    Ok(lines[1..].to_vec())
}

#[test]
fn whiteouts_become_overlayfs_marks() {
    let tree = tree_of(&[
        ("a/.wh.x", b'0', ""),
        ("b/.wh..wh..opq", b'0', ""),
        ("b/kept", b'0', ""),
        ("c/y", b'0', ""),
        (".wh.c", b'0', ""),
        (".wh.d", b'0', ""),
        ("d/", b'5', ""),
        (".wh..wh.plnk", b'0', ""),
    ]);
    assert_eq!(tree.unwrap(), ["/a", "/a/x gone", "/b opaque", "/b/kept", "/c opaque", "/c/y", "/d opaque"]);
}

/// As dockerd: only the last name of a path can be a mark.
#[test]
fn a_folder_that_is_called_like_a_whiteout_is_a_folder() {
    let tree = tree_of(&[(".wh.x/y", b'0', ""), ("a/.wh..wh.plnk/z", b'0', "")]);
    assert_eq!(tree.unwrap(), ["/.wh.x", "/.wh.x/y"]);
}

#[test]
fn links_are_followed_inside_the_layer_only() {
    let tree = tree_of(&[
        ("lib", b'2', "../../usr/lib"),
        ("lib/x", b'0', ""),
        ("abs", b'2', "/usr"),
        ("abs/y", b'0', ""),
        ("h", b'1', "lib/x"),
    ]);
    assert_eq!(tree.unwrap(), ["/abs", "/h", "/lib", "/usr", "/usr/lib", "/usr/lib/x", "/usr/y"]);
    assert!(
        tree_of(&[("a", b'2', "b"), ("b", b'2', "a"), ("a/x", b'0', "")])
            .unwrap_err()
            .to_string()
            .contains("too many symbolic links")
    );
}

#[test]
fn later_entries_win() {
    let tree = tree_of(&[
        ("a/b", b'0', ""),
        ("a", b'0', ""),
        ("f", b'0', ""),
        ("f", b'5', ""),
        ("f/g", b'0', ""),
        ("s", b'2', "a"),
        ("s", b'5', ""),
        ("s/t", b'0', ""),
        ("s", b'2', "f"),
        ("s/u", b'0', ""),
    ]);
    assert_eq!(tree.unwrap(), ["/a", "/f", "/f/g", "/f/u", "/s"]);
}

#[test]
fn hostile_entries_are_refused_by_name() {
    for (entries, text) in [
        (vec![("../../etc/passwd", b'0', "")], "leaves the layer's root"),
        (vec![("a/../../x", b'0', "")], "leaves the layer's root"),
        (vec![("h", b'1', "../etc/shadow")], "leaves the layer's root"),
        (vec![("h", b'1', "missing")], "not in this layer"),
        (vec![("d/", b'5', ""), ("h", b'1', "d")], "which is a directory"),
        (vec![("h", b'1', "d/x")], "not in this layer"),
        (vec![(".wh.x", b'0', ""), ("h", b'1', "x")], "not in this layer"),
        (vec![("f", b'0', ""), ("f/g", b'0', "")], "\"f\" in its path is not a directory"),
        (vec![("s", b'2', "")], "without a target"),
        (vec![(".wh.", b'0', "")], "empty"),
        (vec![(".wh...", b'0', "")], "empty"),
        (vec![("odd", b'Q', "")], "unknown type"),
    ] {
        let error = tree_of(&entries).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.hint().is_some_and(|hint| hint.contains("build it again")), text == "not in this layer", "{error}");
    }
}

#[test]
fn damage_and_bombs_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    sh(
        dir.path(),
        "mkdir src; head -c 300000 /dev/urandom > src/a; tar -C src -cf l.tar .; gzip -k l.tar; head -c 200000000 /dev/zero > src/a; tar -C src -cf - . | gzip > bomb.gz",
    );
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (plain, gzip, bomb) = (read("l.tar"), read("l.tar.gz"), read("bomb.gz"));
    let fails = |bytes: &[u8], options: &IngestOptions<'_>| run(bytes, &layer, options).unwrap_err();
    let default = IngestOptions::default();
    assert_eq!(fails(&plain[..100_000], &default).class(), Class::Corrupt);
    assert_eq!(fails(&gzip[..100_000], &default).class(), Class::Corrupt);
    let mut flipped = gzip.clone();
    flipped[150_000] ^= 1;
    assert_eq!(fails(&flipped, &default).class(), Class::Corrupt);
    assert!(
        fails(b"this is no tar at all, but it is longer than nothing".repeat(20).as_slice(), &default)
            .to_string()
            .contains("not a tar header")
    );
    let wrong: fs_base::Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = fails(&plain, &IngestOptions { expected_diff_id: Some(fs_base::LayerId(wrong)), ..Default::default() });
    assert!(error.to_string().contains("diffID is"), "{error}");
    let error = fails(&plain, &IngestOptions { expected_blob: Some((wrong, plain.len() as u64)), ..Default::default() });
    assert!(error.to_string().contains("manifest says"), "{error}");
    let error = fails(&gzip, &IngestOptions { media: layerfs::ingest::Media::Zstd, ..Default::default() });
    assert!(error.to_string().contains("first bytes say Gzip"), "{error}");
    let limited = |limits: Limits| IngestOptions { limits, ..Default::default() };
    let error = fails(&bomb, &limited(Limits { ratio_floor: 1 << 20, ..Limits::default() }));
    assert!(error.hint().unwrap().contains("bomb"), "{error}");
    assert!(error.to_string().contains("limit `ratio`"), "{error}");
    assert!(std::fs::metadata(layer.join("data")).unwrap().len() < 64 << 20, "it stopped early");
    let error = fails(&plain, &limited(Limits { size: 1000, ..Limits::default() }));
    assert!(error.to_string().contains("limit `bytes`: more than 1000 bytes"), "{error}");
    let error = fails(&plain, &limited(Limits { time: std::time::Duration::ZERO, ..Limits::default() }));
    assert!(error.to_string().contains("limit `seconds`"), "{error}");
}

#[test]
fn no_damage_to_an_index_makes_the_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir -p src/d/e; for i in 1 2 3 4 5 6 7 8 9; do echo $i > src/d/$i-long-name; done; ln -s t src/l; tar -C src -cf l.tar .",
    );
    let layer = dir.path().join("layer");
    run(&std::fs::read(dir.path().join("l.tar")).unwrap(), &layer, &IngestOptions::default()).unwrap();
    let good = std::fs::read(layer.join("index")).unwrap();
    let path = dir.path().join("bad");
    let mut seed = 1u64;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = 1536 + (seed >> 33) as usize % (bytes.len() - 1536);
            bytes[at] = (seed >> 20) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        let index = Index::open(&path).unwrap();
        let (mut todo, mut seen) = (vec![index.root()], 0);
        while let Some(nid) = todo.pop() {
            seen += 1;
            if seen > 100 {
                break;
            }
            let _ = (index.xattrs(nid), index.extents(nid), index.read_link(nid), index.lookup(nid, b"5-long-name"));
            todo.extend(index.read_dir(nid).unwrap_or_default().iter().map(|e| e.nid));
        }
    }
}

/// The Debian tree of `make images`: `FSD_TEST_IMAGES` is its tar, or the folder where that is.
fn debian() -> Option<std::path::PathBuf> {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
    let given = std::env::var_os("FSD_TEST_IMAGES").map_or_else(made, std::path::PathBuf::from);
    let path = if given.extension().is_some() { given } else { given.join("debian-rootfs.tar") };
    if path.is_file() {
        return Some(path);
    }
    println!("SKIPPED: images: {} is not there: `make images` makes it", path.display());
    None
}

#[test]
fn a_debian_tree_is_what_gnu_tar_unpacks_and_what_the_kernel_mounts() {
    let Some(tar) = debian() else { return };
    if !is_root() {
        println!("SKIPPED: root: device nodes and owners can't be made without it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    let built = ingest(&mut std::fs::File::open(&tar).unwrap(), &layer, &IngestOptions::default()).unwrap();
    let unpack = "mkdir out; tar -C out --numeric-owner --same-owner --xattrs --xattrs-include='*' -xpf";
    sh(dir.path(), &format!("{unpack} '{}'", tar.display()));
    let data = std::fs::read(layer.join("data")).unwrap();
    let mut ours = list_index(&Index::open(&layer.join("index")).unwrap(), &data);
    assert!(ours.len() > 5000, "{} files", ours.len());
    assert_same("the kernel", &ours, &kernel(&layer, "debian"));
    let mut theirs = list_folder(&dir.path().join("out"));
    drop_directory_links(&mut ours);
    drop_directory_links(&mut theirs);
    assert_same("GNU tar", &ours, &theirs);
    let again = dir.path().join("again");
    layerfs::ingest::rebuild_index(&built.id, &std::fs::File::open(layer.join("data")).unwrap(), &again, Limits::default())
        .unwrap();
    assert!(std::fs::read(layer.join("index")).unwrap() == std::fs::read(again).unwrap(), "an index built again is the same");
}
