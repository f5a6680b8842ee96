//! What a container sees of its host: /dev and /proc that its user gives it, names, its own files in /etc.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::process::Output;

use system_tests::containers::{CLIS, Cli, with_busybox};
use system_tests::{Daemon, fails, ok};

/// A container that runs a script and goes.
fn run(daemon: &Daemon, cli: Cli, flags: &[&str], script: &str) -> Output {
    cli(daemon, &[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
}

/// Without a network of its own.
const ALONE: [&str; 2] = ["--network", "none"];

#[test]
fn the_hosts_dev_is_taken_as_it_is_and_nothing_is_made_in_it() {
    let Some(daemon) = with_busybox() else { return };
    let made = format!("/dev/fsd-test-{}", std::process::id());
    let device = format!("/dev/null:{made}");
    for (name, cli) in CLIS {
        let text = |flags: &[&str], script: &str| ok(&run(&daemon, cli, &[&ALONE, flags].concat(), script)).trim().to_owned();
        let host = std::fs::read_dir("/dev").unwrap().count();
        let seen: usize = text(&["-v", "/dev:/dev"], "ls -A /dev | wc -l").parse().unwrap();
        assert!(seen.abs_diff(host) < 9, "{name}: {seen} of {host}");
        // What is masked is masked all the same.
        assert_eq!(text(&["-v", "/dev:/dev"], "echo x > /dev/null; cat /proc/keys"), "", "{name}");
        let tty = text(&["-v", "/dev:/dev", "-t"], "tty; ls /dev/pts | head -n 1");
        assert_eq!(tty.lines().map(str::trim).collect::<Vec<_>>(), ["/dev/pts/0", "0"], "{name}: terminals are the container's");
        text(&["-v", "/dev:/dev", "--device", &device], "true");
        text(&["-v", "/dev:/dev", "--privileged"], "echo x > /dev/null");
        assert!(!Path::new(&made).exists(), "{name}: {made} was made on the host");
    }
}

#[test]
fn of_proc_only_files_that_tell_numbers_are_replaced() {
    let Some(daemon) = with_busybox() else { return };
    let file = daemon.dir().join("numbers");
    std::fs::write(&file, "ours\n").unwrap();
    let at = |target: &str| format!("{}:{target}", file.display());
    for (name, cli) in CLIS {
        let with = |flags: &[&str], script: &str| run(&daemon, cli, &[&ALONE, flags].concat(), script);
        for target in ["/proc/meminfo", "/proc/stat", "/proc/uptime"] {
            assert_eq!(ok(&with(&["-v", &at(target)], &format!("cat {target}"))), "ours\n", "{name}: {target}");
        }
        for target in ["/proc/version", "/proc/sys/kernel/hostname", "/proc/self/attr/exec", "/proc/not-there"] {
            let refused = fails(&with(&["-v", &at(target)], "true"));
            assert!(refused.contains("because it is inside /proc"), "{name}: {target}: {refused}");
        }
        let folder = format!("{}:/proc/stat", daemon.dir().display());
        assert!(fails(&with(&["-v", &folder], "true")).contains("because it is inside /proc"), "{name}");
        for flags in [["-v", "/tmp:/proc"], ["-v", "/proc/sys:/proc"], ["--tmpfs", "/proc"]] {
            let refused = fails(&with(&flags, "true"));
            assert!(refused.contains("/proc cannot be mounted because it is not of type proc"), "{name}: {flags:?}: {refused}");
        }
        assert_eq!(ok(&with(&["-v", "/proc:/proc"], "test -e /proc/self/attr && echo ok")).trim(), "ok", "{name}");
    }
}

#[test]
fn the_daemons_files_lie_over_an_etc_of_the_users() {
    let Some(daemon) = with_busybox() else { return };
    let own = daemon.dir().join("own");
    std::fs::write(&own, "1.2.3.4 mine\n").unwrap();
    let own = format!("{}:/etc/hosts", own.display());
    for (name, cli) in CLIS {
        let text = |flags: &[&str], script: &str| ok(&run(&daemon, cli, &[&ALONE, flags].concat(), script)).trim().to_owned();
        let flags = ["--tmpfs", "/etc", "--hostname", "named"];
        assert_eq!(
            text(&flags, "cat /etc/hostname; grep -c localhost /etc/hosts; ls /etc/passwd 2>&1 | wc -l"),
            "named\n2\n1",
            "{name}"
        );
        assert_eq!(text(&["--tmpfs", "/etc", "-v", &own], "cat /etc/hosts"), "1.2.3.4 mine", "{name}");
        assert_eq!(text(&["-e", "HOME="], "echo $HOME"), "/root", "{name}");
    }
}

#[test]
fn who_has_the_hosts_network_or_uts_namespace_has_its_name() {
    let Some(daemon) = with_busybox() else { return };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (name, cli) in CLIS {
        for flags in [&["--network", "host"][..], &["--network", "none", "--uts", "host"]] {
            assert_eq!(ok(&run(&daemon, cli, flags, "cat /etc/hostname")), host, "{name}: {flags:?}");
            assert_eq!(ok(&run(&daemon, cli, flags, "hostname")), host, "{name}: {flags:?}");
        }
        assert_eq!(ok(&run(&daemon, cli, &["--network", "host", "--hostname", "other"], "hostname")), "other\n", "{name}");
        for (flag, what) in [("--hostname", "hostname"), ("--domainname", "domainname")] {
            let refused = run(&daemon, cli, &["--network", "none", "--uts", "host", flag, "x"], "true");
            assert_eq!(refused.status.code(), Some(125), "{name}");
            assert!(fails(&refused).contains(&format!("conflicting options: {what} and the UTS mode")), "{name}");
        }
    }
}
