//! What tests of networks share: containers that serve, and who asks them.

use std::collections::HashSet;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::Mutex;

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
/// kernel give them to anybody who asks for any, unless it gives all of them.
pub fn free_ports(count: u16) -> u16 {
    /// What this process has of its last block, first and end.
    static REST: Mutex<(u16, u16)> = Mutex::new((1, 0));
    if count > BLOCK {
        return claimed(10_000..20_000, 1000, count).unwrap_or_else(|| panic!("{count} ports are not free"));
    }
    let mut rest = REST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let used = used_ports();
    let in_rest = (rest.0..=rest.1.saturating_sub(count)).find(|&first| are_free(&used, first, count));
    let first = in_rest.unwrap_or_else(|| {
        let first = claimed(not_the_kernels(), BLOCK, count).unwrap_or_else(|| panic!("{count} ports are not free"));
        rest.1 = first + BLOCK;
        first
    });
    rest.0 = first + count;
    first
}

/// How many ports a process claims at once for those that it takes one by one.
const BLOCK: u16 = 32;

/// Ports of which the kernel gives none to whoever asks for any; if it keeps hardly any for itself, some of which it does.
fn not_the_kernels() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut bounds = range.split_whitespace().map(|bound| bound.parse::<u16>().unwrap());
    let (low, high) = (bounds.next().unwrap(), bounds.next().unwrap());
    match (low, high) {
        (21_000.., _) => 20_000..low,
        (_, ..64_000) => high.max(20_000) + 1..u16::MAX,
        _ => 20_000..40_000,
    }
}

/// The first port of a block of these that nobody else has claimed, and of which so many are free.
fn claimed(ports: Range<u16>, block: u16, count: u16) -> Option<u16> {
    let end = ports.end - block;
    (ports.start..end).step_by(usize::from(block)).find(|&first| {
        // A name that only one socket of this host can have, and that goes with its process, however that ends.
        let name = SocketAddr::from_abstract_name(format!("fsd-test-ports-{first}")).unwrap();
        let Ok(mine) = UnixDatagram::bind_addr(&name) else { return false };
        let free = are_free(&used_ports(), first, count);
        if free {
            std::mem::forget(mine);
        }
        free
    })
}

/// Not by binding them: who is just being started has a copy of what this process has.
fn are_free(used: &HashSet<u16>, first: u16, count: u16) -> bool {
    (first..first + count).all(|port| !used.contains(&port))
}

/// All that a socket of this host has.
fn used_ports() -> HashSet<u16> {
    let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit(':').next()?, 16).ok();
    // Those of IPv6 are not there where it is not.
    let table = |name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .flat_map(|name| table(name).lines().skip(1).filter_map(port).collect::<Vec<_>>())
        .collect()
}

/// One such port.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// Whether this host has IPv6, and gives it to new interfaces.
pub fn has_ipv6() -> bool {
    let off = |of: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6")).map_or(true, |text| text.trim() != "0")
    };
    !off("all") && !off("default")
}
