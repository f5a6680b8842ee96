//! Clients of a container's streams that are slow, late, or gone; and further processes that take long to begin.
#![allow(clippy::unwrap_used)] // a failed step fails the test

#[path = "common/mod.rs"]
mod common;

use std::fmt::Write;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{Box, able};
use engine::shim::proto::ExecRequest;
use engine::spec::{ExecProcess, exec_process};
use fs_base::sys::root::Root;

/// The output of Docker's frames, up to `most` bytes or the end.
fn output(stream: &mut UnixStream, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut head = [0; 8];
    while text.len() < most && stream.read_exact(&mut head).is_ok() {
        let mut piece = vec![0; u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize];
        stream.read_exact(&mut piece).unwrap();
        text.extend(piece);
    }
    text
}

#[test]
fn a_client_that_stalls_does_not_hold_its_container_for_ever_and_misses_nothing() {
    if !able() {
        return;
    }
    // Lines enough for every buffer on the way, a piece of a line at the moment of the stall, and more after it.
    let script = "i=0; while [ $i -lt 60000 ]; do echo line-number-$i; i=$((i+1)); done; touch /tmp/done; echo -n no; sleep 1; echo -n end";
    let mut container = Box::new(&["sh", "-c", script]);
    container.launch().unwrap();
    let client = container.client();
    let mut stalled = client.attach(false, true, true).unwrap();
    let started = Instant::now();
    client.start().unwrap();
    let done = container.tree().join("tmp/done");
    while !done.exists() {
        assert!(started.elapsed() < Duration::from_secs(300), "the container hangs");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(started.elapsed() > Duration::from_secs(9), "it waited for its client first: {:?}", started.elapsed());
    let text = String::from_utf8(output(&mut stalled, usize::MAX)).unwrap();
    let mut expected = String::new();
    for number in 0..60000 {
        writeln!(expected, "line-number-{number}").unwrap();
    }
    expected.push_str("noend");
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    container.ended();
}

#[test]
fn a_client_that_comes_late_gets_the_log_and_goes_on_without_a_gap() {
    if !able() {
        return;
    }
    let script = "echo one; echo bad >&2; echo -n tw; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo o; echo three";
    let mut container = Box::new(&["sh", "-c", script]);
    container.launch().unwrap();
    let client = container.client();
    let mut early = client.attach(false, true, false).unwrap();
    client.start().unwrap();
    assert_eq!(output(&mut early, "one\ntw".len()), b"one\ntw");
    let mut all = client.attach_with_logs(false, true, false).unwrap();
    let mut rest = client.attach(false, true, true).unwrap();
    std::fs::write(container.tree().join("tmp/go"), "").unwrap();
    assert_eq!(String::from_utf8(output(&mut all, usize::MAX)).unwrap(), "one\ntwo\nthree\n");
    assert_eq!(String::from_utf8(output(&mut rest, usize::MAX)).unwrap(), "o\nthree\n");
    container.ended();
}

#[test]
fn a_process_that_does_not_begin_holds_nothing_up() {
    if !able() {
        return;
    }
    let mut container = Box::new(&["sh", "-c", "while :; do echo tick; sleep 0.02; done"]);
    container.launch().unwrap();
    let client = container.client();
    client.start().unwrap();
    let mut live = client.attach(false, true, false).unwrap();
    let _ = output(&mut live, 10);
    let root = Root::from_fd(client.root().unwrap());
    let exec = |id: &str, args: &[&str]| {
        let exec = ExecProcess { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..ExecProcess::default() };
        let process = exec_process(&container.container, &exec, &root).unwrap();
        ExecRequest { id: id.to_owned(), process, unconfined: false, attach: true, stdin: false, size: None }
    };
    // Frozen between its birth and its program, as one that waits for a dead server.
    let cgroup =
        engine::cgroup::Cgroup::open(container.container.cgroup_parent.as_deref(), container.container.id.as_str()).unwrap();
    cgroup.freeze().unwrap();
    let (late, request) = (client.clone(), exec("late", &["echo", "late"]));
    let waiting = std::thread::spawn(move || late.exec(request).map(|(_, mut stream)| output(&mut stream, usize::MAX)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    assert!(client.state().is_ok(), "the shim answers");
    assert!(!waiting.is_finished());
    cgroup.thaw().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), b"late\n");
    let _ = output(&mut live, 10);
    let missing = client.exec(exec("none", &["no-such-program"])).unwrap_err().to_string();
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
    client.kill(9).unwrap();
    container.ended();
}
