//! What GNU tar and bsdtar write, unpacked by GNU tar and by bsdtar.

use std::path::Path;

use crate::common::{Listing, assert_same, is_root, list_dir, list_tree, sh};
use crate::{has, tree_of};

/// One of everything, with names that make writers reach for their extensions.
const EVERYTHING: &str = r#"
    mkdir -p src/dir/sub src/empty; cd src
    echo hello > dir/file; ln dir/file dir/sub/hard; ln -s ../file dir/sub/link; ln -s $(printf 'x%.0s' {1..300}) dir/longlink
    ln dir/longlink dir/hardlink-to-symlink
    mkfifo fifo; ln fifo dir/hardlink-to-fifo; mknod null c 1 3; mknod block b 259 70000; ln null dir/hardlink-to-device
    : > zero; truncate -s 3M allhole; head -c 512 /dev/urandom > exact
    truncate -s 8M holes; printf end | dd of=holes bs=1 seek=4194304 conv=notrunc status=none
    printf start | dd of=holes conv=notrunc status=none
    for n in $(seq 0 39); do printf "piece $n" | dd of=many bs=1 seek=$((n * 100000 + n)) conv=notrunc status=none; done
    chmod 4755 dir/file; chmod 1777 empty; chmod 2750 dir/sub; chmod 0 exact
    long=$(printf 'n%.0s' {1..120}); mkdir -p $long/$long; echo deep > $long/$long/$long; ln $long/$long/$long hard-to-long
    touch -- 'percent%d=x' ' ' '-rf' '*'
    chown 1000:1001 dir/file; chown 3000000:4000000000 zero; chown -h 5:6 dir/sub/link
    setfattr -n user.one -v 'a=b' dir/file; setfattr -n user.two -v $'line\nline' dir; setfattr -n trusted.three -v 0x00ff00 zero
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 many
    touch -d '1969-12-31 23:59:58 UTC' zero; touch -d '2001-02-03 04:05:06.123456789 UTC' exact; touch -h -d '2010-01-01 UTC' dir/sub/link
    find . -depth -type d -exec touch -d '2005-05-05 05:05:05.555 UTC' {} +
"#;

/// GNU tar as a reader.
const GNU: &str = "tar --xattrs --xattrs-include='*' --acls --numeric-owner --delay-directory-restore -xpf";
/// libarchive's as a reader.
const BSD: &str = "bsdtar --xattrs --acls --numeric-owner -xpf";

/// What a reader makes of `name`.
fn unpacked(dir: &Path, reader: &str, name: &str) -> Listing {
    sh(dir, &format!("rm -rf out; mkdir out; cd out; {reader} ../{name}"));
    without_root(list_dir(&dir.join("out")))
}

/// The folder that is unpacked into is the test's own: bsdtar leaves it its time.
fn without_root(mut listing: Listing) -> Listing {
    listing.remove(&b""[..]);
    listing
}

fn compare(dir: &Path, writer: &str, name: &str, readers: &[&str]) {
    sh(dir, &format!("rm -f {name}; cd src; {writer} ../{name} ."));
    let layer = tempfile::tempdir().unwrap();
    let ours = without_root(list_tree(&tree_of(layer.path(), &std::fs::read(dir.join(name)).unwrap())));
    for reader in readers {
        assert_same(&ours, &unpacked(dir, reader, name), &format!("{writer} by {reader}"));
    }
}

#[test]
fn every_format_of_gnu_tar_and_bsdtar_is_what_both_unpack() {
    if !is_root("owners and devices") || !has("bsdtar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), EVERYTHING);
    let gnu = |flags: &str| format!("tar {flags} --numeric-owner -cf");
    let posix =
        |version: &str| gnu(&format!("--format=posix --sparse --sparse-version={version} --xattrs --xattrs-include='*' --acls"));
    compare(dir.path(), &gnu("--format=gnu --sparse"), "gnu.tar", &[GNU, BSD]);
    compare(dir.path(), &gnu("--format=gnu"), "gnu-plain.tar", &[GNU, BSD]);
    for version in ["0.0", "0.1", "1.0"] {
        compare(dir.path(), &posix(version), "posix.tar", &[GNU, BSD]);
    }
    compare(dir.path(), "bsdtar --format=pax --numeric-owner --xattrs --acls -cf", "bsd.tar", &[GNU, BSD]);
    compare(dir.path(), "bsdtar --format=gnutar --numeric-owner --no-xattrs --no-acls -cf", "bsd-gnu.tar", &[GNU, BSD]);
}

#[test]
fn names_of_any_bytes_in_every_format() {
    if !is_root("owners") || !has("bsdtar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        r#"mkdir -p src/bytes; cd src/bytes; for code in $(seq 1 255); do
            [ $code = 47 ] || { name="n$(printf "\\$(printf %o $code)")m"; : > "$name"; ln -s "$name" "link-$name"; }
        done; long=$(printf 'l%.0s' {1..90}); mkdir $long; cd $long; : > "$(printf '\377%.0s' {1..255})"; ln -s "$(printf '\376%.0s' {1..300})" bad"#,
    );
    compare(dir.path(), "tar --format=gnu -cf", "names.tar", &[GNU, BSD]);
    // GNU tar writes such names into PAX records as they are, which libarchive takes for UTF-8.
    compare(dir.path(), "tar --format=posix -cf", "names.tar", &[GNU]);
    compare(dir.path(), "LC_ALL=C bsdtar --format=pax -cf", "names.tar", &[GNU, BSD]);
}

#[test]
fn the_old_formats_are_what_both_unpack() {
    if !is_root("owners and devices") || !has("bsdtar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // What these can't say, they leave out: names of 100 or 255 bytes, ids of 21 bits, whole seconds.
    sh(
        dir.path(),
        "mkdir -p src/dir; cd src; echo hello > dir/file; ln dir/file hard; ln -s dir/file link; printf x > $(printf 'n%.0s' {1..90}); chown 12345:54321 dir/file; chmod 4711 hard; find . -exec touch -h -d '2005-05-05 UTC' {} +",
    );
    for format in ["v7", "oldgnu", "ustar"] {
        compare(dir.path(), &format!("tar --format={format} -cf"), "old.tar", &[GNU, BSD]);
    }
    sh(
        dir.path(),
        "cd src; mkdir -p $(printf 'd%.0s' {1..60})/$(printf 'e%.0s' {1..60}); mkfifo dir/fifo; mknod dir/null c 1 3; find . -exec touch -h -d '2005-05-05 UTC' {} +",
    );
    compare(dir.path(), "tar --format=ustar -cf", "old.tar", &[GNU, BSD]);
    compare(dir.path(), "bsdtar --format=ustar -cf", "old.tar", &[GNU, BSD]);
}

#[test]
fn acls_are_kept_as_text_or_as_attributes() {
    if !is_root("ACLs") || !has("setfacl") || !has("bsdtar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir -p src/shared src/minimal; cd src; : > file; : > both; setfacl -m u:1234:r-x,g:5678:rwx,m::r-x file; setfacl -d -m u:77:rwx,g:78:--- shared; setfacl -m u:4001:r shared; setfacl -d -m u::rwx,g::rx,o::- minimal; setfacl -m u:4009:r both; chmod 640 both",
    );
    compare(dir.path(), "tar --format=posix --acls --numeric-owner -cf", "text.tar", &[GNU, BSD]);
    compare(dir.path(), "bsdtar --format=pax --acls --numeric-owner -cf", "star.tar", &[GNU, BSD]);
    // As attributes: what containerd and BuildKit write.
    let layer = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(dir.path().join("text.tar")).unwrap();
    let by_text = tree_of(layer.path(), &bytes);
    let mut packed = Vec::new();
    let options = layerfs::archive::TarOptions { contents_only: true, ..Default::default() };
    layerfs::archive::tar_of_tree(&by_text, Path::new("/"), &mut packed, options).unwrap();
    assert!(packed.windows(36).any(|at| at == b"SCHILY.xattr.system.posix_acl_access"));
    let folder = tempfile::tempdir().unwrap();
    let again = without_root(list_tree(&tree_of(folder.path(), &packed)));
    assert_same(&without_root(list_tree(&by_text)), &again, "as attributes");
}

/// A later entry of one name takes the place of the earlier one, for files and links in files' places.
#[test]
fn of_entries_of_one_name_the_last_is_unpacked() {
    if !is_root("owners") || !has("bsdtar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        r"mkdir -p a/dir b/dir c; chmod 700 a/dir; chmod 751 b/dir
        echo one > a/file; echo two > b/file; ln -s nowhere c/file; echo one > a/dir/x; ln a/dir/x a/dir/y; echo second > b/dir/x
        ln -s file a/link; echo no link > b/link; mkfifo c/link
        find a b c -exec touch -h -d '2005-05-05 UTC' {} +
        tar -C a -cf l.tar .; tar -C b -rf l.tar .; tar -C c -rf l.tar file link",
    );
    let layer = tempfile::tempdir().unwrap();
    let ours = without_root(list_tree(&tree_of(layer.path(), &std::fs::read(dir.path().join("l.tar")).unwrap())));
    for reader in [GNU, BSD] {
        assert_same(&ours, &unpacked(dir.path(), reader, "l.tar"), reader);
    }
}

#[test]
fn empty_archives_of_every_kind_are_empty_trees() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir src; tar -C src -cf gnu.tar -T /dev/null; tar --format=posix -b 1 -cf short.tar -T /dev/null; : > none.tar",
    );
    for name in ["gnu.tar", "short.tar", "none.tar"] {
        let layer = tempfile::tempdir().unwrap();
        let ours = without_root(list_tree(&tree_of(layer.path(), &std::fs::read(dir.path().join(name)).unwrap())));
        assert!(ours.is_empty(), "{name}");
    }
}
