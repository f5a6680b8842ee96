//! Containers, driven by the docker CLI and by `ctl`, on a daemon that is killed in between.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::time::Duration;

use system_tests::containers::{CLIS, code, detached, err, inspect, is_builtin, out, with_busybox};
use system_tests::{Daemon, PATIENCE_SECONDS, fails, mounts_below, ok, sh, told, until};

#[test]
fn run_gives_output_and_exit_code() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        let run = |args: &[&str]| cli(&daemon, &[&["run", "--rm", "--network", "none"], args].concat());
        let done = run(&["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((out(&done).as_str(), err(&done).as_str(), code(&done)), ("out\n", "err\n", 7), "{name}");
        let missing = run(&["busybox", "no-such-program"]);
        assert_eq!(code(&missing), 127, "{name}");
        assert!(
            err(&missing).contains("exec: \"no-such-program\": executable file not found in $PATH"),
            "{name}: {}",
            err(&missing)
        );
        assert_eq!(code(&run(&["busybox", "/etc/passwd"])), 126, "{name}");
        assert_eq!(code(&run(&["--memory", "1k", "busybox", "true"])), 125, "{name}");
        assert_eq!(
            code(&run(&["busybox", "sh", "-c", "kill -9 $$ & wait; kill -KILL 1; exit 3"])),
            3,
            "the first process is safe from itself"
        );
        let init = run(&["--init", "busybox", "sh", "-c", "kill -9 $$"]);
        if is_builtin() {
            assert_eq!(code(&init), 137, "{name}");
        } else {
            assert!(err(&init).contains("--init is not supported with --runtime"), "{name}: {}", err(&init));
        }
    }
    assert_eq!(ok(&daemon.docker(&["ps", "-aq"])), "", "--rm leaves nothing, whatever went wrong");
    let unknown = fails(&daemon.docker(&["run", "--rm", "localhost:1/no-such-image", "true"]));
    assert!(unknown.contains("Unable to find image"), "{unknown}");
}

#[test]
fn options_reach_the_process() {
    let Some(daemon) = with_busybox() else { return };
    let run = |args: &[&str]| ok(&daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat()));
    assert_eq!(
        run(&[
            "-e",
            "A=b",
            "-w",
            "/made",
            "-u",
            "12:34",
            "-h",
            "box",
            "busybox",
            "sh",
            "-c",
            "echo $A $(pwd) $(id -u):$(id -g) $(hostname)"
        ]),
        "b /made 12:34 box\n"
    );
    assert_eq!(run(&["--entrypoint", "echo", "busybox", "x"]), "x\n");
    if is_builtin() {
        assert_eq!(
            run(&["--init", "busybox", "ps", "-o", "pid,comm,args"]).lines().nth(1).map(str::trim_end),
            Some("    1 init             init -- ps -o pid,comm,args"),
            "nothing of the host is in the first process's arguments"
        );
    }
    assert_eq!(
        run(&["--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", "touch /t/x && echo yes; touch /x 2>/dev/null || echo no"]),
        "yes\nno\n"
    );
    assert_eq!(run(&["--add-host", "store:10.0.0.9", "busybox", "grep", "store", "/etc/hosts"]), "10.0.0.9\tstore\n");
    assert_eq!(run(&["--ulimit", "nofile=99:99", "busybox", "sh", "-c", "ulimit -n"]), "99\n");
    assert_eq!(run(&["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"]), "CapEff:\t0000000000000000\n");
    assert_eq!(
        run(&[
            "--pids-limit",
            "33",
            "busybox",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"
        ]),
        "33\n"
    );
    let host = ok(&daemon.docker(&["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]));
    assert_eq!(host.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    let user = daemon.docker(&["run", "--rm", "--network", "none", "-u", "ghost", "busybox", "true"]);
    assert!(err(&user).contains("unable to find user ghost: no matching entries in passwd file"), "{}", err(&user));
    let terminal = sh(
        daemon.dir(),
        &format!(
            "script -qec 'docker -H unix://{} run --rm -it --network none busybox sh -c \"tty; test -t 0 && echo terminal\"' /dev/null < /dev/null",
            daemon.socket().display()
        ),
    );
    assert!(terminal.contains("terminal"), "{terminal}");
}

#[test]
fn input_ends_and_output_goes_on() {
    let Some(daemon) = with_busybox() else { return };
    let run =
        daemon.docker_with(&["run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo after"], "piped\n");
    assert_eq!(ok(&run), "piped\nafter\n");
    detached(&daemon, "c1", &[], "sleep 10000");
    let exec = daemon.docker_with(&["exec", "-i", "c1", "sh", "-c", "wc -c; echo after"], &"x".repeat(300_000));
    assert_eq!(ok(&exec), "300000\nafter\n");
    ok(&daemon.docker(&["create", "-i", "--name", "later", "--network", "none", "busybox", "cat"]));
    assert_eq!(ok(&daemon.docker_with(&["start", "-ai", "later"], "late\n")), "late\n");
    let much = daemon.docker(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "head -c 20000000 /dev/zero"]);
    assert_eq!(much.stdout.len(), 20_000_000);
}

#[test]
fn a_life_from_create_to_rm() {
    let Some(daemon) = with_busybox() else { return };
    let id = ok(&daemon.docker(&[
        "create",
        "--name",
        "c1",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap 'echo bye; exit 5' TERM; echo hello; while :; do sleep 0.1; done",
    ]));
    assert_eq!(ok(&daemon.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])), "c1 Created\n");
    let taken = fails(&daemon.docker(&["create", "--name", "c1", "busybox", "true"]));
    assert!(taken.contains(&format!("The container name \"/c1\" is already in use by container \"{}\"", id.trim())), "{taken}");
    ok(&daemon.docker(&["start", "c1"]));
    until("it says hello", || ok(&daemon.docker(&["logs", "c1"])) == "hello\n");
    assert_eq!(ok(&daemon.ctl(&["ps", "--format", "{{.ID}} {{.Image}} {{.State}}"])), format!("{} busybox running\n", &id[..12]));
    let running = fails(&daemon.docker(&["rm", "c1"]));
    assert!(running.contains("container is running: stop the container before removing or force remove"), "{running}");
    assert_eq!(code(&daemon.docker(&["exec", "c1", "sh", "-c", "exit 9"])), 9);
    assert_eq!(
        ok(&daemon.docker(&["exec", "-e", "X=y", "-w", "/tmp", "-u", "1000", "c1", "sh", "-c", "echo $X $(pwd) $(id -u)"])),
        "y /tmp 1000\n"
    );
    let nothing = daemon.docker(&["exec", "c1", "nothing"]);
    assert_eq!(code(&nothing), 127, "{}{}", out(&nothing), err(&nothing));
    ok(&daemon.docker(&["stop", "-t", PATIENCE_SECONDS, "c1"]));
    assert_eq!(inspect(&daemon, "c1", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 5 0");
    assert_eq!(ok(&daemon.docker(&["logs", "--tail", "1", "c1"])), "bye\n");
    assert_eq!(ok(&daemon.ctl(&["wait", "c1"])), "5\n");
    let stopped = fails(&daemon.docker(&["exec", "c1", "true"]));
    assert!(stopped.contains("is not running"), "{stopped}");
    ok(&daemon.docker(&["rename", "c1", "d1"]));
    ok(&daemon.docker(&["start", "d1"]));
    until("it says hello again", || ok(&daemon.docker(&["logs", "d1"])) == "hello\nbye\nhello\n");
    ok(&daemon.docker(&["kill", "d1"]));
    until("it is dead", || inspect(&daemon, "d1", "{{.State.ExitCode}}") == "137");
    assert_eq!(ok(&daemon.docker(&["logs", "d1"])), "hello\nbye\nhello\n");
    ok(&daemon.docker(&["rm", &id[..6]]));
    let gone = fails(&daemon.docker(&["start", "d1"]));
    assert!(gone.contains("No such container: d1"), "{gone}");
}

#[test]
fn logs_are_followed_to_the_end() {
    let Some(daemon) = with_busybox() else { return };
    detached(&daemon, "c1", &[], "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done; echo last >&2");
    let followed = daemon.docker(&["logs", "-f", "c1"]);
    assert_eq!((out(&followed).as_str(), err(&followed).as_str()), ("line 1\nline 2\nline 3\nline 4\nline 5\n", "last\n"));
    let stamped = ok(&daemon.ctl(&["logs", "-t", "--tail", "2", "c1"]));
    assert!(stamped.starts_with("20") && stamped.contains("Z line 5\n"), "{stamped}");
}

#[test]
fn a_volume_is_shared_filled_and_guarded() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["volume", "create", "data"]));
    detached(&daemon, "writer", &["-v", "data:/data"], "echo from one > /data/file; sleep 10000");
    until("the file is there", || code(&daemon.docker(&["exec", "writer", "test", "-s", "/data/file"])) == 0);
    assert_eq!(
        ok(&daemon.ctl(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--mount",
            "type=volume,source=data,target=/d,readonly",
            "busybox",
            "sh",
            "-c",
            "cat /d/file; touch /d/x 2>&1 | grep -c Read-only"
        ])),
        "from one\n1\n"
    );
    let used = fails(&daemon.docker(&["volume", "rm", "data"]));
    assert!(used.contains("volume is in use"), "{used}");
    assert_eq!(
        ok(&daemon.docker(&["run", "--rm", "--network", "none", "-v", "etc:/etc", "busybox", "cat", "/etc/passwd"])),
        "root:x:0:0:root:/root:/bin/sh\n"
    );
    assert!(daemon.dir().join("root/volumes/etc/_data/passwd").exists(), "filled from the image");
    ok(&daemon.docker(&["run", "--rm", "--network", "none", "-v", "/anonymous", "busybox", "touch", "/anonymous/x"]));
    assert_eq!(ok(&daemon.docker(&["volume", "ls", "-q"])), "data\netc\n", "--rm took the anonymous one along");
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("f"), "host").unwrap();
    let bind = format!("{}:/h:ro", host.path().display());
    assert_eq!(ok(&daemon.docker(&["run", "--rm", "--network", "none", "-v", &bind, "busybox", "cat", "/h/f"])), "host");
    ok(&daemon.docker(&["run", "--rm", "--network", "none", "--volumes-from", "writer", "busybox", "cat", "/data/file"]));
    ok(&daemon.docker(&["rm", "-f", "writer"]));
    ok(&daemon.docker(&["volume", "rm", "data"]));
}

#[test]
fn files_are_copied_in_and_out_running_or_not() {
    let Some(daemon) = with_busybox() else { return };
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).display().to_string();
    std::fs::write(host.path().join("in"), "content").unwrap();
    detached(
        &daemon,
        "c1",
        &["-v", "vol:/vol", "--tmpfs", "/mem"],
        "ln -s /etc/passwd /tmp/link; ln -s ../../../../.. /tmp/up; sleep 10000",
    );
    until("it is up", || code(&daemon.docker(&["exec", "c1", "test", "-h", "/tmp/up"])) == 0);
    for state in ["running", "stopped"] {
        for (name, cli) in CLIS {
            let place = format!("{state}-{name}");
            ok(&cli(&daemon, &["cp", &path("in"), &format!("c1:/root/{place}")]));
            ok(&cli(&daemon, &["cp", &path("in"), &format!("c1:/vol/{place}")]));
            ok(&cli(&daemon, &["cp", &format!("c1:/vol/{place}"), &path(&place)]));
            assert_eq!(std::fs::read_to_string(host.path().join(&place)).unwrap(), "content");
            ok(&cli(&daemon, &["cp", "c1:/etc", &path(&format!("etc-{place}"))]));
            assert!(host.path().join(format!("etc-{place}/passwd")).exists());
            let missing = fails(&cli(&daemon, &["cp", "c1:/no/where", &path("x")]));
            assert!(missing.contains("Could not find the file /no/where in container c1"), "{missing}");
        }
        assert!(daemon.dir().join(format!("root/volumes/vol/_data/{state}-ctl")).exists(), "through the volume");
        // A link that climbs stays in the container.
        ok(&daemon.docker(&["cp", "-L", "c1:/tmp/up/etc/passwd", &path("climbed")]));
        assert_eq!(std::fs::read_to_string(host.path().join("climbed")).unwrap(), "root:x:0:0:root:/root:/bin/sh\n");
        if state == "running" {
            ok(&daemon.docker(&["cp", &path("in"), "c1:/mem/x"]));
            assert_eq!(ok(&daemon.docker(&["exec", "c1", "cat", "/mem/x"])), "content", "into memory");
            ok(&daemon.docker(&["kill", "c1"]));
            until("it is dead", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
        }
    }
    let tar = daemon.docker(&["cp", "c1:/root/running-ctl", "-"]);
    std::fs::write(host.path().join("one.tar"), &tar.stdout).unwrap();
    assert_eq!(sh(host.path(), "tar tf one.tar").trim(), "running-ctl");
    let diff = ok(&daemon.docker(&["diff", "c1"]));
    let lines: Vec<&str> = diff.lines().collect();
    assert!(lines.contains(&"A /root/running-docker") && lines.contains(&"C /tmp"), "{diff}");
    assert!(
        !diff.contains("/etc") && !diff.contains("/proc") && !diff.contains("/dev"),
        "what the daemon mounts is no change: {diff}"
    );
    assert_eq!(mounts_below(daemon.dir()), 0);
}

#[test]
fn a_killed_daemon_ends_no_container() {
    let Some(mut daemon) = with_busybox() else { return };
    detached(&daemon, "on", &[], "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
    detached(&daemon, "ends", &[], "sleep 0.7; echo done; exit 6");
    detached(&daemon, "goes", &["--rm"], "sleep 0.7");
    ok(&daemon.docker(&["create", "--name", "made", "--network", "none", "busybox", "true"]));
    let pid = inspect(&daemon, "on", "{{.State.Pid}}");
    let lines = || ok(&daemon.docker(&["logs", "on"])).lines().count();
    until("it counts", || lines() > 2);
    let before = lines();
    daemon.kill();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it runs on");
    daemon.restart();
    assert_eq!(inspect(&daemon, "on", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    until("its end is found", || inspect(&daemon, "ends", "{{.State.Status}} {{.State.ExitCode}}") == "exited 6");
    assert_eq!(ok(&daemon.docker(&["logs", "ends"])), "done\n");
    until("--rm is kept", || ok(&daemon.docker(&["ps", "-a", "--format", "{{.Names}}"])).lines().all(|name| name != "goes"));
    until("its log goes on", || ok(&daemon.docker(&["logs", "on"])).lines().count() > before + 10);
    assert_eq!(ok(&daemon.docker(&["exec", "on", "echo", "again"])), "again\n");
    ok(&daemon.docker(&["start", "-a", "made"]));
    ok(&daemon.docker(&["stop", "-t", "0", "on"]));
    assert_eq!(inspect(&daemon, "on", "{{.State.ExitCode}}"), "137");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    ok(&daemon.docker(&["container", "prune", "-f"]));
    assert_eq!(ok(&daemon.docker(&["ps", "-aq"])), "");
}

#[test]
fn a_killed_shim_is_noticed_and_its_container_ended() {
    let Some(mut daemon) = with_busybox() else { return };
    for restart in [false, true] {
        let name = format!("c{restart}");
        detached(&daemon, &name, &[], "sleep 10000");
        let pid: i32 = inspect(&daemon, &name, "{{.State.Pid}}").parse().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let shim: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        if restart {
            daemon.kill();
        }
        let process = rustix::process::Pid::from_raw(shim).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        if restart {
            daemon.restart();
        }
        until("the container is ended", || inspect(&daemon, &name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 137");
        until("its process is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
        let id = inspect(&daemon, &name, "{{.Id}}");
        until("no cgroup stays", || {
            sh(daemon.dir(), &format!("find /sys/fs/cgroup -type d -name '{id}' 2>/dev/null || true")).is_empty()
        });
        assert!(inspect(&daemon, &name, "{{.State.Error}}").contains("shim was killed"));
        ok(&daemon.docker(&["start", &name]));
        ok(&daemon.docker(&["rm", "-f", &name]));
    }
}

#[test]
fn nothing_is_left_of_containers() {
    let Some(mut daemon) = with_busybox() else { return };
    let left = |daemon: &Daemon| {
        let dir = daemon.dir().display();
        let script = format!(
            "find {dir}/root/containers {dir}/run/containers {dir}/root/trash -mindepth 1 2>/dev/null | wc -l || true; \
             for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' 2>/dev/null < $f || true; echo; done | grep -c '^fsd-shim {dir}' || true"
        );
        sh(daemon.dir(), &script)
    };
    let before = left(&daemon);
    assert_eq!(before, "0\n0\n");
    let threads: Vec<_> = (0..12)
        .map(|number| {
            let socket = daemon.socket();
            std::thread::spawn(move || {
                let run = |rest: &[&str]| {
                    let host = format!("unix://{}", socket.display());
                    let fixed = [PATIENCE_SECONDS, "docker", "-H", &host, "run", "--rm", "--network", "none", "-v", "/a"];
                    std::process::Command::new("timeout").args(fixed).args(rest).output().unwrap()
                };
                assert_eq!(ok(&run(&["busybox", "echo", &number.to_string()])), format!("{number}\n"));
                assert_eq!(run(&["busybox", "nothing"]).status.code(), Some(127));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    detached(&daemon, "c1", &["-v", "/b"], "sleep 10000 & sleep 10000");
    ok(&daemon.docker(&["rm", "-f", "-v", "c1"]));
    ok(&daemon.docker(&["system", "prune", "-f"]));
    until("all is gone", || left(&daemon) == before);
    assert_eq!((ok(&daemon.docker(&["ps", "-aq"])), ok(&daemon.docker(&["volume", "ls", "-q"]))), (String::new(), String::new()));
    assert_eq!(mounts_below(daemon.dir()), 0);
    daemon.checks_clean();
    daemon.stop();
}

#[test]
fn kills_at_random_moments_leave_order() {
    let Some(mut daemon) = with_busybox() else { return };
    for round in 0..12u64 {
        let socket = format!("unix://{}", daemon.socket().display());
        let script = format!(
            "for i in 1 2 3; do timeout 180 docker -H {socket} run --rm --network none -v /a busybox true; \
             timeout 180 docker -H {socket} run -d --network none busybox sleep 0.2; done >/dev/null 2>&1; true"
        );
        let mut work = std::process::Command::new("bash").args(["-c", &script]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + round * 37 % 400));
        daemon.kill_now();
        daemon.kill();
        work.wait().unwrap();
        daemon.restart();
        daemon.checks_clean();
    }
    until("those that ran on have ended", || ok(&daemon.docker(&["ps", "-q"])).is_empty());
    ok(&daemon.docker(&["container", "prune", "-f"]));
    ok(&daemon.docker(&["volume", "prune", "-f"]));
    assert_eq!(ok(&daemon.docker(&["ps", "-aq"])), "");
    let dir = daemon.dir().display().to_string();
    until("no folder is left", || {
        // What goes while it is looked for is no failure of the search.
        sh(daemon.dir(), &format!("(find {dir}/root/containers {dir}/run/containers -mindepth 1 2>&1 || true) | wc -l")) == "0\n"
    });
}

#[test]
fn an_image_in_use_is_kept() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["tag", "busybox", "second:1"]));
    detached(&daemon, "c1", &[], "sleep 10000");
    let id = ok(&daemon.docker(&["images", "-q", "--no-trunc", "busybox"]));
    let by_id = fails(&daemon.docker(&["rmi", "-f", id.trim()]));
    assert!(by_id.contains("(cannot be forced) - image is being used by running container"), "{by_id}");
    assert_eq!(ok(&daemon.docker(&["rmi", "second:1"])), "Untagged: second:1\n");
    ok(&daemon.docker(&["kill", "c1"]));
    until("it is dead", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
    let by_name = fails(&daemon.docker(&["rmi", "busybox"]));
    assert!(by_name.contains("unable to remove repository reference \"busybox:latest\" (must force) - container"), "{by_name}");
    ok(&daemon.docker(&["rmi", "-f", "busybox"]));
    ok(&daemon.docker(&["image", "prune", "-af"]));
    ok(&daemon.docker(&["start", "c1"]));
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "echo", "still"])), "still\n");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
    ok(&daemon.docker(&["image", "prune", "-af"]));
    assert_eq!(ok(&daemon.docker(&["images", "-aq"])), "");
}

#[test]
fn events_tell_a_life() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["run", "--rm", "--name", "told", "--network", "none", "-v", "vol:/v", "busybox", "true"]));
    let events = told(&daemon, &[], "{{.Type}} {{.Action}}", |events| events.contains(&"container destroy"));
    let want = [
        "image load",
        "volume create",
        "container create",
        "container attach",
        "volume mount",
        "container start",
        "container die",
        "volume unmount",
        "container destroy",
    ];
    let mut rest = events.iter();
    for event in want {
        assert!(rest.any(|told| *told == event), "{event} in {events:?}");
    }
    let filtered = ok(&daemon.ctl(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.Attributes.exitCode}}",
    ]));
    assert_eq!(filtered, "0\n");
}

#[test]
fn the_disk_is_accounted_for() {
    let Some(daemon) = with_busybox() else { return };
    detached(
        &daemon,
        "c1",
        &["-v", "vol:/v"],
        "head -c 3000000 /dev/zero > /big; head -c 2000000 /dev/zero > /v/big; touch /done; sleep 10000",
    );
    until("it has written", || code(&daemon.docker(&["exec", "c1", "test", "-e", "/done"])) == 0);
    sh(daemon.dir(), "sync");
    let (_, usage) = daemon.ask("GET", "/system/df", None);
    let layers = usage["LayersSize"].as_u64().unwrap();
    let container = usage["Containers"][0]["SizeRw"].as_u64().unwrap();
    let volume = usage["Volumes"][0]["UsageData"]["Size"].as_u64().unwrap();
    let du = |what: &str| {
        sh(&daemon.dir().join("root"), &format!("du -c -s -B1 {what} | tail -n 1 | cut -f1")).trim().parse::<u64>().unwrap()
    };
    assert_eq!(container, du("containers/*"));
    assert_eq!(volume, du("volumes/vol"));
    assert!(du("layers").abs_diff(layers) < 64 << 10, "{layers} {}", du("layers"));
    // The daemon's own: its database, and what it has set aside to start on a full disk.
    let own = du("meta.db* reserve");
    let sum = layers + container + volume + own;
    assert!(du(".").abs_diff(sum) < 128 << 10, "rows and own {sum} ({own}), du {}", du("."));
    assert_eq!(
        ok(&daemon.ctl(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"])).lines().next(),
        Some("Images 1 1")
    );
}
