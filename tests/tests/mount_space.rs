//! What is written to mounts on the host is accounted for, found when its mount is gone, and given back.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use system_tests::containers::with_busybox;
use system_tests::fuse::{has_fuse, is_mounted, kill, session};
use system_tests::{Daemon, fails, ok, program, sh, swept, until};

const MEGABYTE: usize = 1 << 20;

/// What `system df` says of mounts: how many are in use, their bytes, and the bytes of the others.
fn mounts(daemon: &Daemon) -> (usize, u64, u64) {
    let (_, usage) = daemon.ask("GET", "/system/df", None);
    let list = usage["Mounts"].as_array().unwrap();
    let bytes = |used: bool| {
        let wanted = |mount: &&Value| mount["in_use"] == used;
        list.iter().filter(wanted).map(|mount| mount["size"].as_u64().unwrap()).sum()
    };
    (list.iter().filter(|mount| mount["in_use"] == true).count(), bytes(true), bytes(false))
}

/// What somebody has unmounted may be mounted for a moment more, where others have just copied all mounts of the host: whoever
/// starts a container does.
fn none_in_use(daemon: &Daemon) {
    until("it to be in use no more", || mounts(daemon).0 == 0);
}

fn on_disk(daemon: &Daemon) -> u64 {
    let script = "(du -c -s -B1 scratch/* 2> /dev/null || true) | tail -n 1 | cut -f1";
    sh(&daemon.dir().join("root"), script).trim().parse().unwrap_or(0)
}

/// What a check printed that found something.
fn findings(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn write(daemon: &Daemon, dir: &Path) {
    std::fs::write(dir.join("written"), vec![1; MEGABYTE]).unwrap();
    // Some file systems give it its blocks late.
    sh(daemon.dir(), "sync -f root");
}

#[test]
fn what_is_written_to_mounts_is_in_a_row_until_it_goes() {
    let Some(daemon) = with_busybox() else { return };
    assert_eq!(mounts(&daemon), (0, 0, 0));
    let lines = || ok(&daemon.ctl(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]));
    assert!(!lines().contains("Mounts"), "Docker's rows alone, as long as there is nothing else");
    let at = |name: &str| daemon.dir().join(name);
    let mount = |way: &[&str], name: &str| {
        ok(&daemon.ctl(&[&["image", "mount", "--rw"], way, &["busybox", at(name).to_str().unwrap()]].concat()));
        write(&daemon, &at(name));
    };
    mount(&[], "kernel");
    let mut used = 1;
    if has_fuse() {
        mount(&["--fuse"], "fuse");
        used = 2;
    }
    let (number, bytes, idle) = mounts(&daemon);
    assert_eq!((number, bytes, idle), (used, on_disk(&daemon), 0));
    assert!(bytes >= (used * MEGABYTE) as u64);
    assert!(lines().ends_with(&format!("Mounts {used} {used}\n")), "{}", lines());
    let verbose = ok(&daemon.ctl(&["system", "df", "-v"]));
    assert!(verbose.contains("Mounts space usage:") && verbose.contains(at("kernel").to_str().unwrap()), "{verbose}");
    ok(&daemon.ctl(&["system", "prune", "-f"]));
    assert_eq!(mounts(&daemon).0, used, "a prune spares what is mounted");

    if has_fuse() {
        // With both processes killed at once nobody is left to clean up but the daemon.
        for pid in session(&at("fuse")) {
            kill(pid);
        }
        until("their end", || session(&at("fuse")).is_empty());
        // A process that is seen no more may hold its lock for a moment yet.
        until("it to be in use no more", || mounts(&daemon).0 == 1);
        assert!(mounts(&daemon).2 >= MEGABYTE as u64, "who asks for the space takes nothing away");
        until("the daemon to notice", || ok(&daemon.ctl(&["mount", "ls", "-q"])).lines().count() == 1);
        assert!(!is_mounted(&at("fuse")));
        swept(&daemon);
    }
    // One that somebody else has unmounted is kept until it is pruned.
    sh(daemon.dir(), "umount kernel");
    none_in_use(&daemon);
    let (number, bytes, idle) = mounts(&daemon);
    assert_eq!((number, bytes, idle), (0, 0, on_disk(&daemon)));
    assert!(lines().ends_with("Mounts 1 0\n"), "{}", lines());
    let id = ok(&daemon.ctl(&["mount", "ls", "--format", "{{.ID}} {{.State}}"]));
    let id = id.trim().strip_suffix(" gone").unwrap();
    let said = ok(&daemon.ctl(&["system", "prune", "-f"]));
    assert!(said.contains(&format!("Deleted Mounts:\n{id}\n")) && said.contains("Total reclaimed space: 1.0"), "{said}");
    assert_eq!(mounts(&daemon), (0, 0, 0));
    swept(&daemon);
    assert_eq!(on_disk(&daemon), 0);
    // Docker's own prune takes them too.
    mount(&[], "kernel");
    sh(daemon.dir(), "umount kernel");
    none_in_use(&daemon);
    let said = ok(&daemon.docker(&["system", "prune", "-f"]));
    assert!(said.contains("Total reclaimed space: 1.0"), "{said}");
    assert_eq!(ok(&daemon.ctl(&["mount", "ls", "-q"])), "");
}

#[test]
fn what_was_written_to_a_forgotten_mount_is_found_and_named() {
    let mut daemon = Daemon::start();
    let scratch = daemon.dir().join("root/scratch");
    let lose = |daemon: &Daemon, id: &str| {
        std::fs::create_dir_all(scratch.join(id).join("upper")).unwrap();
        write(daemon, &scratch.join(id).join("upper"));
    };
    lose(&daemon, "0123456789ab");
    assert_eq!(mounts(&daemon), (0, 0, on_disk(&daemon)));
    let path = scratch.join("0123456789ab").display().to_string();
    let found = findings(&daemon.ctl(&["system", "check"]));
    assert!(found.contains(&format!("{path} has")) && found.contains("belongs to no mount"), "{found}");
    daemon.stop();
    let offline = |flags: &[&str]| {
        Command::new(program("fsd")).arg("check").args(flags).arg("--root").arg(daemon.dir().join("root")).output().unwrap()
    };
    let found = findings(&offline(&[]));
    assert!(found.contains("belongs to no mount"), "{found}");
    let said = ok(&offline(&["--repair"]));
    assert!(said.contains("what was written to it was removed"), "{said}");
    assert_eq!(on_disk(&daemon), 0);
    lose(&daemon, "ba9876543210");
    daemon.restart();
    assert_eq!(on_disk(&daemon), 0);
    assert!(daemon.log().contains("scratch/ba9876543210"), "{}", daemon.log());
    lose(&daemon, "111111111111");
    let said = ok(&daemon.ctl(&["system", "prune", "-f"]));
    assert!(said.contains("Deleted Mounts:\n111111111111\n"), "{said}");
    assert_eq!(mounts(&daemon), (0, 0, 0));
    swept(&daemon);
}

#[test]
fn what_is_mounted_under_another_name_by_now_is_no_waste() {
    let Some(daemon) = with_busybox() else { return };
    let (folder, moved) = (daemon.dir().join("folder"), daemon.dir().join("moved"));
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("m").display().to_string();
    ok(&daemon.ctl(&["image", "mount", "--rw", "busybox", &target]));
    write(&daemon, &folder.join("m"));
    std::fs::rename(&folder, &moved).unwrap();
    ok(&daemon.docker(&["system", "prune", "-f"]));
    ok(&daemon.ctl(&["system", "prune", "-f"]));
    swept(&daemon);
    assert_eq!(mounts(&daemon), (1, on_disk(&daemon), 0));
    assert_eq!(std::fs::read(moved.join("m/written")).unwrap(), vec![1; MEGABYTE]);
    assert_eq!(ok(&daemon.ctl(&["mount", "ls", "--format", "{{.Target}} {{.State}}"])), format!("{target} mounted\n"));
    let refused = fails(&daemon.ctl(&["umount", &target]));
    assert!(refused.contains("not there any more"), "{refused}");
    // Gone from every place, but with a file open.
    let open = std::fs::File::open(moved.join("m/written")).unwrap();
    sh(&moved, "umount -l m");
    ok(&daemon.ctl(&["system", "prune", "-f"]));
    assert!(on_disk(&daemon) >= MEGABYTE as u64);
    drop(open);
    none_in_use(&daemon);
    let said = ok(&daemon.ctl(&["system", "prune", "-f"]));
    assert!(said.contains("Total reclaimed space: 1.0"), "{said}");
    swept(&daemon);
    assert_eq!((on_disk(&daemon), mounts(&daemon)), (0, (0, 0, 0)));
}

#[test]
fn a_mount_that_is_to_be_there_again_is_made_once_and_loses_nothing() {
    let Some(daemon) = with_busybox() else { return };
    if !has_fuse() {
        return;
    }
    let (folder, moved) = (daemon.dir().join("folder"), daemon.dir().join("moved"));
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("m");
    ok(&daemon.ctl(&["image", "mount", "--fuse", "--rw", "--restart", "busybox", target.to_str().unwrap()]));
    let written = target.join("written");
    std::fs::write(&written, vec![1; MEGABYTE]).unwrap();
    std::fs::File::open(&written).unwrap().sync_all().unwrap();
    let state = || ok(&daemon.ctl(&["mount", "ls", "--format", "{{.State}}"]));
    let processes = session(&target).len();
    let end = || {
        // The guard first: it would do it itself.
        for pid in session(&target) {
            kill(pid);
        }
        until("their end", || session(&target).is_empty());
    };
    end();
    std::thread::scope(|scope| {
        for path in ["/fsd/v1/mounts", "/system/df"].repeat(4) {
            scope.spawn(|| daemon.ask("GET", path, None));
        }
    });
    // Processes that are about to be gone may have been taken for some that live.
    until("it to be there again", || state() == "mounted\n" && written.exists());
    assert!(is_mounted(&target) && std::fs::read(&written).unwrap() == vec![1; MEGABYTE]);
    assert_eq!(session(&target).len(), processes, "one session");

    // Where it can't be made again, what was written stays until somebody says otherwise.
    end();
    std::fs::rename(&folder, &moved).unwrap();
    until("its end to be seen", || mounts(&daemon).0 == 0);
    assert_eq!((state(), state()), ("gone\n".to_owned(), "gone\n".to_owned()));
    assert!(!is_mounted(&moved.join("m")), "what is dead is taken away where it is");
    std::fs::rename(&moved, &folder).unwrap();
    assert_eq!(state(), "mounted\n");
    assert_eq!(std::fs::read(&written).unwrap(), vec![1; MEGABYTE]);
    ok(&daemon.ctl(&["umount", target.to_str().unwrap()]));
    until("the session's end", || session(&target).is_empty());
    swept(&daemon);
    assert_eq!(on_disk(&daemon), 0);
}
