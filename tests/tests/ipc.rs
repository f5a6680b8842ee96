//! `--ipc`: messages and /dev/shm of containers that share them, and of those that don't.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use system_tests::containers::{CLIS, with_busybox};
use system_tests::{Daemon, fails, mounts_below, ok, until};

fn idle(daemon: &Daemon, name: &str, ipc: &str) {
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", name, "--ipc", ipc, "busybox", "sleep", "10000"]));
}

fn exec(daemon: &Daemon, name: &str, script: &str) -> String {
    ok(&daemon.docker(&["exec", name, "sh", "-c", script])).trim().to_owned()
}

#[test]
fn shared_messages_and_memory_are_shared_and_others_are_not() {
    let Some(mut daemon) = with_busybox() else { return };
    idle(&daemon, "donor", "shareable");
    idle(&daemon, "alone", "private");
    let look = "readlink /proc/self/ns/ipc; cat /dev/shm/word";
    let space = exec(&daemon, "donor", "echo shared > /dev/shm/word; readlink /proc/self/ns/ipc");
    for (name, cli) in CLIS {
        let run = |ipc: &str, script: &str| {
            cli(&daemon, &["run", "--rm", "--network", "none", "--ipc", ipc, "busybox", "sh", "-c", script])
        };
        assert_eq!(ok(&run("container:donor", look)), format!("{space}\nshared\n"), "{name}");
        let size = ok(&run("container:donor", "grep ' /dev/shm ' /proc/mounts"));
        assert!(size.contains("nosuid,nodev,noexec"), "{name}: {size}");
        let refused = fails(&run("container:alone", "true"));
        assert!(
            refused.contains(": non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
            "{name}: {refused}"
        );
        let missing = run("container:nobody", "true");
        assert!(fails(&missing).contains("No such container: nobody"), "{name}: {}", fails(&missing));
        assert_eq!(missing.status.code(), Some(125), "{name}");
        let wrong = run("elsewhere", "true");
        assert!(fails(&wrong).contains("invalid IPC mode: elsewhere"), "{name}: {}", fails(&wrong));
    }
    assert_ne!(exec(&daemon, "alone", "readlink /proc/self/ns/ipc"), space);
    // One that joined may be joined, under a new name too, and by a daemon that came later.
    idle(&daemon, "second", "container:donor");
    ok(&daemon.docker(&["rename", "donor", "giver"]));
    daemon.kill();
    daemon.restart();
    idle(&daemon, "third", "container:second");
    assert_eq!(exec(&daemon, "third", look), format!("{space}\nshared"));
    ok(&daemon.docker(&["restart", "-t", "0", "second"]));
    assert_eq!(exec(&daemon, "second", look), format!("{space}\nshared"));
    // A giver that begins anew has another one; who joined keeps what it has until it begins anew too.
    ok(&daemon.docker(&["restart", "-t", "0", "giver"]));
    assert_eq!(exec(&daemon, "third", look), format!("{space}\nshared"));
    assert_eq!(exec(&daemon, "giver", "ls /dev/shm"), "");
    ok(&daemon.docker(&["stop", "-t", "0", "giver", "second"]));
    let stopped = fails(&daemon.docker(&["start", "second"]));
    assert!(stopped.contains("failed to join IPC namespace: container ") && stopped.contains(" is not running"), "{stopped}");
    let host = ["run", "--rm", "--network", "none", "--ipc", "host", "busybox", "readlink", "/proc/self/ns/ipc"];
    assert_eq!(ok(&daemon.docker(&host)).trim(), std::fs::read_link("/proc/self/ns/ipc").unwrap().to_str().unwrap());
    ok(&daemon.docker(&["rm", "-f", "giver", "second", "third", "alone"]));
    until("nothing stays on the host", || mounts_below(daemon.dir()) == 0);
    daemon.checks_clean();
}
