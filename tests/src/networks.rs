//! What tests of networks share: containers that serve, and who asks them.

use std::collections::HashSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
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

/// The first of so many ports that follow each other: no other test takes them as long as this process lives, nor does the
/// kernel give them to anybody who asks for any.
pub fn free_ports(count: u16) -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let kernels: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let (first, end, block) = if count <= 32 { (20_000, kernels.max(21_000), 32) } else { (10_000, 20_000, 1000) };
    for first in (first..end - block).step_by(usize::from(block)) {
        // A name that only one socket of this host can have, and that goes with its process, however that ends.
        let name = SocketAddr::from_abstract_name(format!("fsd-test-ports-{first}")).unwrap();
        let Ok(mine) = UnixDatagram::bind_addr(&name) else { continue };
        // Not by binding them: who is just being started has a copy of what this process has.
        if used_ports().is_disjoint(&(first..first + count).collect()) {
            std::mem::forget(mine);
            return first;
        }
    }
    panic!("{count} ports are not free");
}

/// All that a socket of this host has.
fn used_ports() -> HashSet<u16> {
    let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit(':').next()?, 16).ok();
    let tables = ["tcp", "tcp6", "udp", "udp6"].map(|name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap());
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(port)).collect()
}

/// One such port.
pub fn free_port() -> u16 {
    free_ports(1)
}
