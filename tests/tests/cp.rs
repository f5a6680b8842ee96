//! `ctl cp` and extended attributes: beside `docker cp`, and with GNU tar as the witness of what a container has.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::fs::File;
use std::path::Path;

use fs_base::sys::xattr;
use fs_base::tar::acl;
use system_tests::containers::{err, with_busybox};
use system_tests::{Daemon, can, ok, program, program_in, sh};

/// `cap_net_raw`, permitted and effective. Source: Linux `include/uapi/linux/capability.h`, version 2.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAPABILITY: &str = "security.capability";
/// A name that GNU tar, ctl and the daemon write so that it is read as it was; Docker's CLI reads it as it is written.
const ESCAPED: [&str; 2] = ["user.equals=100%", "user.equals%3D100%25"];

/// The attributes of a file, but for those of a security module.
fn got(path: &Path) -> Vec<(String, Vec<u8>)> {
    let all = xattr::list_of_path(path).unwrap().into_iter().map(|(name, value)| (name.into_string().unwrap(), value));
    all.filter(|(name, _)| name != "security.selinux").collect()
}

/// A tree with attributes of all kinds; `None` where files can't have them.
fn tree(dir: &Path) -> Option<()> {
    sh(dir, "mkdir -p tree/sub; echo x > tree/f; echo y > tree/sub/below; ln -s f tree/link");
    let access = acl::encode(b"u::rw,u:1234:rw,g::-,m::rw,o::-").unwrap();
    let default = acl::encode(b"u::rwx,g::rx,g:77:rx,m::rx,o::-").unwrap();
    let (file, sub) = (File::open(dir.join("tree/f")).unwrap(), File::open(dir.join("tree/sub")).unwrap());
    let all = [
        (&file, "user.binary", &b"\0\n\xff=% \n\0"[..]),
        (&file, "user.empty", b""),
        (&file, ESCAPED[0], b"a=b"),
        (&file, "user.trap", b"1\n18 path=../../evil\n"),
        (&file, "system.posix_acl_access", &access),
        (&file, CAPABILITY, &NET_RAW),
        (&sub, "user.lines", b"one\ntwo\n"),
        (&sub, "system.posix_acl_default", &default),
    ];
    let able = all.iter().all(|(file, name, value)| xattr::set(file, name, value).is_ok());
    can("files with all kinds of attributes", able).then_some(())
}

/// Asserts that two trees have the same attributes, but for those left out.
fn same(one: &Path, other: &Path, without: &[&str]) {
    alike(&["", "f", "link", "sub", "sub/below"], one, other, without);
}

fn alike(names: &[&str], one: &Path, other: &Path, without: &[&str]) {
    for name in names {
        let of = |path: &Path| {
            let mut all = got(&path.join(name));
            all.retain(|(name, _)| !without.contains(&name.as_str()));
            all
        };
        assert_eq!(of(one), of(other), "{} and {}: {name:?}", one.display(), other.display());
    }
}

fn ctl(daemon: &Daemon) -> String {
    format!("{} -H unix://{}", program("ctl").display(), daemon.socket().display())
}

#[test]
fn attributes_are_copied_in_and_out() {
    let Some(daemon) = with_busybox() else { return };
    let dir = daemon.dir();
    if tree(dir).is_none() {
        return;
    }
    let path = |name: &str| dir.join(name).display().to_string();
    ok(&daemon.ctl(&["create", "--name", "c1", "--network", "none", "busybox"]));
    ok(&daemon.ctl(&["cp", "-a", &path("tree"), "c1:/"]));
    let unpack = "tar --xattrs --xattrs-include='*' -p -x";
    // What the container has is seen by another program, through a stream that ctl passes on as it is.
    sh(dir, &format!("mkdir told; {} cp c1:/tree - | {unpack} -C told", ctl(&daemon)));
    same(&dir.join("tree"), &dir.join("told/tree"), &[]);
    let silent = |output: std::process::Output| assert!(ok(&output).is_empty() && err(&output).is_empty(), "{}", err(&output));
    for (copy, words) in [("whole", &["cp", "-a"][..]), ("parts", &["cp"])] {
        silent(daemon.ctl(&[words, &["c1:/tree", &path(copy)]].concat()));
    }
    same(&dir.join("tree"), &dir.join("whole"), &[]);
    // As with set-user-ID, who runs a copy is given no capabilities by it unless it was asked for, and whom an ACL names in
    // the container is let in nowhere else.
    let grants = [CAPABILITY, "system.posix_acl_access", "system.posix_acl_default"];
    same(&dir.join("tree"), &dir.join("parts"), &grants);
    for name in ["parts/f", "parts/sub"] {
        assert!(got(&dir.join(name)).iter().all(|(name, _)| !grants.contains(&name.as_str())), "{name}");
    }
    assert_eq!(sh(dir, "stat -c %a whole/f parts/f"), "660\n600\n", "a mask is not what the group may");
    // The docker CLI takes out what ctl brought in.
    ok(&daemon.docker(&["cp", "-a", "c1:/tree", &path("dockers")]));
    // It gives a directory its default ACL at once, which what it puts there then inherits.
    alike(&["", "f", "link", "sub"], &dir.join("tree"), &dir.join("dockers"), &ESCAPED);
    // A stream goes in as it is.
    sh(dir, &format!("tar --xattrs --xattrs-include='*' -c tree | {} cp -a - c1:/tmp", ctl(&daemon)));
    silent(daemon.ctl(&["cp", "-a", "c1:/tmp/tree", &path("streamed")]));
    // GNU tar has ACLs only when it is asked for them by another flag.
    same(&dir.join("tree"), &dir.join("streamed"), &["system.posix_acl_access", "system.posix_acl_default"]);
    assert!(!dir.join("evil").exists());
}

#[test]
fn the_docker_cli_and_ctl_bring_in_the_same_capabilities() {
    let Some(daemon) = with_busybox() else { return };
    let dir = daemon.dir();
    if tree(dir).is_none() {
        return;
    }
    let path = |name: &str| dir.join(name).display().to_string();
    ok(&daemon.ctl(&["create", "--name", "c1", "--network", "none", "busybox"]));
    for (flags, inside) in [(&["cp", "-a"][..], "/archive"), (&["cp"], "/plain")] {
        ok(&daemon.docker(&[flags, &[&path("tree"), &format!("c1:{inside}-docker")]].concat()));
        ok(&daemon.ctl(&[flags, &[&path("tree"), &format!("c1:{inside}-ctl")]].concat()));
        let (dockers, ours) = (dir.join(format!("docker{}", &inside[1..])), dir.join(format!("ctl{}", &inside[1..])));
        ok(&daemon.docker(&["cp", &format!("c1:{inside}-docker"), dockers.to_str().unwrap()]));
        ok(&daemon.ctl(&["cp", "-a", &format!("c1:{inside}-ctl"), ours.to_str().unwrap()]));
        let capability = |path: &Path| got(&path.join("f")).into_iter().find(|(name, _)| name == CAPABILITY);
        assert_eq!(capability(&dockers), Some((CAPABILITY.to_owned(), NET_RAW.to_vec())), "docker {flags:?}");
        // The docker CLI brings no other attributes in; ctl does.
        same(&dir.join("tree"), &ours, &[]);
    }
}

#[test]
fn who_has_no_privileges_is_told_what_is_left_out() {
    let Some(daemon) = with_busybox() else { return };
    let dir = daemon.dir();
    if tree(dir).is_none() {
        return;
    }
    ok(&daemon.ctl(&["create", "--name", "c1", "--network", "none", "busybox"]));
    ok(&daemon.ctl(&["cp", "-a", dir.join("tree").to_str().unwrap(), "c1:/"]));
    sh(dir, "mkdir own; chown 1234:1234 own; chmod 755 .");
    // The tar is root's to fetch, and a user's to unpack.
    let script = format!(
        "chmod 666 {0}; setpriv --reuid 1234 --regid 1234 --clear-groups ./ctl -H unix://{0} cp -a c1:/tree own/out 2> said",
        daemon.socket().display(),
    );
    // Not everybody may reach the folder that it was built in.
    program_in(dir, "ctl");
    sh(dir, &script);
    let said = std::fs::read_to_string(dir.join("said")).unwrap();
    let want = "WARNING: an extended attribute could not be kept: \"security.capability\" of \"out/f\": ";
    assert!(said.starts_with(want) && said.lines().count() == 1, "{said}");
    same(&dir.join("tree"), &dir.join("own/out"), &[CAPABILITY]);
}
