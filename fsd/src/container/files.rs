//! A container's own folder, and the files in it that it sees.

use std::path::Path;

use engine::config::ManagedFile;
use fs_base::{Error, IoContext, Result};

use super::ContainerRow;
use crate::network::files::Files;

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

/// Writes the files for one start.
pub fn write(row: &ContainerRow, dir: &Path, network: &Files) -> Result<Vec<ManagedFile>> {
    let hostname = format!("{}\n", row.definition.config_text("Hostname"));
    let contents = [
        (HOSTS, "/etc/hosts", &network.hosts),
        (HOSTNAME, "/etc/hostname", &hostname),
        (RESOLV_CONF, "/etc/resolv.conf", &network.resolv_conf),
    ];
    let mut files = Vec::new();
    for (name, target, text) in contents {
        let path = match &network.shared_with {
            Some(other) => other.join(name),
            None => dir.join(name),
        };
        if network.shared_with.is_none() {
            std::fs::write(&path, text).at("write", &path)?;
        }
        files.push(ManagedFile { source: path, target: target.into() });
    }
    Ok(files)
}

/// One `--add-host name:address`, checked. `None` is the host's own address, whatever that is for the container.
pub fn extra_host(text: &str) -> Result<(String, Option<std::net::IpAddr>)> {
    let bad = || Error::invalid(format!("bad format for add-host: {text:?}"));
    let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    if address == "host-gateway" {
        return Ok((name.to_owned(), None));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().map_err(|_| Error::invalid(format!("invalid IP address in add-host: {address:?}")))?;
    Ok((name.to_owned(), Some(address)))
}
