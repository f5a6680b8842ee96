//! What tests of networks share: containers that serve, and who asks them.

use std::net::TcpListener;
use std::process::Command;

use crate::containers::inspect;
use crate::{Daemon, PATIENCE_SECONDS, ok, until};

/// A container that serves its name by HTTP on port 80.
#[track_caller]
pub fn server(daemon: &Daemon, name: &str, flags: &[&str]) {
    let script = format!("echo I am {name} > /tmp/index.html; exec httpd -f -p 80 -h /tmp");
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", &script]);
    ok(&daemon.docker(&words));
    let address = address(daemon, name);
    until("it serves", || !is_silent(&address));
}

/// The network `net`, and in it the [`server`] `web` with port 80 published: on which port.
#[track_caller]
pub fn published_server(daemon: &Daemon) -> u16 {
    let port = free_port();
    ok(&daemon.docker(&["network", "create", "net"]));
    server(daemon, "web", &["--network", "net", "-p", &format!("{port}:80")]);
    port
}

/// A container that does nothing.
#[track_caller]
pub fn idle(daemon: &Daemon, name: &str, flags: &[&str]) {
    ok(&daemon.docker(&[&["run", "-d", "--name", name], flags, &["busybox", "sleep", "10000"]].concat()));
}

/// The address of a container in its first network.
pub fn address(daemon: &Daemon, name: &str) -> String {
    inspect(daemon, name, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}").split(' ').next().unwrap().to_owned()
}

/// Seconds after which no answer is taken for none; what must answer may take as long as it wants.
pub const NO_ANSWER: &str = "2";

/// What a place answers in time, if it does.
pub fn curl_within(place: &str, seconds: &str) -> Option<String> {
    let url = format!("http://{place}/");
    let output = Command::new("curl").args(["-sg", "--noproxy", "*", "-m", seconds, &url]).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a place answers that should.
pub fn curl(place: &str) -> Option<String> {
    curl_within(place, PATIENCE_SECONDS)
}

/// Whether nothing answers there.
pub fn is_silent(place: &str) -> bool {
    curl_within(place, NO_ANSWER).is_none()
}

/// A port that is free a moment before it is used.
pub fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}
