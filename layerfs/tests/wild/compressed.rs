//! Streams in several pieces, with bytes between and behind them, and the layer formats that are made of those.

use std::io::Write;
use std::path::Path;

use fs_base::Class;
use layerfs::ingest::Media;
use layerfs::store::Store;

use crate::blocks::{Block, file};
use crate::common::{assert_same, is_root, list_dir, list_tree, sh};
use crate::{has, open, take, tree_of};

/// A tar whose tree is worth comparing, and what GNU tar makes of it in `out`.
fn sample(dir: &Path) -> Vec<u8> {
    sh(
        dir,
        "mkdir -p src/usr/bin src/etc; cd src; head -c 300000 /dev/urandom > usr/bin/tool; ln usr/bin/tool usr/bin/same; ln -s usr/bin bin; echo x > etc/conf; seq 1 50000 > etc/text; cd ..; tar -C src -cf l.tar .; mkdir out; tar -C out -xpf l.tar",
    );
    std::fs::read(dir.join("l.tar")).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A skippable frame. Source: RFC 8878, 3.1.2.
fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    [&[0x50 + number, 0x2a, 0x4d, 0x18], &(content.len() as u32).to_le_bytes()[..], content].concat()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Takes `bytes` in, and holds digest, size and tree against the plain tar and GNU tar's.
fn same(dir: &Path, plain: &[u8], bytes: &[u8], what: &str) {
    use sha2::Digest as _;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let built = take(&store, bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let digest = |bytes: &[u8]| fs_base::Digest::from_bytes(sha2::Sha256::digest(bytes).into());
    assert_eq!((built.id.0, built.blob, built.blob_size), (digest(plain), digest(bytes), bytes.len() as u64), "{what}");
    assert_same(&list_tree(&open(&store, &[built])), &list_dir(&dir.join("out")), what);
}

#[test]
fn gzip_members_and_what_is_behind_them() {
    if !is_root("owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = sample(dir.path());
    let whole = gzip(&plain);
    let members: Vec<u8> = plain.chunks(70_001).flat_map(gzip).collect();
    same(dir.path(), &plain, &members, "members");
    let empty = [gzip(b""), gzip(&plain[..1000]), gzip(b""), gzip(&plain[1000..]), gzip(b"")].concat();
    same(dir.path(), &plain, &empty, "empty members");
    for (what, tail) in [
        ("zeros", vec![0; 100_000]),
        ("text", b"signature follows".to_vec()),
        ("half a magic number", vec![0x1f]),
        ("the first byte of a magic number", vec![0x1f, 0, 1, 2, 3]),
        ("another format", zstd(b"no gzip")),
    ] {
        same(dir.path(), &plain, &[&whole[..], &tail].concat(), what);
        std::fs::write(dir.path().join("tail.gz"), [&whole[..], &tail].concat()).unwrap();
        // It complains, but has written all of it.
        sh(dir.path(), "gzip -dc tail.gz > tail 2> /dev/null || true; cmp tail l.tar");
    }
    // Where the magic number is right, what follows is a member, and one that is cut is damage.
    for cut in [3, 9, 12, whole.len() / 2, whole.len() - 3] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = [&whole[..], &whole[..cut]].concat();
        let error = take(&Store::open(folder.path()).unwrap(), &bytes).unwrap_err();
        assert!(error.class() == Class::Corrupt, "{cut}: {error}");
    }
    // With every field that a header may have: extra, name, comment, checksum of the header.
    let mut header = vec![0x1f, 0x8b, 8, 0x1c, 0, 0, 0, 0, 0, 3, 6, 0];
    header.extend_from_slice(b"SG\x02\x00abname.tar\0and why\0");
    same(dir.path(), &plain, &[&header, &whole[10..]].concat(), "a full header");
}

#[test]
fn zstd_frames_and_what_may_be_skipped() {
    if !is_root("owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = sample(dir.path());
    let (head, tail) = plain.split_at(123_456);
    let table = vec![7; 300_000];
    let skipped = [skippable(0, &[]), zstd(head), skippable(15, &table), zstd(b""), zstd(tail), skippable(3, b"footer")].concat();
    same(dir.path(), &plain, &skipped, "skippable frames");
    if has("zstd") {
        std::fs::write(dir.path().join("l.zst"), &skipped).unwrap();
        sh(dir.path(), "zstd -qdc l.zst > back; cmp back l.tar; zstd -q --ultra -22 --long=27 -c l.tar > long.zst");
        same(dir.path(), &plain, &std::fs::read(dir.path().join("long.zst")).unwrap(), "the longest window");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (what, bytes) in [
        ("a frame that is cut", skipped[..skipped.len() / 2].to_vec()),
        ("a skippable frame that is cut", [&zstd(&plain)[..], &skippable(1, &table)[..1000]].concat()),
        ("bytes behind the frames", [&zstd(&plain)[..], b"signature"].concat()),
    ] {
        let error = take(&store, &bytes).unwrap_err();
        assert!(error.class() == Class::Corrupt, "{what}: {error}");
    }
}

const TOC: &str = "{\n\t\"version\": 1,\n\t\"entries\": [\n\t\t{\"name\": \"etc/\", \"type\": \"dir\"}\n\t]\n}";

/// Entries as eStargz lays them: a member for each, a landmark between, its table as the last entry, and the footer.
fn estargz(plain: &[u8], landmark: &str) -> (Vec<u8>, Vec<u8>) {
    let entries = &plain[..plain.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512)];
    let parts = [entries.to_vec(), file(landmark, &[0x0f]), file("stargz.index.json", TOC.as_bytes()), vec![0; 1024]];
    let mut stream: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
    // An empty member whose extra field says where the table is.
    stream.extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0]);
    stream.extend_from_slice(b"0000000000000400STARGZ");
    stream.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    (parts.concat(), stream)
}

#[test]
fn what_estargz_adds_does_not_show() {
    if !is_root("owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = sample(dir.path());
    for landmark in [".no.prefetch.landmark", ".prefetch.landmark"] {
        let (tar, stream) = estargz(&plain, landmark);
        same(dir.path(), &tar, &stream, landmark);
    }
    // GNU tar sees both files: they are in the tar, and the tar is kept.
    std::fs::write(dir.path().join("e.tar.gz"), estargz(&plain, ".no.prefetch.landmark").1).unwrap();
    let names = sh(dir.path(), "tar -tzf e.tar.gz");
    assert!(names.contains("stargz.index.json") && names.contains(".no.prefetch.landmark"));
}

#[test]
fn a_file_that_is_only_called_like_one_of_estargz_shows() {
    let own = [
        file("stargz.index.json", TOC.as_bytes()),
        file(".prefetch.landmark", b"\x0f\x0f"),
        file(".no.prefetch.landmark", b"x"),
        Block::new(b"d/", b'5', 0).alone(),
        file("d/.prefetch.landmark", &[0x0f]),
        file("d/stargz.index.json", TOC.as_bytes()),
    ];
    let dir = tempfile::tempdir().unwrap();
    let listing = list_tree(&tree_of(dir.path(), &[own.concat(), vec![0; 1024]].concat()));
    assert_eq!(listing.len(), 7, "{listing:?}");
    let last = [own.concat(), file("./stargz.index.json", b"{\"version\": 2}"), vec![0; 1024]].concat();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(list_tree(&tree_of(dir.path(), &last)).len(), 7);
}

/// skopeo compresses as containers/storage does: the table is in skippable frames. Debian's leaves out the zeros at the
/// tar's end, so that what zstd makes of it is the measure.
#[test]
fn zstd_chunked_as_skopeo_writes_it() {
    if !is_root("owners") || !has("skopeo") || !has("zstd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = sample(dir.path());
    crate::chains::write_layout(&dir.path().join("layout"), std::slice::from_ref(&plain));
    sh(
        dir.path(),
        "skopeo --insecure-policy copy -q oci:layout:latest dir:one; skopeo --insecure-policy copy -q --dest-compress --dest-compress-format zstd:chunked dir:one dir:two",
    );
    let mut found = 0;
    for entry in std::fs::read_dir(dir.path().join("two")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if Media::of_magic(&bytes) == Media::Zstd {
            found += 1;
            let frames = bytes.windows(4).filter(|at| matches!(at, [0x50..=0x5f, 0x2a, 0x4d, 0x18])).count();
            assert!(frames > 0, "no skippable frame: this is no zstd:chunked");
            std::fs::write(dir.path().join("chunked.zst"), &bytes).unwrap();
            sh(dir.path(), "zstd -qdfc chunked.zst > chunked.tar; tar -df chunked.tar -C src");
            let inflated = std::fs::read(dir.path().join("chunked.tar")).unwrap();
            assert!(plain.starts_with(&inflated));
            same(dir.path(), &inflated, &bytes, "zstd:chunked");
        }
    }
    assert_eq!(found, 1);
}

/// Layers that may not be handed on say so; they are not taken for damage.
#[test]
fn foreign_layers_are_refused_in_clear_words() {
    for media_type in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let error = Media::of_type(media_type).unwrap_err();
        assert!(error.class() == Class::Unsupported && error.to_string().contains("licence"), "{error}");
    }
}
