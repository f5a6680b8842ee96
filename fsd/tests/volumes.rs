//! Volumes over the socket of a real daemon, which is killed in between.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A daemon on a root of its own; killed and cleaned up with its value.
struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(dir.path());
        let daemon = Daemon { dir, child };
        daemon.wait();
        daemon
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = spawn(self.dir.path());
        self.wait();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("fsd.sock")
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.call("GET", "/_ping", None).is_none() {
            assert!(Instant::now() < end, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Status and body; `None` if the daemon was not there to the end.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: d\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(method, path, body).expect("an answer")
    }

    fn names(&self) -> Vec<String> {
        let (_, list) = self.ask("GET", "/v1.47/volumes", None);
        let list = list["Volumes"].as_array().unwrap().clone();
        list.iter().map(|volume| volume["Name"].as_str().unwrap().to_owned()).collect()
    }

    fn checks_clean(&self) {
        let (_, text) = self.ask("POST", "/fsd/v1/check", None);
        let text = if text.is_string() { text.as_str().unwrap().to_owned() } else { text.to_string() };
        let last: Value = serde_json::from_str(text.trim().lines().last().unwrap()).unwrap();
        assert_eq!(last["summary"]["findings"], 0, "{text}");
    }
}

fn spawn(dir: &std::path::Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_fsd"))
        .args(["--log", "warn"])
        .args(["--root".as_ref(), dir.join("root").as_os_str(), "--run".as_ref(), dir.join("run").as_os_str()])
        .args(["-H", &format!("unix://{}", dir.join("fsd.sock").display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(name: &str) -> Value {
    json!({"Name": name, "Driver": "local", "Labels": {"a": "b"}})
}

#[test]
fn the_shapes_are_dockers() {
    let daemon = Daemon::start();
    let (status, made) = daemon.ask("POST", "/v1.47/volumes/create", Some(&named("wv1")));
    let mountpoint = daemon.dir.path().join("root/volumes/wv1/_data");
    let created = made["CreatedAt"].as_str().unwrap();
    assert!(created.ends_with('Z') && created.len() == "2026-11-21T00:23:29Z".len(), "{created}");
    let want = json!({"CreatedAt": created, "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": mountpoint,
        "Name": "wv1", "Options": null, "Scope": "local"});
    assert_eq!((status, &made), (201, &want));
    assert_eq!(daemon.ask("GET", "/volumes/wv1", None), (200, want.clone()));
    let filter = "%7B%22dangling%22%3A%7B%22true%22%3Atrue%7D%7D";
    let listed = daemon.ask("GET", &format!("/v1.41/volumes?filters={filter}"), None);
    assert_eq!(listed, (200, json!({"Volumes": [want], "Warnings": null})));
    let (_, usage) = daemon.ask("GET", "/system/df", None);
    assert_eq!(usage["Volumes"][0]["UsageData"]["RefCount"], 0);
    let (status, refused) = daemon.ask("GET", "/v1.41/volumes/nosuch", None);
    assert_eq!((status, &refused["message"]), (404, &json!("get nosuch: no such volume")));
    let bad = daemon.ask("POST", "/volumes/create", Some(&json!({"Name": "a/b"})));
    assert_eq!(bad.0, 400);
    assert_eq!(daemon.ask("DELETE", "/v1.41/volumes/wv1", None).0, 204);
    assert!(daemon.names().is_empty());
}

/// From API 1.42 on, a prune without `all` takes anonymous volumes only.
#[test]
fn a_prune_goes_by_the_version_that_asks() {
    let daemon = Daemon::start();
    let (_, anonymous) = daemon.ask("POST", "/volumes/create", Some(&json!({})));
    daemon.ask("POST", "/volumes/create", Some(&named("kept")));
    let (_, pruned) = daemon.ask("POST", "/v1.42/volumes/prune", None);
    assert_eq!(pruned["VolumesDeleted"], json!([anonymous["Name"]]));
    assert!(pruned["SpaceReclaimed"].as_u64().unwrap() > 0);
    let (_, pruned) = daemon.ask("POST", "/v1.41/volumes/prune", None);
    assert_eq!(pruned["VolumesDeleted"], json!(["kept"]));
}

/// Killed at any moment between making and removing, the daemon comes back with rows and bytes that agree, and
/// with every volume whose making was answered and whose removal was not begun.
#[test]
fn a_kill_in_the_middle_loses_and_leaves_nothing() {
    let mut daemon = Daemon::start();
    for round in 0..15u64 {
        let keeper = format!("keep{round}");
        assert_eq!(daemon.ask("POST", "/volumes/create", Some(&named(&keeper))).0, 201);
        std::fs::write(daemon.dir.path().join("root/volumes").join(&keeper).join("_data/f"), "1").unwrap();
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                for n in 0.. {
                    let name = format!("r{round}n{n}");
                    let made = daemon.call("POST", "/volumes/create", Some(&named(&name)));
                    let gone = daemon.call("DELETE", &format!("/volumes/{name}"), None);
                    if made.is_none() || gone.is_none() {
                        return;
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(3 + round * 7 % 40));
            let pid = rustix::process::Pid::from_child(&daemon.child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            working.join().unwrap();
        });
        daemon.child.wait().unwrap();
        daemon.restart();
        daemon.checks_clean();
        let root = daemon.dir.path().join("root");
        assert!(root.join("volumes").join(&keeper).join("_data/f").exists());
        for dir in ["tmp", "trash"] {
            assert_eq!(std::fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
        }
        let mut folders: Vec<_> = std::fs::read_dir(root.join("volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        folders.sort();
        assert_eq!(folders, daemon.names());
    }
    daemon.kill();
}
