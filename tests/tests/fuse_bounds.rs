//! What a FUSE session refuses rather than show wrongly, what it does on damaged layers, and whom it lets read.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use system_tests::fuse::{Place, has_fuse, same, within};
use system_tests::{Daemon, has, images, ok, sh};

const OVER: &str = "lowerdir=l,upperdir=u,workdir=w";

#[test]
fn what_the_kernel_has_redirected_is_refused_and_nothing_else_is() {
    if !has_fuse() || !has("getfattr") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "mkdir -p l/dir/sub l/other l/plain u w m; echo data > l/dir/sub/f; seq 5000 > l/big; seq 5000 > l/moved; echo 1 > l/plain/1",
    );
    let work = "mv dir gone; chmod 600 big; mv moved there; echo x > other/new; mkdir own; echo 2 > own/2";
    within(&place, &format!("mount -t overlay o -o {OVER},redirect_dir=on,metacopy=on m"), "m", work);
    let marks = sh(place.dir(), "getfattr -h -m overlay -d u/gone u/big u/there 2>/dev/null | grep -cE 'redirect|metacopy'");
    assert!(marks.trim().parse::<u32>().unwrap() >= 3, "the kernel made no marks: {marks}");
    let look = "stat -c %n gone 2>&1 || true; stat -c '%n %a %s' big there; cat big > /dev/null 2>&1 || echo no big; cat there 2>&1 || true
        echo y >> big || true; mv there again 2>&1 || true; ln big linked 2>&1 || true; ls; cat other/new own/2 plain/1; rm there; rm -r other plain; ls -A other 2>&1 || true";
    let seen = within(&place, &format!("\"$FUSE\" -o {OVER} m"), "m", &format!("({look}) 2>&1"));
    let wanted = "stat: cannot stat 'gone': Operation not permitted\nbig 600 23893\nthere 644 23893\nno big\n\
        cat: there: Operation not permitted\nbash: line LINE: big: Operation not permitted\n\
        mv: cannot move 'there' to 'again': Operation not permitted\n\
        ln: failed to create hard link 'linked' => 'big': Operation not permitted\n\
        big\ngone\nother\nown\nplain\nthere\nx\n2\n1\nls: cannot access 'other': No such file or directory\n";
    // What stat calls its call depends on its version.
    let seen = seen.replace("cannot statx", "cannot stat");
    let number = seen.split("line ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default().to_owned();
    same("what was redirected", &seen.replace(&format!("line {number}:"), "line LINE:"), wanted);
    // As a lower layer too.
    let lower = "\"$FUSE\" -o lowerdir=u:l m";
    let seen = within(&place, lower, "m", "ls; cat big 2>&1 || true; stat gone 2>&1 || true; cat own/2");
    let wanted =
        "big\ngone\nmoved\nown\ncat: big: Operation not permitted\nstat: cannot statx 'gone': Operation not permitted\n2\n";
    same("a redirected lower layer", &seen, &wanted.replace("moved\n", ""));
}

#[test]
fn acls_are_enforced_where_nothing_can_be_written_too() {
    if !has_fuse() || !has("setfacl") || !has("setpriv") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "mkdir -p l/open l/closed m u w; chmod 755 .; echo 1 > l/granted; echo 2 > l/denied; echo 3 > l/open/f; echo 4 > l/closed/f
        chmod 640 l/granted; setfacl -m u:65534:r l/granted; chmod 664 l/denied; setfacl -m u:65534:- l/denied
        chmod 700 l/open; setfacl -m u:65534:rx l/open; setfacl -m u:65534:- l/closed
        tar --xattrs --xattrs-include='*' --acls --format=pax -cf a.tar -C l .",
    );
    let look = "for f in granted denied open/f closed/f; do setpriv --reuid 65534 --regid 65534 --clear-groups cat $f 2>/dev/null || echo no; done";
    let wanted = "1\nno\n3\nno\n";
    for options in ["lowerdir=l", "lowerdir=l,upperdir=u,workdir=w"] {
        assert_eq!(within(&place, &format!("\"$FUSE\" -o {options} m"), "m", look), wanted, "{options}");
    }
    let layer = std::fs::read(place.dir().join("a.tar")).unwrap();
    std::fs::write(place.dir().join("image.tar"), images::docker_archive("acl:1", &[&layer])).unwrap();
    assert_eq!(within(&place, "\"$FUSE\" --image image.tar m", "m", look), wanted, "an image");
    // Those that an ACL names are mapped as owners are.
    let mapped = "lowerdir=l,uidmapping=65534:7:1:0:0:1,gidmapping=0:0:1";
    let named = "getfacl -n granted 2>/dev/null | grep user:; setpriv --reuid 7 --regid 7 --clear-groups cat granted";
    assert_eq!(within(&place, &format!("\"$FUSE\" -o {mapped} m"), "m", named), "user::rw-\nuser:7:r--\n1\n");
}

#[test]
fn an_index_that_is_cut_off_fails_for_what_it_lacks_alone() {
    if !has_fuse() {
        return;
    }
    let (place, daemon) = (Place::new(), Daemon::start());
    sh(
        place.dir(),
        "mkdir -p l/d m; echo first > l/0; for i in $(seq 500); do echo $i > l/d/file-with-a-long-name-$i; done; tar -cf a.tar -C l .",
    );
    let layer = std::fs::read(place.dir().join("a.tar")).unwrap();
    images::load(&daemon, "cut:1", &[&layer]);
    sh(place.dir(), &format!("cp -r {}/root/layers/* layer; chmod u+w layer layer/*", daemon.dir().display()));
    let script = "\"$FUSE\" -o lowerdir=@layer m; server=$(server m); cat m/0; ls m/d | wc -l
        truncate -s $(($(stat -c %s layer/index) / 2 / 4096 * 4096)) layer/index
        for i in $(seq 500); do cat m/d/file-with-a-long-name-$i || true; done > got 2> errors
        [ $(wc -l < got) -gt 0 ] && echo some; sed 's/.*: //' errors | sort -u
        kill -0 $server; umount m; \"$FUSE\" -o lowerdir=@layer m 2>&1 || true; ! mountpoint -q m";
    let said = ok(&place.bash(script));
    assert!(
        said.starts_with("first\n500\nsome\nInput/output error\n") && said.contains("size is not what its superblock says"),
        "{said}"
    );
}
