//! What `/etc/hosts` of a container says, in each kind of network.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;

use system_tests::containers::{daemon_with, inspect, with_busybox};
use system_tests::networks::has_ipv6;
use system_tests::{Daemon, ok};

const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                     ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// What of it is said where there is no IPv6.
const LOCAL4: &str = "127.0.0.1\tlocalhost\n";

/// What begins the file on this host, and the line of an address that is added only where there is IPv6.
fn usual() -> (&'static str, &'static str) {
    if Path::new("/proc/sys/net/ipv6").exists() { (LOCAL, "2001:db8::1\ttwo\n") } else { (LOCAL4, "") }
}

/// Its `/etc/hosts`, its host name, and its addresses, for a container with these flags.
fn started(daemon: &Daemon, flags: &[&str]) -> (String, String, Vec<String>) {
    ok(&daemon.docker(&[&["run", "-d", "--name", "it"], flags, &["busybox", "sleep", "10000"]].concat()));
    let hosts = ok(&daemon.docker(&["exec", "it", "cat", "/etc/hosts"]));
    let name = ok(&daemon.docker(&["exec", "it", "hostname"])).trim().to_owned();
    let addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}} {{end}}";
    let addresses = inspect(daemon, "it", addresses).split_whitespace().map(str::to_owned).collect();
    ok(&daemon.docker(&["rm", "-f", "it"]));
    (hosts, name, addresses)
}

fn lines(addresses: &[String], names: &str) -> String {
    addresses.iter().fold(String::new(), |text, one| text + &format!("{one}\t{names}\n"))
}

#[test]
fn own_names_follow_those_that_are_added() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["network", "create", "user"]));
    let (local, two) = usual();
    let mut networks = vec!["bridge", "user"];
    if has_ipv6() {
        ok(&daemon.docker(&["network", "create", "--ipv6", "six"]));
        networks.push("six");
    } else {
        println!("SKIPPED: networks with IPv6: this host has none");
    }
    for network in networks {
        for (flags, names) in [
            (&[][..], "%"),
            (&["--hostname", "box"], "box"),
            (&["--hostname", "box.example.com"], "box.example.com box"),
            (&["--hostname", "box", "--domainname", "example.com"], "box.example.com box"),
        ] {
            let (hosts, name, addresses) = started(&daemon, &[&["--network", network], flags].concat());
            assert_eq!(addresses.len(), if network == "six" { 2 } else { 1 });
            let own = lines(&addresses, &names.replace('%', &name));
            assert_eq!(hosts, format!("{local}{own}"), "{network}: {flags:?}");
        }
        let extra = ["--add-host", "one:192.0.2.1", "--add-host", "two:2001:db8::1", "--hostname", "box"];
        let (hosts, _, addresses) = started(&daemon, &[&["--network", network], &extra[..]].concat());
        let own = lines(&addresses, "box");
        assert_eq!(hosts, format!("{local}192.0.2.1\tone\n{two}{own}"), "{network}");
        let without = [&["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"], &extra[..]].concat();
        if network != "six" && !two.is_empty() {
            let (hosts, _, addresses) = started(&daemon, &[&["--network", network], &without[..]].concat());
            assert_eq!(hosts, format!("{LOCAL4}192.0.2.1\tone\n{}\tbox\n", addresses[0]), "{network}");
        }
    }
}

#[test]
fn the_hosts_own_file_is_a_containers_unless_names_are_added() {
    let Some(daemon) = with_busybox() else { return };
    let (hosts, _, _) = started(&daemon, &["--network", "host"]);
    assert_eq!(hosts, std::fs::read_to_string("/etc/hosts").unwrap());
    let (hosts, _, _) = started(&daemon, &["--network", "host", "--add-host", "one:192.0.2.1"]);
    assert_eq!(hosts, format!("{}192.0.2.1\tone\n", usual().0));
}

#[test]
fn without_a_network_a_container_still_finds_itself() {
    let Some(daemon) = daemon_with(&["busybox.tar", "debian.tar"]) else { return };
    for (flags, names) in [(&[][..], "%"), (&["--hostname", "box.example.com"], "box.example.com box")] {
        let (hosts, name, _) = started(&daemon, &[&["--network", "none"], flags].concat());
        assert_eq!(hosts, format!("{}127.0.0.1\t{}\n", usual().0, names.replace('%', &name)), "{flags:?}");
    }
    // glibc's getaddrinfo of the own name, as Java's getLocalHost and Erlang's nodes ask it.
    let script = "getent ahosts \"$(hostname)\" | head -1 | cut -d' ' -f1";
    let found = ok(&daemon.docker(&["run", "--rm", "--network", "none", "debian:12", "sh", "-c", script]));
    assert_eq!(found, "127.0.0.1\n");
}
