//! The index as a format: what is written is read back alike by our reader, by the kernel and by erofs-utils.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod model;
mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_base::Digest;
use layerfs::erofs::{Body, Image, Index, Meta, Params, Segment, Written, write};
use model::{DATA, Model, Node, steps};
use proptest::prelude::*;
use view::{Kernel, Ours, Seen, View};

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };

/// A folder with `data`, and the index that is made for it.
struct Layer {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Layer {
    fn new() -> Layer {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..DATA).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        std::fs::write(dir.path().join("data"), &bytes).unwrap();
        Layer { dir, bytes }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    fn write(&self, image: &Image, block_bits: u8) -> Written {
        let params = Params { block_bits, ..Params::new(Digest::from_bytes([7; 32]), DATA as u64) };
        let out = File::create(self.index()).unwrap();
        let written = write(image, &params, &File::open(self.data()).unwrap(), &out, &self.index()).unwrap();
        assert_eq!(out.metadata().unwrap().len(), written.size);
        written
    }
}

fn expected(node: &Node) -> Seen {
    Seen {
        kind: node.kind,
        mode: node.meta.mode,
        owner: (node.meta.uid, node.meta.gid),
        size: node.size,
        mtime: (node.meta.mtime, node.meta.mtime_nanos),
        links: node.links,
        device: node.device,
        target: node.target.clone(),
        xattrs: node.xattrs.clone(),
    }
}

fn check(model: &Model, view: &dyn View, data: &[u8]) {
    let mut names: BTreeMap<&[Vec<u8>], Vec<&[u8]>> = BTreeMap::new();
    for (path, number) in &model.paths {
        let node = &model.nodes[*number];
        assert_eq!(view.see(path), expected(node), "{path:?}");
        if let Some((name, parent)) = path.split_last() {
            names.entry(parent).or_default().push(name);
        }
        match node.kind {
            "file" => check_content(node, view, path, data),
            "dir" => {
                let absent = [&path[..], &[b"no such name".to_vec()]].concat();
                assert!(!view.has(&absent));
                names.entry(path).or_default();
            }
            _ => {}
        }
    }
    for (path, expected) in names {
        assert_eq!(view.names(path), expected, "in {path:?}");
    }
}

/// All of a small file; of a large one what is around the ends of its segments.
fn check_content(node: &Node, view: &dyn View, path: &[Vec<u8>], data: &[u8]) {
    let mut places = vec![(0, 1 << 16), (node.size.saturating_sub(3000), 5000)];
    for segment in &node.segments {
        places.push((segment.file_offset.saturating_sub(1000), segment.length as usize + 2000));
    }
    for (offset, length) in places {
        let length = length.min(node.size.saturating_sub(offset) as usize);
        assert!(view.read(path, offset, length) == node.content(data, offset, length), "{path:?} at {offset}, {node:?}");
    }
}

fn file_bytes(model: &Model) -> u64 {
    let files: std::collections::BTreeSet<_> = model.paths.values().filter(|n| model.nodes[**n].kind == "file").collect();
    files.into_iter().map(|n| model.nodes[*n].size).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn our_reader_reads_what_was_written(steps in steps()) {
        let (model, image) = Model::of(&steps);
        let layer = Layer::new();
        for block_bits in [9, 12] {
            let written = layer.write(&image, block_bits);
            prop_assert_eq!(written.file_bytes, file_bytes(&model));
            let index = Index::open(&layer.index()).unwrap();
            prop_assert_eq!(index.inodes(), written.inodes);
            prop_assert_eq!(index.tar_blocks(), (DATA / 512) as u32);
            prop_assert_eq!(index.data_digest(), Digest::from_bytes([7; 32]));
            check(&model, &Ours { index: &index, data: &layer.bytes }, &layer.bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_reads_what_was_written(steps in steps()) {
        let (model, image) = Model::of(&steps);
        let layer = Layer::new();
        for block_bits in [9, 12] {
            layer.write(&image, block_bits);
            let Some(kernel) = Kernel::mount(&layer.index(), &layer.data()) else { break };
            check(&model, &kernel, &layer.bytes);
        }
    }

    #[test]
    fn fsck_erofs_accepts_what_it_can_read(steps in steps()) {
        // 1.5, Debian 12's, knows blocks of 4096 bytes only; the same writer makes those for it.
        let (model, image) = Model::of(&steps);
        let layer = Layer::new();
        layer.write(&image, 12);
        let Some(out) = fsck(&layer) else { return Ok(()) };
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: what fsck.erofs unpacks: needs root, for directories that keep their owner out");
            return Ok(());
        }
        // It passes over holes when it unpacks, so that what follows them comes out too early: files without only.
        let is_whole = |node: &Node| node.kind == "file" && node.segments.iter().map(|s| s.length).sum::<u64>() == node.size;
        for (path, number) in model.paths.iter().filter(|(_, n)| is_whole(&model.nodes[**n])) {
            use std::os::unix::ffi::OsStrExt;
            let node = &model.nodes[*number];
            let names: PathBuf = path.iter().map(|name| std::ffi::OsStr::from_bytes(name)).collect();
            let bytes = std::fs::read(out.join(names)).unwrap();
            prop_assert!(bytes == node.content(&layer.bytes, 0, node.size as usize), "{:?} {:?}", path, node);
        }
    }
}

/// What fsck.erofs unpacks, having found nothing wrong.
fn fsck(layer: &Layer) -> Option<PathBuf> {
    let out = layer.dir.path().join("out");
    let mut command = Command::new("fsck.erofs");
    command.arg(format!("--extract={}", out.display())).arg(format!("--device={}", layer.data().display())).arg(layer.index());
    match command.output() {
        Err(error) => {
            println!("SKIPPED: erofs-utils: fsck.erofs can't be run: {error}");
            None
        }
        Ok(result) => {
            assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
            Some(out)
        }
    }
}

#[test]
fn a_directory_of_twenty_thousand_names() {
    let layer = Layer::new();
    let mut image = Image::new(META);
    let mut model = Model::of(&[]).0;
    for n in 0..20_000u32 {
        let file = image.add(META, Body::Fifo).unwrap();
        let name = format!("{:x}-some-name", n.wrapping_mul(2_654_435_761)).into_bytes();
        image.put(image.root(), &name, file).unwrap();
        model.paths.insert(vec![name], model.nodes.len());
        model.nodes.push(Node { kind: "fifo", links: 1, ..model.nodes[0].clone() });
    }
    layer.write(&image, 9);
    let index = Index::open(&layer.index()).unwrap();
    check(&model, &Ours { index: &index, data: &layer.bytes }, &layer.bytes);
    if let Some(kernel) = Kernel::mount(&layer.index(), &layer.data()) {
        check(&model, &kernel, &layer.bytes);
    }
}

/// An index of every shape of inode.
fn varied(layer: &Layer) {
    let mut image = Image::new(META);
    let dir = image.add(META, Body::Dir).unwrap();
    image.put(image.root(), b"dir", dir).unwrap();
    for n in 0..60u64 {
        let segments = [Segment { file_offset: n * 100, length: 700, data_offset: n * 300 }];
        let file = image.add(META, Body::File { size: 9000, segments: &segments }).unwrap();
        image.set_xattrs(file, vec![(b"user.x".to_vec(), vec![1; n as usize])]).unwrap();
        image.put(dir, format!("file-{n}").as_bytes(), file).unwrap();
    }
    for (name, target) in [("short", vec![b'x'; 20]), ("long", vec![b'x'; 2000])] {
        let link = image.add(META, Body::Symlink(&target)).unwrap();
        image.put(image.root(), name.as_bytes(), link).unwrap();
    }
    layer.write(&image, 9);
}

/// Asks everything of an index that it lets itself be asked.
fn read_all(index: &Index) {
    let (mut todo, mut seen) = (vec![index.root()], 0);
    while let Some(nid) = todo.pop() {
        seen += 1;
        if seen > 200 {
            return;
        }
        let _ = (index.inode(nid), index.xattrs(nid), index.read_link(nid), index.lookup(nid, b"file-30"));
        for extent in index.extents(nid).unwrap_or_default() {
            if let layerfs::erofs::Source::Index(at) = extent.source {
                index.raw(at, extent.length).unwrap();
            }
        }
        todo.extend(index.read_dir(nid).unwrap_or_default().iter().map(|entry| entry.nid));
    }
}

/// crc32c without the final inversion, in another way than the code under test.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |n| u32::from(byte >> n & 1))) {
        let carry = (crc ^ bit) & 1;
        crc >>= 1;
        if carry == 1 {
            crc ^= 0x82F6_3B78;
        }
    }
    crc
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
        cut in prop_oneof![9 => Just(None), 1 => any::<proptest::sample::Index>().prop_map(Some)],
        mend in any::<bool>(),
    ) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let layer = Layer::new();
            varied(&layer);
            std::fs::read(layer.index()).unwrap()
        });
        let mut bytes = GOOD.clone();
        for (place, value, in_superblock) in changes {
            let at = if in_superblock { 1024 + place.index(256) } else { 1024 + place.index(bytes.len() - 1024) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if mend && bytes.len() >= 1536 {
            // A checksum that fits, so that what is behind it is reached.
            bytes[1024..1028].copy_from_slice(&GOOD[1024..1028]);
            bytes[1028..1032].fill(0);
            let sum = checksum(&bytes[1024..1536]);
            bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(index) = Index::open(&path) {
            read_all(&index);
        }
    }
}

#[test]
fn an_index_of_another_version_or_a_damaged_one_is_told_by_its_class_and_says_what_to_do() {
    let layer = Layer::new();
    varied(&layer);
    let good = std::fs::read(layer.index()).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(layer.index(), bytes).unwrap();
        Index::open(&layer.index()).map(drop)
    };
    open(&good).unwrap();
    let mended = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes[1028..1032].fill(0);
        let sum = checksum(&bytes[1024..1536]);
        bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let texts: [(Vec<u8>, &str); 6] = [
        (Vec::new(), "too short"),
        (good[..1600].to_vec(), "size is not what"),
        (vec![0; 4096], "superblock is damaged"),
        (good.iter().enumerate().map(|(n, b)| if n == 1300 { 1 } else { *b }).collect(), "superblock is damaged"),
        (mended(&|bytes| bytes[1024 + 74] = b'9'), "another version"),
        (mended(&|bytes| bytes[1024 + 80] |= 0x40), "another version"),
    ];
    for (bytes, text) in texts {
        let error = open(&bytes).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.class() == fs_base::Class::Corrupt && error.hint().is_some());
    }
    assert_eq!(open_missing(&layer.dir.path().join("none")), fs_base::Class::NotFound);
}

fn open_missing(path: &Path) -> fs_base::Class {
    Index::open(path).unwrap_err().class()
}

#[test]
fn an_index_past_its_bound_is_refused_before_it_is_written() {
    let layer = Layer::new();
    let mut image = Image::new(META);
    let odd = [Segment { file_offset: 1, length: 60_000, data_offset: 0 }];
    let file = image.add(META, Body::File { size: 1 << 44, segments: &odd }).unwrap();
    image.put(image.root(), b"sparse", file).unwrap();
    let params = Params { most: 60_000, ..Params::new(Digest::from_bytes([7; 32]), DATA as u64) };
    let out = File::create(layer.index()).unwrap();
    let error = write(&image, &params, &File::open(layer.data()).unwrap(), &out, &layer.index()).unwrap_err();
    assert!(error.to_string().contains("more than 60000 bytes"), "{error}");
    assert_eq!(out.metadata().unwrap().len(), 0);
}
