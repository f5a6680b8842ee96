//! What containers may use and do: limits, devices, other containers' processes, security options; by docker and `ctl`.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::process::Output;

use engine::selinux::SELinux;
use system_tests::containers::{CLIS, Cli, inspect, with_busybox};
use system_tests::{Daemon, fails, ok, told};

/// A container that runs a script and goes.
fn run(daemon: &Daemon, cli: Cli, flags: &[&str], script: &str) -> Output {
    cli(daemon, &[&["run", "--rm", "--network", "none"], flags, &["busybox", "sh", "-c", script]].concat())
}

#[test]
fn limits_are_in_force_or_warned_about() {
    let Some(daemon) = with_busybox() else { return };
    let v1 = |controller: &str| Path::new("/sys/fs/cgroup").join(controller).is_dir();
    for (name, cli) in CLIS {
        let text = |flags: &[&str], script: &str| ok(&run(&daemon, cli, flags, script)).trim().to_owned();
        assert_eq!(text(&["--ulimit", "nofile=77:88"], "ulimit -Sn; ulimit -Hn"), "77\n88", "{name}");
        let shm = text(&["--shm-size", "8m"], "df -k /dev/shm | tail -n 1");
        assert!(shm.split_whitespace().any(|word| word == "8192"), "{name}: {shm}");
        assert_eq!(text(&["--ipc", "none"], "grep -c ' /dev/shm ' /proc/mounts || true"), "0", "{name}");
        assert_eq!(text(&["--oom-score-adj", "321"], "cat /proc/self/oom_score_adj"), "321", "{name}");
        let parent = text(&["--cgroup-parent", "/fsd-test-parent", "--cgroupns", "host"], "cat /proc/self/cgroup");
        assert!(parent.lines().any(|line| line.contains(":/fsd-test-parent/")), "{name}: {parent}");
        assert_eq!(text(&["--sysctl", "kernel.msgmax=9000"], "cat /proc/sys/kernel/msgmax"), "9000", "{name}");
        if v1("cpu") {
            let files = "cd /sys/fs/cgroup/cpu; cat cpu.shares cpu.cfs_period_us cpu.cfs_quota_us";
            let flags = ["--cpu-shares", "512", "--cpu-period", "50000", "--cpu-quota", "25000"];
            assert_eq!(text(&flags, files), "512\n50000\n25000", "{name}");
        }
        if v1("memory") {
            let files = "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness";
            let flags = ["-m", "64m", "--memory-reservation", "32m", "--memory-swappiness", "10"];
            assert_eq!(text(&flags, files), format!("{}\n{}\n10", 64 << 20, 32 << 20), "{name}");
            let disabled = text(&["-m", "64m", "--oom-kill-disable"], "grep disable /sys/fs/cgroup/memory/memory.oom_control");
            assert_eq!(disabled, "oom_kill_disable 1", "{name}");
        }
        assert_eq!(
            text(&["--cpuset-cpus", "0", "--cpuset-mems", "0"], "grep Cpus_allowed_list /proc/self/status"),
            "Cpus_allowed_list:\t0"
        );
        // A weight that this kernel has no scheduler for is told of, as Docker does, when the container is made.
        let made = cli(&daemon, &["create", "--network", "none", "--blkio-weight", "300", "busybox", "true"]);
        let id = ok(&made).trim().to_owned();
        let warned = String::from_utf8_lossy(&made.stderr).contains("Your kernel does not support Block I/O weight");
        let files = "cat /sys/fs/cgroup/blkio/blkio.weight /sys/fs/cgroup/blkio/blkio.bfq.weight 2>/dev/null || true";
        let weight = text(&["--blkio-weight", "300"], files);
        assert_eq!(weight, if warned { "" } else { "300" }, "{name}");
        ok(&daemon.docker(&["rm", &id]));
        for (flags, why) in [
            (&["--blkio-weight", "5"][..], "Range of blkio weight is from 10 to 1000"),
            (&["--oom-score-adj", "2000"], "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
            (&["--cpuset-cpus", "999"], "Requested CPUs are not available - requested 999, available: "),
            (&["-m", "1m"], "Minimum memory limit allowed is 6MB"),
            (
                &["--memory-reservation", "100m", "-m", "50m"],
                "Minimum memory limit can not be less than memory reservation limit",
            ),
            (&["--device-read-bps", "/dev/no-such:1mb"], "/dev/no-such: no such file or directory"),
        ] {
            let refused = run(&daemon, cli, flags, "true");
            // docker's CLI takes these words for a program that is not there.
            let code = if why.ends_with("no such file or directory") { refused.status.code() } else { Some(125) };
            assert_eq!(refused.status.code(), code, "{name}: {flags:?}");
            assert!(fails(&refused).contains(why), "{name}: {flags:?}: {}", fails(&refused));
        }
    }
    if v1("cpu") {
        let said = fails(&run(&daemon, CLIS[0].1, &["--cpu-shares", "1"], "true"));
        assert!(said.contains("the minimum allowed cpu-shares is 2"), "{said}");
    }
    let block = std::fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    if let (Some(disk), true) = (block.into_iter().find(|name| Path::new("/dev").join(name).exists()), v1("blkio")) {
        let flag = format!("/dev/{disk}:1mb");
        let limit = ok(&run(
            &daemon,
            CLIS[0].1,
            &["--device-write-bps", &flag],
            "cat /sys/fs/cgroup/blkio/blkio.throttle.write_bps_device",
        ));
        assert!(limit.trim().ends_with(" 1048576"), "{limit}");
        // Whether a device's scheduler knows weights is its own.
        ok(&run(&daemon, CLIS[0].1, &["--blkio-weight-device", &format!("/dev/{disk}:300")], "true"));
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join("fsd-test-parent"));
    }
}

#[test]
fn what_a_container_uses_adds_up() {
    let Some(daemon) = with_busybox() else { return };
    let script = "dd if=/dev/zero of=/t/f bs=1M count=8 2> /dev/null; sleep 1000 & while :; do :; done";
    let flags = ["--name", "busy", "--cpus", "0.5", "-m", "64m", "--pids-limit", "40", "--tmpfs", "/t"];
    ok(&daemon.docker(&[&["run", "-d", "--network", "none"], &flags[..], &["busybox", "sh", "-c", script]].concat()));
    let nothing = inspect(&daemon, "busy", "{{json .HostConfig.MemorySwappiness}} {{.HostConfig.PidsLimit}}");
    assert_eq!(nothing, "null 40");
    let stats = || -> serde_json::Value {
        let said = ok(&daemon.curl(&["http://d/containers/busy/stats?stream=false"]));
        serde_json::from_str(&said).unwrap()
    };
    let number = |value: &serde_json::Value, path: &str| value.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or(0);
    // Two ticks of a clock that has a hundred a second, for rounding.
    let slack = 20_000_000;
    system_tests::until("it has worked for a while", || number(&stats(), "/cpu_stats/cpu_usage/total_usage") > 500_000_000);
    let (value, later) = (stats(), stats());
    let of = |path: &str| number(&value, path);
    let parts = of("/cpu_stats/cpu_usage/usage_in_usermode") + of("/cpu_stats/cpu_usage/usage_in_kernelmode");
    let total = of("/cpu_stats/cpu_usage/total_usage");
    // The parts are read a moment after the total, and that moment may be long.
    assert!(parts <= number(&later, "/cpu_stats/cpu_usage/total_usage") + slack && parts > 0, "{value:#} {later:#}");
    assert!(of("/precpu_stats/cpu_usage/total_usage") < total && of("/cpu_stats/throttling_data/periods") > 0, "{value:#}");
    assert_eq!((of("/memory_stats/limit"), of("/pids_stats/limit")), (64 << 20, 40), "{value:#}");
    assert_eq!(of("/pids_stats/current"), 2, "{value:#}");
    assert!((8 << 20..64 << 20).contains(&of("/memory_stats/usage")), "{value:#}");
    ok(&daemon.docker(&["rm", "-f", "busy"]));
}

#[test]
fn want_of_memory_is_told() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        let hog = cli(
            &daemon,
            &["run", "--network", "none", "--name", "hog", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero"],
        );
        assert_eq!(hog.status.code(), Some(137), "{name}: {}", String::from_utf8_lossy(&hog.stderr));
        assert_eq!(inspect(&daemon, "hog", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137", "{name}");
        ok(&daemon.docker(&["rm", "hog"]));
        // A process in it that is ended so counts, whatever its first one says at its end.
        let part = cli(
            &daemon,
            &[
                "run",
                "--network",
                "none",
                "--name",
                "part",
                "-m",
                "16m",
                "--memory-swap",
                "16m",
                "busybox",
                "sh",
                "-c",
                "tail /dev/zero; exit 3",
            ],
        );
        assert_eq!(part.status.code(), Some(3), "{name}");
        assert_eq!(inspect(&daemon, "part", "{{.State.OOMKilled}}"), "true", "{name}");
        ok(&daemon.docker(&["rm", "part"]));
    }
    told(&daemon, &["--filter", "event=oom"], "{{.Action}}", |events| events.len() == 4);
    // One that goes on is told of while it does, each time.
    let script = "tail /dev/zero; while [ ! -e /go ]; do sleep 0.1; done; tail /dev/zero; sleep 10000";
    let flags = ["--name", "on", "-m", "16m", "--memory-swap", "16m"];
    ok(&daemon.docker(&[&["run", "-d", "--network", "none"], &flags[..], &["busybox", "sh", "-c", script]].concat()));
    let of_it = ["--filter", "event=oom", "--filter", "container=on"];
    told(&daemon, &of_it, "{{.Action}}", |events| events.len() == 1);
    assert_eq!(inspect(&daemon, "on", "{{.State.Status}} {{.State.OOMKilled}}"), "running true");
    ok(&daemon.docker(&["exec", "on", "touch", "/go"]));
    told(&daemon, &of_it, "{{.Action}}", |events| events.len() == 2);
    ok(&daemon.docker(&["rm", "-f", "on"]));
}

#[test]
fn devices_are_given_one_by_one() {
    let Some(daemon) = with_busybox() else { return };
    // The device of FUSE: anybody may open it, and no container has it.
    system_tests::sh(daemon.dir(), "mknod mine c 10 229");
    let mine = daemon.dir().join("mine").display().to_string();
    for (name, cli) in CLIS {
        let text = |flags: &[&str], script: &str| ok(&run(&daemon, cli, flags, script)).trim().to_owned();
        let look = "(: < /dev/mine) 2>/dev/null && echo read; (: > /dev/mine) 2>/dev/null && echo written || echo denied";
        assert_eq!(text(&["--device", &format!("{mine}:/dev/mine:r")], look), "read\ndenied", "{name}");
        assert_eq!(text(&["--device", &format!("{mine}:/dev/mine")], look), "read\nwritten", "{name}");
        let node = "mknod /made c 10 229; (: < /made) 2>/dev/null && echo opened || echo denied";
        assert_eq!(text(&[], node), "denied", "{name}");
        assert_eq!(text(&["--device-cgroup-rule", "c 10:229 rw"], node), "opened", "{name}");
        let missing = run(&daemon, cli, &["--device", "/dev/no-such"], "true");
        assert!(
            fails(&missing).contains(
                "error gathering device information while adding custom device \"/dev/no-such\": no such file or directory"
            ),
            "{name}"
        );
        let rule = run(&daemon, cli, &["--device-cgroup-rule", "c 1 r"], "true");
        assert!(fails(&rule).to_lowercase().contains("invalid device cgroup "), "{name}: {}", fails(&rule));
    }
}

#[test]
fn processes_can_be_shared_with_another_container() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "first", "busybox", "sleep", "12345"]));
    for (name, cli) in CLIS {
        let seen =
            ok(&run(&daemon, cli, &["--pid", "container:first"], "ps; readlink /proc/1/ns/pid; readlink /proc/self/ns/pid"));
        assert!(seen.contains("sleep 12345"), "{name}: {seen}");
        let spaces: Vec<&str> = seen.lines().filter(|line| line.starts_with("pid:")).collect();
        assert!(spaces.len() == 2 && spaces[0] == spaces[1], "{name}: {seen}");
        ok(&cli(
            &daemon,
            &["run", "-d", "--network", "none", "--name", "second", "--pid", "container:first", "busybox", "sleep", "54321"],
        ));
        assert!(ok(&daemon.docker(&["exec", "second", "ps"])).contains("sleep 12345"), "{name}");
        assert!(ok(&daemon.docker(&["exec", "first", "ps"])).contains("sleep 54321"), "{name}");
        ok(&daemon.docker(&["rm", "-f", "second"]));
        assert!(!ok(&daemon.docker(&["exec", "first", "ps"])).contains("sleep 54321"), "{name}: it takes its own along");
    }
    ok(&daemon.docker(&["stop", "-t", "0", "first"]));
    let stopped = fails(&run(&daemon, CLIS[0].1, &["--pid", "container:first"], "true"));
    assert!(stopped.contains("cannot join PID of a non running container: "), "{stopped}");
    let missing = fails(&run(&daemon, CLIS[0].1, &["--pid", "container:no-such"], "true"));
    assert!(missing.contains("No such container: no-such"), "{missing}");
    let host = ok(&run(&daemon, CLIS[0].1, &["--pid", "host", "--uts", "host"], "hostname; readlink /proc/self/ns/pid"));
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(host, format!("{}\n{}\n", rustix::system::uname().nodename().to_string_lossy(), own.display()));
    ok(&daemon.docker(&["rm", "first"]));
}

#[test]
fn security_options_are_in_force_or_refused_by_name() {
    let Some(daemon) = with_busybox() else { return };
    let profile = daemon.dir().join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let file = format!("seccomp={}", profile.display());
    for (name, cli) in CLIS {
        let text = |flags: &[&str], script: &str| ok(&run(&daemon, cli, flags, script)).trim().to_owned();
        let status = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\n\\t' ' '";
        assert_eq!(text(&["--security-opt", "no-new-privileges"], status), "NoNewPrivs: 1 Seccomp: 2", "{name}");
        assert_eq!(text(&["--security-opt", "seccomp=unconfined"], status), "NoNewPrivs: 0 Seccomp: 0", "{name}");
        assert_eq!(text(&["--security-opt", &file], "mkdir /x 2>/dev/null && echo made || echo refused"), "refused", "{name}");
        // On a host that has the module the reason is another.
        let has_apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
        let no_apparmor = "is not supported: AppArmor is not enabled on this host";
        let why = if has_apparmor { "AppArmor profile \"mine\" is not loaded" } else { no_apparmor };
        let refused = fails(&run(&daemon, cli, &["--security-opt", "apparmor=mine"], "true"));
        assert!(refused.contains(why), "{name}: {refused}");
        let asked = run(&daemon, cli, &["--security-opt", "label=type:x"], "echo ran");
        if SELinux::of_host().is_enabled() {
            let refused = fails(&asked);
            assert!(
                refused.contains("--security-opt label=type:x is not supported: containers have no SELinux labels"),
                "{name}: {refused}"
            );
        } else {
            assert_eq!(ok(&asked), "ran\n", "{name}");
            let said = String::from_utf8_lossy(&asked.stderr);
            assert!(
                said.contains("SELinux is not enabled on this host: --security-opt label=type:x has no effect"),
                "{name}: {said}"
            );
        }
        let docker_default = run(&daemon, cli, &["--security-opt", "apparmor=docker-default"], "true");
        assert!(has_apparmor || fails(&docker_default).contains(no_apparmor), "{name}");
        // Tools say so everywhere.
        let nothing = ["--security-opt", "apparmor=unconfined", "--security-opt", "label=disable"];
        assert_eq!(text(&nothing, "echo ran"), "ran", "{name}");
        for (flag, value) in [("--pid", "x"), ("--uts", "x"), ("--cgroupns", "x")] {
            let refused = run(&daemon, cli, &[flag, value], "true");
            assert_eq!(refused.status.code(), Some(125), "{name}: {flag}: {}", fails(&refused));
        }
    }
}
