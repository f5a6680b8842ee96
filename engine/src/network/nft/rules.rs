//! Our table: which packets of containers go where. The rules never change; what containers and networks come and go
//! by are elements of sets and maps, so that a change costs one small batch.

use std::net::IpAddr;

use fs_base::Result;
use ipnet::IpNet;

use super::super::netlink::Socket;
use super::expr::{ACCEPT, Connection, DROP, IPV4, IPV6, Meta, RETURN, STATE_KNOWN, STATUS_DNAT, Steps, register};
use super::{Batch, Family, Hook, IPV4_ADDRESS, IPV6_ADDRESS, Kind, LINK_NAME, PROTOCOL, SERVICE, octets};

/// Links that are bridges of ours.
const BRIDGES: &str = "bridges";
/// Those of internal networks.
const INTERNAL: &str = "internal";
/// Pairs of in and out that are one bridge whose containers may talk to each other.
const SAME: &str = "same";

/// NF_IP_PRI_RAW, NF_IP_PRI_NAT_DST, NF_IP_PRI_FILTER, NF_IP_PRI_NAT_SRC. Source: linux/netfilter_ipv4.h.
const RAW: i32 = -300;
const BEFORE_NAT: i32 = -100;
/// Before what others filter, so that theirs has the last word.
const BEFORE_FILTER: i32 = -10;
const AFTER_NAT: i32 = 100;

/// The table in a container's namespace, if names are answered at the container's usual ports, and if they are not.
const USUAL_TABLE: &str = "fsd";
const OTHER_TABLE: &str = "fsd-other";

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number. Source: RFC 5237's registry.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = fs_base::Error;

    fn from_str(text: &str) -> Result<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(fs_base::Error::invalid(format!("invalid proto: {text}"))),
        }
    }
}

/// A port of the host that leads to a container. Both addresses are of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's address; unspecified is any.
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// One change of what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The bridge's link.
    pub bridge: String,
    /// Its networks.
    pub subnets: Vec<IpNet>,
    /// Whether it leads nowhere.
    pub internal: bool,
    /// Whether its containers may talk to each other.
    pub talkative: bool,
    /// Whether its containers go out with the host's address.
    pub masquerade: bool,
}

/// The table of one daemon.
#[derive(Debug)]
pub struct Ruleset<'a> {
    /// Its name.
    pub table: &'a str,
}

impl Ruleset<'_> {
    /// Whether it is there.
    pub fn exists(&self, socket: &mut Socket) -> Result<bool> {
        super::has_table(socket, Family::Inet, self.table)
    }

    /// Takes all of it away, if it is there.
    pub fn remove(&self, socket: &mut Socket) -> Result<()> {
        if !self.exists(socket)? {
            return Ok(());
        }
        let mut batch = self.batch();
        batch.delete_table();
        batch.commit(socket)
    }

    /// Changes of this table.
    pub fn batch(&self) -> Batch {
        Batch::new(Family::Inet, self.table)
    }

    /// The table anew, empty but for its rules. One that `exists` is taken away in the same step; to do that in vain
    /// would cost the kernel ten times as long.
    pub fn create(batch: &mut Batch, exists: bool) {
        if exists {
            batch.delete_table();
        }
        batch.table();
        sets(batch);
        batch.base_chain("raw", "filter", Hook::Prerouting, RAW);
        batch.base_chain("prerouting", "nat", Hook::Prerouting, BEFORE_NAT);
        batch.base_chain("output", "nat", Hook::Output, BEFORE_NAT);
        batch.base_chain("forward", "filter", Hook::Forward, BEFORE_FILTER);
        batch.base_chain("postrouting", "nat", Hook::Postrouting, AFTER_NAT);
        batch.chain("published");
        let to_loopback = from(BRIDGES).version(IPV4).network(16, 4, register(0)).mask(register(0), &[255, 0, 0, 0]);
        // Our bridges route to 127.0.0.0/8, for published ports; no container may make use of that.
        batch.rule("raw", &to_loopback.is(register(0), &[127, 0, 0, 0]).verdict(DROP));
        batch.rule("prerouting", &from(INTERNAL).verdict(RETURN));
        batch.rule("prerouting", &Steps::new().to_this_host().jump("published"));
        batch.rule("output", &Steps::new().to_this_host().jump("published"));
        published(batch);
        forward(batch);
        postrouting(batch);
    }

    /// A network comes.
    pub fn add_network(batch: &mut Batch, change: &Change) {
        let link = link_name(&change.bridge);
        batch.put(BRIDGES, &link, None);
        if change.internal {
            batch.put(INTERNAL, &link, None);
        }
        if change.talkative {
            batch.put(SAME, &[link, link].concat(), None);
        }
        for subnet in &change.subnets {
            let (nets, masqueraded, first, end) = interval(*subnet);
            batch.put_interval(nets, &first, &end);
            if change.masquerade && !change.internal {
                batch.put_interval(masqueraded, &first, &end);
            }
        }
    }

    /// A network goes.
    pub fn remove_network(batch: &mut Batch, change: &Change) {
        let link = link_name(&change.bridge);
        batch.take(BRIDGES, &link);
        if change.internal {
            batch.take(INTERNAL, &link);
        }
        if change.talkative {
            batch.take(SAME, &[link, link].concat());
        }
        for subnet in &change.subnets {
            let (nets, masqueraded, first, end) = interval(*subnet);
            batch.take_interval(nets, &first, &end);
            if change.masquerade && !change.internal {
                batch.take_interval(masqueraded, &first, &end);
            }
        }
    }

    /// A port is published.
    pub fn add_port(batch: &mut Batch, port: &Port) {
        let (map, key, data) = port_pair(port);
        batch.put(map, &key, Some(&data));
    }

    /// A port is published no more.
    pub fn remove_port(batch: &mut Batch, port: &Port) {
        let (map, key, _) = port_pair(port);
        batch.take(map, &key);
    }

    /// How many ports are published.
    pub fn ports(&self, socket: &mut Socket) -> Result<usize> {
        let mut count = 0;
        for map in ["ports4", "any4", "ports6", "any6"] {
            count += super::element_count(socket, Family::Inet, self.table, map)?;
        }
        Ok(count)
    }
}

fn sets(batch: &mut Batch) {
    batch.set(BRIDGES, LINK_NAME, None, false);
    batch.set(INTERNAL, LINK_NAME, None, false);
    batch.set(SAME, LINK_NAME.and(LINK_NAME), None, false);
    for (version, address) in [(4, IPV4_ADDRESS), (6, IPV6_ADDRESS)] {
        batch.set(&format!("nets{version}"), address, None, true);
        batch.set(&format!("masq{version}"), address, None, true);
        let any: Kind = PROTOCOL.and(SERVICE);
        let to = address.and(SERVICE);
        batch.set(&format!("any{version}"), any, Some(to), false);
        batch.set(&format!("ports{version}"), address.and(any), Some(to), false);
    }
}

fn from(set: &str) -> Steps {
    Steps::new().meta(Meta::InName, register(0)).in_set(register(0), set)
}

fn to(set: &str) -> Steps {
    Steps::new().meta(Meta::OutName, register(0)).in_set(register(0), set)
}

/// Registers: the key from the first on, what it maps to from the ninth on.
fn published(batch: &mut Batch) {
    let key = register(0);
    let found = register(8);
    let protocol_and_port = |steps: Steps, at: u32| steps.meta(Meta::Protocol, register(at)).port(register(at + 1));
    let four = || Steps::new().version(IPV4);
    // ::1 can't leave the host, so the daemon itself listens there.
    let six =
        || Steps::new().version(IPV6).network(24, 16, key).is_not(key, &IpAddr::from(std::net::Ipv6Addr::LOCALHOST).bytes());
    let to_four = |steps: Steps| steps.destination(IPV4, found, found + 1);
    let to_six = |steps: Steps| steps.destination(IPV6, found, found + 4);
    batch.rule("published", &to_four(protocol_and_port(four().network(16, 4, key), 1).in_map(key, "ports4", found)));
    batch.rule("published", &to_four(protocol_and_port(four(), 0).in_map(key, "any4", found)));
    batch.rule("published", &to_six(protocol_and_port(six(), 4).in_map(key, "ports6", found)));
    batch.rule("published", &to_six(protocol_and_port(six(), 0).in_map(key, "any6", found)));
}

fn forward(batch: &mut Batch) {
    let pair = Steps::new().meta(Meta::InName, register(0)).meta(Meta::OutName, register(4)).in_set(register(0), SAME);
    batch.rule("forward", &pair.verdict(ACCEPT));
    batch.rule("forward", &from(INTERNAL).verdict(DROP));
    batch.rule("forward", &to(INTERNAL).verdict(DROP));
    batch.rule("forward", &to(BRIDGES).connection(Connection::Status, STATUS_DNAT).verdict(ACCEPT));
    batch.rule("forward", &to(BRIDGES).connection(Connection::State, STATE_KNOWN).verdict(ACCEPT));
    batch.rule("forward", &to(BRIDGES).verdict(DROP));
}

fn postrouting(batch: &mut Batch) {
    for (version, number, place, length) in [(IPV4, 4, 12, 4), (IPV6, 6, 8, 16)] {
        let from_ours = |set: &str| Steps::new().version(version).network(place, length, register(0)).in_set(register(0), set);
        let leaving = from_ours(&format!("masq{number}")).meta(Meta::OutName, register(0)).not_in_set(register(0), BRIDGES);
        batch.rule("postrouting", &leaving.masquerade());
        // From a container to a published port: the answer has to come back this way.
        let nets = format!("nets{number}");
        let back = from_ours(&nets).network(place + length, length, register(0)).in_set(register(0), &nets);
        batch.rule("postrouting", &back.connection(Connection::Status, STATUS_DNAT).masquerade());
    }
    let loopback = Steps::new().version(IPV4).network(12, 4, register(0)).mask(register(0), &[255, 0, 0, 0]);
    let loopback = loopback.is(register(0), &[127, 0, 0, 0]).connection(Connection::Status, STATUS_DNAT);
    batch.rule("postrouting", &loopback.masquerade());
}

trait Bytes {
    fn bytes(self) -> Vec<u8>;
}

impl Bytes for IpAddr {
    fn bytes(self) -> Vec<u8> {
        octets(self)
    }
}

fn link_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// The sets of a network, its first address, and the first behind it.
fn interval(subnet: IpNet) -> (&'static str, &'static str, Vec<u8>, Vec<u8>) {
    match subnet {
        IpNet::V4(net) => {
            let end = u32::from(net.broadcast()).wrapping_add(1);
            ("nets4", "masq4", net.network().octets().to_vec(), end.to_be_bytes().to_vec())
        }
        IpNet::V6(net) => {
            let end = u128::from(net.broadcast()).wrapping_add(1);
            ("nets6", "masq6", net.network().octets().to_vec(), end.to_be_bytes().to_vec())
        }
    }
}

/// The map of a port, its key there, and what it maps to; each part takes a multiple of 4 bytes.
fn port_pair(port: &Port) -> (&'static str, Vec<u8>, Vec<u8>) {
    let service = |port: u16| [port.to_be_bytes().to_vec(), vec![0; 2]].concat();
    let any = [vec![port.protocol.number(), 0, 0, 0], service(port.host_port)].concat();
    let data = [octets(port.container), service(port.container_port)].concat();
    match (port.host.is_unspecified(), port.host.is_ipv4()) {
        (true, true) => ("any4", any, data),
        (true, false) => ("any6", any, data),
        (false, true) => ("ports4", [octets(port.host), any].concat(), data),
        (false, false) => ("ports6", [octets(port.host), any].concat(), data),
    }
}

/// In a container's namespace: what is asked of `resolver` port 53 goes to these ports of it. Processes of the
/// container may have port 53 for themselves. If the ports are the `usual` ones of this container, rules that are there
/// are those of before and stay: to replace them takes the kernel ten milliseconds.
pub fn redirect_names(socket: &mut Socket, resolver: std::net::Ipv4Addr, ports: (u16, u16), usual: bool) -> Result<()> {
    let (table, other) = if usual { (USUAL_TABLE, OTHER_TABLE) } else { (OTHER_TABLE, USUAL_TABLE) };
    if super::has_table(socket, Family::Ipv4, other)? {
        let mut batch = Batch::new(Family::Ipv4, other);
        batch.delete_table();
        batch.commit(socket)?;
    }
    let mut batch = Batch::new(Family::Ipv4, table);
    match (super::has_table(socket, Family::Ipv4, table)?, usual) {
        (true, true) => return Ok(()),
        (true, false) => batch.delete_table(),
        (false, _) => {}
    }
    batch.table();
    batch.base_chain("output", "nat", Hook::Output, BEFORE_NAT);
    for (protocol, port) in [(Protocol::Udp, ports.0), (Protocol::Tcp, ports.1)] {
        let asked = Steps::new()
            .network(16, 4, register(0))
            .is(register(0), &resolver.octets())
            .meta(Meta::Protocol, register(0))
            .is(register(0), &[protocol.number()])
            .port(register(0))
            .is(register(0), &53u16.to_be_bytes());
        let there = asked.load(register(0), &resolver.octets()).load(register(1), &port.to_be_bytes());
        batch.rule("output", &there.destination(IPV4, register(0), register(1)));
    }
    batch.commit(socket)
}
