//! Where containers log: every driver and option, by the docker CLI and by `ctl`.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use system_tests::containers::{CLIS, detached, end_by, err, inspect, out, with_busybox};
use system_tests::{Daemon, PATIENCE, can, fails, ok, until};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Source: namespaces(7).
const CLONE_NEWNS: u64 = 0x0002_0000;

/// What reads and writes the lines of a container whose log may lose some.
fn log_process(daemon: &Daemon, name: &str) -> Option<Pid> {
    let pid = inspect(daemon, name, "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).ok()?;
    let is_log = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "fsd-shim-log\n");
    Pid::from_raw(children.split_whitespace().find(is_log)?.parse().ok()?)
}

/// How many lines the log says are not in it.
fn dropped(details: &str) -> u64 {
    let attributes = details.lines().filter_map(|line| line.split_once(' ')).map(|(attributes, _)| attributes);
    attributes
        .flat_map(|all| all.split(','))
        .filter_map(|pair| pair.strip_prefix("dropped="))
        .map(|n| n.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_log_that_takes_nothing_holds_up_no_container_in_the_non_blocking_mode() {
    const LINES: usize = 5000;
    let Some(daemon) = with_busybox() else { return };
    for driver in ["json-file", "local"] {
        let flags = ["--log-driver", driver, "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k"];
        let script = format!(
            "echo first; while [ ! -e /go ]; do sleep 0.05; done; i=0; \
             while [ $i -lt {LINES} ]; do echo {}-$i; i=$((i+1)); done; touch /said; n=0; \
             while [ ! -e /end ]; do sleep 0.05; n=$((n+1)); echo tick; done; echo last $n",
            "x".repeat(100)
        );
        detached(&daemon, "c1", &flags, &script);
        until("it has spoken", || ok(&daemon.docker(&["logs", "c1"])) == "first\n");
        let process = log_process(&daemon, "c1").unwrap();
        kill_process(process, Signal::STOP).unwrap();
        ok(&daemon.docker(&["exec", "c1", "touch", "/go"]));
        until("it has said all", || daemon.docker(&["exec", "c1", "test", "-e", "/said"]).status.success());
        assert_eq!(ok(&daemon.ctl(&["exec", "c1", "echo", "here"])), "here\n");
        kill_process(process, Signal::CONT).unwrap();
        until("there is room again", || ok(&daemon.docker(&["logs", "--tail", "1", "c1"])) == "tick\n");
        end_by(&daemon, "c1", "/end");
        assert_eq!(ok(&daemon.docker(&["wait", "c1"])), "0\n");
        let details = ok(&daemon.ctl(&["logs", "--details", "c1"]));
        let lines = details.lines().count();
        let ticks = details.trim_end().rsplit_once(" last ").unwrap_or_else(|| panic!("{driver}: {lines}")).1;
        assert!(lines < LINES, "{driver}: {lines}");
        let said = LINES as u64 + 2 + ticks.parse::<u64>().unwrap();
        assert_eq!(lines as u64 + dropped(&details), said, "{driver}: each line is there, or counted");
        until("the daemon says so", || daemon.log().contains("lines of a container's output are not in its log"));
        ok(&daemon.docker(&["rm", "c1"]));
    }
    // A process that is killed is started again for what comes after.
    let script =
        "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; while [ ! -e /end ]; do sleep 0.05; done; echo last";
    detached(&daemon, "c1", &["--log-opt", "mode=non-blocking"], script);
    until("it has spoken", || ok(&daemon.docker(&["logs", "c1"])) == "first\n");
    kill_process(log_process(&daemon, "c1").unwrap(), Signal::KILL).unwrap();
    ok(&daemon.docker(&["exec", "c1", "touch", "/go"]));
    until("it goes on", || ok(&daemon.docker(&["logs", "c1"])) == "first\nsecond\n");
    // All of the log of one that runs goes to who attaches late.
    let attached = daemon.curl(&["-X", "POST", "http://d/containers/c1/attach?logs=1&stdout=1"]);
    assert!(String::from_utf8_lossy(&attached.stdout).contains("second"), "{attached:?}");
    end_by(&daemon, "c1", "/end");
    ok(&daemon.docker(&["wait", "c1"]));
    assert_eq!(ok(&daemon.docker(&["logs", "c1"])), "first\nsecond\nlast\n");
    ok(&daemon.docker(&["rm", "c1"]));
}

/// What every driver that can be read does with every flag of `logs`.
fn read_in_every_way(daemon: &Daemon, driver: &str) {
    for (name, cli) in CLIS {
        let what = format!("{driver}, {name}");
        let logs = |flags: &[&str]| cli(daemon, &[&["logs"], flags, &["c1"]].concat());
        let flags =
            ["--log-driver", driver, "--log-opt", "labels=tier", "--log-opt", "env-regex=^CO", "--log-opt", "tag={{.Name}}"];
        let run = [&["run", "-d", "--network", "none", "--name", "c1", "-l", "tier=front end", "-e", "COLOR=red"], &flags[..]];
        let script = "echo one; echo wrong >&2; while [ ! -e /go ]; do sleep 0.05; done; echo; echo three; echo -n four";
        ok(&cli(daemon, &[&run.concat()[..], &["busybox", "sh", "-c", script]].concat()));
        until("it has spoken", || {
            let said = logs(&[]);
            out(&said) == "one\n" && err(&said) == "wrong\n"
        });
        let (mut follower, mut output) = follow(daemon, name);
        let mut followed = String::new();
        output.read_line(&mut followed).unwrap();
        let mut new = follow_from_now(daemon);
        end_by(daemon, "c1", "/go");
        output.read_to_string(&mut followed).unwrap();
        assert!(follower.wait().unwrap().success());
        assert_eq!(followed, "one\n\nthree\nfour", "{what}");
        let mut text = String::new();
        new.read_to_string(&mut text).unwrap();
        assert!(text.contains("four") && text.contains("three") && !text.contains("one"), "{what}: {text:?}");
        let all = logs(&[]);
        assert_eq!((out(&all).as_str(), err(&all).as_str()), ("one\n\nthree\nfour", "wrong\n"), "{what}");
        assert_eq!(out(&logs(&["-f"])), "one\n\nthree\nfour", "{what}: of one that has ended");
        for (tail, expected) in
            [("0", ""), ("1", "four"), ("2", "three\nfour"), ("all", "one\n\nthree\nfour"), ("99", "one\n\nthree\nfour")]
        {
            assert_eq!(out(&logs(&["--tail", tail])), expected, "{what}: {tail}");
        }
        let stamped = ok(&logs(&["-t"]));
        let times: Vec<&str> = stamped.lines().map(|line| line.split_once(' ').unwrap().0).collect();
        assert!(times.len() == 4 && times.is_sorted() && times.iter().all(|time| time.len() == 30), "{what}: {stamped}");
        let time = times[0];
        // Before and after, in every form that a time has.
        assert_eq!(out(&logs(&["--until", time])), "one\n", "{what}");
        assert_eq!(out(&logs(&["--since", time])), "one\n\nthree\nfour", "{what}");
        assert_eq!(out(&logs(&["--since", times[1], "--tail", "2"])), "three\nfour", "{what}");
        let unix = ok(&Command::new("date").args(["-d", times[3], "+%s.%N"]).output().unwrap());
        assert!(out(&logs(&["--since", unix.trim()])).ends_with("four"), "{what}");
        assert!(!out(&logs(&["--since", unix.trim()])).contains("one"), "{what}");
        assert_eq!(out(&logs(&["--since", "1h"])), "one\n\nthree\nfour", "{what}");
        assert_eq!(out(&logs(&["--until", "1h"])), "", "{what}");
        assert_eq!(out(&logs(&["--since", "2100-01-01"])), "", "{what}");
        let details = ok(&logs(&["--details", "--tail", "1"]));
        let expected = match driver {
            "journald" => "COLOR=red,TIER=front+end four",
            _ => "COLOR=red,tag=c1,tier=front+end four",
        };
        assert_eq!(details, expected, "{what}");
        let attached = daemon.curl(&["-X", "POST", "http://d/containers/c1/attach?logs=1&stdout=1"]);
        assert!(String::from_utf8_lossy(&attached.stdout).contains("three"), "{what}");
        ok(&daemon.docker(&["rm", "c1"]));
    }
}

/// `logs -f`, and what it says.
fn follow(daemon: &Daemon, name: &str) -> (Child, BufReader<ChildStdout>) {
    let program = if name == "docker" { PathBuf::from("docker") } else { system_tests::program(name) };
    let mut command = system_tests::patient(program);
    command.arg("-H").arg(format!("unix://{}", daemon.socket().display())).args(["logs", "-f", "c1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// What comes from now on: once there is an answer, it is followed.
fn follow_from_now(daemon: &Daemon) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /containers/c1/logs?follow=1&stdout=1&tail=0 HTTP/1.0\r\nHost: d\r\n\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    stream
}

#[test]
fn logs_in_files_are_read_in_every_way() {
    let Some(daemon) = with_busybox() else { return };
    for driver in ["json-file", "local"] {
        read_in_every_way(&daemon, driver);
    }
}

#[test]
fn options_that_make_no_sense_are_refused_in_dockers_words() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        for (flags, text) in [
            (&["--log-opt", "color=x"][..], "unknown log opt 'color' for json-file log driver"),
            (&["--log-driver", "local", "--log-opt", "color=x"], "unknown log opt 'color' for log driver local"),
            (&["--log-driver", "nosuch"], "logger: no log driver named 'nosuch' is registered"),
            (&["--log-driver", "fluentd"], "--log-driver fluentd is not supported"),
            (&["--log-opt", "mode=fast"], "logger: logging mode not supported: fast"),
            (&["--log-opt", "max-buffer-size=1m"], "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
            (
                &["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=1q"],
                "error parsing option max-buffer-size: invalid suffix: 'q'",
            ),
        ] {
            let refused = fails(&cli(&daemon, &[&["create", "--network", "none"], flags, &["busybox", "true"]].concat()));
            assert!(refused.contains(text), "{name}: {refused}");
        }
        let blocking = ["create", "--name", "c1", "--network", "none", "--log-opt", "mode=blocking", "busybox", "true"];
        ok(&cli(&daemon, &blocking));
        ok(&cli(&daemon, &["rm", "c1"]));
        if !std::path::Path::new(SOCKET).exists() {
            let refused = fails(&cli(&daemon, &["create", "--network", "none", "--log-driver", "journald", "busybox", "true"]));
            assert!(refused.contains("journald is not enabled on this host"), "{name}: {refused}");
        }
    }
    let plugins = daemon.ask("GET", "/info", None).1["Plugins"]["Log"].clone();
    assert_eq!(plugins, serde_json::json!(["journald", "json-file", "local", "none"]));
}

#[test]
fn the_daemons_driver_is_that_of_containers_that_name_none() {
    if !system_tests::may_mount() || !system_tests::has("docker") {
        return;
    }
    let Some(image) = system_tests::images::made("busybox.tar") else { return };
    let flags = ["--log-driver", "local", "--log-opt", "max-size=4k", "--log-opt", "max-file=2"];
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), &flags);
    ok(&daemon.ctl(&["load", "-q", "-i", image.to_str().unwrap()]));
    assert_eq!(daemon.ask("GET", "/info", None).1["LoggingDriver"], "local");
    let config = "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}";
    detached(&daemon, "c1", &[], "i=0; while [ $i -lt 500 ]; do echo line-$i; i=$((i+1)); done");
    assert_eq!(inspect(&daemon, "c1", config), "local 4k");
    ok(&daemon.docker(&["wait", "c1"]));
    let kept = ok(&daemon.docker(&["logs", "c1"]));
    assert!(kept.lines().count() < 300 && kept.ends_with("line-499\n"), "two files of 4 kB: {}", kept.lines().count());
    detached(&daemon, "c2", &["--log-driver", "json-file"], "true");
    assert_eq!(inspect(&daemon, "c2", config), "json-file");
    ok(&daemon.docker(&["rm", "-f", "c1", "c2"]));
    let dir = tempfile::tempdir().unwrap();
    let bad = Command::new(system_tests::program("fsd"))
        .args(["config", "check", "--log-opt", "color=x", "--root"])
        .arg(dir.path())
        .output();
    assert!(fails(&bad.unwrap()).contains("failed to set log opts: unknown log opt 'color' for json-file log driver"));
}

/// A real journald in a mount namespace of this thread's own, which its children are in.
struct Journald(Child);

impl Journald {
    fn start() -> Option<Journald> {
        let program = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        if !system_tests::may_mount() || !can("systemd-journald (not installed)", program.is_some()) {
            return None;
        }
        fs_base::sys::process::unshare(CLONE_NEWNS).unwrap();
        ok(&Command::new("mount").args(["--make-rprivate", "/"]).output().unwrap());
        ok(&Command::new("mount").args(["-t", "tmpfs", "journal", "/run"]).output().unwrap());
        for dir in ["/run/systemd/journal", "/run/systemd/journald.conf.d", "/run/log"] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let config = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\nForwardToWall=no\n";
        std::fs::write("/run/systemd/journald.conf.d/test.conf", config).unwrap();
        let child = Command::new(program.unwrap()).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let journald = Journald(child);
        until("it listens", || std::os::unix::net::UnixDatagram::unbound().unwrap().connect(SOCKET).is_ok());
        Some(journald)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test where there is a journald, on a thread of its own: its namespace is nobody else's.
fn with_journald(test: fn(&Journald, &Daemon)) {
    let thread = std::thread::spawn(move || {
        let Some(journald) = Journald::start() else { return };
        let Some(daemon) = with_busybox() else { return };
        test(&journald, &daemon);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn journal(matches: &[&str]) -> String {
    ok(&Command::new("journalctl").args(["-q", "--no-pager", "-a", "-o", "export"]).args(matches).output().unwrap())
}

#[test]
fn the_journal_is_written_and_read_in_every_way() {
    with_journald(|_, daemon| {
        read_in_every_way(daemon, "journald");
        let long = "y".repeat(20_000);
        let script = format!("echo {long}; echo oops >&2");
        // More than a datagram takes.
        let labels: Vec<String> = ["a", "b", "c"].iter().map(|name| format!("{name}={}", name.repeat(100_000))).collect();
        let flags = ["--log-driver", "journald", "--log-opt", "tag=web/{{.Name}}", "--log-opt", "labels=a,b,c"];
        let flags: Vec<&str> = flags.into_iter().chain(labels.iter().flat_map(|label| ["-l", label])).collect();
        detached(daemon, "c1", &flags, &script);
        ok(&daemon.docker(&["wait", "c1"]));
        let said = daemon.docker(&["logs", "c1"]);
        assert!(out(&said) == format!("{long}\n") && err(&said) == "oops\n", "{} bytes, {}", said.stdout.len(), err(&said));
        let id = inspect(daemon, "c1", "{{.Id}}");
        let errors = journal(&[&format!("CONTAINER_ID_FULL={id}"), "PRIORITY=3"]);
        for field in [
            &format!("CONTAINER_ID={}", &id[..12])[..],
            "CONTAINER_NAME=c1",
            "CONTAINER_TAG=web/c1",
            "SYSLOG_IDENTIFIER=web/c1",
            "IMAGE_NAME=busybox",
            "MESSAGE=oops",
            &format!("B={}", "b".repeat(100_000)),
        ] {
            assert!(errors.lines().any(|line| line == field), "{}", &field[..field.len().min(99)]);
        }
        let pieces = journal(&[&format!("CONTAINER_ID_FULL={id}"), "CONTAINER_PARTIAL_MESSAGE=true"]);
        assert_eq!(pieces.lines().filter(|line| line.starts_with("MESSAGE=")).count(), 1);
        assert_eq!(inspect(daemon, "c1", "{{.LogPath}}"), "");
        ok(&daemon.docker(&["rm", "c1"]));
        let refused = fails(&daemon.docker(&["create", "--log-driver", "journald", "--log-opt", "max-size=1m", "busybox"]));
        assert!(refused.contains("unknown log opt 'max-size' for journald log driver"), "{refused}");
    });
}

#[test]
fn a_journald_that_stops_holds_up_its_containers_and_nothing_else() {
    with_journald(|journald, daemon| {
        let script = "x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; \
                      echo first; while [ ! -e /go ]; do sleep 0.05; done; i=0; \
                      while [ $i -lt 3000 ]; do echo line-$i-$x; i=$((i+1)); done; touch /said; while :; do sleep 0.05; done";
        detached(daemon, "waits", &["--log-driver", "journald"], script);
        let lossy = ["--log-driver", "journald", "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=8k"];
        detached(daemon, "loses", &lossy, script);
        for name in ["waits", "loses"] {
            until("it has spoken", || ok(&daemon.docker(&["logs", name])) == "first\n");
        }
        journald.signal(Signal::STOP);
        for name in ["waits", "loses"] {
            ok(&daemon.docker(&["exec", name, "touch", "/go"]));
        }
        let has_said = |name: &str| daemon.docker(&["exec", name, "test", "-e", "/said"]).status.success();
        until("it goes on", || has_said("loses"));
        assert!(!has_said("waits"), "it waits for its log, and its shim answers all the same");
        journald.signal(Signal::CONT);
        until("it goes on", || has_said("waits"));
        let last = |name: &str| out(&daemon.docker(&["logs", "--tail", "1", name]));
        until("all is logged", || last("waits").starts_with("line-2999-a"));
        assert_eq!(ok(&daemon.docker(&["logs", "waits"])).lines().count(), 3001, "nothing is lost");
        // One that can't say what it has to is ended like any other.
        ok(&daemon.docker(&["exec", "waits", "rm", "/go"]));
        journald.signal(Signal::STOP);
        ok(&daemon.docker(&["kill", "waits", "loses"]));
        until("both have ended", || ok(&daemon.docker(&["ps", "-q"])).is_empty());
        journald.signal(Signal::CONT);
        assert!(ok(&daemon.docker(&["logs", "loses"])).lines().count() < 3001);
        ok(&daemon.docker(&["rm", "waits", "loses"]));
        // What is still in the pipe when its container ends is not lost either, however long that waits.
        journald.signal(Signal::STOP);
        let script = "i=0; while [ $i -lt 4000 ]; do echo line-$i; i=$((i+1)); done";
        detached(daemon, "ends", &["--log-driver", "journald"], script);
        ok(&daemon.docker(&["wait", "ends"]));
        journald.signal(Signal::CONT);
        until("all is logged", || last("ends") == "line-3999\n");
        assert_eq!(ok(&daemon.docker(&["logs", "ends"])).lines().count(), 4000, "nothing is lost");
        ok(&daemon.docker(&["rm", "ends"]));
        // Without it nothing starts, by name.
        ok(&daemon.docker(&["create", "--name", "c1", "--network", "none", "--log-driver", "journald", "busybox", "true"]));
        std::fs::rename(SOCKET, "/run/elsewhere").unwrap();
        let refused = fails(&daemon.docker(&["start", "c1"]));
        assert!(refused.contains("failed to initialize logging driver: journald is not enabled on this host"), "{refused}");
        std::fs::rename("/run/elsewhere", SOCKET).unwrap();
        ok(&daemon.docker(&["start", "c1"]));
        ok(&daemon.docker(&["wait", "c1"]));
        ok(&daemon.docker(&["rm", "c1"]));
    });
}
