//! Packing and unpacking beside GNU tar, which is asked for what we write and read for what we ask.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use fs_base::sys::xattr;
use fs_base::tar::{acl, append_attribute};

use super::attributes::Left;
use super::pack::Source;
use super::unpack::Unpack;

type Named<'a> = (&'a str, &'a [u8]);

/// Version 2 of capabilities: `cap_net_raw`, permitted and effective.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Whatever ends a record, a line, a string or a word.
const HARD: [Named<'static>; 4] = [
    ("user.binary", b"\0\n\xff=% \n\0"),
    ("user.empty", b""),
    ("user.equals=100%", b"a=b"),
    ("user.trap", b"1\n17 path=../evil\n"),
];

fn set(path: &Path, attributes: &[Named<'_>]) -> bool {
    let file = File::open(path).unwrap();
    attributes.iter().all(|(name, value)| xattr::set(&file, name, value).is_ok())
}

/// The attributes, but those of a security module that labels every file.
fn got(path: &Path) -> Vec<(String, Vec<u8>)> {
    let all = xattr::list_of_path(path).unwrap().into_iter().map(|(name, value)| (name.into_string().unwrap(), value));
    all.filter(|(name, _)| name != "security.selinux").collect()
}

/// A tree whose file and directory have attributes of all kinds; `None` if nothing here can have them.
fn tree(dir: &Path) -> Option<std::path::PathBuf> {
    let top = dir.join("top");
    fs::create_dir_all(top.join("d")).unwrap();
    fs::write(top.join("f"), "x").unwrap();
    symlink("f", top.join("l")).unwrap();
    let access = acl::encode(b"u::rw,u:1234:r,g::r,m::r,o::-").unwrap();
    let default = acl::encode(b"u::rwx,g::rx,g:77:rx,m::rx,o::-").unwrap();
    let root = rustix::process::geteuid().is_root();
    let can = root
        && set(&top.join("f"), &HARD)
        && set(&top.join("f"), &[("system.posix_acl_access", &access), ("security.capability", &NET_RAW)])
        && set(&top.join("d"), &[("user.d", b"\n"), ("system.posix_acl_default", &default)]);
    if !can {
        eprintln!("SKIPPED: attributes: not root, or {} takes none", dir.display());
        return None;
    }
    fs::write(top.join("d/below"), "y").unwrap();
    xattr::remove(File::open(top.join("d/below")).unwrap(), "system.posix_acl_access").unwrap();
    Some(top)
}

fn same(one: &Path, other: &Path) {
    for name in ["", "f", "d", "d/below", "l"] {
        assert_eq!(got(&one.join(name)), got(&other.join(name)), "{name:?}");
        let mode = |path: &Path| fs::symlink_metadata(path.join(name)).unwrap().mode();
        assert_eq!(mode(one), mode(other), "{name:?}");
    }
}

fn packed(top: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    Source::open(top.to_str().unwrap(), false).unwrap().write(None, &mut bytes).unwrap();
    bytes
}

fn unpacked(tar: &[u8], dir: &Path, archive: bool) -> Left {
    fs::create_dir(dir).unwrap();
    let unpack = Unpack { dir: dir.to_owned(), name: Some("top".into()), content: false, archive };
    unpack.run(tar).unwrap()
}

fn gnu_tar(arguments: &[&str], dir: &Path) -> bool {
    let done = Command::new("tar").args(arguments).current_dir(dir).status();
    let done = done.is_ok_and(|status| status.success());
    if !done {
        eprintln!("SKIPPED: GNU tar: it is not installed, or knows no attributes");
    }
    done
}

#[test]
fn attributes_come_back_as_they_went() {
    let dir = tempfile::tempdir().unwrap();
    let Some(top) = tree(dir.path()) else { return };
    let all = dir.path().join("all");
    assert!(unpacked(&packed(&top), &all, true).warning().is_none());
    same(&top, &all.join("top"));
    let some = dir.path().join("some");
    assert!(unpacked(&packed(&top), &some, false).warning().is_none(), "what is not asked for is not missed");
    let (mut want, have) = (got(&top.join("f")), got(&some.join("top/f")));
    want.retain(|(name, _)| name != "security.capability" && name != "system.posix_acl_access");
    assert_eq!(want, have);
}

#[test]
fn gnu_tar_reads_what_we_write_and_we_what_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(top) = tree(dir.path()) else { return };
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    fs::create_dir(&theirs).unwrap();
    fs::write(dir.path().join("ours.tar"), packed(&top)).unwrap();
    let options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"];
    if !gnu_tar(&[&options[..], &["-xf", "../ours.tar"]].concat(), &theirs) {
        return;
    }
    same(&top, &theirs.join("top"));
    assert!(gnu_tar(&[&options[..], &["--acls", "-cf", "theirs.tar", "top"]].concat(), dir.path()));
    unpacked(&fs::read(dir.path().join("theirs.tar")).unwrap(), &ours, true);
    same(&top, &ours.join("top"));
}

#[test]
fn gnu_tars_files_with_holes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("top")).unwrap();
    let file = File::create(dir.path().join("top/s")).unwrap();
    file.set_len(5 << 20).unwrap();
    file.write_all_at(b"data", 1 << 20).unwrap();
    for (number, version) in ["1.0", "0.1", "0.0"].into_iter().enumerate() {
        let version = format!("--sparse-version={version}");
        if !gnu_tar(&["--format=pax", "--sparse", &version, "-cf", "t.tar", "top"], dir.path()) {
            return;
        }
        let out = dir.path().join(number.to_string());
        unpacked(&fs::read(dir.path().join("t.tar")).unwrap(), &out, false);
        let (there, here) = (out.join("top/s"), dir.path().join("top/s"));
        assert_eq!(fs::read(&there).unwrap(), fs::read(here).unwrap());
        assert!(fs::metadata(there).unwrap().blocks() * 512 < 1 << 20);
    }
}

/// A tar of one file `top/f` whose extended header is given.
fn with_records(records: &[u8], claimed: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_path("top/").unwrap();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    header.set_path("PaxHeaders/f").unwrap();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(claimed);
    header.set_cksum();
    tar.append(&header, records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("top/f").unwrap();
    header.set_mode(0o644);
    header.set_size(1);
    header.set_cksum();
    tar.append(&header, b"x".as_slice()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn bad_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |tar: &[u8]| {
        let unpack = Unpack { dir: dir.path().to_owned(), name: Some("t".into()), content: false, archive: true };
        let error = unpack.run(tar).unwrap_err();
        assert!(!dir.path().join("t/f").exists());
        format!("{error:#}")
    };
    for bad in ["30 SCHILY.xattr.user.a=1\n", "9 SCHILY.xattr.user.a=1\n", "x SCHILY.xattr.user.a=1\n", "-1 a=b\n", "7 nokey\n"] {
        let error = refused(&with_records(bad.as_bytes(), bad.len() as u64));
        assert!(error.contains("malformed PAX record"), "{bad:?}: {error}");
    }
    // What it claims is not allocated.
    let error = refused(&with_records(b"10 path=x\n", 1 << 36));
    assert!(error.contains("limit `attributes`"), "{error}");
    let mut large = Vec::new();
    append_attribute(&mut large, b"user.large", &vec![b'\n'; 2 << 20]);
    let error = refused(&with_records(&large, large.len() as u64));
    assert!(error.contains("limit `attributes`"), "{error}");
}

#[test]
fn a_value_is_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    append_attribute(&mut records, b"user.trap", b"1\n14 path=evil\n");
    let tar = with_records(&records, records.len() as u64);
    let out = dir.path().join("out");
    unpacked(&tar, &out, false);
    assert_eq!(fs::read(out.join("top/f")).unwrap(), b"x");
    assert_eq!(fs::read_dir(out.join("top")).unwrap().count(), 1);
}

#[test]
fn what_the_place_does_not_take_is_told_and_the_rest_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    append_attribute(&mut records, b"user.a", b"1");
    let mut tar = with_records(&records, records.len() as u64);
    // A symbolic link has no attributes of a user's. Source: xattr(7).
    let header = tar.chunks_exact_mut(512).nth(3).unwrap();
    let mut link = tar::Header::new_ustar();
    link.as_mut_bytes().copy_from_slice(header);
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_link_name("nowhere").unwrap();
    link.set_size(0);
    link.set_cksum();
    header.copy_from_slice(link.as_bytes());
    tar.truncate(4 * 512);
    let out = dir.path().join("out");
    let warning = unpacked(&tar, &out, false).warning().unwrap();
    assert!(warning.starts_with(r#"an extended attribute could not be kept: "user.a" of "top/f": "#), "{warning}");
    assert_eq!(fs::read_link(out.join("top/f")).unwrap(), Path::new("nowhere"));
}
