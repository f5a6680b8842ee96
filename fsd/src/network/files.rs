//! What a container's `/etc/hosts` and `/etc/resolv.conf` say.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Mode;
use super::attach::Place;
use crate::app::App;
use crate::container::{ContainerRow, files as container_files};

/// Where a container asks for names, in a network that answers them. The same as Docker's.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Whom Docker asks if the host says nobody that a container could reach.
const FALLBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];
const HOST_FILE: &str = "/etc/resolv.conf";
/// Where systemd keeps those whom its own resolver asks.
const SYSTEMD_FILE: &str = "/run/systemd/resolve/resolv.conf";

const LOCALHOST4: &str = "127.0.0.1\tlocalhost\n";
const LOCALHOST6: &str = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The contents of a container's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The folder of the container whose files they are, if they are not its own.
    pub shared_with: Option<PathBuf>,
}

/// Of a container in these places, with the lines of those that it knows.
pub fn of(app: &App, row: &ContainerRow, places: &[Place], known: &str) -> Files {
    let mode = Mode::of(row);
    let answered = places.iter().any(|place| place.network.is_user_defined());
    Files { hosts: hosts(app, row, &mode, (places, known)), resolv_conf: resolv_conf(row, &mode, answered), shared_with: None }
}

fn hosts(app: &App, row: &ContainerRow, mode: &Mode, (places, known): (&[Place], &str)) -> String {
    let extra = given(row, "ExtraHosts");
    // Whoever adds names may mean to replace some of the host's. Source: moby, `buildHostsFile`.
    let of_host = if *mode == Mode::Host && extra.is_empty() { std::fs::read_to_string("/etc/hosts").ok() } else { None };
    let with_v6 = has_ipv6(row);
    let is_had = |address: &IpAddr| with_v6 || address.is_ipv4();
    let mut hosts = of_host.unwrap_or_else(|| LOCALHOST4.to_owned() + if with_v6 { LOCALHOST6 } else { "" });
    let gateway = || app.db.find_network(super::model::BRIDGE).ok()?.pool(true).map(|pool| pool.gateway);
    for text in &extra {
        // They were checked when the container was made.
        let Ok((name, address)) = container_files::extra_host(text) else { continue };
        if let Some(address) = address.or_else(gateway).filter(is_had) {
            // Writing to a string can't fail.
            let _ = writeln!(hosts, "{address}\t{name}");
        }
    }
    hosts.push_str(known);
    let names = own_names(row);
    match mode {
        // Docker writes nothing here; a program that asks for the address of its own host then fails.
        Mode::None => {
            let _ = writeln!(hosts, "127.0.0.1\t{names}");
        }
        _ => places.iter().for_each(|place| hosts.push_str(&own_lines(&names, place))),
    }
    hosts
}

/// Whether a container has IPv6 at all. One that is told of addresses that it can't have tries them first. Source: moby,
/// `Sandbox.IPv6Enabled`.
fn has_ipv6(row: &ContainerRow) -> bool {
    let sysctls = &row.definition.host_config["Sysctls"];
    let is_off = |link: &str| sysctls[format!("net.ipv6.conf.{link}.disable_ipv6")] == "1";
    !is_off("all") && !is_off("lo") && Path::new("/proc/sys/net/ipv6").exists()
}

/// Its whole name, and the first part of that if there are more.
fn own_names(row: &ContainerRow) -> String {
    let (hostname, domain) = (row.definition.config_text("Hostname"), row.definition.config_text("Domainname"));
    let whole = if domain.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domain}") };
    match whole.split_once('.') {
        Some((first, _)) => format!("{whole} {first}"),
        None => whole,
    }
}

fn own_lines(names: &str, place: &Place) -> String {
    let addresses = [true, false].into_iter().filter_map(|v4| place.lease.address(v4));
    addresses.fold(String::new(), |text, address| text + &format!("{address}\t{names}\n"))
}

/// Whom the host asks for names; `reachable` leaves out those that only the host itself reaches.
fn host_servers(text: &str, reachable: bool) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let parsed = servers.filter_map(|rest| rest.trim().split('%').next()?.parse::<IpAddr>().ok());
    parsed.filter(|server| !reachable || !server.is_loopback()).collect()
}

fn host_text(reachable: bool) -> String {
    let text = std::fs::read_to_string(HOST_FILE).unwrap_or_default();
    if reachable && host_servers(&text, true).is_empty() {
        return std::fs::read_to_string(SYSTEMD_FILE).unwrap_or(text);
    }
    text
}

/// Whom our resolver asks on behalf of a container for names that are no container's.
pub fn upstream(row: &ContainerRow) -> Vec<IpAddr> {
    let own = given(row, "Dns").iter().filter_map(|text| text.parse().ok()).collect::<Vec<_>>();
    if own.is_empty() { host_servers(&host_text(false), false) } else { own }
}

fn given(row: &ContainerRow, key: &str) -> Vec<String> {
    let list = row.definition.host_config[key].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn resolv_conf(row: &ContainerRow, mode: &Mode, answered: bool) -> String {
    let (dns, search, options) = (given(row, "Dns"), given(row, "DnsSearch"), given(row, "DnsOptions"));
    if *mode == Mode::Host && dns.is_empty() && search.is_empty() && options.is_empty() {
        return std::fs::read_to_string(HOST_FILE).unwrap_or_default();
    }
    let host = host_text(*mode != Mode::Host);
    let of_host = |key: &str| {
        // The last line of a kind is in force. Source: resolv.conf(5).
        let words =
            host.lines().rev().find_map(|line| line.trim().strip_prefix(key).filter(|rest| rest.starts_with([' ', '\t'])));
        words.into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>()
    };
    let servers: Vec<String> = match (answered, dns.is_empty()) {
        (true, _) => vec![RESOLVER.to_string()],
        (false, false) => dns,
        (false, true) => {
            let reachable = host_servers(&host, *mode != Mode::Host);
            let servers = if reachable.is_empty() { FALLBACK.to_vec() } else { reachable };
            servers.iter().map(IpAddr::to_string).collect()
        }
    };
    let search = if search.is_empty() { of_host("search") } else { search };
    let mut options = if options.is_empty() { of_host("options") } else { options };
    if answered && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    let mut text = servers.iter().fold(String::new(), |text, server| text + &format!("nameserver {server}\n"));
    // "." takes the host's away.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// Brings the files of a container that runs up to date after one of its places came (`true`) or went. What its
/// processes wrote into them stays.
pub fn update(app: &App, row: &ContainerRow, changed: &Place, came: bool, places: &[Place]) -> std::io::Result<()> {
    let dir = app.container_dir(&row.id);
    let path = dir.join(container_files::HOSTS);
    let alone = app.networks.hosts();
    let lines = own_lines(&own_names(row), changed);
    let old = std::fs::read_to_string(&path)?;
    let new = if came { format!("{old}{lines}") } else { old.replace(&lines, "") };
    // Written in place: the container sees this very file.
    std::fs::write(&path, new)?;
    drop(alone);
    let path = dir.join(container_files::RESOLV_CONF);
    let mode = Mode::of(row);
    let answered = places.iter().any(|place| place.network.is_user_defined());
    let was_ours = std::fs::read_to_string(&path)? == resolv_conf(row, &mode, !answered);
    if was_ours { std::fs::write(&path, resolv_conf(row, &mode, answered)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_those_that_a_container_reaches() {
        let text = "# x\nnameserver 127.0.0.53\n nameserver 192.0.2.1 \nnameserver fe80::1%eth0\nsearch a b\n";
        assert_eq!(host_servers(text, true), ["192.0.2.1".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        assert_eq!(host_servers(text, false).len(), 3);
    }
}
