//! Random trees: packed by GNU tar in a random format, taken in, and then seen alike by our reader, by the kernel's EROFS,
//! and by GNU tar, which unpacks them again.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::common::{assert_same, list_dir, list_tree, may_mount, sh};
use crate::large::{kernel, layer_dir};
use crate::tree_of;

#[derive(Debug, Clone)]
enum What {
    Dir,
    /// Pieces: where each begins behind the end of the one before, and its bytes; and a hole behind them.
    File(Vec<(u64, Vec<u8>)>, u64),
    Symlink(Vec<u8>),
    Link(Index),
    Fifo,
    Device(bool, u32, u32),
}

#[derive(Debug, Clone)]
struct Step {
    parent: Index,
    name: Vec<u8>,
    what: What,
    mode: u32,
    owner: (u32, u32),
    time: (i64, u32),
    attributes: Vec<(&'static str, Vec<u8>)>,
    acl: bool,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no separator", |byte| *byte != 0 && *byte != b'/');
    let any =
        prop_oneof![6 => "[a-z]{1,12}".prop_map(String::into_bytes), 2 => vec(byte.clone(), 1..20), 1 => vec(byte, 100..=255)];
    any.prop_filter("a name", |name| name != b"." && name != b".." && !name.starts_with(b".wh."))
}

fn what() -> impl Strategy<Value = What> {
    let gap = prop_oneof![Just(0u64), 1..5000u64, (1..200u64).prop_map(|n| n * 4096)];
    let piece = (gap.clone(), prop_oneof![vec(any::<u8>(), 1..40), vec(any::<u8>(), 500..6000)]);
    prop_oneof![
        3 => Just(What::Dir),
        5 => (vec(piece, 0..5), gap).prop_map(|(pieces, hole)| What::File(pieces, hole)),
        2 => vec(1..=255u8, 1..300).prop_map(What::Symlink),
        2 => any::<Index>().prop_map(What::Link),
        1 => Just(What::Fifo),
        1 => (any::<bool>(), 1..4000u32, 0..1_000_000u32).prop_map(|(block, major, minor)| What::Device(block, major, minor)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = prop_oneof![Just(0u32), 1..3000u32, Just(4_000_000_000u32)];
    let time = (prop_oneof![-5000i64..2_000_000_000, Just(0i64)], prop_oneof![Just(0u32), 0..1_000_000_000u32]);
    let attribute = (select(&["user.a", "user.b%=c", "trusted.t", "security.s"][..]), vec(any::<u8>(), 0..200));
    let meta = (0..0o10000u32, (id.clone(), id), time, vec(attribute, 0..3), prop::bool::weighted(0.2));
    let step = (any::<Index>(), name(), what(), meta).prop_map(|(parent, name, what, (mode, owner, time, attributes, acl))| {
        Step { parent, name, what, mode, owner, time, attributes, acl }
    });
    vec(step, 1..40)
}

/// An ACL of a named user, a named group and a mask.
fn acl(mode: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries = [
        (1u16, mode >> 6 & 7, none),
        (2, 5, 70_000),
        (4, mode >> 3 & 7, none),
        (8, 2, 80_000),
        (16, 7, none),
        (32, mode & 7, none),
    ];
    let encode =
        |(tag, bits, id): (u16, u32, u32)| [&tag.to_le_bytes()[..], &(bits as u16).to_le_bytes(), &id.to_le_bytes()].concat();
    [2u32.to_le_bytes().to_vec(), entries.map(encode).concat()].concat()
}

/// Makes the tree; what can't be made (a name that is there, a link to a directory) is left out.
fn make(root: &Path, steps: &[Step]) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::<PathBuf>::new());
    let mut done: Vec<(PathBuf, &Step)> = Vec::new();
    for step in steps {
        let path = dirs[step.parent.index(dirs.len())].join(OsStr::from_bytes(&step.name));
        // Deeper than what tools take as one argument.
        if path.as_os_str().len() > 2000 || path.symlink_metadata().is_ok() {
            continue;
        }
        match &step.what {
            What::Dir => {
                std::fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
            }
            What::File(pieces, hole) => write(&File::create(&path).unwrap(), pieces, *hole),
            What::Symlink(target) => rustix::fs::symlinkat(&target[..], CWD, &path).unwrap(),
            What::Link(_) if files.is_empty() => continue,
            What::Link(which) => {
                std::fs::hard_link(&files[which.index(files.len())], &path).unwrap();
                continue;
            }
            What::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
            What::Device(block, major, minor) => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                rustix::fs::mknodat(CWD, &path, kind, Mode::RWXU, rustix::fs::makedev(*major, *minor)).unwrap();
            }
        }
        if !matches!(step.what, What::Dir) {
            files.push(path.clone());
        }
        done.push((path, step));
    }
    // What is in a directory changes its time: the deepest first, which were made last.
    for (path, step) in done.iter().rev() {
        describe(path, step);
    }
}

fn write(file: &File, pieces: &[(u64, Vec<u8>)], hole: u64) {
    let mut at = 0;
    for (gap, bytes) in pieces {
        file.write_all_at(bytes, at + gap).unwrap();
        at += gap + bytes.len() as u64;
    }
    file.set_len(at + hole).unwrap();
}

fn describe(path: &Path, step: &Step) {
    let is_link = matches!(step.what, What::Symlink(_));
    let takes_user = matches!(step.what, What::Dir | What::File(..));
    rustix::fs::chownat(
        CWD,
        path,
        Some(Uid::from_raw(step.owner.0)),
        Some(Gid::from_raw(step.owner.1)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    for (name, value) in step.attributes.iter().filter(|(name, _)| takes_user || !name.starts_with("user.")) {
        rustix::fs::lsetxattr(path, *name, value, XattrFlags::empty()).unwrap();
    }
    if !is_link {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(step.mode), AtFlags::empty()).unwrap();
    }
    if step.acl && takes_user {
        rustix::fs::lsetxattr(path, "system.posix_acl_access", &acl(step.mode), XattrFlags::empty()).unwrap();
    }
    let time = Timespec { tv_sec: step.time.0, tv_nsec: i64::from(step.time.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

const FORMATS: [&str; 5] = [
    "--format=posix --sparse --sparse-version=0.0",
    "--format=posix --sparse --sparse-version=0.1",
    "--format=posix --sparse --sparse-version=1.0",
    "--format=posix",
    // Has no place for attributes and parts of seconds: what it keeps of them, all three see.
    "--format=gnu --sparse",
];
const KEEP: &str = "--xattrs --xattrs-include='*' --acls --numeric-owner";

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn our_reader_the_kernel_and_gnu_tar_see_one_tree(steps in steps(), format in select(&FORMATS[..])) {
        if !may_mount() {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("src");
        std::fs::create_dir(&source).unwrap();
        make(&source, &steps);
        let keep = if format.contains("posix") { KEEP } else { "--numeric-owner" };
        sh(dir.path(), &format!("tar -C src {format} {keep} -cf l.tar .; mkdir out; tar -C out {keep} --delay-directory-restore -xpf l.tar"));
        let tree = tree_of(dir.path(), &std::fs::read(dir.path().join("l.tar")).unwrap());
        let ours = list_tree(&tree);
        let (_mount, place) = kernel(&layer_dir(dir.path()));
        assert_same(&ours, &list_dir(&place), &format!("the kernel, {format}"));
        assert_same(&ours, &list_dir(&dir.path().join("out")), &format!("GNU tar, {format}"));
    }
}
