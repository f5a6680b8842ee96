//! Many containers, and containers that misbehave: what they leave behind, and whether the daemon minds.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::process::Output;
use std::time::{Duration, Instant};

use system_tests::containers::{own_memory, with_busybox};
use system_tests::{Daemon, fails, has, images, may_mount, ok, sh, until};

/// How long an answer may take while a container does its worst: an order of magnitude, because other tests run beside
/// this one, on machines that are slower than one thinks.
const ANSWER: Duration = Duration::from_secs(60);

/// Everything outside of the daemon's root that a container could leave.
#[derive(Debug, PartialEq)]
struct Left {
    mounts: usize,
    links: usize,
    files: usize,
    descriptors: usize,
    threads: usize,
}

fn left(daemon: &Daemon) -> Left {
    let count = |script: &str| sh(daemon.dir(), script).trim().parse().unwrap();
    let pid = daemon.pid();
    Left {
        // Other tests mount too, elsewhere.
        mounts: count(&format!("grep -c ' {}/' /proc/{pid}/mountinfo || true", daemon.dir().display())),
        links: engine::network::Host::new(engine::network::Scope::of_root(&daemon.dir().join("root"))).links().unwrap().1.len(),
        // What goes while it is looked for is no failure of the search.
        files: count("(find root/containers root/trash root/tmp run -mindepth 1 2>&1 || true) | wc -l"),
        descriptors: count(&format!("ls /proc/{pid}/fd | wc -l")),
        threads: count(&format!("ls /proc/{pid}/task | wc -l")),
    }
}

/// Runs this many `run --rm` on some threads.
fn runs(daemon: &Daemon, count: usize, threads: usize, network: &'static str) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for number in (thread..count).step_by(threads) {
                    let text = number.to_string();
                    let done = daemon.ctl(&["run", "--rm", "--network", network, "-v", "/v", "busybox", "echo", &text]);
                    assert_eq!(ok(&done), format!("{text}\n"));
                }
            });
        }
    });
}

#[test]
fn a_thousand_containers_leave_nothing() {
    let Some(daemon) = with_busybox() else { return };
    for (network, count) in [("none", 1000), ("bridge", 200)] {
        // What grows once, at first use, is no growth.
        runs(&daemon, 50, 2, network);
        until("the first are gone", || left(&daemon).files < 40);
        std::thread::sleep(Duration::from_millis(500));
        // Something of the last of them may still be there, so that less is left in the end.
        let (before, held) = (left(&daemon), own_memory(daemon.pid()));
        runs(&daemon, count, 2, network);
        until("all are gone", || {
            let now = left(&daemon);
            // The pool's threads, and what they hold open, come and go.
            now.mounts <= before.mounts && now.files <= before.files && now.links <= before.links
        });
        until("descriptors are closed", || left(&daemon).descriptors <= before.descriptors + 16);
        // What was given back to malloc may stay with it, in each of the pool's threads. A thousand show 32 kB of each.
        until("no more memory is held", || own_memory(daemon.pid()) < held + (32 << 10));
    }
    daemon.checks_clean();
}

#[test]
fn fifty_at_the_same_moment() {
    let Some(daemon) = with_busybox() else { return };
    runs(&daemon, 50, 50, "none");
    assert_eq!(ok(&daemon.ctl(&["ps", "-aq"])), "");
}

#[test]
fn two_hundred_at_once() {
    let Some(daemon) = with_busybox() else { return };
    for number in 0..200 {
        ok(&daemon.ctl(&["run", "-d", "--network", "none", "--name", &format!("c{number}"), "busybox", "sleep", "1000"]));
    }
    assert_eq!(ok(&daemon.ctl(&["ps", "-q"])).lines().count(), 200);
    until("two hundred take little memory", || own_memory(daemon.pid()) < 100 << 10);
    assert_eq!(ok(&daemon.ctl(&["exec", "c199", "echo", "here"])), "here\n");
    let names = ok(&daemon.ctl(&["ps", "-q"]));
    let all: Vec<&str> = ["rm", "-f"].into_iter().chain(names.lines()).collect();
    ok(&daemon.ctl(&all));
    assert_eq!(ok(&daemon.ctl(&["ps", "-aq"])), "");
}

/// Runs what misbehaves, and asks the daemon meanwhile.
fn beside(daemon: &Daemon, flags: &[&str], script: &str, seconds: u64) {
    ok(&daemon.ctl(&[&["run", "-d", "--network", "none", "--name", "bad"], flags, &["busybox", "sh", "-c", script]].concat()));
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let asked = Instant::now();
        ok(&daemon.ctl(&["ps", "-a"]));
        ok(&daemon.ctl(&["run", "--rm", "--network", "none", "busybox", "true"]));
        assert!(asked.elapsed() < ANSWER, "{script}: {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn inspect(daemon: &Daemon, format: &str) -> String {
    ok(&daemon.docker(&["inspect", "-f", format, "bad"])).trim().to_owned()
}

fn removed(daemon: &Daemon) -> Output {
    let asked = Instant::now();
    let output = daemon.ctl(&["rm", "-f", "-v", "bad"]);
    assert!(asked.elapsed() < ANSWER, "{:?}", asked.elapsed());
    output
}

#[test]
fn what_misbehaves_bothers_nobody_else() {
    let Some(daemon) = with_busybox() else { return };
    // A fork bomb, a memory hog, zombies, what ignores its end, and what fills its log.
    beside(&daemon, &["--pids-limit", "100"], "f() { f | f & f; }; f", 2);
    ok(&removed(&daemon));
    beside(&daemon, &["--memory", "32m", "--memory-swap", "32m"], "x=a; while :; do x=$x$x; done", 1);
    until("it is ended", || inspect(&daemon, "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}") == "exited 137 true");
    ok(&removed(&daemon));
    beside(&daemon, &["--pids-limit", "300"], "while :; do sh -c 'true & exec sleep 0.01'; done", 2);
    ok(&removed(&daemon));
    beside(&daemon, &[], "trap '' TERM INT HUP; while :; do sleep 1; done", 1);
    let asked = Instant::now();
    ok(&daemon.ctl(&["stop", "-t", "1", "bad"]));
    assert!(asked.elapsed() < ANSWER, "{:?}", asked.elapsed());
    assert_eq!(inspect(&daemon, "{{.State.ExitCode}}"), "137");
    ok(&removed(&daemon));
    let held = own_memory(daemon.pid());
    beside(
        &daemon,
        &["--log-opt", "max-size=10m", "--log-opt", "max-file=2"],
        "yes 'a line that goes on and on and on and on'",
        4,
    );
    until("its log takes no memory", || own_memory(daemon.pid()) < held + (64 << 10));
    // A file of its log may get another name meanwhile.
    let logs: u64 = sh(daemon.dir(), "(du -sk root/containers 2> /dev/null || true) | cut -f1").trim().parse().unwrap();
    assert!(logs < 40 << 10, "{logs} kB of logs");
    assert_eq!(ok(&daemon.ctl(&["logs", "--tail", "1", "bad"])).lines().count(), 1);
    ok(&removed(&daemon));
    daemon.checks_clean();
}

#[test]
fn a_container_that_fills_the_disk_harms_itself() {
    if !may_mount() || !has("docker") {
        return;
    }
    let Some(archive) = images::made("busybox.tar") else { return };
    let dir = tempfile::tempdir().unwrap();
    // A disk of its own, because this one has others on it.
    sh(dir.path(), "truncate -s 200M disk; mkfs.ext4 -q -F disk; mkdir root; mount -o loop disk root");
    let path = dir.path().to_owned();
    let unmount = Unmount(path.join("root"));
    let daemon = Daemon::start_in(dir, &[]);
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    let script = "dd if=/dev/zero of=/fill bs=1M; echo filled; sleep 10000";
    ok(&daemon.ctl(&["run", "-d", "--network", "none", "--name", "bad", "busybox", "sh", "-c", script]));
    until("the disk is full", || {
        let asked = Instant::now();
        ok(&daemon.ctl(&["ps", "-a"]));
        // Another one may find no space, and says so.
        let other = daemon.ctl(&["run", "--rm", "--network", "none", "busybox", "true"]);
        assert!(other.status.success() || fails(&other).contains("no space left on device"), "{}", fails(&other));
        assert!(asked.elapsed() < ANSWER, "{:?}", asked.elapsed());
        ok(&daemon.ctl(&["logs", "bad"])).contains("filled")
    });
    let full = ok(&daemon.ctl(&["exec", "bad", "sh", "-c", "dd if=/dev/zero of=/more bs=1M count=8 2>/dev/null || echo full"]));
    assert_eq!(full, "full\n");
    ok(&daemon.ctl(&["stop", "-t", "0", "bad"]));
    ok(&removed(&daemon));
    assert_eq!(ok(&daemon.ctl(&["run", "--rm", "--network", "none", "busybox", "echo", "again"])), "again\n");
    daemon.checks_clean();
    drop(daemon);
    drop(unmount);
}

/// Takes a mount away, whatever happened.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = fs_base::sys::mount::unmount(&self.0, true);
    }
}
