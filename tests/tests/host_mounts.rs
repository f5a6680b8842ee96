//! Containers and volumes mounted on the host, to look at, or to write to what is thrown away.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};

use system_tests::containers::{end_by, with_busybox};
use system_tests::fuse::{has_fuse, is_mounted};
use system_tests::{Daemon, fails, ok, swept, until};

/// A container `box` that has changed something, and goes on until it finds `/end`.
fn run_box(daemon: &Daemon) {
    let script = "echo own >> /own; rm -f /etc/group; until [ -e /end ]; do sleep 0.05; done";
    ok(&daemon.ctl(&["run", "-d", "--network", "none", "--name", "box", "busybox", "sh", "-c", script]));
    until("the container's changes", || ok(&daemon.ctl(&["diff", "box"])).contains("D /etc/group"));
}

/// Mounts a container or volume and says where.
fn mount(daemon: &Daemon, kind: &str, arguments: &[&str]) -> PathBuf {
    PathBuf::from(ok(&daemon.ctl(&[&[kind, "mount"], arguments].concat())).trim())
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_container_is_seen_as_it_is_through_its_life() {
    let Some(mut daemon) = with_busybox() else { return };
    run_box(&daemon);
    let target = mount(&daemon, "container", &["box"]);
    assert!(read(target.join("own")) == "own\n" && !target.join("etc/group").exists());
    assert!(std::fs::write(target.join("mine"), "").is_err(), "it is only looked at");
    ok(&daemon.ctl(&["exec", "box", "sh", "-c", "echo later > /later; echo more >> /own"]));
    assert_eq!((read(target.join("later")), read(target.join("own"))), ("later\n".to_owned(), "own\nmore\n".to_owned()));
    let list = ok(&daemon.ctl(&["mount", "ls", "--format", "{{.Kind}} {{.Object}} {{.Mode}} {{.User}} {{.State}}"]));
    assert_eq!(list, "container box ro 0 mounted\n");
    assert!(ok(&daemon.ctl(&["container", "mount"])).contains(target.to_str().unwrap()));
    assert!(!ok(&daemon.ctl(&["volume", "mount"])).contains(target.to_str().unwrap()));

    daemon.kill();
    assert_eq!(read(target.join("later")), "later\n");
    daemon.restart();
    // It ends, and starts again on the tree that is looked at.
    end_by(&daemon, "box", "/end");
    ok(&daemon.ctl(&["wait", "box"]));
    assert_eq!(read(target.join("own")), "own\nmore\n");
    ok(&daemon.ctl(&["start", "box"]));
    ok(&daemon.ctl(&["wait", "box"]));
    assert_eq!(read(target.join("own")), "own\nmore\nown\n", "its second run is seen too");
    let second = mount(&daemon, "container", &["box"]);
    std::fs::write(daemon.dir().join("sent"), "sent").unwrap();
    ok(&daemon.ctl(&["cp", daemon.dir().join("sent").to_str().unwrap(), "box:/sent"]));
    assert_eq!((read(target.join("sent")), read(second.join("sent"))), ("sent".to_owned(), "sent".to_owned()));
    assert!(fails(&daemon.ctl(&["container", "umount", "box"])).contains("more than once"));
    ok(&daemon.ctl(&["container", "umount", second.to_str().unwrap()]));
    ok(&daemon.ctl(&["container", "umount", "box"]));
    assert!(!is_mounted(&target) && !target.exists() && !second.exists());
}

#[test]
fn a_mounted_container_is_removed_by_force_alone() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.ctl(&["create", "--network", "none", "--name", "box", "busybox", "sh", "-c", "echo own > /own"]));
    let target = mount(&daemon, "container", &["box"]);
    assert!(target.join("bin/sh").exists() && !target.join("own").exists());
    ok(&daemon.ctl(&["start", "-a", "box"]));
    assert_eq!(read(target.join("own")), "own\n", "what was made before its first start is what it runs on");
    let refused = fails(&daemon.docker(&["rm", "box"]));
    let wanted = format!("cannot remove container \"/box\": container box is mounted at {}", target.display());
    assert!(refused.contains(&wanted), "{refused}");
    ok(&daemon.ctl(&["container", "prune", "-f"]));
    assert!(ok(&daemon.ctl(&["ps", "-aq"])).trim() != "", "a prune spares it");
    ok(&daemon.docker(&["rm", "-f", "box"]));
    assert!(!is_mounted(&target) && !target.exists());
    assert_eq!(ok(&daemon.ctl(&["mount", "ls", "-q"])), "");
    // One that was to go when it ends goes, mounted or not.
    let script = "until [ -e /end ]; do sleep 0.05; done";
    ok(&daemon.ctl(&["run", "-d", "--rm", "--network", "none", "--name", "brief", "busybox", "sh", "-c", script]));
    let target = mount(&daemon, "container", &["brief"]);
    end_by(&daemon, "brief", "/end");
    until("its removal", || ok(&daemon.ctl(&["ps", "-aq"])).trim().is_empty());
    assert!(!is_mounted(&target) && !target.exists());
    swept(&daemon);
}

#[test]
fn what_is_written_to_a_mount_reaches_neither_container_nor_volume() {
    let Some(mut daemon) = with_busybox() else { return };
    run_box(&daemon);
    ok(&daemon.ctl(&["volume", "create", "data"]));
    ok(&daemon.ctl(&["run", "--rm", "--network", "none", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/kept"]));
    let ways: &[&[&str]] = if has_fuse() { &[&["--rw"], &["--rw", "--fuse"]] } else { &[&["--rw"]] };
    let mut changed = Vec::new();
    for way in ways {
        let tree = mount(&daemon, "container", &[way, &["box"][..]].concat());
        let data = mount(&daemon, "volume", &[way, &["data"][..]].concat());
        assert!(read(tree.join("own")) == "own\n" && !tree.join("etc/group").exists(), "{way:?}");
        std::fs::write(tree.join("own"), "changed").unwrap();
        std::fs::remove_file(tree.join("bin/sh")).unwrap();
        std::fs::write(data.join("kept"), "changed").unwrap();
        std::fs::write(data.join("new"), "new").unwrap();
        daemon.kill();
        daemon.restart();
        assert_eq!((read(tree.join("own")), read(data.join("kept"))), ("changed".to_owned(), "changed".to_owned()));
        let difference = |target: &Path| ok(&daemon.ctl(&["mount", "diff", "-s", target.to_str().unwrap()]));
        changed.push((difference(&tree), difference(&data)));
        assert_eq!(ok(&daemon.ctl(&["exec", "box", "cat", "/own"])), "own\n");
        let seen = ok(&daemon.ctl(&["run", "--rm", "--network", "none", "-v", "data:/d", "busybox", "sh", "-c", "cat /d/*"]));
        assert_eq!(seen, "kept\n");
        ok(&daemon.ctl(&["umount", tree.to_str().unwrap(), "data"]));
        assert!(!tree.exists() && !data.exists());
        let again = mount(&daemon, "volume", &[way, &["data"][..]].concat());
        assert!(read(again.join("kept")) == "kept\n" && !again.join("new").exists(), "{way:?}: it was thrown away");
        ok(&daemon.ctl(&["volume", "umount", "data"]));
    }
    let (tree, data) = &changed[0];
    assert!(tree.contains(" /own\n") && tree.contains(" /bin/sh\n") && data.contains(" /kept\n"), "{tree}{data}");
    assert!(changed.iter().all(|other| *other == changed[0]), "the kernel's and FUSE's: {changed:?}");
    swept(&daemon);
    assert_eq!(std::fs::read_dir(daemon.dir().join("root/scratch")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_container_by_fuse_is_not_remembered_but_looked_at() {
    let Some(daemon) = with_busybox() else { return };
    if !has_fuse() {
        return;
    }
    run_box(&daemon);
    let target = mount(&daemon, "container", &["--fuse", "box"]);
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(read(target.join("own")) == "own\n" && !target.join("etc/group").exists() && !names().contains(&"new".to_owned()));
    let script = "echo more >> /own; mkdir /new; echo x > /new/x; echo changed > /etc/passwd; rm -r /bin/ls; mv /new/x /new/y";
    ok(&daemon.ctl(&["exec", "box", "sh", "-c", script]));
    assert_eq!((read(target.join("own")), read(target.join("new/y"))), ("own\nmore\n".to_owned(), "x\n".to_owned()));
    assert_eq!(read(target.join("etc/passwd")), "changed\n");
    assert!(names().contains(&"new".to_owned()) && !target.join("bin/ls").exists() && target.join("bin/sh").exists());
    ok(&daemon.ctl(&["exec", "box", "sh", "-c", "rm -r /new; echo again > /own; ln -s /own /new"]));
    assert_eq!(
        (read(target.join("own")), std::fs::read_link(target.join("new")).unwrap()),
        ("again\n".to_owned(), "/own".into())
    );
    ok(&daemon.ctl(&["rm", "-f", "box"]));
    assert!(!is_mounted(&target));
}

#[test]
fn a_place_that_somebody_else_unmounted_is_free_again() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.ctl(&["volume", "create", "data"]));
    let place = daemon.dir().join("place");
    let place = place.to_str().unwrap();
    let unmounted = || ok(&std::process::Command::new("umount").arg(place).output().unwrap());
    let ways: &[&[&str]] = if has_fuse() { &[&[], &["--fuse"]] } else { &[&[]] };
    for way in ways {
        ok(&daemon.ctl(&[&["volume", "mount"], *way, &["data", place]].concat()));
        let taken = fails(&daemon.ctl(&["volume", "mount", "data", place]));
        assert!(taken.contains(&format!("something is already mounted at {place}")), "{way:?}: {taken}");
        unmounted();
        ok(&daemon.ctl(&[&["volume", "mount"], *way, &["data", place]].concat()));
        ok(&daemon.ctl(&["umount", place]));
    }
    ok(&daemon.ctl(&["volume", "mount", "--rw", "data", place]));
    std::fs::write(Path::new(place).join("mine"), "mine").unwrap();
    unmounted();
    let kept = fails(&daemon.ctl(&["volume", "mount", "data", place]));
    assert!(kept.contains(&format!("{place}: what was written to the mount that was made there is kept")), "{kept}");
    ok(&daemon.ctl(&["umount", place]));
    ok(&daemon.ctl(&["volume", "mount", "data", place]));
    ok(&daemon.ctl(&["umount", place]));
    assert_eq!(ok(&daemon.ctl(&["mount", "ls", "-q"])), "");
}

#[test]
fn a_mounted_volume_is_removed_by_force_alone() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.ctl(&["volume", "create", "data"]));
    let place = daemon.dir().join("here");
    let target = mount(&daemon, "volume", &["data", place.to_str().unwrap()]);
    assert_eq!(target, place);
    ok(&daemon.ctl(&["run", "--rm", "--network", "none", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/kept"]));
    assert_eq!(read(target.join("kept")), "kept\n");
    assert!(std::fs::write(target.join("mine"), "").is_err(), "it is only looked at");
    let refused = fails(&daemon.docker(&["volume", "rm", "data"]));
    assert!(refused.contains(&format!("remove data: volume data is mounted at {}", place.display())), "{refused}");
    ok(&daemon.ctl(&["volume", "prune", "-af"]));
    assert!(ok(&daemon.ctl(&["volume", "ls", "-q"])).contains("data"), "a prune spares it");
    ok(&daemon.docker(&["volume", "rm", "-f", "data"]));
    assert!(!is_mounted(&target) && !target.exists());
    assert!(fails(&daemon.ctl(&["volume", "mount", "data"])).contains("no such volume"));
    assert!(fails(&daemon.ctl(&["container", "mount", "nobody"])).contains("No such container: nobody"));
    ok(&daemon.ctl(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "fleeting"]));
    assert!(fails(&daemon.ctl(&["volume", "mount", "fleeting"])).contains("kept in memory"));
    assert!(fails(&daemon.ctl(&["container", "mount", "--restart", "nobody"])).contains("No such container"));
    swept(&daemon);
}
