//! What containers say and hear: attach, exec and logs, by the docker CLI, by `ctl`, and by the API's own words.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use system_tests::containers::{CLIS, Cli, end_by, inspect, with_busybox};
use system_tests::{Daemon, PATIENCE, PATIENCE_SECONDS, fails, ok, told, until};

/// A connection of one's own, as `attach` and `exec` answer with.
fn hijack(daemon: &Daemon, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// Reads until this text has come.
fn expect(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = String::new();
    let mut piece = [0; 1024];
    while !seen.contains(text) {
        let count = stream.read(&mut piece).unwrap_or_else(|error| panic!("{text:?} in {seen:?}: {error}"));
        assert!(count > 0, "{text:?} in {seen:?}: the end");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    seen
}

/// Whether the daemon has ended this connection.
fn has_ended(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok()
}

#[test]
fn keys_leave_a_terminal_and_what_runs_in_it() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["run", "-dit", "--network", "none", "--name", "term", "busybox", "sh"]));
    for (query, keys) in [("", &b"\x10\x11"[..]), ("&detachKeys=ctrl-a,x", b"\x01x")] {
        let path = format!("/containers/term/attach?stream=1&stdin=1&stdout=1&stderr=1{query}");
        let mut one = hijack(&daemon, &path, "");
        let mut other = hijack(&daemon, "/containers/term/attach?stream=1&stdin=1&stdout=1", "");
        one.write_all(b"echo fr\"\"om-one\n").unwrap();
        expect(&mut one, "from-one");
        expect(&mut other, "from-one");
        one.write_all(keys).unwrap();
        assert!(has_ended(&mut one), "the keys end this connection");
        other.write_all(b"echo st\"\"ill\n").unwrap();
        expect(&mut other, "still");
        assert_eq!(inspect(&daemon, "term", "{{.State.Status}}"), "running");
    }
    let (status, error) = daemon.ask("POST", "/containers/term/attach?stream=1&detachKeys=ctrl-1", None);
    assert_eq!((status, error["message"].as_str()), (400, Some("Invalid escape keys (ctrl-1) provided")));
    // The same for a further process, which runs on.
    let wanted = json!({"Cmd": ["sh", "-c", "read x; echo got $x; sleep 10000"], "Tty": true, "AttachStdin": true, "AttachStdout": true, "DetachKeys": "ctrl-k"});
    let (_, made) = daemon.ask("POST", "/containers/term/exec", Some(&wanted));
    let id = made["Id"].as_str().unwrap().to_owned();
    let mut exec = hijack(&daemon, &format!("/exec/{id}/start"), r#"{"Tty":true}"#);
    exec.write_all(b"it\n").unwrap();
    expect(&mut exec, "got it");
    exec.write_all(b"\x0b").unwrap();
    assert!(has_ended(&mut exec));
    assert_eq!(daemon.ask("GET", &format!("/exec/{id}/json"), None).1["Running"], true);
    let told = told(&daemon, &[], "{{.Action}}", |events| events.contains(&"exec_detach"));
    assert_eq!(told.iter().filter(|action| *action == "detach").count(), 2, "{told:?}");
    ok(&daemon.docker(&["rm", "-f", "term"]));
}

#[test]
fn attach_gives_the_log_first() {
    let Some(daemon) = with_busybox() else { return };
    let script = "echo one; echo -n tw; while [ ! -e /go ]; do sleep 0.05; done; echo o; echo three";
    ok(&daemon.docker(&["run", "-d", "--tty", "--network", "none", "--name", "c1", "busybox", "sh", "-c", script]));
    until("it has spoken", || ok(&daemon.docker(&["logs", "c1"])).contains("one"));
    let mut all = hijack(&daemon, "/containers/c1/attach?logs=1&stream=1&stdout=1", "");
    end_by(&daemon, "c1", "/go");
    let mut text = String::new();
    all.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\r\ntwo\r\nthree\r\n");
    until("it has ended", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
    let mut log = String::new();
    hijack(&daemon, "/containers/c1/attach?logs=1&stdout=1", "").read_to_string(&mut log).unwrap();
    assert_eq!(log, text);
    let mut both = hijack(&daemon, "/containers/c1/attach?logs=1&stream=1&stdout=1", "");
    ok(&daemon.docker(&["start", "c1"]));
    let mut twice = String::new();
    both.read_to_string(&mut twice).unwrap();
    assert_eq!(twice, [text.as_str(), text.as_str()].concat());
}

#[test]
fn input_ends_where_the_client_ends_it() {
    let Some(daemon) = with_busybox() else { return };
    for (name, program) in [("docker", None), ("ctl", Some(system_tests::program("ctl")))] {
        let run = |arguments: &[&str], input: &str| {
            let host = format!("unix://{}", daemon.socket().display());
            let program = program.clone().unwrap_or_else(|| "docker".into());
            let mut child = std::process::Command::new("timeout")
                .arg(PATIENCE_SECONDS)
                .arg(program)
                .args(["-H", &host])
                .args(arguments)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        // The end of the input is the container's, and what it says after that is still heard.
        let script = "cat; sleep 0.3; echo after";
        let text = ok(&run(&["run", "-i", "--rm", "--network", "none", "busybox", "sh", "-c", script], "in\n"));
        assert_eq!(text, "in\nafter\n", "{name}");
        ok(&daemon.docker(&[
            "run",
            "-di",
            "--network",
            "none",
            "--name",
            "open",
            "busybox",
            "sh",
            "-c",
            "read a; echo heard $a; read b; echo $a $b",
        ]));
        let text = ok(&run(&["exec", "-i", "open", "sh", "-c", script], "exec\n"));
        assert_eq!(text, "exec\nafter\n", "{name}");
        // An input that stays open is not ended by one client of several.
        let mut first = hijack(&daemon, "/containers/open/attach?stream=1&stdin=1", "");
        first.write_all(b"first\n").unwrap();
        first.shutdown(std::net::Shutdown::Write).unwrap();
        drop(first);
        until("the first is heard", || ok(&daemon.docker(&["logs", "open"])) == "heard first\n");
        let mut second = hijack(&daemon, "/containers/open/attach?stream=1&stdin=1&stdout=1", "");
        second.write_all(b"second\n").unwrap();
        expect(&mut second, "first second");
        ok(&daemon.docker(&["rm", "-f", "open"]));
    }
}

#[test]
fn further_processes_have_all_that_docker_gives_them() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c1", "-e", "A=1", "busybox", "sleep", "10000"]));
    for (name, cli) in CLIS {
        let exec = |args: &[&str]| cli(&daemon, &[&["exec"], args].concat());
        let look = "echo $A $B $(pwd) $(id -u):$(id -g)";
        assert_eq!(ok(&exec(&["-e", "B=2", "-w", "/tmp", "-u", "5:6", "c1", "sh", "-c", look])), "1 2 /tmp 5:6\n", "{name}");
        let effective = |args: &[&str]| ok(&exec(&[args, &["c1", "grep", "CapEff", "/proc/self/status"]].concat()));
        assert_ne!(effective(&["--privileged"]), effective(&[]), "{name}");
        assert_eq!(exec(&["c1", "sh", "-c", "exit 9"]).status.code(), Some(9), "{name}");
        assert_eq!(exec(&["c1", "no-such-program"]).status.code(), Some(127), "{name}");
        assert_eq!(exec(&["c1", "/etc/passwd"]).status.code(), Some(126), "{name}");
        let file = format!("/tmp/{name}");
        ok(&exec(&["-d", "c1", "touch", &file]));
        until("it has run", || exec(&["c1", "test", "-e", &file]).status.success());
        let user = exec(&["-u", "ghost", "c1", "true"]);
        let user = [user.stdout, user.stderr].concat();
        let user = String::from_utf8_lossy(&user);
        assert!(user.contains("unable to find user ghost: no matching entries in passwd file"), "{name}: {user}");
        // The terminal before may take a moment to go.
        until("it has the first terminal", || ok(&exec(&["-t", "c1", "tty"])).trim() == "/dev/pts/0");
    }
    let (_, made) =
        daemon.ask("POST", "/containers/c1/exec", Some(&json!({"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": true})));
    let path = format!("/exec/{}", made["Id"].as_str().unwrap());
    assert_eq!(daemon.ask("GET", &format!("{path}/json"), None).1["ExitCode"], Value::Null);
    let _ = has_ended(&mut hijack(&daemon, &format!("{path}/start"), "{}"));
    let shown = daemon.ask("GET", &format!("{path}/json"), None).1;
    assert_eq!((&shown["Running"], &shown["ExitCode"]), (&json!(false), &json!(3)));
    assert_eq!(daemon.ask("POST", &format!("{path}/start"), Some(&json!({}))).0, 409, "it has run already");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
}

#[test]
fn signals_reach_what_is_attached_to() {
    let Some(daemon) = with_busybox() else { return };
    let host = format!("unix://{}", daemon.socket().display());
    for (name, program) in [("docker", "docker".into()), ("ctl", system_tests::program("ctl"))] {
        let script = "trap 'echo got; exit 7' HUP; echo ready; while :; do sleep 0.05; done";
        let mut child = std::process::Command::new(program)
            .args(["-H", &host, "run", "--rm", "--network", "none", "--name", "sig", "busybox", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::HUP).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "got\n", "{name}");
        until("it is removed", || ok(&daemon.docker(&["ps", "-aq"])).is_empty());
        // A real-time signal by its name.
        let script = "trap 'exit 8' 37; echo ready; while :; do sleep 0.05; done";
        ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "rt", "busybox", "sh", "-c", script]));
        until("it is ready", || ok(&daemon.docker(&["logs", "rt"])) == "ready\n");
        let cli: Cli = if name == "docker" { CLIS[0].1 } else { CLIS[1].1 };
        ok(&cli(&daemon, &["kill", "-s", "RTMIN+3", "rt"]));
        assert_eq!(ok(&cli(&daemon, &["wait", "rt"])), "8\n", "{name}");
        let bad = fails(&cli(&daemon, &["kill", "-s", "NOPE", "rt"]));
        assert!(bad.to_lowercase().contains("invalid signal: nope"), "{name}: {bad}");
        ok(&daemon.docker(&["rm", "-f", "rt"]));
    }
}

#[test]
fn logs_are_rotated_compressed_and_read_in_every_way() {
    let Some(daemon) = with_busybox() else { return };
    for (name, cli) in CLIS {
        let flags = [
            "--log-opt",
            "max-size=20k",
            "--log-opt",
            "max-file=4",
            "--log-opt",
            "compress=true",
            "--log-opt",
            "labels=tier",
            "--log-opt",
            "tag={{.Name}}",
            "-l",
            "tier=front end",
        ];
        let script = "i=0; while [ $i -lt 600 ]; do echo line-$i; i=$((i+1)); done; echo error >&2; sleep 0.2; echo last";
        let run = [&["run", "-d", "--network", "none", "--name", "c1"], &flags[..], &["busybox", "sh", "-c", script]].concat();
        ok(&cli(&daemon, &run));
        until("it has ended", || inspect(&daemon, "c1", "{{.State.Running}}") == "false");
        let folder = daemon.dir().join("root/containers").join(inspect(&daemon, "c1", "{{.Id}}"));
        until("the older files are compressed", || {
            let names: Vec<String> =
                std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.contains(&"container.log.1.gz".to_owned())
                && !names.iter().any(|name| name.contains(".new") || name.ends_with("log.1"))
        });
        let text = ok(&cli(&daemon, &["logs", "c1"]));
        let lines: Vec<&str> = text.lines().collect();
        let first: usize = lines[0].strip_prefix("line-").unwrap().parse().unwrap();
        let mut expected: Vec<String> = (first..600).map(|number| format!("line-{number}")).collect();
        expected.push("last".to_owned());
        assert_eq!(lines, expected, "{name}: all that is kept, once, in order");
        assert!(lines.len() > 450, "{name}: four files of 20 kB: {}", lines.len());
        assert_eq!(ok(&cli(&daemon, &["logs", "--tail", "300", "c1"])).lines().count(), 299, "{name}: one of them is an error");
        let details = ok(&cli(&daemon, &["logs", "--details", "--tail", "2", "c1"]));
        assert_eq!(details, "tag=c1,tier=front+end last\n", "{name}");
        let stamped = ok(&cli(&daemon, &["logs", "-t", "--tail", "2", "c1"]));
        let (time, rest) = stamped.trim().split_once(' ').unwrap();
        assert!(rest == "last" && time.ends_with('Z') && time.len() == 30, "{name}: {stamped}");
        assert_eq!(ok(&cli(&daemon, &["logs", "--since", time, "--tail", "all", "c1"])), "last\n", "{name}");
        assert_eq!(ok(&cli(&daemon, &["logs", "--until", "1h", "c1"])), "", "{name}: nothing is so old");
        assert_eq!(inspect(&daemon, "c1", "{{.HostConfig.LogConfig.Type}}"), "json-file");
        ok(&daemon.docker(&["rm", "c1"]));
        ok(&cli(&daemon, &["run", "-d", "--network", "none", "--name", "none", "--log-driver", "none", "busybox", "echo", "x"]));
        assert_eq!(inspect(&daemon, "none", "{{.HostConfig.LogConfig.Type}}"), "none");
        let unread = fails(&cli(&daemon, &["logs", "none"]));
        assert!(unread.contains("configured logging driver does not support reading"), "{name}: {unread}");
        ok(&cli(&daemon, &["run", "--network", "none", "--name", "local", "--log-driver", "local", "busybox", "echo", "kept"]));
        assert_eq!(ok(&cli(&daemon, &["logs", "local"])), "kept\n", "{name}");
        for (flags, text) in [
            (&["--log-opt", "tag={{.Nobody}}"][..], "template: log-tag: {{.Nobody}} is not supported"),
            (&["--log-opt", "compress=true"], "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ] {
            let refused = fails(&cli(&daemon, &[&["create", "--network", "none"], flags, &["busybox", "true"]].concat()));
            assert!(refused.contains(text), "{name}: {refused}");
        }
        until("both have ended", || ok(&daemon.docker(&["ps", "-q"])).is_empty());
        ok(&daemon.docker(&["rm", "none", "local"]));
    }
}

#[test]
fn followers_are_many_and_end_with_the_run_that_they_follow() {
    let Some(daemon) = with_busybox() else { return };
    let script = "echo begun; while [ ! -e /go ]; do sleep 0.05; done; rm /go; echo ends";
    let run = ["run", "-d", "--network", "none", "--name", "c1", "--restart", "always", "busybox", "sh", "-c", script];
    ok(&daemon.docker(&run));
    until("it speaks", || ok(&daemon.docker(&["logs", "c1"])) == "begun\n");
    // More than the daemon has threads for work that blocks, and more than a user may have inotify instances.
    let mut followers: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET /containers/c1/logs?follow=1&stdout=1 HTTP/1.0\r\nHost: d\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for follower in &mut followers {
        expect(follower, "begun");
    }
    assert_eq!(ok(&daemon.ctl(&["exec", "c1", "echo", "here"])), "here\n", "the daemon answers as ever");
    end_by(&daemon, "c1", "/go");
    for follower in &mut followers {
        let mut rest = String::new();
        follower.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("ends") && !rest.contains("begun"), "{rest:?}");
    }
    until("its policy starts it again", || ok(&daemon.docker(&["logs", "c1"])) == "begun\nends\nbegun\n");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
}
