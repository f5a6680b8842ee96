//! A container's own folder, and the files in it that it sees.

use std::fmt::Write;
use std::path::Path;

use engine::config::ManagedFile;
use fs_base::{Error, IoContext, Result};

use super::ContainerRow;

/// What it wrote over its image.
pub const UPPER: &str = "upper";
/// overlayfs's own.
pub const WORK: &str = "work";
/// Its output.
pub const LOG: &str = "container.log";
/// Its /etc/hosts.
pub const HOSTS: &str = "hosts";
/// Its /etc/hostname.
pub const HOSTNAME: &str = "hostname";
/// Its /etc/resolv.conf.
pub const RESOLV_CONF: &str = "resolv.conf";

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Writes the files for one start.
pub fn write(row: &ContainerRow, dir: &Path) -> Result<Vec<ManagedFile>> {
    let host_network = row.definition.host_text("NetworkMode") == "host";
    let hostname = row.definition.config_text("Hostname");
    let of_host = if host_network { std::fs::read_to_string("/etc/hosts").ok() } else { None };
    let mut hosts = of_host.unwrap_or_else(|| LOCALHOST.to_owned());
    if !host_network {
        let domain = row.definition.config_text("Domainname");
        let full = if domain.is_empty() { String::new() } else { format!("{hostname}.{domain} ") };
        // Writing to a string can't fail.
        let _ = writeln!(hosts, "127.0.0.1\t{full}{hostname}");
    }
    for (name, address) in extra_hosts(row)? {
        let _ = writeln!(hosts, "{address}\t{name}");
    }
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let contents = [
        (HOSTS, "/etc/hosts", hosts),
        (HOSTNAME, "/etc/hostname", format!("{hostname}\n")),
        (RESOLV_CONF, "/etc/resolv.conf", resolv),
    ];
    let mut files = Vec::new();
    for (name, target, text) in contents {
        let path = dir.join(name);
        std::fs::write(&path, text).at("write", &path)?;
        files.push(ManagedFile { source: path, target: target.into() });
    }
    Ok(files)
}

/// `--add-host name:address`.
fn extra_hosts(row: &ContainerRow) -> Result<Vec<(String, std::net::IpAddr)>> {
    let list = row.definition.host_config["ExtraHosts"].as_array().into_iter().flatten();
    list.filter_map(serde_json::Value::as_str).map(extra_host).collect()
}

/// One entry, checked.
pub fn extra_host(text: &str) -> Result<(String, std::net::IpAddr)> {
    let bad = || Error::invalid(format!("bad format for add-host: {text:?}"));
    let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
    if address == "host-gateway" {
        return Err(Error::unsupported("--add-host …:host-gateway is not supported: there is no bridge network"));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().map_err(|_| Error::invalid(format!("invalid IP address in add-host: {address:?}")))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    Ok((name.to_owned(), address))
}
