//! A real daemon for a test: started on a root of its own, killed, started again.

#![allow(clippy::unwrap_used, dead_code)] // a helper fails like its test; not every test needs all of it

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A daemon on a root of its own; killed and cleaned up with its value.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(dir.path());
        let daemon = Daemon { dir, child };
        daemon.wait();
        daemon
    }

    /// The folder that all of it is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9`, also while other threads are talking to it.
    pub fn kill_now(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Waits for the killed one's end, and starts another on the same root.
    pub fn restart(&mut self) {
        self.child.wait().unwrap();
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
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        self.send(method, path, body.map(Value::to_string).unwrap_or_default().as_bytes())
    }

    /// Like [`Daemon::call`], with any bytes as the body.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: d\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    }

    /// Like [`Daemon::call`], of a daemon that is there.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(method, path, body).expect("an answer")
    }

    /// A check must find nothing.
    pub fn checks_clean(&self) {
        let (_, text) = self.ask("POST", "/fsd/v1/check", None);
        let text = if text.is_string() { text.as_str().unwrap().to_owned() } else { text.to_string() };
        let last: Value = serde_json::from_str(text.trim().lines().last().unwrap()).unwrap();
        assert_eq!(last["summary"]["findings"], 0, "{text}");
    }
}

fn spawn(dir: &Path) -> Child {
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
        // A test that fails leaves no mount behind either.
        let dir = self.dir.path().canonicalize().unwrap_or_default();
        for left in fs_base::sys::mount::mount_table().unwrap_or_default().iter().rev() {
            if left.target.starts_with(&dir) {
                let _ = fs_base::sys::mount::unmount(&left.target, true);
            }
        }
    }
}

/// A docker-archive of one image; each layer is a list of files with their contents.
pub fn archive(tag: &str, layers: &[&[(&str, &str)]]) -> Vec<u8> {
    let mut outer = tar::Builder::new(Vec::new());
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for (number, files) in layers.iter().enumerate() {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, content) in *files {
            add(&mut layer, path, content.as_bytes());
        }
        let bytes = layer.into_inner().unwrap();
        ids.push(digest(&bytes));
        names.push(format!("{number}/layer.tar"));
        add(&mut outer, &format!("{number}/layer.tar"), &bytes);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = config.to_string();
    let name = format!("{}.json", digest(config.as_bytes()).trim_start_matches("sha256:"));
    add(&mut outer, &name, config.as_bytes());
    let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": names}]).to_string();
    add(&mut outer, "manifest.json", manifest.as_bytes());
    outer.into_inner().unwrap()
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    archive.append_data(&mut header, path, content).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hex: Vec<String> = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}
