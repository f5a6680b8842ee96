//! Links, addresses and routes of one network namespace. Source: rtnetlink(7), linux/if_link.h, linux/if_addr.h.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use fs_base::{Error, IoContext, Result};
use ipnet::IpNet;

use super::Mac;
use super::netlink::{self, CREATE, EXCL, Message, REPLACE, Received, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate is looked for: the address is ours by the database.
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u32 = 255;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;

const NDA_LLADDR: u16 = 2;
/// It does not age: the container behind the port keeps its address.
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 4;

/// IF_OPER_UP. Source: linux/if.h, RFC 2863.
const OPERATES: u8 = 6;
/// How often, and how long apart, it is asked whether a link operates.
const ASKED: u32 = 100;
const APART: std::time::Duration = std::time::Duration::from_micros(300);

const AF_BRIDGE: u8 = 7;
const UP: u32 = 1;
/// Bytes of struct ifinfomsg, ifaddrmsg, rtmsg.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

/// A link as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The bridge that it is in, by number.
    pub master: Option<u32>,
    /// What somebody noted about it.
    pub alias: String,
    /// The group of links that it is in; 0 is the usual.
    pub group: u32,
    /// Whether it is up.
    pub is_up: bool,
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// struct ifinfomsg.
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; LINK] {
    let mut header = [0; LINK];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A new bridge, not up yet, in a group: of all that tells whose it is, only that can be said from the first moment on. Its
/// hardware address is fixed, or it would change with its ports.
pub fn new_bridge(name: &str, mac: Mac, mtu: Option<u32>, group: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL);
    message.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac.0).number(IFLA_GROUP, group);
    if let Some(mtu) = mtu {
        message.number(IFLA_MTU, mtu);
    }
    message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge");
    });
    message
}

/// Two ends of a wire: one here, in a bridge; the other in another namespace. Neither is up yet.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The name of the end that is here.
    pub name: &'a str,
    /// The number of the bridge that it is in.
    pub bridge: u32,
    /// The name of the other end.
    pub peer: &'a str,
    /// The hardware address of the other end.
    pub mac: Mac,
    /// Where the other end is.
    pub namespace: BorrowedFd<'a>,
    /// The largest packet, if it is not the usual.
    pub mtu: Option<u32>,
}

/// Makes one.
pub fn new_veth(veth: &Veth<'_>) -> Message {
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL);
    message.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, veth.name).number(IFLA_MASTER, veth.bridge);
    if let Some(mtu) = veth.mtu {
        message.number(IFLA_MTU, mtu);
    }
    message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, veth.peer).attr(IFLA_ADDRESS, &veth.mac.0);
                if let Some(mtu) = veth.mtu {
                    peer.number(IFLA_MTU, mtu);
                }
                peer.number(IFLA_NET_NS_FD, veth.namespace.as_raw_fd() as u32);
            });
        });
    });
    message
}

/// Brings a link up; if `alias` is noted about it, it is in the usual group from now on.
pub fn set_up(index: u32, alias: Option<&str>) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0);
    message.put(&link_header(0, index, UP, UP));
    if let Some(alias) = alias {
        message.attr(IFLA_IFALIAS, alias.as_bytes()).number(IFLA_GROUP, 0);
    }
    message
}

/// Brings a port of a bridge up, which may send back what came from it: a container that asks for its own published
/// port, on a host whose bridges show their packets to iptables.
pub fn set_port_up(index: u32) -> Message {
    let mut message = set_up(index, None);
    message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |port| {
            port.attr(IFLA_BRPORT_MODE, &[1]);
        });
    });
    message
}

/// Takes a link away; its other end goes with it.
pub fn delete(index: u32) -> Message {
    let mut message = Message::new(RTM_DELLINK, 0);
    message.put(&link_header(0, index, 0, 0));
    message
}

/// Takes a link away by its name.
pub fn delete_by_name(name: &str) -> Message {
    let mut message = Message::new(RTM_DELLINK, 0);
    message.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, name);
    message
}

/// Gives a link an address, with the size of the network that it is in.
pub fn add_address(index: u32, address: IpNet) -> Message {
    let mut message = Message::new(RTM_NEWADDR, CREATE | REPLACE);
    let mut header = [family(address.addr()), address.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address.addr());
    message.put(&header).attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
    match address {
        IpNet::V4(v4) => message.attr(IFA_BROADCAST, &v4.broadcast().octets()),
        IpNet::V6(_) => message.number(IFA_FLAGS, IFA_F_NODAD),
    };
    message
}

/// A route to everywhere (`to` is `None`) or to a network, by a gateway or straight over the link.
pub fn add_route(index: u32, to: Option<IpNet>, gateway: Option<IpAddr>, version: u8) -> Message {
    let mut message = Message::new(RTM_NEWROUTE, CREATE | REPLACE);
    let family = if version == 4 { 2 } else { 10 };
    let scope = if gateway.is_some() || version == 6 { 0 } else { SCOPE_LINK };
    let length = to.map_or(0, |net| net.prefix_len());
    message.put(&[family, length, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, UNICAST, 0, 0, 0, 0]);
    if let Some(net) = to {
        message.attr(RTA_DST, &octets(net.network()));
    }
    if let Some(gateway) = gateway {
        message.attr(RTA_GATEWAY, &octets(gateway));
    }
    message.number(RTA_OIF, index);
    message
}

/// Tells a bridge behind which port a hardware address is from now on.
pub fn bridge_knows(port: u32, mac: Mac) -> Message {
    let mut message = Message::new(RTM_NEWNEIGH, CREATE | REPLACE);
    let mut header = [0u8; 12];
    header[0] = AF_BRIDGE;
    header[4..8].copy_from_slice(&port.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
    header[10] = NTF_MASTER;
    message.put(&header).attr(NDA_LLADDR, &mac.0);
    message
}

/// The link of this name.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut message = Message::new(RTM_GETLINK, 0);
    message.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, name);
    Ok(socket.get(message)?.as_ref().and_then(read_link))
}

/// The number of the link of this name, which must be there.
pub fn index_of(socket: &mut Socket, name: &str) -> Result<u32> {
    by_name(socket, name)?.map(|link| link.index).ok_or_else(|| Error::not_found(format!("there is no link {name}")))
}

/// Waits until a link that is up can carry packets, which the kernel sees to a moment later: what is sent before that
/// is lost, and sent again after a second. Asking makes newer kernels do it at once. One that takes too long is left to
/// itself.
pub fn wait_until_it_operates(socket: &mut Socket, name: &str) -> Result<()> {
    for _ in 0..ASKED {
        let mut message = Message::new(RTM_GETLINK, 0);
        message.put(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, name);
        let answer = socket.get(message)?;
        if answer.as_ref().and_then(|link| link.attr(LINK, IFLA_OPERSTATE)) == Some(&[OPERATES]) {
            return Ok(());
        }
        std::thread::sleep(APART);
    }
    Ok(())
}

/// All links.
pub fn all(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut message = Message::new(RTM_GETLINK, 0);
    message.put(&link_header(0, 0, 0, 0));
    Ok(socket.dump(message)?.iter().filter_map(read_link).collect())
}

fn read_link(received: &Received) -> Option<Link> {
    let number_at = |place: usize| received.payload.get(place..).and_then(netlink::number);
    let attr = |kind| received.attr(LINK, kind);
    Some(Link {
        index: number_at(4)?,
        name: netlink::text(attr(IFLA_IFNAME)?),
        master: attr(IFLA_MASTER).and_then(netlink::number),
        alias: attr(IFLA_IFALIAS).map(netlink::text).unwrap_or_default(),
        group: attr(IFLA_GROUP).and_then(netlink::number).unwrap_or_default(),
        is_up: number_at(8)? & UP != 0,
    })
}

/// A network that this host has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The link that it is on, by number; 0 if it is on none.
    pub link: u32,
    /// The network.
    pub net: IpNet,
    /// Whether the host itself has an address in it, and not only a way to it.
    pub has_address: bool,
}

/// The networks that this host has an address in or a route to; not the way to everywhere.
pub fn networks_in_use(socket: &mut Socket) -> Result<Vec<Used>> {
    let mut used = Vec::new();
    let mut message = Message::new(RTM_GETADDR, 0);
    message.put(&[0; ADDRESS]);
    for address in socket.dump(message)? {
        let index = address.payload.get(4..).and_then(netlink::number);
        let bytes = address.attr(ADDRESS, IFA_ADDRESS).and_then(address_of);
        if let (Some(index), Some(bytes), Some(length)) = (index, bytes, address.payload.get(1))
            && let Ok(net) = IpNet::new(bytes, *length)
        {
            used.push(Used { link: index, net: net.trunc(), has_address: true });
        }
    }
    let mut message = Message::new(RTM_GETROUTE, 0);
    message.put(&[0; ROUTE]);
    for route in socket.dump(message)? {
        let (Some(length), Some(kind)) = (route.payload.get(1), route.payload.get(7)) else { continue };
        let table = route.attr(ROUTE, RTA_TABLE).and_then(netlink::number);
        let index = route.attr(ROUTE, RTA_OIF).and_then(netlink::number).unwrap_or(0);
        let to = route.attr(ROUTE, RTA_DST).and_then(address_of);
        // The local table holds single addresses, which were read above.
        if *kind == UNICAST
            && table != Some(TABLE_LOCAL)
            && let Some(Ok(net)) = to.map(|to| IpNet::new(to, *length))
        {
            used.push(Used { link: index, net: net.trunc(), has_address: false });
        }
    }
    Ok(used)
}

/// Sets a kernel setting of a link; `family` is `ipv4` or `ipv6`. In the namespace of the calling thread.
pub fn set(family: &str, name: &str, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{family}/conf/{name}/{key}");
    match std::fs::write(&path, value) {
        // A kernel without that family has nothing to set.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && family == "ipv6" => Ok(()),
        other => other.at("write", path),
    }
}
