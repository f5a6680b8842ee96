//! The life of containers: paused, restarted, limited, looked at; by the docker CLI and by `ctl`.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::BufRead;
use std::time::Duration;

use serde_json::Value;
use system_tests::containers::{CLIS, detached, inspect, with_busybox};
use system_tests::{Daemon, PATIENCE_SECONDS, fails, ok, told, until};

/// Its line in `ps`.
fn status(daemon: &Daemon, name: &str) -> String {
    let filter = format!("name=^{name}$");
    ok(&daemon.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Status}}"])).trim().to_owned()
}

#[test]
fn paused_containers_stand_still_and_go_on() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &[], "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done");
    let lines = || ok(&daemon.docker(&["logs", "c1"])).lines().count();
    for (name, cli) in CLIS {
        until("it counts", || lines() > 3);
        assert_eq!(ok(&cli(&daemon, &["pause", "c1"])), "c1\n", "{name}");
        assert_eq!(inspect(&daemon, "c1", "{{.State.Status}} {{.State.Running}} {{.State.Paused}}"), "paused true true");
        let shown = status(&daemon, "c1");
        assert!(shown.starts_with("Up ") && shown.ends_with(" (Paused)"), "{shown}");
        // What it said before that may still be on its way.
        until("it stands still", || {
            let before = lines();
            std::thread::sleep(Duration::from_millis(300));
            lines() == before
        });
        let before = lines();
        let again = fails(&cli(&daemon, &["pause", "c1"]));
        assert!(again.contains("is already paused"), "{again}");
        let exec = fails(&cli(&daemon, &["exec", "c1", "true"]));
        assert!(exec.contains("is paused, unpause the container before exec"), "{exec}");
        let rm = fails(&cli(&daemon, &["rm", "c1"]));
        assert!(rm.contains("container is paused and must be unpaused first"), "{rm}");
        let start = fails(&cli(&daemon, &["start", "c1"]));
        assert!(start.contains("cannot start a paused container, try unpause instead"), "{start}");
        assert_eq!(ok(&cli(&daemon, &["ps", "-q", "--filter", "status=paused"])).lines().count(), 1);
        assert_eq!(ok(&cli(&daemon, &["unpause", "c1"])), "c1\n", "{name}");
        until("it goes on", || lines() > before);
        let again = fails(&cli(&daemon, &["unpause", "c1"]));
        assert!(again.contains("is not paused"), "{again}");
    }
    for (name, end) in [("stop", &["stop", "-t", "5", "c1"][..]), ("kill", &["kill", "c1"]), ("rm", &["rm", "-f", "c1"])] {
        ok(&daemon.docker(&["start", "c1"]));
        ok(&daemon.docker(&["pause", "c1"]));
        ok(&daemon.docker(end));
        if name != "rm" {
            until("a paused one ends too", || inspect(&daemon, "c1", "{{.State.Status}} {{.State.Paused}}") == "exited false");
        }
    }
    let missing = fails(&daemon.docker(&["pause", "c1"]));
    assert!(missing.contains("No such container: c1"), "{missing}");
}

#[test]
fn a_paused_container_outlives_the_daemon() {
    let Some(mut daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &[], "sleep 10000");
    ok(&daemon.docker(&["pause", "c1"]));
    daemon.kill();
    daemon.restart();
    assert_eq!(inspect(&daemon, "c1", "{{.State.Status}}"), "paused");
    ok(&daemon.docker(&["unpause", "c1"]));
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "echo", "on"])), "on\n");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
}

#[test]
fn restart_and_rename() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        detached(&daemon, "old", &["--stop-signal", "KILL"], "echo up; sleep 10000");
        until("it is up", || ok(&daemon.docker(&["logs", "old"])) == "up\n");
        let pid = inspect(&daemon, "old", "{{.State.Pid}}");
        assert_eq!(ok(&cli(&daemon, &["restart", "-t", "1", "old"])), "old\n", "{name}");
        assert_ne!(inspect(&daemon, "old", "{{.State.Pid}}"), pid);
        until("it is up again", || ok(&daemon.docker(&["logs", "old"])) == "up\nup\n");
        ok(&cli(&daemon, &["rename", "old", "new"]));
        assert_eq!(inspect(&daemon, "new", "{{.Name}}"), "/new");
        let same = fails(&cli(&daemon, &["rename", "new", "new"]));
        assert!(same.contains("Renaming a container with the same name as its current name"), "{same}");
        detached(&daemon, "other", &[], "sleep 10000");
        let taken = fails(&cli(&daemon, &["rename", "new", "other"]));
        assert!(taken.contains("The container name \"/other\" is already in use by container"), "{taken}");
        ok(&daemon.docker(&["rm", "-f", "new", "other"]));
        // A container that ends is started by it, and one that goes at its end stays.
        detached(&daemon, "goes", &["--rm"], "sleep 10000");
        ok(&cli(&daemon, &["restart", "-t", "0", "goes"]));
        assert_eq!(inspect(&daemon, "goes", "{{.State.Status}}"), "running", "{name}");
        ok(&daemon.docker(&["kill", "goes"]));
        until("it goes", || ok(&daemon.docker(&["ps", "-aq"])).is_empty());
    }
}

#[test]
fn top_shows_a_containers_processes() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &[], "sleep 10000 & exec sleep 10001");
    // The shell's own arguments are none of theirs.
    let both = |text: &str| {
        ["sleep 10000", "sleep 10001"]
            .into_iter()
            .all(|process| text.lines().any(|line| line.trim_end().ends_with(&format!(" {process}"))))
            && !text.contains("exec")
    };
    until("both run", || both(&ok(&daemon.docker(&["top", "c1"]))));
    for (name, cli) in CLIS {
        let text = ok(&cli(&daemon, &["top", "c1"]));
        assert!(text.starts_with("UID") && both(&text), "{name}: {text}");
        assert_eq!(text.lines().count(), 3, "{name}: no others: {text}");
        let text = ok(&cli(&daemon, &["top", "c1", "-o", "pid,comm"]));
        let titles: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!((titles, text.lines().count()), (vec!["PID", "COMMAND"], 3), "{name}: {text}");
        assert_eq!(ok(&cli(&daemon, &["top", "c1", "aux"])).lines().count(), 3, "{name}");
        let error = fails(&cli(&daemon, &["top", "c1", "-o", "comm"]));
        assert!(error.contains("Couldn't find PID field in ps output"), "{name}: {error}");
    }
    ok(&daemon.docker(&["kill", "c1"]));
    until("it has ended", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
    let error = fails(&daemon.docker(&["top", "c1"]));
    assert!(error.contains("is not running"), "{error}");
}

/// The first so many objects of an answer that does not end.
fn stream(daemon: &Daemon, path: &str, count: usize) -> Vec<Value> {
    let mut curl = std::process::Command::new("curl")
        .args(["-sSN", "--max-time", PATIENCE_SECONDS, "--unix-socket"])
        .arg(daemon.socket())
        .arg(format!("http://d{path}"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(curl.stdout.take().unwrap()).lines().map_while(Result::ok);
    let values = lines.map(|line| serde_json::from_str(&line).unwrap()).take(count).collect::<Vec<Value>>();
    curl.kill().unwrap();
    curl.wait().unwrap();
    assert_eq!(values.len(), count, "{path}");
    values
}

#[test]
fn stats_count_what_a_container_uses() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "busy", &["--memory", "64m", "--cpus", "0.5"], "while :; do :; done");
    detached(&daemon, "idle", &[], "sleep 10000");
    let format = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}";
    for (name, cli) in CLIS {
        let text = ok(&cli(&daemon, &["stats", "--no-stream", "--format", format, "busy", "idle"]));
        let line = |of: &str| text.lines().find(|line| line.starts_with(of)).unwrap().to_owned();
        let percent = |of: &str| -> f64 { line(of).split(' ').nth(1).unwrap().trim_end_matches('%').parse().unwrap() };
        // How much of its half processor it gets is for other work to say.
        assert!(percent("busy") > 0.0, "{name}: {text}");
        assert!(percent("idle") < percent("busy"), "{name}: {text}");
        assert!(line("busy").contains(" / 64MiB 1"), "{name}: {text}");
        let all = ok(&cli(&daemon, &["stats", "--no-stream"]));
        assert_eq!(all.lines().count(), 3, "{name}: {all}");
        assert!(all.starts_with("CONTAINER ID   NAME"), "{name}: {all}");
    }
    // The same figures, whoever computes: the daemon's answer has both samples in it.
    let (_, answer) = daemon.ask("GET", "/containers/busy/stats?stream=0", None);
    for key in [
        "read",
        "preread",
        "pids_stats",
        "blkio_stats",
        "num_procs",
        "storage_stats",
        "cpu_stats",
        "precpu_stats",
        "memory_stats",
    ] {
        assert!(answer.get(key).is_some(), "{key}: {answer}");
    }
    assert_eq!((&answer["name"], &answer["memory_stats"]["limit"]), (&"/busy".into(), &(64u64 << 20).into()));
    assert!(answer["precpu_stats"]["system_cpu_usage"].as_u64() < answer["cpu_stats"]["system_cpu_usage"].as_u64());
    let used = |of: &str| answer[of]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(used("precpu_stats") < used("cpu_stats"), "{answer}");
    let lines = stream(&daemon, "/containers/busy/stats", 3);
    for pair in lines.windows(2) {
        assert_eq!(pair[0]["read"], pair[1]["preread"]);
    }
    ok(&daemon.docker(&["rm", "-f", "busy", "idle"]));
    let missing = fails(&daemon.ctl(&["stats", "--no-stream", "busy"]));
    assert!(missing.contains("No such container: busy"), "{missing}");
}

#[test]
fn limits_change_while_a_container_runs() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &["--memory", "64m"], "sleep 10000");
    let file = |name: &str| {
        let script = format!("cat /sys/fs/cgroup/*/{name} /sys/fs/cgroup/{name} 2>/dev/null || true");
        ok(&daemon.docker(&["exec", "c1", "sh", "-c", &script])).trim().to_owned()
    };
    assert_eq!(inspect(&daemon, "c1", "{{.HostConfig.MemorySwap}}"), (128u64 << 20).to_string());
    for (name, cli) in CLIS {
        let megabytes: u64 = if name == "docker" { 96 } else { 80 };
        let memory = format!("{megabytes}m");
        let done = ok(&cli(
            &daemon,
            &["update", "--memory", &memory, "--memory-swap", "256m", "--pids-limit", "77", "--cpus", "0.5", "c1"],
        ));
        assert_eq!(done, "c1\n", "{name}");
        assert_eq!(inspect(&daemon, "c1", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"), format!("{} 77", megabytes << 20));
        assert_eq!(file("pids.max"), "77", "{name}");
        if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
            assert_eq!(file("memory.limit_in_bytes"), (megabytes << 20).to_string(), "{name}");
            assert_eq!(file("cpu.cfs_quota_us"), "50000", "{name}");
        }
        let small = fails(&cli(&daemon, &["update", "--memory", "1m", "c1"]));
        assert!(small.contains("Minimum memory limit allowed is 6MB"), "{name}: {small}");
        let nothing = fails(&cli(&daemon, &["update", "c1"]));
        assert!(nothing.contains("you must provide one or more flags when using this command"), "{name}: {nothing}");
        let swap = fails(&cli(&daemon, &["update", "--memory", "512m", "c1"]));
        assert!(swap.contains("Memory limit should be smaller than already set memoryswap limit"), "{name}: {swap}");
        let conflict = fails(&cli(&daemon, &["update", "--cpu-period", "50000", "c1"]));
        assert!(conflict.contains("CPU Period cannot be updated as NanoCPUs has already been set"), "{name}: {conflict}");
    }
    // A container that may use every processor is in no cpuset of its own until it may not.
    ok(&daemon.docker(&["update", "--cpuset-cpus", "0", "c1"]));
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "grep", "Cpus_allowed_list", "/proc/1/status"])), "Cpus_allowed_list:\t0\n");
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "grep", "Cpus_allowed_list", "/proc/self/status"])), "Cpus_allowed_list:\t0\n");
    let id = inspect(&daemon, "c1", "{{.Id}}");
    ok(&daemon.docker(&["restart", "-t", "0", "c1"]));
    assert_eq!(file("pids.max"), "77", "the limits are kept");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
    until("nothing is left of its cgroups", || {
        !["cpuset", "memory", "pids", "unified"]
            .iter()
            .any(|dir| std::path::Path::new("/sys/fs/cgroup").join(dir).join("fsd").join(&id).exists())
    });
}

#[test]
fn a_policy_starts_what_ends() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "thrice", &["--restart", "on-failure:3"], "echo x; exit 4");
    until("it gives up", || {
        inspect(&daemon, "thrice", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}") == "exited 3 4"
    });
    assert_eq!(ok(&daemon.docker(&["logs", "thrice"])), "x\nx\nx\nx\n");
    assert!(status(&daemon, "thrice").starts_with("Exited (4) "));
    detached(&daemon, "well", &["--restart", "on-failure"], "exit 0");
    until("success is no failure", || inspect(&daemon, "well", "{{.State.Status}} {{.RestartCount}}") == "exited 0");
    detached(&daemon, "always", &["--restart", "always"], "exit 5");
    until("it waits", || status(&daemon, "always").starts_with("Restarting (5) "));
    until("it has waited for longer", || inspect(&daemon, "always", "{{.RestartCount}}").parse::<u32>().unwrap() >= 3);
    assert_eq!(inspect(&daemon, "always", "{{.State.Running}}"), "true", "as Docker has it");
    let rm = fails(&daemon.docker(&["rm", "always"]));
    assert!(rm.contains("stop the container before removing or force remove"), "{rm}");
    ok(&daemon.docker(&["stop", "always"]));
    assert_eq!(inspect(&daemon, "always", "{{.State.Status}}"), "exited");
    let count = inspect(&daemon, "always", "{{.RestartCount}}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        inspect(&daemon, "always", "{{.State.Status}} {{.RestartCount}}"),
        format!("exited {count}"),
        "a person stopped it"
    );
    ok(&daemon.docker(&["start", "always"]));
    until("it begins anew", || status(&daemon, "always").starts_with("Restarting (5) "));
    ok(&daemon.docker(&["rm", "-f", "always"]));
    for (name, cli) in CLIS {
        let both = fails(&cli(&daemon, &["run", "--rm", "--restart", "always", "--network", "none", "busybox", "true"]));
        assert!(both.contains("conflicting options: cannot specify both --restart and --rm"), "{name}: {both}");
        let count = fails(&cli(&daemon, &["create", "--restart", "always:3", "--network", "none", "busybox", "true"]));
        assert!(count.contains("maximum retry count can only be used with 'on-failure'"), "{name}: {count}");
        detached(&daemon, "u1", &[], "sleep 10000");
        ok(&cli(&daemon, &["update", "--restart", "on-failure:2", "u1"]));
        assert_eq!(inspect(&daemon, "u1", "{{.HostConfig.RestartPolicy.Name}}"), "on-failure");
        ok(&daemon.docker(&["rm", "-f", "u1"]));
    }
}

#[test]
fn policies_hold_over_the_daemons_end() {
    let Some(mut daemon) = with_busybox() else { return };
    let forever = "sleep 10000";
    detached(&daemon, "always", &["--restart", "always"], forever);
    detached(&daemon, "unless", &["--restart", "unless-stopped"], forever);
    detached(&daemon, "dies", &["--restart", "unless-stopped"], "sleep 0.5; exit 3");
    detached(&daemon, "no", &[], "true");
    until("it has ended", || inspect(&daemon, "no", "{{.State.Status}}") == "exited");
    ok(&daemon.docker(&["create", "--name", "never", "--restart", "always", "--network", "none", "busybox", "true"]));
    ok(&daemon.docker(&["stop", "-t", "0", "always", "unless"]));
    daemon.kill();
    std::thread::sleep(Duration::from_secs(1));
    daemon.restart();
    until("always is started with the daemon", || inspect(&daemon, "always", "{{.State.Status}}") == "running");
    until("what ended meanwhile is started again", || inspect(&daemon, "dies", "{{.RestartCount}}") != "0");
    for (name, state) in [("unless", "exited"), ("no", "exited"), ("never", "created")] {
        assert_eq!(inspect(&daemon, name, "{{.State.Status}}"), state, "{name}");
    }
    ok(&daemon.docker(&["start", "unless"]));
    let pid = inspect(&daemon, "always", "{{.State.Pid}}");
    daemon.kill();
    daemon.restart();
    assert_eq!(inspect(&daemon, "always", "{{.State.Pid}}"), pid, "what runs goes on");
    // As after the machine's end: nothing runs, and its run folder is gone.
    daemon.kill();
    for container in std::fs::read_dir(daemon.dir().join("run/containers")).unwrap().flatten() {
        let shim = engine::shim::Client::new(&container.path());
        let _ = shim.kill(9);
        until("it ends", || shim.state().is_err());
    }
    std::fs::remove_dir_all(daemon.dir().join("run/containers")).unwrap();
    daemon.restart();
    for name in ["always", "unless"] {
        until("it is started again", || inspect(&daemon, name, "{{.State.Status}}") == "running");
    }
    ok(&daemon.docker(&["rm", "-f", "always", "unless", "dies"]));
}

#[test]
fn commit_and_export_keep_what_a_container_is() {
    let Some(daemon) = with_busybox() else { return };
    let script = "echo data > /file; rm /etc/group; mkdir /new; ln /file /new/hard; chmod 4755 /new/hard; sleep 10000";
    detached(&daemon, "c1", &["-e", "A=1", "-v", "/vol"], script);
    until("it has written", || daemon.docker(&["exec", "c1", "test", "-u", "/new/hard"]).status.success());
    for (name, cli) in CLIS {
        let image = format!("made/{name}:1");
        let id = ok(&cli(
            &daemon,
            &[
                "commit",
                "-m",
                "a message",
                "-a",
                "me",
                "-c",
                "CMD [\"cat\", \"/file\"]",
                "-c",
                "ENV B=2",
                "-c",
                "USER 5:6",
                "c1",
                &image,
            ],
        ));
        assert!(id.starts_with("sha256:"), "{name}: {id}");
        assert_eq!(inspect(&daemon, "c1", "{{.State.Status}}"), "running", "{name}: it goes on");
        let shown =
            ok(&daemon.docker(&["inspect", "-f", "{{.Id}} {{.Comment}} {{.Author}} {{.Config.User}} {{.Config.Env}}", &image]));
        assert!(
            shown.starts_with(&format!("{} a message me 5:6 [", id.trim())) && shown.contains("A=1") && shown.contains("B=2"),
            "{name}: {shown}"
        );
        assert_eq!(ok(&cli(&daemon, &["run", "--rm", "--network", "none", &image])), "data\n", "{name}");
        let look = "test -e /etc/group && echo there; stat -c %a /new/hard; stat -c %h /file; id -u";
        assert_eq!(ok(&cli(&daemon, &["run", "--rm", "--network", "none", &image, "sh", "-c", look])), "4755\n2\n5\n", "{name}");
        let history = ok(&daemon.docker(&["history", "--format", "{{.Comment}}", &image]));
        assert!(history.starts_with("a message\n"), "{name}: {history}");
        let bad = fails(&cli(&daemon, &["commit", "-c", "RUN x", "c1"]));
        assert!(bad.contains("run is not a valid change command"), "{name}: {bad}");
        let bad = fails(&cli(&daemon, &["commit", "c1", "BAD"]));
        assert!(bad.contains("must be lowercase"), "{name}: {bad}");
        let tar = daemon.dir().join(format!("{name}.tar"));
        ok(&cli(&daemon, &["export", "-o", tar.to_str().unwrap(), "c1"]));
        let listed = system_tests::sh(daemon.dir(), &format!("tar tf {name}.tar"));
        assert!(listed.lines().any(|line| line == "new/hard") && !listed.lines().any(|line| line == "etc/group"), "{name}");
    }
    // One that changed nothing adds no layer, and one that is stopped can be committed too.
    ok(&daemon.docker(&["create", "--name", "same", "--network", "none", "busybox", "true"]));
    ok(&daemon.docker(&["commit", "same", "same:1"]));
    let layers = |image: &str| ok(&daemon.docker(&["inspect", "-f", "{{len .RootFS.Layers}}", image]));
    assert_eq!(layers("same:1"), layers("busybox"));
    ok(&daemon.docker(&["rm", "-f", "-v", "c1", "same"]));
    ok(&daemon.docker(&["rmi", "made/ctl:1", "made/docker:1", "same:1"]));
    daemon.checks_clean();
}

#[test]
fn prune_takes_what_does_not_run() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        detached(&daemon, "runs", &[], "sleep 10000");
        detached(&daemon, "still", &[], "sleep 10000");
        ok(&daemon.docker(&["pause", "still"]));
        detached(&daemon, "again", &["--restart", "always"], "exit 1");
        ok(&daemon.docker(&["create", "--name", "made", "--label", "keep=1", "--network", "none", "busybox", "true"]));
        detached(&daemon, "done", &[], "true");
        until("it is done", || inspect(&daemon, "done", "{{.State.Status}}") == "exited");
        let text = ok(&cli(&daemon, &["container", "prune", "-f", "--filter", "label!=keep"]));
        assert!(text.starts_with("Deleted Containers:\n") && text.contains("\nTotal reclaimed space: "), "{name}: {text}");
        let mut left: Vec<String> =
            ok(&daemon.docker(&["ps", "-a", "--format", "{{.Names}}"])).lines().map(str::to_owned).collect();
        left.sort();
        assert_eq!(left, ["again", "made", "runs", "still"], "{name}");
        ok(&daemon.docker(&["rm", "-f", "again", "made", "runs", "still"]));
    }
}

#[test]
fn health_is_checked_shown_and_kept() {
    let Some(mut daemon) = with_busybox() else { return };
    let health = |daemon: &Daemon, name: &str| inspect(daemon, name, "{{.State.Health.Status}}");
    let script = "touch /well; sleep 10000";
    for (name, cli) in CLIS {
        let check = "echo looked; test -e /well";
        let flags = ["--health-cmd", check, "--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "100s"];
        let run = [&["run", "-d", "--network", "none", "--name", "c1"], &flags[..], &["busybox", "sh", "-c", script]].concat();
        ok(&cli(&daemon, &run));
        let early = status(&daemon, "c1");
        assert!(early.ends_with("(health: starting)") || early.ends_with("(healthy)"), "{name}: {early}");
        until("it is well", || status(&daemon, "c1").ends_with(" (healthy)"));
        assert_eq!(inspect(&daemon, "c1", "{{(index .State.Health.Log 0).Output}}"), "looked");
        ok(&daemon.docker(&["exec", "c1", "rm", "/well"]));
        until("it is not well", || status(&daemon, "c1").ends_with(" (unhealthy)"));
        assert!(inspect(&daemon, "c1", "{{.State.Health.FailingStreak}}").parse::<u32>().unwrap() >= 2);
        assert_eq!(ok(&cli(&daemon, &["ps", "-q", "--filter", "health=unhealthy"])).lines().count(), 1, "{name}");
        assert_eq!(ok(&cli(&daemon, &["ps", "-q", "--filter", "health=healthy"])), "", "{name}");
        ok(&daemon.docker(&["exec", "c1", "touch", "/well"]));
        until("it is well again", || health(&daemon, "c1") == "healthy");
        until("five results are kept", || inspect(&daemon, "c1", "{{len .State.Health.Log}}") == "5");
        ok(&daemon.docker(&["rm", "-f", "c1"]));
        let conflict = fails(&cli(&daemon, &["create", "--no-healthcheck", "--health-cmd", "x", "busybox", "true"]));
        assert!(conflict.contains("--no-healthcheck conflicts with --health-* options"), "{name}: {conflict}");
    }
    // From the image, over the daemon's end, and a check that takes too long: of a container that nobody expects to be well.
    detached(&daemon, "base", &[], "true");
    ok(&daemon.docker(&[
        "commit",
        "-c",
        "HEALTHCHECK --interval=100ms --timeout=300s CMD test -e /slow && sleep 900; true",
        "base",
        "checked",
    ]));
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c2", "checked", "sleep", "10000"]));
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c3", "--no-healthcheck", "checked", "sleep", "10000"]));
    until("the image's check is run", || health(&daemon, "c2") == "healthy");
    assert_eq!(inspect(&daemon, "c3", "{{.State.Health}}"), "<nil>");
    daemon.kill();
    daemon.restart();
    assert_eq!(health(&daemon, "c2"), "healthy");
    let slow = ["run", "-d", "--network", "none", "--name", "c4", "--health-timeout", "1s", "checked"];
    ok(&daemon.docker(&[&slow[..], &["sh", "-c", "touch /slow; exec sleep 10000"]].concat()));
    until("a slow check fails", || health(&daemon, "c4") == "unhealthy");
    let log = inspect(&daemon, "c4", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}\n{{end}}");
    assert!(log.contains("-1 Health check exceeded timeout (1s)"), "{log}");
    told(&daemon, &["--filter", "event=health_status"], "{{.Action}}", |events| events.contains(&"health_status: unhealthy"));
    ok(&daemon.docker(&["stop", "-t", "0", "c4"]));
    assert_eq!(health(&daemon, "c4"), "unhealthy");
    ok(&daemon.docker(&["rm", "-f", "c2", "c3", "c4", "base"]));
}

#[test]
fn a_follower_keeps_no_daemon_from_stopping() {
    let Some(mut daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &[], "sleep 10000");
    let follow = |path: &str| {
        std::process::Command::new("curl")
            .args(["-sN", "--max-time", PATIENCE_SECONDS, "--unix-socket"])
            .arg(daemon.socket())
            .arg(format!("http://d{path}"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut followers: Vec<_> = ["/events", "/containers/c1/logs?follow=1&stdout=1", "/containers/c1/stats"].map(follow).into();
    std::thread::sleep(Duration::from_millis(500));
    daemon.stop();
    for follower in &mut followers {
        follower.wait().unwrap();
    }
    daemon.restart();
    assert_eq!(inspect(&daemon, "c1", "{{.State.Status}}"), "running");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
}
