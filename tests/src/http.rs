//! Requests over a socket without a program in between: for many of them, and for daemons that die meanwhile.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::Daemon;

impl Daemon {
    /// One request: status and body, as text where it is no JSON. A body that could be JSON is said to be. `None` if the
    /// daemon was not there to the end.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        let kind = if body.starts_with(b"{") { "application/json" } else { "application/x-tar" };
        let kind = if body.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: d\r\n{kind}Content-Length: {}\r\n\r\n", body.len()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    }

    /// A request to a daemon that is there, with a JSON body or none.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, path, body.as_bytes()).unwrap_or_else(|| panic!("{method} {path}: no answer\n{}", self.log()))
    }

    /// `kill -9` while other threads are talking to it; [`Daemon::kill`] waits for its end.
    pub fn kill_now(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// The number of findings of a check, of every byte too, must be 0.
    pub fn checks_clean(&self) {
        let (_, answer) = self.ask("POST", "/fsd/v1/check?data=true", None);
        let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
        let last: Value = serde_json::from_str(text.trim().lines().last().unwrap()).unwrap();
        assert_eq!(last["summary"]["findings"], 0, "{text}");
    }
}
