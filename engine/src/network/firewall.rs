//! Other people's firewalls: a host whose iptables drop what is forwarded (Docker sets that) drops our packets too,
//! whatever our own rules say. Where that is so, our bridges are let through there, by name; our own rules have decided
//! before about what may pass.
//!
//! Asking the kernel whether there is such a chain costs one netlink message; `iptables` is run only if there is one,
//! and only when a bridge comes or goes.

use std::process::{Command, Stdio};

use fs_base::{Error, IoContext, Result};

use super::netlink::Socket;
use super::nft::{self, Family};

/// What is asked first on a host with Docker, by agreement of all.
const DOCKERS: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";
/// What old iptables has in force.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// Lets packets from and to a bridge through, where they would be dropped; whether it was so.
pub fn let_through(socket: &mut Socket, table: &str, bridge: &str) -> Result<bool> {
    let mut dropped = false;
    for program in programs(socket)? {
        let Some(chain) = chain(program)? else { continue };
        dropped = true;
        for direction in ["-i", "-o"] {
            let rule = rule(direction, table, bridge);
            if !run(program, "-C", chain, &rule)? && !run(program, "-I", chain, &rule)? {
                return Err(Error::unavailable(format!("{program} would not let {bridge} through its chain {chain}")));
            }
        }
    }
    Ok(dropped)
}

/// Takes back what let a bridge through.
pub fn forget(table: &str, bridge: &str) {
    let present = Socket::netfilter().and_then(|mut socket| programs(&mut socket)).unwrap_or_default();
    for program in present {
        for (chain, direction) in [(DOCKERS, "-i"), (DOCKERS, "-o"), (FORWARD, "-i"), (FORWARD, "-o")] {
            let rule = rule(direction, table, bridge);
            if run(program, "-C", chain, &rule).unwrap_or(false) {
                let _ = run(program, "-D", chain, &rule);
            }
        }
    }
}

/// Those that have anything to say.
fn programs(socket: &mut Socket) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    let dropped = nft::chain_policy(socket, Family::Ipv4, "filter", FORWARD)? == Some(nft::DROP);
    if dropped || nft::chain_policy(socket, Family::Ipv4, "filter", DOCKERS)?.is_some() {
        found.push("iptables-nft");
    }
    if std::fs::read_to_string(LEGACY_TABLES).is_ok_and(|names| names.lines().any(|name| name == "filter")) {
        found.push("iptables-legacy");
    }
    Ok(found)
}

/// The chain in which to let something through; `None` if it is not dropped.
fn chain(program: &str) -> Result<Option<&'static str>> {
    if list(program, DOCKERS)?.is_some() {
        return Ok(Some(DOCKERS));
    }
    let drops = list(program, FORWARD)?.is_some_and(|text| text.lines().next() == Some("-P FORWARD DROP"));
    Ok(drops.then_some(FORWARD))
}

fn list(program: &str, chain: &str) -> Result<Option<String>> {
    match Command::new(program).args(["-w", "5", "-S", chain]).stdin(Stdio::null()).output() {
        Ok(output) => Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())),
        // Whoever made the rules did it without; then they are not ours to change.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("run", program),
    }
}

fn rule(direction: &str, table: &str, bridge: &str) -> [String; 8] {
    [direction, bridge, "-m", "comment", "--comment", table, "-j", "ACCEPT"].map(str::to_owned)
}

fn run(program: &str, verb: &str, chain: &str, rule: &[String]) -> Result<bool> {
    let mut command = Command::new(program);
    command.args(["-w", "5", verb, chain]).args(rule).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().at("run", program)?.success())
}
