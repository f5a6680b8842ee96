//! What one daemon has of networks on its host.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_base::{Class, Error, IoContext, Result};
use ipnet::IpNet;

use super::link::{self, Used};
use super::netlink::{Message, Socket};
use super::nft::{Batch, Change, Port, Ruleset};
use super::{Mac, conntrack, firewall, namespace};

/// Where a daemon's store is if nobody says otherwise: its names are the short ones.
const USUAL_ROOT: &str = "/var/lib/fsd";

/// Ports that are changed in one step: what the kernel says of each waits in a socket of some 200 KiB.
const AT_ONCE: usize = 64;

/// The names that one daemon's links and rules are known by, so that several never touch each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Its table of rules, and the mark on its bridges.
    pub table: String,
    /// The link of its default bridge.
    pub bridge: String,
    /// A number that few others have, to look for free subnets at another place than they do.
    pub number: u32,
}

impl Scope {
    /// Of the daemon whose store is at `root`.
    pub fn of_root(root: &Path) -> Scope {
        if root == Path::new(USUAL_ROOT) {
            return Scope { table: "fsd".to_owned(), bridge: "fsd0".to_owned(), number: 0 };
        }
        // FNV-1a: the same for ever, which the standard library's hash is not.
        let number = root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let name = format!("fsd-{number:08x}");
        Scope { table: name.clone(), bridge: name, number }
    }

    /// The group of links that a bridge of ours is in until it is finished, which one that was killed leaves it in. The
    /// letters keep it away from the low numbers that people choose.
    pub fn unfinished(&self) -> u32 {
        self.number ^ u32::from_be_bytes(*b"fsd0")
    }

    /// What is noted about a bridge of ours.
    fn alias(&self) -> String {
        format!("{} bridge", self.table)
    }
}

/// A network's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its link, and what the rules have to know of it.
    pub rules: Change,
    /// Its own addresses, in their networks.
    pub addresses: Vec<IpNet>,
    /// The largest packet, if it is not the usual.
    pub mtu: Option<u32>,
}

/// One container's end in one network.
#[derive(Debug)]
pub struct End<'a> {
    /// The container's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// The link of the bridge.
    pub bridge: &'a str,
    /// The name of the wire's end on the host.
    pub host_link: &'a str,
    /// Its name in the container.
    pub name: &'a str,
    /// Its hardware address in the container.
    pub mac: Mac,
    /// The container's addresses, in their networks.
    pub addresses: &'a [IpNet],
    /// By whom the container reaches everything else; at most one of each version.
    pub gateways: &'a [IpAddr],
    /// The largest packet, if it is not the usual.
    pub mtu: Option<u32>,
}

/// A container's way to everywhere else, over one of its links.
#[derive(Debug)]
pub struct Way<'a> {
    /// The container's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// The name of the link in the container.
    pub name: &'a str,
    /// By whom; at most one of each version.
    pub gateways: &'a [IpAddr],
}

#[derive(Debug)]
struct Sockets {
    route: Socket,
    /// Opened when it is first needed: a kernel without rules has links all the same.
    netfilter: Option<Socket>,
    /// Whether the table is known to be there.
    has_table: bool,
    /// The bridges that somebody else's firewall has let through.
    let_through: HashSet<String>,
}

impl Sockets {
    fn netfilter(&mut self) -> Result<&mut Socket> {
        match &mut self.netfilter {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Socket::netfilter()?)),
        }
    }
}

/// A daemon's networks on its host.
#[derive(Debug)]
pub struct Host {
    scope: Scope,
    sockets: Mutex<Option<Sockets>>,
}

impl Host {
    /// Nothing is done yet, and nothing is opened.
    pub fn new(scope: Scope) -> Host {
        Host { scope, sockets: Mutex::new(None) }
    }

    /// Its names.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    fn rules(&self) -> Ruleset<'_> {
        Ruleset { table: &self.scope.table }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Sockets) -> Result<T>) -> Result<T> {
        let mut guard: MutexGuard<'_, Option<Sockets>> = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let sockets = match guard.as_mut() {
            Some(sockets) => sockets,
            None => {
                guard.insert(Sockets { route: Socket::route()?, netfilter: None, has_table: false, let_through: HashSet::new() })
            }
        };
        let result = work(sockets);
        if result.is_err() {
            // Answers may be left in them; and the table may have gone.
            *guard = None;
        }
        result
    }

    /// Changes the table, which is made if it is not there.
    fn change(&self, fill: impl FnOnce(&mut Batch)) -> Result<()> {
        self.with(|sockets| {
            let rules = self.rules();
            let mut batch = rules.batch();
            if !sockets.has_table && !rules.exists(sockets.netfilter()?)? {
                Ruleset::create(&mut batch, false);
            }
            fill(&mut batch);
            batch.commit(sockets.netfilter()?)?;
            sockets.has_table = true;
            Ok(())
        })
    }

    /// Whether the table is there.
    pub fn has_rules(&self) -> Result<bool> {
        self.with(|sockets| self.rules().exists(sockets.netfilter()?))
    }

    /// Makes the table anew with these networks and ports, in one step: packets never pass without it. Only where there are
    /// very many ports, some follow.
    pub fn reset_rules(&self, bridges: &[Bridge], ports: &[Port]) -> Result<()> {
        self.with(|sockets| {
            let mut batch = self.rules().batch();
            let exists = self.rules().exists(sockets.netfilter()?)?;
            Ruleset::create(&mut batch, exists);
            for bridge in bridges {
                Ruleset::add_network(&mut batch, &bridge.rules);
            }
            let (first, rest) = ports.split_at(ports.len().min(AT_ONCE));
            for port in first {
                Ruleset::add_port(&mut batch, port);
            }
            batch.commit(sockets.netfilter()?)?;
            sockets.has_table = true;
            Ok(rest)
        })
        .and_then(|rest| self.publish(rest))
    }

    /// Makes a bridge, or finds it as it was made, and lets its packets through.
    pub fn bring_up(&self, bridge: &Bridge) -> Result<()> {
        let name = &bridge.rules.bridge;
        let is_new = self.with(|sockets| {
            let found = link::by_name(&mut sockets.route, name)?;
            if let Some(found) = &found
                && found.alias != self.scope.alias()
            {
                return Err(Error::conflict(format!("the link {name} is there and not ours")));
            }
            if found.is_none() {
                self.make(&mut sockets.route, bridge)?;
            }
            Ok(found.is_none())
        })?;
        let done = self
            .change(|batch| Ruleset::add_network(batch, &bridge.rules))
            .and_then(|()| self.with(|sockets| self.let_through(sockets, name)));
        if let (Err(_), true) = (&done, is_new) {
            let _ = self.with(|sockets| sockets.route.request(name, &mut [link::delete_by_name(name)]));
        }
        done
    }

    fn let_through(&self, sockets: &mut Sockets, name: &str) -> Result<()> {
        if firewall::let_through(sockets.netfilter()?, &self.scope.table, name)? {
            sockets.let_through.insert(name.to_owned());
        }
        Ok(())
    }

    fn make(&self, socket: &mut Socket, bridge: &Bridge) -> Result<()> {
        let name = &bridge.rules.bridge;
        let v4 = bridge.addresses.iter().find_map(|net| if let IpNet::V4(v4) = net { Some(v4.addr()) } else { None });
        let mac = Mac::of(v4.unwrap_or(std::net::Ipv4Addr::new(0, 0, 0, 1)));
        socket.request(name, &mut [link::new_bridge(name, mac, bridge.mtu, self.scope.unfinished())])?;
        let finish = |socket: &mut Socket| {
            let index = link::index_of(socket, name)?;
            let has_v6 = bridge.addresses.iter().any(|net| net.addr().is_ipv6());
            link::set("ipv6", name, "disable_ipv6", if has_v6 { "0" } else { "1" })?;
            if has_v6 {
                link::set("ipv6", name, "accept_ra", "0")?;
                forward_ipv6()?;
            }
            // For ports that are published on 127.0.0.1; the rules keep containers from using it.
            link::set("ipv4", name, "route_localnet", "1")?;
            if !bridge.rules.internal {
                turn_on("/proc/sys/net/ipv4/ip_forward")?;
            }
            let mut messages: Vec<Message> = bridge.addresses.iter().map(|address| link::add_address(index, *address)).collect();
            messages.push(link::set_up(index, Some(&self.scope.alias())));
            socket.request(name, &mut messages)
        };
        finish(socket).inspect_err(|_| {
            let _ = socket.send(&mut [link::delete_by_name(name)]);
        })
    }

    /// Takes a bridge away with its rules; what of it is gone already is no error.
    pub fn take_down(&self, bridge: &Bridge) -> Result<()> {
        let name = &bridge.rules.bridge;
        let link = self.with(|sockets| {
            let found = link::by_name(&mut sockets.route, name)?.filter(|found| found.alias == self.scope.alias());
            found.map_or(Ok(()), |found| sockets.route.request(name, &mut [link::delete(found.index)]))
        });
        let rules = if self.has_rules()? {
            ignoring_missing(self.change(|batch| Ruleset::remove_network(batch, &bridge.rules)))
        } else {
            Ok(())
        };
        self.forget_firewall(name)?;
        ignoring_missing(link).and(rules)
    }

    /// Puts a container into a network. If it fails, nothing of it is left.
    pub fn connect(&self, end: &End<'_>) -> Result<()> {
        self.with(|sockets| {
            let bridge = link::index_of(&mut sockets.route, end.bridge)?;
            // A firewall may have come up after the bridge did.
            if !sockets.let_through.contains(end.bridge) {
                self.let_through(sockets, end.bridge)?;
            }
            let veth =
                link::Veth { name: end.host_link, bridge, peer: end.name, mac: end.mac, namespace: end.namespace, mtu: end.mtu };
            sockets.route.request(end.host_link, &mut [link::new_veth(&veth)])?;
            // A port of a bridge needs no address of its own.
            link::set("ipv6", end.host_link, "disable_ipv6", "1")?;
            let port = link::index_of(&mut sockets.route, end.host_link)?;
            // The address may have been behind another port a moment ago.
            sockets.route.request(end.host_link, &mut [link::set_port_up(port), link::bridge_knows(port, end.mac)])
        })
        .and_then(|()| namespace::inside(end.namespace, || set_up_inside(end)))
        .and_then(|()| self.with(|sockets| link::wait_until_it_operates(&mut sockets.route, end.host_link)))
        .inspect_err(|_| drop(self.disconnect(end.host_link)))
    }

    /// Takes a container out of a network. That it is out already is no error.
    pub fn disconnect(&self, host_link: &str) -> Result<()> {
        ignoring_missing(self.with(|sockets| sockets.route.request(host_link, &mut [link::delete_by_name(host_link)])))
    }

    /// The same without keeping anybody else waiting: the kernel takes its time for it.
    pub fn cut(&self, host_link: &str) -> Result<()> {
        ignoring_missing(Socket::route()?.request(host_link, &mut [link::delete_by_name(host_link)]))
    }

    /// Opens the way of ports to containers.
    pub fn publish(&self, ports: &[Port]) -> Result<()> {
        for some in ports.chunks(AT_ONCE) {
            self.change(|batch| {
                for port in some {
                    Ruleset::add_port(batch, port);
                }
            })?;
        }
        Ok(())
    }

    /// Closes it again. That it is closed already is no error.
    pub fn unpublish(&self, ports: &[Port]) -> Result<()> {
        if ports.is_empty() || !self.has_rules()? {
            return Ok(());
        }
        ports.chunks(AT_ONCE).try_for_each(|some| self.unpublish_at_once(some))
    }

    fn unpublish_at_once(&self, ports: &[Port]) -> Result<()> {
        let all = self.change(|batch| {
            for port in ports {
                Ruleset::remove_port(batch, port);
            }
        });
        match all {
            // One that is missing keeps the others from being closed.
            Err(error) if error.class() == Class::NotFound && ports.len() > 1 => {
                ports.iter().try_for_each(|port| self.unpublish_at_once(std::slice::from_ref(port)))
            }
            other => ignoring_missing(other),
        }
    }

    /// The networks that this host uses otherwise.
    pub fn networks_in_use(&self) -> Result<Vec<Used>> {
        self.with(|sockets| {
            let ours: Vec<u32> = self.own_links(&mut sockets.route)?.iter().map(|link| link.index).collect();
            let used = link::networks_in_use(&mut sockets.route)?;
            Ok(used.into_iter().filter(|used| !ours.contains(&used.link)).collect())
        })
    }

    fn own_links(&self, socket: &mut Socket) -> Result<Vec<link::Link>> {
        let alias = self.scope.alias();
        Ok(link::all(socket)?.into_iter().filter(|link| link.alias == alias).collect())
    }

    /// The links of our bridges, and those of the wires in them.
    pub fn links(&self) -> Result<(Vec<String>, Vec<String>)> {
        self.with(|sockets| {
            let all = link::all(&mut sockets.route)?;
            let bridges: Vec<_> = all.iter().filter(|link| link.alias == self.scope.alias()).collect();
            let is_port = |link: &&link::Link| link.master.is_some_and(|master| bridges.iter().any(|one| one.index == master));
            let wires = all.iter().filter(is_port).map(|link| link.name.clone()).collect();
            Ok((bridges.iter().map(|link| link.name.clone()).collect(), wires))
        })
    }

    /// Takes away what a daemon that was killed had just begun to make. Nobody may be making any.
    pub fn remove_unfinished(&self) -> Result<()> {
        self.with(|sockets| {
            let all = link::all(&mut sockets.route)?;
            let unfinished = |link: &&link::Link| link.alias.is_empty() && link.group == self.scope.unfinished();
            for link in all.iter().filter(unfinished) {
                sockets.route.request(&link.name, &mut [link::delete(link.index)])?;
            }
            Ok(())
        })
    }

    /// Takes away a link of ours that nobody needs.
    pub fn remove_link(&self, name: &str) -> Result<()> {
        self.forget_firewall(name)?;
        self.disconnect(name)
    }

    fn forget_firewall(&self, name: &str) -> Result<()> {
        firewall::forget(&self.scope.table, name);
        self.with(|sockets| {
            sockets.let_through.remove(name);
            Ok(())
        })
    }

    /// Forgets connections that lead to an address that nobody has any more.
    pub fn forget_connections(&self, address: IpAddr) -> Result<()> {
        conntrack::forget(&mut Socket::netfilter()?, address)
    }

    /// Takes all away: rules, wires, bridges.
    pub fn remove_all(&self) -> Result<()> {
        self.remove_unfinished()?;
        let (bridges, wires) = self.links()?;
        wires.iter().try_for_each(|name| self.disconnect(name))?;
        bridges.iter().try_for_each(|name| self.remove_link(name))?;
        self.with(|sockets| {
            sockets.has_table = false;
            self.rules().remove(sockets.netfilter()?)
        })
    }
}

/// Changes a container's way to everywhere else.
pub fn set_way(way: &Way<'_>) -> Result<()> {
    namespace::inside(way.namespace, || {
        let mut socket = Socket::route()?;
        let index = link::index_of(&mut socket, way.name)?;
        let mut messages: Vec<Message> = way.gateways.iter().map(|gateway| default_route(index, *gateway)).collect();
        socket.request(way.name, &mut messages)
    })
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    link::add_route(index, None, Some(gateway), if gateway.is_ipv4() { 4 } else { 6 })
}

/// In the container's namespace.
fn set_up_inside(end: &End<'_>) -> Result<()> {
    let mut socket = Socket::route()?;
    let index = link::index_of(&mut socket, end.name)?;
    let has_v6 = end.addresses.iter().any(|net| net.addr().is_ipv6());
    link::set("ipv6", end.name, "disable_ipv6", if has_v6 { "0" } else { "1" })?;
    let mut messages = vec![link::set_up(index, None)];
    messages.extend(end.addresses.iter().map(|address| link::add_address(index, *address)));
    messages.extend(end.gateways.iter().map(|gateway| default_route(index, *gateway)));
    socket.request(end.name, &mut messages)?;
    link::wait_until_it_operates(&mut socket, end.name)
}

/// A host that forwards IPv6 no longer listens to its routers, unless it is told to: it would lose its own way out.
/// Source: kernel, Documentation/networking/ip-sysctl.rst, accept_ra.
fn forward_ipv6() -> Result<()> {
    const ALL: &str = "/proc/sys/net/ipv6/conf";
    let forwarding = format!("{ALL}/all/forwarding");
    if std::fs::read_to_string(&forwarding).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    for link in std::fs::read_dir(ALL).at("read directory", ALL)?.flatten() {
        let path = link.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            std::fs::write(&path, "2").at("write", &path)?;
        }
    }
    turn_on(&forwarding)
}

fn turn_on(path: &str) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == "1" => Ok(()),
        _ => std::fs::write(path, "1").at("write", path),
    }
}

fn ignoring_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.class(), Class::NotFound | Class::Unsupported) => Ok(()),
        other => other,
    }
}
