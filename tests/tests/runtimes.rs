//! Which runtime runs a container.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::process::Command;

use system_tests::{Daemon, PATIENCE_SECONDS, fails, has, images, may_mount, ok, program, sh, until};

fn with_busybox(flags: &[&str]) -> Option<Daemon> {
    with_busybox_in(tempfile::tempdir().unwrap(), flags)
}

fn with_busybox_in(dir: tempfile::TempDir, flags: &[&str]) -> Option<Daemon> {
    if !may_mount() || !has("docker") {
        return None;
    }
    let archive = images::made("busybox.tar")?;
    let daemon = Daemon::start_in(dir, flags);
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

/// The runtime makes the user namespace; what it can't do in there is done before.
#[test]
fn a_runtime_has_containers_with_users_of_their_own() {
    if !has("runc") {
        return;
    }
    let Some(mut daemon) = with_busybox(&["--userns-remap", "default", "--default-runtime", "runc"]) else { return };
    std::fs::create_dir(daemon.dir().join("host")).unwrap();
    let bind = format!("{}:/host:ro", daemon.dir().join("host").display());
    let flags = ["--name", "on", "--network", "none", "-v", "data:/data", "-v", &bind, "--tmpfs", "/t:uid=7,gid=8"];
    let program = "trap 'exit 5' TERM; echo begun; sleep 1000 & wait";
    let devices = ["--device", "/dev/null:/dev/other", "busybox", "sh", "-c", program];
    ok(&daemon.docker(&[&["run", "-d"], &flags[..], &devices].concat()));
    let exec = |daemon: &Daemon, user: &str, script: &str| ok(&daemon.docker(&["exec", "-u", user, "on", "sh", "-c", script]));
    let said = exec(
        &daemon,
        "0",
        "awk '{print $1, $3}' /proc/self/uid_map; stat -c '%u %g %a' /dev/null /dev/other /dev /t; echo x > /data/f; echo y > /dev/shm/f
         ls /dev/mqueue; touch /host/x 2> /dev/null || echo ro; echo out > /dev/stdout; echo > /dev/other; mkdir /new && chown 1000:7 /new",
    );
    assert_eq!(said, "0 65536\n0 0 666\n0 0 666\n0 0 755\n7 8 1777\nro\nout\n");
    assert_eq!(exec(&daemon, "1000", "id -u; echo out > /dev/stdout; cat /data/f"), "1000\nout\nx\n");
    let unknown = daemon.docker(&["exec", "-u", "70000", "on", "true"]);
    // It is told on the connection of its output.
    let said = [unknown.stdout, unknown.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("cannot set uid to unmapped user in user namespace"), "{said:?}");
    for verb in [&["run", "--rm", "--network", "none", "-t", "busybox", "tty"][..], &["exec", "-t", "on", "tty"]] {
        assert_eq!(ok(&daemon.docker(verb)).trim(), "/dev/pts/0", "{verb:?}");
    }
    until("it has begun", || ok(&daemon.docker(&["logs", "on"])) == "begun\n");
    assert!(ok(&daemon.docker(&["top", "on"])).contains("sleep 1000"));
    ok(&daemon.docker(&["pause", "on"]));
    ok(&daemon.docker(&["unpause", "on"]));
    // What belongs to it outlives its daemon, and nothing of it is on the host.
    daemon.kill();
    daemon.restart();
    assert_eq!(exec(&daemon, "0", "stat -c '%u %g' /new"), "1000 7\n");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(daemon.dir().to_str().unwrap()), "{mounts}");
    ok(&daemon.docker(&["stop", "-t", PATIENCE_SECONDS, "on"]));
    assert_eq!(ok(&daemon.docker(&["inspect", "-f", "{{.State.ExitCode}}", "on"])), "5\n");
    assert_eq!(ok(&daemon.docker(&["logs", "on"])), "begun\n");
    ok(&daemon.docker(&["start", "on"]));
    ok(&daemon.docker(&["rm", "-f", "on"]));
    // What the runtime can't do in there is refused by name.
    for (flags, why) in [
        (&["-v", "/tmp:/x:rshared"][..], "a mount at /x that is shared with the host is not supported by --runtime runc with"),
        (&["--domainname", "d"], "--domainname is not supported by --runtime runc with user namespaces"),
    ] {
        let said = fails(&daemon.docker(&[&["create"], flags, &["busybox"]].concat()));
        assert!(said.contains(why), "{said}");
        ok(&daemon.docker(&[&["create", "--userns=host"], flags, &["busybox"]].concat()));
    }
}

/// The daemon's folder, which the runtime's program is in here, is covered while such a container is made.
#[test]
fn a_runtime_is_found_by_a_link_too() {
    if !has("runc") {
        return;
    }
    let (dir, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = links.path().join("runtime");
    std::fs::copy(sh(std::path::Path::new("/"), "command -v runc").trim(), dir.path().join("runc")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("runc"), &link).unwrap();
    let named = format!("linked={}", link.display());
    let flags = ["--userns-remap", "default", "--add-runtime", &named, "--default-runtime", "linked"];
    let Some(daemon) = with_busybox_in(dir, &flags) else { return };
    assert_eq!(ok(&daemon.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "hi"])), "hi\n");
}

#[test]
fn what_is_shared_with_the_host_is_with_every_runtime() {
    use fs_base::sys::mount::{FsContext, mount_table, unmount};
    let Some(daemon) = with_busybox(&[]) else { return };
    let shared = daemon.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let mount = FsContext::open("tmpfs").unwrap().mount(rustix::mount::MountAttrFlags::empty()).unwrap();
    mount.set_propagation(fs_base::Propagation::Shared, false).unwrap();
    mount.attach(&shared).unwrap();
    let is_mounted = |name: &str| mount_table().unwrap().iter().any(|mount| mount.target == shared.join(name));
    for runtime in ["builtin", "runc"].into_iter().filter(|name| *name == "builtin" || has("runc")) {
        let (bind, name) = (format!("{}:/x:rshared", shared.display()), format!("by-{runtime}"));
        let flags =
            ["run", "--rm", "--privileged", "--network", "none", "--runtime", runtime, "--domainname", "dom", "-v", &bind];
        let script = format!("mkdir /x/{name} && mount -t tmpfs none /x/{name} && cat /proc/sys/kernel/domainname");
        assert_eq!(ok(&daemon.docker(&[&flags[..], &["busybox", "sh", "-c", &script]].concat())), "dom\n");
        assert!(is_mounted(&name), "{runtime}");
        unmount(&shared.join(&name), true).unwrap();
    }
    unmount(&shared, true).unwrap();
}

/// What this host does not allow is left out, as with the built-in one.
#[test]
fn limits_that_the_host_does_not_allow_are_cut() {
    let Some(daemon) = with_busybox(&[]) else { return };
    // Soft and hard.
    let limits = "grep -e 'open files' -e 'pending signals' /proc/self/limits | tr -s ' ' | cut -d ' ' -f 4,5";
    for runtime in ["builtin", "runc"].into_iter().filter(|name| *name == "builtin" || has("runc")) {
        let flags = ["run", "--rm", "--network", "none", "--runtime", runtime, "--oom-score-adj", "-7"];
        let limited = ["--ulimit", "nofile=321:654", "--ulimit", "sigpending=7:4000000000", "busybox", "sh", "-c", limits];
        let said = ok(&daemon.docker(&[&flags[..], &limited].concat()));
        assert!(said.contains("321 654\n") && said.contains("7 "), "{runtime}: {said}");
    }
}

/// While a runtime makes something, what others leave becomes the shim's child too.
#[test]
fn what_runs_in_the_background_lives_on_with_the_hosts_process_ids() {
    if !has("runc") {
        return;
    }
    let Some(daemon) = with_busybox(&[]) else { return };
    let health = ["--health-cmd", "true", "--health-interval", "100ms"];
    let flags = ["run", "-d", "--name", "on", "--runtime", "runc", "--pid", "host", "--network", "none"];
    ok(&daemon.docker(&[&flags[..], &health, &["busybox", "sleep", "10000"]].concat()));
    let sh = |script: &str| ok(&daemon.docker(&["exec", "on", "sh", "-c", script]));
    for _ in 0..8 {
        ok(&daemon.docker(&["exec", "-d", "on", "sh", "-c", "sleep 1000 & echo $! >> /workers"]));
        assert_eq!(daemon.docker(&["exec", "on", "no-such-program"]).status.code(), Some(127));
    }
    until("all have begun", || sh("wc -l < /workers").trim() == "8");
    let healthy = || ok(&daemon.docker(&["inspect", "-f", "{{.State.Health.Status}}", "on"])) == "healthy\n";
    until("it is well", healthy);
    let names = || sh("while read -r pid; do cat /proc/$pid/comm || true; done < /workers 2> /dev/null");
    until("all live", || names() == "sleep\n".repeat(8));
    // Whoever is its parent reaps one that ends.
    sh("while read -r pid; do kill $pid; done < /workers");
    until("none is left", || !names().contains("sleep"));
    ok(&daemon.docker(&["rm", "-f", "on"]));
}
