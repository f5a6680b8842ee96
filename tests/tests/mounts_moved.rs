//! Mounts that FUSE serves, after they or a folder above them were moved; and what is mounted though no row knows it.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::fs::File;
use std::process::Command;

use fs_base::sys::mount::mount_table;
use rustix::fs::FlockOperation;
use system_tests::containers::{daemon_with, inspect, with_busybox};
use system_tests::fuse::{has_fuse, is_mounted};
use system_tests::{Daemon, can, fails, images, mounts_below, ok, program, sh, until};

fn states(daemon: &Daemon) -> String {
    ok(&daemon.ctl(&["mount", "ls", "--format", "{{.Target}} {{.State}}"]))
}

fn scratches(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.dir().join("root/scratch")).map_or(0, Iterator::count)
}

#[test]
fn what_was_moved_is_there_and_keeps_what_was_written() {
    let Some(daemon) = with_busybox() else { return };
    if !has_fuse() {
        return;
    }
    for flags in [&["--fuse", "--rw"][..], &["--fuse", "--rw", "--restart"]] {
        let (folder, moved) = (daemon.dir().join("folder"), daemon.dir().join("moved"));
        std::fs::create_dir(&folder).unwrap();
        let target = folder.join("m").display().to_string();
        ok(&daemon.ctl(&[&["image", "mount"], flags, &["busybox", &target]].concat()));
        std::fs::write(folder.join("m/written"), "mine").unwrap();
        std::fs::rename(&folder, &moved).unwrap();
        assert_eq!(states(&daemon), format!("{target} mounted\n"), "{flags:?}");
        let refused = fails(&daemon.ctl(&["umount", &target]));
        assert!(refused.contains("not there any more"), "{refused}");
        ok(&daemon.ctl(&["system", "prune", "-f"]));
        assert_eq!(std::fs::read_to_string(moved.join("m/written")).unwrap(), "mine", "{flags:?}");
        // What has taken its place is somebody else's.
        sh(daemon.dir(), "mkdir -p folder/m; mount -t tmpfs tmpfs folder/m");
        assert_eq!(states(&daemon), format!("{target} mounted\n"), "{flags:?}");
        let refused = fails(&daemon.ctl(&["umount", &target]));
        assert!(refused.contains("not there any more") && is_mounted(&folder.join("m")), "{refused}");
        sh(daemon.dir(), "umount folder/m; rm -r folder");
        // Back where it was, it is taken away as any other.
        std::fs::rename(&moved, &folder).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("m/written")).unwrap(), "mine");
        ok(&daemon.ctl(&["umount", &target]));
        until("what was written to be gone", || scratches(&daemon) == 0);
        assert_eq!(states(&daemon), "");
        sh(daemon.dir(), "rm -r folder");
    }
}

/// A daemon whose containers stand on trees by FUSE, and has busybox.
fn on_fuse() -> Option<Daemon> {
    if !has_fuse() {
        return None;
    }
    let archive = images::made("busybox.tar")?;
    daemon_with(&[])?;
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), &["--storage-driver", "fuse"]);
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    Some(daemon)
}

fn create(daemon: &Daemon, name: &str, script: &str) {
    ok(&daemon.docker(&["create", "--name", name, "--network", "none", "busybox", "sh", "-c", script]));
}

#[test]
fn a_containers_tree_that_was_moved_is_the_one_that_it_starts_on() {
    let Some(daemon) = on_fuse() else { return };
    create(&daemon, "c1", "echo inside > /new; sleep 1000");
    let (folder, moved) = (daemon.dir().join("folder"), daemon.dir().join("moved"));
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("m").display().to_string();
    ok(&daemon.ctl(&["container", "mount", "c1", &target]));
    std::fs::rename(&folder, &moved).unwrap();
    assert_eq!(states(&daemon), format!("{target} mounted\n"));
    ok(&daemon.docker(&["start", "c1"]));
    until("what is written inside to be seen", || {
        std::fs::read_to_string(moved.join("m/new")).is_ok_and(|text| text == "inside\n")
    });
    assert_eq!(inspect(&daemon, "c1", "{{.State.Running}}"), "true");
    sh(&moved, "umount m");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
    until("the tree to be gone", || mounts_below(daemon.dir()) == 0);
}

#[test]
fn what_is_mounted_after_a_tree_was_unmounted_is_not_taken_for_it() {
    let Some(daemon) = on_fuse() else { return };
    create(&daemon, "c1", "echo one > /new; sleep 1000");
    create(&daemon, "c2", "echo two > /new; sleep 1000");
    sh(daemon.dir(), "mkdir a b");
    let at = |name: &str| daemon.dir().join(name).display().to_string();
    // What comes next gets the numbers that the first had, be it elsewhere or in the same place.
    for covered in ["", "mount --bind b a"] {
        ok(&daemon.ctl(&["container", "mount", "c1", &at("a")]));
        sh(daemon.dir(), "umount a");
        ok(&daemon.ctl(&["container", "mount", "c2", &at("b")]));
        sh(daemon.dir(), covered);
        ok(&daemon.docker(&["start", "c1"]));
        until("what the first writes", || daemon.docker(&["exec", "c1", "test", "-s", "/new"]).status.success());
        assert_eq!(ok(&daemon.docker(&["exec", "c1", "cat", "/new"])), "one\n", "{covered}");
        assert!(!daemon.dir().join("b/new").exists(), "the second has nothing of it");
        assert_eq!(states(&daemon), format!("{} mounted\n", at("b")), "{covered}");
        ok(&daemon.docker(&["kill", "c1"]));
        until("its end", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
        sh(daemon.dir(), "umount b; if mountpoint -q a; then umount a; fi");
        assert_eq!(states(&daemon), "", "{covered}");
    }
    ok(&daemon.docker(&["rm", "c1", "c2"]));
    until("the trees to be gone", || mounts_below(daemon.dir()) == 0);
}

#[test]
fn a_tree_that_was_moved_and_is_served_no_more_is_in_nobodys_way() {
    let Some(daemon) = on_fuse() else { return };
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !can("fusectl", file_systems.lines().any(|line| line.ends_with("\tfusectl"))) {
        return;
    }
    create(&daemon, "c1", "sleep 1000");
    let (folder, moved) = (daemon.dir().join("folder"), daemon.dir().join("moved"));
    std::fs::create_dir(&folder).unwrap();
    ok(&daemon.ctl(&["container", "mount", "c1", folder.join("m").to_str().unwrap()]));
    std::fs::rename(&folder, &moved).unwrap();
    let mount = mount_table().unwrap().into_iter().find(|mount| mount.target == moved.join("m")).unwrap();
    let abort = format!("mkdir ctl; mount -t fusectl fusectl ctl; echo 1 > ctl/{}/abort; umount ctl; rmdir ctl", mount.device.1);
    sh(daemon.dir(), &abort);
    until("its end", || std::fs::read_dir(moved.join("m")).is_err());
    ok(&daemon.docker(&["start", "c1"]));
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "echo", "runs"])), "runs\n");
    until("what is dead to be gone", || states(&daemon).is_empty() && !is_mounted(&moved.join("m")));
    ok(&daemon.docker(&["rm", "-f", "c1"]));
    until("the tree to be gone", || mounts_below(daemon.dir()) == 0);
}

#[test]
fn a_repair_removes_nothing_that_is_mounted() {
    let Some(mut daemon) = with_busybox() else { return };
    let root = daemon.dir().join("root");
    // One by the kernel, one by a session: neither has a row.
    sh(
        daemon.dir(),
        "mkdir -p root/scratch/0123456789ab/upper root/scratch/0123456789ab/work root/scratch/ba9876543210/x/upper lower m
        echo mine > root/scratch/0123456789ab/upper/f; echo mine > root/scratch/ba9876543210/x/upper/f
        d=root/scratch/0123456789ab; mount -t overlay -o lowerdir=lower,upperdir=$d/upper,workdir=$d/work overlay m
        mkdir -p run/fuse; touch run/fuse/ba9876543210",
    );
    let session = File::open(daemon.dir().join("run/fuse/ba9876543210")).unwrap();
    rustix::fs::flock(&session, FlockOperation::NonBlockingLockShared).unwrap();
    let both = |said: &str| {
        for id in ["0123456789ab", "ba9876543210"] {
            let line = said.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id}: {said}"));
            assert!(line.contains("is mounted somewhere"), "{said}");
            assert!(root.join("scratch").join(id).exists());
        }
    };
    let said = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    both(&said(daemon.ctl(&["system", "check", "--repair"])));
    ok(&daemon.ctl(&["system", "prune", "-f"]));
    daemon.stop();
    let offline = || {
        let run = daemon.dir().join("run");
        Command::new(program("fsd")).args(["check", "--repair", "--root"]).arg(&root).arg("--run").arg(run).output().unwrap()
    };
    both(&said(offline()));
    assert_eq!(std::fs::read_to_string(daemon.dir().join("m/f")).unwrap(), "mine\n");
    sh(daemon.dir(), "umount m");
    drop(session);
    // The kernel lets go of it a moment later.
    until("what is mounted no more to be removed", || {
        offline();
        scratches(&daemon) == 0
    });
    assert!(ok(&offline()).contains("clean"));
}

#[test]
fn a_session_takes_no_link_for_its_directory() {
    if !has_fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p lower m victim victim/kept before/upper before/work; echo x > lower/f");
    let serve = |script: &str| {
        sh(dir.path(), script);
        let before = dir.path().join("before");
        let mut command = Command::new(program("fsd-fuse"));
        command.args(["--rw", "--scratch"]).arg(before).args(["-o", "lowerdir=lower", "m"]);
        fails(&command.current_dir(dir.path()).output().unwrap())
    };
    for (name, script) in [
        ("before/upper", "rmdir before/upper; ln -s ../victim before/upper"),
        ("before/work", "rm before/upper; mkdir before/upper; rmdir before/work; ln -s ../victim before/work"),
        ("before", "rm -r before; ln -s victim before"),
    ] {
        let refused = serve(script);
        assert!(refused.contains(&format!("{name} is no directory any more")), "{name}: {refused}");
    }
    let refused = serve("rm before; mkdir -p before/upper before/work; ln -s ../../victim before/work/work");
    assert!(refused.contains("work/work") || refused.contains("/work: "), "{refused}");
    assert!(dir.path().join("victim/kept").exists(), "what it leads to is not cleared");
    assert!(!is_mounted(&dir.path().join("m")));
}
