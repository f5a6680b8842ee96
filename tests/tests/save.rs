//! Images leave the store as archives that others read.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::process::Command;

use system_tests::{Daemon, fails, has, images, ok, sh};

#[test]
fn what_is_saved_is_what_was_loaded() {
    let Some(archive) = images::made("busybox.tar") else { return };
    let daemon = Daemon::start();
    let dir = daemon.dir().to_owned();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    let (one, two) = (images::layer(&[("f", "one")]), images::layer(&[("f", "two")]));
    std::fs::write(path("in.tar"), images::docker_archive("local/two:1", &[&one, &two])).unwrap();
    ok(&daemon.ctl(&["load", "-q", "-i", &path("in.tar")]));
    ok(&daemon.ctl(&["tag", "local/two:1", "local/two:2"]));
    let listed = || {
        let mut lines: Vec<String> = ok(&daemon.ctl(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]))
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = listed();
    // A repository's name alone means all of its tags; layers are there once, and as they came.
    ok(&daemon.ctl(&["save", "-o", &path("all.tar"), "local/two", "busybox:latest"]));
    let names = sh(&dir, "tar tf all.tar");
    assert_eq!(names.lines().filter(|name| name.starts_with("blobs/sha256/") && !name.ends_with('/')).count(), 7, "{names}");
    let digest = images::digest(&two).replace(':', "/");
    assert_eq!(sh(&dir, &format!("tar xOf all.tar blobs/{digest} | sha256sum | cut -c1-64")).trim(), &digest[7..]);
    if has("docker") {
        ok(&daemon.docker(&["save", "-o", &path("again.tar"), "local/two", "busybox:latest"]));
        assert_eq!(sh(&dir, "cmp all.tar again.tar && echo same"), "same\n");
    }
    if has("skopeo") {
        sh(&dir, "mkdir layout; tar xf all.tar -C layout");
        for source in ["docker-archive:all.tar:local/two:2", "oci:layout:latest"] {
            ok(&Command::new("skopeo").args(["inspect", source]).current_dir(&dir).output().unwrap());
        }
    }
    for image in ["local/two:1", "local/two:2", "busybox:latest"] {
        ok(&daemon.ctl(&["rmi", image]));
    }
    ok(&daemon.ctl(&["load", "-q", "-i", &path("all.tar")]));
    assert_eq!(listed(), before);
    let unknown = fails(&daemon.ctl(&["save", "-o", &path("none.tar"), "nosuch"]));
    assert!(unknown.contains("No such image: nosuch:latest"), "{unknown}");
    let push = fails(&daemon.ctl(&["push", "local/two:1"]));
    assert!(push.contains("push is not supported"), "{push}");
    daemon.checks_clean();
}
