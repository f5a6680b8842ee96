//! Copies into and out of tars and between trees, against GNU tar, dockerd's rules and hostile input.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{assert_same, is_root, list_dir, sh, without_acls};
use fs_base::Class;
use fs_base::sys::root::Root;
use layerfs::archive::{
    Extract, Stats, TarOptions, copy_of_root, copy_of_tree, extract, populate, stat_in_root, stat_in_tree, tar_of_root,
    tar_of_tree,
};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tree::Tree;

/// One of everything that a file can be.
const EVERYTHING: &str = r#"
    mkdir -p src/dir/sub src/empty; cd src
    echo hello > dir/file; ln dir/file dir/sub/hard; ln -s ../file dir/sub/link; ln -s $(printf 'x%.0s' {1..300}) dir/longlink
    ln dir/longlink dir/hardlink-to-symlink
    mkfifo fifo; mknod null c 1 3; mknod block b 259 70000
    : > zero; truncate -s 3M allhole; truncate -s 8M holes; printf end | dd of=holes bs=1 seek=4194304 conv=notrunc status=none
    printf start | dd of=holes conv=notrunc status=none; chmod 4755 dir/file; chmod 1777 empty; chmod 2750 dir/sub
    head -c 700000 /dev/urandom > big; long=$(printf 'n%.0s' {1..120}); mkdir -p $long/$long; echo deep > $long/$long/$long
    ln $long/$long/$long hard-to-long
    touch "$(printf 'bad\xff\xfename')" 'new
line' 'percent%d=x'
    chown 1000:1001 dir/file; chown 3000000:4000000000 zero; chown -h 5:6 dir/sub/link
    setfattr -n user.one -v 'a=b' dir/file; setfattr -n user.two -v $'line\nline' dir; setfattr -n trusted.three -v 0x00ff00 zero
    setfattr -n 'user.odd=%name' -v x empty
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 big
    setfacl -m u:1234:r-x,g:5:rwx dir/sub; setfacl -d -m u:77:rwx empty
    touch -d '1969-12-31 23:59:58.5 UTC' zero; touch -d '2001-02-03 04:05:06.123456789 UTC' big; touch -h -d '2010-01-01 UTC' dir/sub/link
    find . -depth -type d -exec touch -d '2005-05-05 05:05:05.555 UTC' {} +
"#;

fn everything(dir: &Path) {
    sh(dir, EVERYTHING);
}

fn tar_bytes(root: &Path, path: &str, options: TarOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    tar_of_root(&Root::open(root).unwrap(), Path::new(path), &mut bytes, options).unwrap();
    bytes
}

fn contents() -> TarOptions {
    TarOptions { contents_only: true, ..TarOptions::default() }
}

fn unpack(dir: &Path, bytes: &[u8]) -> fs_base::Result<Stats> {
    extract(&Root::open(dir).unwrap(), Path::new("/"), &mut &bytes[..], &Extract::default())
}

const GNU_EXTRACT: &str = "tar --xattrs --xattrs-include='*' --acls -p --numeric-owner -xf";

#[test]
fn gnu_tar_unpacks_what_we_write_and_we_unpack_it_too() {
    if !is_root("archive of devices and owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    everything(dir.path());
    let bytes = tar_bytes(dir.path(), "/src/.", TarOptions::default());
    std::fs::write(at("ours.tar"), &bytes).unwrap();
    sh(dir.path(), &format!("mkdir gnu ours; {GNU_EXTRACT} ours.tar -C gnu"));
    let source = list_dir(&at("src"));
    assert_same(&without_acls(source.clone()), &without_acls(list_dir(&at("gnu"))), "unpacked by GNU tar");
    unpack(&at("ours"), &bytes).unwrap();
    // The top's own metadata is not dockerd's to change.
    let (mut expected, mut ours) = (source, list_dir(&at("ours")));
    expected.remove(&b""[..]);
    ours.remove(&b""[..]);
    assert_same(&expected, &ours, "unpacked by us");
    for name in ["holes", "allhole"] {
        for place in ["gnu", "ours"] {
            assert!(at(place).join(name).metadata().unwrap().blocks() < 64, "{place}/{name} keeps its holes");
        }
    }
    assert!(bytes.len() < 2 << 20, "holes take no room in the tar: {}", bytes.len());
}

#[test]
fn what_gnu_tar_writes_is_unpacked_as_gnu_tar_unpacks_it() {
    if !is_root("archive of devices and owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    everything(dir.path());
    for (number, options) in
        ["--format=gnu", "--format=gnu -S", "--format=pax -S --xattrs", "--format=pax -S --sparse-version=0.1 -z"]
            .iter()
            .enumerate()
    {
        let (gnu, ours) = (format!("gnu{number}"), format!("ours{number}"));
        sh(
            dir.path(),
            &format!("mkdir {gnu} {ours}; tar -C src {options} -cf t.tar .; {GNU_EXTRACT} t.tar -C {gnu}; touch -d @5 {gnu}"),
        );
        unpack(&at(&ours), &std::fs::read(at("t.tar")).unwrap()).unwrap();
        let (mut theirs, mut ours) = (list_dir(&at(&gnu)), list_dir(&at(&ours)));
        theirs.remove(&b""[..]);
        ours.remove(&b""[..]);
        assert_same(&without_acls(theirs), &without_acls(ours), options);
    }
}

#[test]
fn copies_between_roots_keep_everything() {
    if !is_root("copies of devices and owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    everything(dir.path());
    std::fs::create_dir(dir.path().join("to")).unwrap();
    let (from, to) = (Root::open(dir.path()).unwrap(), Root::open(&dir.path().join("to")).unwrap());
    copy_of_root(&from, Path::new("/src"), &to).unwrap();
    assert_same(&list_dir(&dir.path().join("src")), &list_dir(&dir.path().join("to")), "copied");
    assert!(dir.path().join("to/holes").metadata().unwrap().blocks() < 64);
}

#[test]
fn a_tree_of_layers_copies_as_it_was_packed() {
    if !is_root("copies of devices and owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    everything(dir.path());
    let bytes = tar_bytes(dir.path(), "/src/.", TarOptions::default());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let built = store.ingest(&mut &bytes[..], &IngestOptions::default()).unwrap();
    let tree = Tree::new(vec![store.layer(&built.id).unwrap()]);
    for name in ["copied", "through", "volume", "full"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let root = |name: &str| Root::open(&dir.path().join(name)).unwrap();
    copy_of_tree(&tree, Path::new("/"), &root("copied")).unwrap();
    assert_same(&list_dir(&dir.path().join("src")), &list_dir(&dir.path().join("copied")), "copied from the layer");
    let mut again = Vec::new();
    tar_of_tree(&tree, Path::new("/."), &mut again, TarOptions::default()).unwrap();
    assert_eq!(again, bytes, "the tar of a layer is the tar that it was made of");
    // A volume's first use.
    let stats = populate(&tree, Path::new("/dir"), &root("volume")).unwrap().unwrap();
    assert!(stats.entries > 3);
    let volume = list_dir(&dir.path().join("volume"));
    let mut part = list_dir(&dir.path().join("src/dir"));
    // Names outside of the directory don't come along.
    for line in part.values_mut() {
        *line = line.replace("links=3", "links=2");
    }
    assert_same(&part, &volume, "populated");
    assert_eq!(populate(&tree, Path::new("/dir"), &root("volume")).unwrap(), None, "only an empty volume is filled");
    for path in ["/nothing", "/big", "/dir/file/x"] {
        assert_eq!(populate(&tree, Path::new(path), &root("full")).unwrap(), None, "{path}");
    }
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    archive.entries().unwrap().map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap()).collect()
}

#[test]
fn the_top_entry_is_named_as_dockerd_names_it() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p r/etc/sub; cd r; echo x > etc/a; ln -s etc link; ln etc/a etc/sub/b");
    let root = dir.path().join("r");
    let of = |path: &str| names(&tar_bytes(&root, path, TarOptions::default()));
    assert_eq!(of("/etc"), ["etc/", "etc/a", "etc/sub/", "etc/sub/b"]);
    assert_eq!(of("etc/"), ["etc/", "etc/a", "etc/sub/", "etc/sub/b"]);
    assert_eq!(of("/etc/."), ["./", "./a", "./sub/", "./sub/b"]);
    assert_eq!(of("/etc/a"), ["a"]);
    assert_eq!(of("/link"), ["link"]);
    assert_eq!(of("/link/"), ["link/", "link/a", "link/sub/", "link/sub/b"]);
    assert_eq!(of("/"), ["/", "/etc/", "/etc/a", "/etc/sub/", "/etc/sub/b", "/link"]);
    assert_eq!(of("/etc/sub/../../etc/a"), ["a"]);
    assert_eq!(names(&tar_bytes(&root, "/", contents())), ["etc/", "etc/a", "etc/sub/", "etc/sub/b", "link"]);
    let missing = tar_of_root(&Root::open(&root).unwrap(), Path::new("/etc/a/b"), &mut Vec::new(), TarOptions::default());
    assert_eq!(missing.unwrap_err().class(), Class::NotFound);
}

#[test]
fn stat_follows_a_last_link_by_text_only() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir -p r/a/b; cd r; echo 12 > a/f; ln -s a/b l; ln -s /l/../f m; ln -s nowhere/x n; ln -s o o; chmod 1777 a",
    );
    let root = Root::open(&dir.path().join("r")).unwrap();
    let stat = |path: &str| {
        stat_in_root(&root, Path::new(path))
            .map(|s| (String::from_utf8(s.name).unwrap(), s.mode, String::from_utf8(s.link_target).unwrap()))
    };
    assert_eq!(stat("/a").unwrap(), ("a".into(), 1 << 31 | 1 << 20 | 0o777, String::new()));
    assert_eq!(stat("/l").unwrap(), ("l".into(), 1 << 27 | 0o777, "/a/b".into()));
    assert_eq!(stat("/l/").unwrap().1 >> 31, 1);
    assert_eq!(stat("/m").unwrap().2, "/a/f");
    assert_eq!(stat("/n").unwrap().2, "/nowhere/x");
    assert_eq!(stat("/").unwrap().0, "/");
    assert_eq!(stat_in_root(&root, Path::new("/a/f")).unwrap().size, 3);
    for missing in ["/x", "/a/f/x", "/a/f/", "/n/"] {
        assert_eq!(stat(missing).unwrap_err().class(), Class::NotFound, "{missing}");
    }
    assert!(stat("/o").is_err());
    // A tree says the same.
    let bytes = tar_bytes(&dir.path().join("r"), "/", contents());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let built = store.ingest(&mut &bytes[..], &IngestOptions::default()).unwrap();
    let tree = Tree::new(vec![store.layer(&built.id).unwrap()]);
    for path in ["/a", "/l", "/l/", "/m", "/n", "/a/f", "/x", "/a/f/x", "/a/f/", "/n/", "/o"] {
        let (a, b) = (stat_in_root(&root, Path::new(path)), stat_in_tree(&tree, Path::new(path)));
        match (a, b) {
            (Ok(a), Ok(b)) => {
                assert_eq!((a.name, a.mode, a.mtime, a.link_target), (b.name, b.mode, b.mtime, b.link_target), "{path}");
            }
            (a, b) => assert_eq!(a.unwrap_err().class(), b.unwrap_err().class(), "{path}"),
        }
    }
}

/// A tar with exactly these headers.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Tar {
        Tar(Vec::new())
    }

    fn entry(mut self, kind: tar::EntryType, name: &str, link: &str, data: &[u8]) -> Tar {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Tar {
        self.entry(tar::EntryType::Regular, name, "", data.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Tar {
        self.entry(tar::EntryType::Symlink, name, target, b"")
    }

    fn hard(self, name: &str, target: &str) -> Tar {
        self.entry(tar::EntryType::Link, name, target, b"")
    }

    fn dir(self, name: &str) -> Tar {
        self.entry(tar::EntryType::Directory, name, "", b"")
    }
}

#[test]
fn hostile_archives_write_nothing_outside() {
    let hostile: Vec<(&str, Tar)> = vec![
        ("dots", Tar::new().file("../out", "x")),
        ("dots inside", Tar::new().file("a/../../out", "x")),
        ("through an absolute link", Tar::new().link("l", "/outside").file("l/out", "x")),
        ("through a relative link", Tar::new().link("l", "../outside").file("l/out", "x")),
        ("through two links", Tar::new().link("a", "b").link("b", "..").file("a/out", "x")),
        ("through a directory with a link", Tar::new().dir("d").link("d/l", "../..").file("d/l/out", "x")),
        ("a hard link to above", Tar::new().hard("h", "../secret")),
        ("a hard link through a link", Tar::new().link("l", "..").hard("h", "l/secret")),
        ("a link that replaces its directory", Tar::new().dir("d").file("d/in", "x").link("d", "..").file("d/out", "x")),
        ("a directory over a link", Tar::new().link("l", "../outside").dir("l/d").file("l/d/out", "x")),
    ];
    for (what, Tar(bytes)) in hostile {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        sh(dir.path(), "mkdir -p root/dest root/outside outside; echo secret > secret; echo secret > root/secret");
        let root = Root::open(&at("root")).unwrap();
        let result = extract(&root, Path::new("/dest"), &mut &bytes[..], &Extract::default());
        assert!(result.is_err(), "{what} is refused");
        let outside = sh(dir.path(), "find . -path ./root/dest -prune -o -print | sort | tr '\\n' ' '");
        assert_eq!(outside.trim(), ". ./outside ./root ./root/outside ./root/secret ./secret", "{what}");
        assert_eq!(
            std::fs::read_to_string(at("secret")).unwrap() + &std::fs::read_to_string(at("root/secret")).unwrap(),
            "secret\nsecret\n",
            "{what}"
        );
    }
}

#[test]
fn a_link_and_a_file_of_one_name_do_not_write_through() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let Tar(bytes) =
        Tar::new().link("f", "../secret").file("f", "new").link("g", "f").file("g", "other").hard("h", "f").file("h", "third");
    unpack(&dir.path().join("root"), &bytes).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        (read("secret"), read("root/f"), read("root/g"), read("root/h")),
        ("secret".into(), "new".into(), "other".into(), "third".into())
    );
}

#[test]
fn links_that_were_there_are_followed_inside_the_root() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir -p root/dest root/data root/usr/lib; cd root; ln -s /data dest/store; ln -s usr/lib lib; ln -s /dest way",
    );
    let root = Root::open(&dir.path().join("root")).unwrap();
    let Tar(bytes) = Tar::new().file("store/new/f", "1").link("own", "sub").dir("sub").file("own/g", "2");
    extract(&root, Path::new("/way/"), &mut &bytes[..], &Extract::default()).unwrap();
    let Tar(bytes) = Tar::new().file("lib/so", "3").link("abs", "/usr/lib").file("abs/so2", "4");
    extract(&root, Path::new("/"), &mut &bytes[..], &Extract::default()).unwrap();
    for (path, want) in [("data/new/f", "1"), ("dest/sub/g", "2"), ("usr/lib/so", "3"), ("usr/lib/so2", "4")] {
        assert_eq!(std::fs::read_to_string(dir.path().join("root").join(path)).unwrap(), want, "{path}");
    }
}

#[test]
fn what_may_not_be_replaced_is_refused_in_dockerds_words() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p d/dir/x; echo f > d/file");
    let root = Root::open(dir.path()).unwrap();
    let put = |tar: Tar, to: &str, strict: bool| {
        let options = Extract { no_overwrite_dir_non_dir: strict, ..Extract::default() };
        extract(&root, Path::new(to), &mut &tar.0[..], &options).map_err(|e| (e.class(), e.to_string()))
    };
    let refused = |text: &str| Err((Class::Invalid, text.to_owned()));
    assert_eq!(
        put(Tar::new().file("dir", "x"), "/d", true),
        refused(r#"cannot overwrite directory "/d/dir" with non-directory "/d""#)
    );
    assert_eq!(
        put(Tar::new().dir("file"), "/d", true),
        refused(r#"cannot overwrite non-directory "/d/file" with directory "/d""#)
    );
    assert_eq!(put(Tar::new().file("a", "x"), "/d/file", true), refused("extraction point is not a directory"));
    assert_eq!(put(Tar::new(), "/none", true).unwrap_err().0, Class::NotFound);
    assert!(put(Tar::new().dir("dir").file("dir/y", "1").file("file", "new"), "/d", true).is_ok(), "directories are merged");
    assert!(dir.path().join("d/dir/x").is_dir() && dir.path().join("d/dir/y").is_file());
    assert!(put(Tar::new().file("dir", "x").dir("file"), "/d", false).is_ok(), "without the flag anything is replaced");
    assert!(dir.path().join("d/dir").is_file() && dir.path().join("d/file").is_dir());
}

#[test]
fn compressed_and_broken_archives() {
    let dir = tempfile::tempdir().unwrap();
    let Tar(bytes) = Tar::new().file("a", "content");
    let bytes = [bytes, vec![0; 1024]].concat();
    std::fs::write(dir.path().join("t"), &bytes).unwrap();
    sh(dir.path(), "gzip -k t; zstd -q -k t || cp t t.zst; bzip2 -k t; xz -k t");
    for name in ["t", "t.gz", "t.zst"] {
        let to = dir.path().join(format!("{name}.d"));
        std::fs::create_dir(&to).unwrap();
        unpack(&to, &std::fs::read(dir.path().join(name)).unwrap()).unwrap();
        assert_eq!(std::fs::read(to.join("a")).unwrap(), b"content", "{name}");
    }
    for (name, word) in [("t.bz2", "bzip2"), ("t.xz", "xz")] {
        let error = unpack(dir.path(), &std::fs::read(dir.path().join(name)).unwrap()).unwrap_err();
        assert!(error.class() == Class::Unsupported && error.to_string().contains(word), "{error}");
    }
    assert_eq!(unpack(dir.path(), b"this is no archive").unwrap_err().class(), Class::Corrupt);
    assert_eq!(unpack(dir.path(), &bytes[..515]).unwrap_err().class(), Class::Corrupt);
    unpack(dir.path(), b"").unwrap();
}

#[test]
fn everything_can_be_given_to_one_owner() {
    if !is_root("owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Tar(bytes) = Tar::new().dir("d").file("d/f", "x").link("l", "d");
    let options = Extract { owner: Some((123, 456)), ..Extract::default() };
    extract(&Root::open(dir.path()).unwrap(), Path::new("/"), &mut &bytes[..], &options).unwrap();
    for name in ["d", "d/f", "l"] {
        let stat = dir.path().join(name).symlink_metadata().unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mtime()), (123, 456, 1_000_000_000), "{name}");
    }
}

/// The attack of CVE-2018-15664: while a copy runs, a directory becomes a symlink to the host and back again.
#[test]
fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p root/d secret; echo inside > root/d/f; echo outside > secret/f");
    let root_path = dir.path().join("root");
    symlink(dir.path().join("secret"), root_path.join("l")).unwrap();
    let root = Root::open(&root_path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, root_path.join("d"), CWD, root_path.join("l"), RenameFlags::EXCHANGE);
            }
        });
        let Tar(put) = Tar::new().file("d/g", "written").dir("d").file("d/f2", "x");
        for _ in 0..400 {
            let mut bytes = Vec::new();
            if tar_of_root(&root, Path::new("/d"), &mut bytes, TarOptions::default()).is_ok() {
                assert!(!bytes.windows(7).any(|w| w == b"outside"));
            }
            let _ = tar_of_root(&root, Path::new("/d/"), &mut bytes, TarOptions::default());
            assert!(!bytes.windows(7).any(|w| w == b"outside"));
            let _ = extract(&root, Path::new("/"), &mut &put[..], &Extract::default());
            let _ = extract(&root, Path::new("/d"), &mut &put[..], &Extract::default());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let names: Vec<_> = std::fs::read_dir(dir.path().join("secret")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
}

#[test]
fn a_file_that_shrinks_or_grows_while_it_is_copied_keeps_the_tar_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![1u8; 1 << 20]).unwrap();
    std::fs::write(dir.path().join("g"), "last").unwrap();
    /// Truncates the file as soon as its header has been written.
    struct Shrink<'a>(Vec<u8>, &'a Path);
    impl std::io::Write for Shrink<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            std::fs::File::options().write(true).open(self.1.join("f"))?.set_len(10)?;
            self.0.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut out = Shrink(Vec::new(), dir.path());
    tar_of_root(&Root::open(dir.path()).unwrap(), Path::new("/"), &mut out, contents()).unwrap();
    let mut archive = tar::Archive::new(&out.0[..]);
    let mut sizes = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut content = Vec::new();
        entry.unwrap().read_to_end(&mut content).unwrap();
        sizes.push(content.len());
    }
    assert_eq!(sizes, [1 << 20, 4]);
}

#[test]
fn kernel_file_systems_below_a_tree_are_left_out() {
    if !is_root("mounts below a tree") {
        return;
    }
    let proc = Root::open(Path::new("/")).unwrap();
    let mut bytes = Vec::new();
    // A tree with a mount in it, without making one: the parent of /proc, narrowed to it by a bind.
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p r/proc r/tmp; echo x > r/f");
    drop(proc);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fs_base::sys::mount::unshare_mount_namespace().unwrap();
            sh(dir.path(), "true");
            let mount = |fs: &str| {
                fs_base::sys::mount::FsContext::open(fs).unwrap().mount(rustix::mount::MountAttrFlags::empty()).unwrap()
            };
            mount("proc").attach(&dir.path().join("r/proc")).unwrap();
            mount("tmpfs").attach(&dir.path().join("r/tmp")).unwrap();
            std::fs::write(dir.path().join("r/tmp/in-tmpfs"), "y").unwrap();
            let root = Root::open(&dir.path().join("r")).unwrap();
            tar_of_root(&root, Path::new("/"), &mut bytes, contents()).unwrap();
            assert_eq!(names(&bytes), ["f", "proc/", "tmp/", "tmp/in-tmpfs"]);
            bytes.clear();
            let one = TarOptions { one_file_system: true, ..contents() };
            tar_of_root(&root, Path::new("/"), &mut bytes, one).unwrap();
            assert_eq!(names(&bytes), ["f", "proc/", "tmp/"]);
        });
    });
}
