//! Which runtime runs a container.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::process::Command;

use system_tests::{Daemon, fails, has, images, may_mount, ok, program, sh};

fn with_busybox(flags: &[&str]) -> Option<Daemon> {
    if !may_mount() || !has("docker") {
        return None;
    }
    let archive = images::made("busybox.tar")?;
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), flags);
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    Some(daemon)
}

#[test]
fn a_runtime_is_chosen_by_name() {
    let Some(daemon) = with_busybox(&["--default-runtime", "builtin"]) else { return };
    let unknown = fails(&daemon.docker(&["run", "--rm", "--network", "none", "--runtime", "nosuch", "busybox", "true"]));
    assert!(unknown.contains("unknown or invalid runtime name: nosuch"), "{unknown}");
    if !has("runc") {
        return;
    }
    let run = |args: &[&str]| ok(&daemon.ctl(&[&["run", "--rm", "--network", "none", "--runtime", "runc"], args].concat()));
    assert_eq!(run(&["-v", "v1:/v", "busybox", "sh", "-c", "echo kept > /v/f; echo out"]), "out\n");
    assert_eq!(run(&["-v", "v1:/v:ro", "busybox", "cat", "/v/f"]), "kept\n");
    ok(&daemon.docker(&["run", "-d", "--name", "on", "--network", "none", "--runtime", "runc", "busybox", "sleep", "10000"]));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let daemon = &daemon;
            scope.spawn(move || {
                let (text, terminal) = (number.to_string(), number % 2 == 0);
                let flags: &[&str] = if terminal { &["exec", "-t", "on"] } else { &["exec", "on"] };
                let said = ok(&daemon.docker(&[flags, &["echo", &text]].concat()));
                assert_eq!(said.trim(), text, "several are made at the same moment");
                assert_eq!(daemon.docker(&["exec", "on", "sh", "-c", "exit 7"]).status.code(), Some(7));
                assert_eq!(daemon.docker(&["exec", "on", "no-such-program"]).status.code(), Some(127));
            });
        }
    });
    ok(&daemon.docker(&["rm", "-f", "on"]));
    ok(&daemon.docker(&["create", "--name", "c1", "--network", "none", "--runtime", "runc", "busybox", "true"]));
    assert_eq!(ok(&daemon.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "c1"])), "runc\n");
    let info = ok(&daemon.docker(&["info", "-f", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}"]));
    assert!(info.contains("builtin") && info.contains("runc"), "{info}");
}

#[test]
fn runtimes_are_configured() {
    if !has("runc") {
        return;
    }
    let named = format!("other={}", sh(std::path::Path::new("/"), "command -v runc").trim());
    let Some(daemon) = with_busybox(&["--add-runtime", &named, "--default-runtime", "other"]) else { return };
    assert_eq!(ok(&daemon.docker(&["run", "--name", "c1", "--network", "none", "busybox", "echo", "hi"])), "hi\n");
    assert_eq!(ok(&daemon.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "c1"])), "other\n");
    for (flags, says) in [
        (&["--add-runtime", "x"][..], "invalid runtime \"x\""),
        (&["--add-runtime", "x=/no/such/program"], "runtime x: /no/such/program is no program"),
        (&["--add-runtime", "builtin=/bin/true"], "the runtime builtin is built in"),
        (&["--default-runtime", "nosuch"], "unknown or invalid runtime name: nosuch"),
    ] {
        let error = fails(&Command::new(program("fsd")).args(["config", "check"]).args(flags).output().unwrap());
        assert!(error.contains(says), "{flags:?}: {error}");
    }
}
