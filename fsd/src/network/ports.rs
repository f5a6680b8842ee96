//! Published ports: what was asked for, and the sockets that hold them.
//!
//! A published port is bound, so that nobody else on the host takes it and everybody is told whose it is; the kernel's
//! rules carry the packets past that socket. What they can't carry comes to it: the [`super::helper`] passes it on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use engine::network::nft::{Port, Protocol};
use fs_base::{Error, IoContext, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::Value;

use super::Published;
use super::model::Network;
use crate::container::Definition;

/// How many ports of the kernel's choice are tried before one is free for both versions.
const ATTEMPTS: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// One `-p`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The container's port.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's address; that of the network if `None`.
    pub host: Option<IpAddr>,
    /// The host's ports, of which one is taken; any if `None`.
    pub host_ports: Option<RangeInclusive<u16>>,
}

/// A port that is held.
#[derive(Debug)]
pub struct Bound {
    /// Which.
    pub port: Published,
    /// By this socket; SCTP has the rules only.
    pub socket: Option<OwnedFd>,
}

fn port_and_protocol(text: &str) -> Result<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = port.parse::<u16>().ok().filter(|port| *port > 0);
    Ok((number.ok_or_else(|| Error::invalid(format!("invalid port specification: \"{text}\"")))?, protocol.parse()?))
}

/// The ports that a container exposes.
pub fn exposed(config: &Value) -> Result<Vec<(u16, Protocol)>> {
    config["ExposedPorts"].as_object().into_iter().flatten().map(|(text, _)| port_and_protocol(text)).collect()
}

/// What a container publishes.
pub fn wanted(host_config: &Value, config: &Value) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    for (text, bindings) in host_config["PortBindings"].as_object().into_iter().flatten() {
        let (container_port, protocol) = port_and_protocol(text)?;
        let bindings: &[Value] = bindings.as_array().map(Vec::as_slice).unwrap_or_default();
        let nothing = [Value::Null];
        for binding in if bindings.is_empty() { &nothing } else { bindings } {
            let field = |key: &str| binding[key].as_str().filter(|text| !text.is_empty());
            let host = field("HostIp").map(|text| {
                let bare = text.trim_start_matches('[').trim_end_matches(']');
                bare.parse::<IpAddr>().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))
            });
            let host_ports = field("HostPort").filter(|text| *text != "0").map(range).transpose()?;
            all.push(Wanted { container_port, protocol, host: host.transpose()?, host_ports });
        }
    }
    if host_config["PublishAllPorts"] == true {
        for (container_port, protocol) in exposed(config)? {
            if !all.iter().any(|port| (port.container_port, port.protocol) == (container_port, protocol)) {
                all.push(Wanted { container_port, protocol, host: None, host_ports: None });
            }
        }
    }
    Ok(all)
}

fn range(text: &str) -> Result<RangeInclusive<u16>> {
    let bad = || Error::invalid(format!("invalid port range: value is not valid: {text}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first == 0 || first > last { Err(bad()) } else { Ok(first..=last) }
}

/// Whether it could be published.
pub fn check(host_config: &Value, config: &Value) -> Result<()> {
    wanted(host_config, config).map(drop)
}

/// Binds all ports of a container, whose way out is `network`. `taken` says whether another container of ours has a
/// port.
pub fn bind(
    definition: &Definition,
    network: &Network,
    taken: &dyn Fn(&Published) -> bool,
    container: IpAddr,
) -> Result<Vec<Bound>> {
    let mut all: Vec<Bound> = Vec::new();
    for port in wanted(&definition.host_config, &definition.config)? {
        let hosts: Vec<IpAddr> = match port.host.or_else(|| network.binding()) {
            Some(host) => vec![host],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        all.extend(bind_one(&port, &hosts, taken, container)?);
    }
    Ok(all)
}

fn bind_one(port: &Wanted, hosts: &[IpAddr], taken: &dyn Fn(&Published) -> bool, container: IpAddr) -> Result<Vec<Bound>> {
    let mut last = None;
    let choices: Box<dyn Iterator<Item = u16>> = match &port.host_ports {
        Some(range) => Box::new(range.clone()),
        None => Box::new(std::iter::repeat_n(0, ATTEMPTS)),
    };
    for choice in choices {
        match bind_all(port, hosts, choice) {
            Ok(bound) => return Ok(bound),
            Err((host, host_port, error)) => {
                let wanted = Published { container_port: port.container_port, protocol: port.protocol, host, host_port };
                last = Some(refused(&wanted, taken(&wanted), container, error));
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::unavailable("all ports are allocated")))
}

fn bind_all(port: &Wanted, hosts: &[IpAddr], choice: u16) -> Result<Vec<Bound>, (IpAddr, u16, Error)> {
    let mut all: Vec<Bound> = Vec::new();
    for host in hosts {
        let host_port = all.first().map_or(choice, |first| first.port.host_port);
        match hold(port.protocol, SocketAddr::new(*host, host_port)) {
            Ok((socket, host_port)) => {
                let port = Published { container_port: port.container_port, protocol: port.protocol, host: *host, host_port };
                all.push(Bound { port, socket });
            }
            // A host without IPv6 publishes on what it has.
            Err(error) if !all.is_empty() && !error.to_string().contains("in use") => {}
            Err(error) => return Err((*host, host_port, error)),
        }
    }
    Ok(all)
}

/// Binds the port of a container that runs on.
pub fn hold_again(port: &Published) -> Result<Option<OwnedFd>> {
    hold(port.protocol, SocketAddr::new(port.host, port.host_port)).map(|(socket, _)| socket)
}

fn hold(protocol: Protocol, address: SocketAddr) -> Result<(Option<OwnedFd>, u16)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp if address.port() == 0 => {
            return Err(Error::invalid("a port of SCTP is not chosen for you: name the host's port"));
        }
        Protocol::Sctp => return Ok((None, address.port())),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None).at("open", "socket")?;
    if address.is_ipv6() {
        // 0.0.0.0 is another port.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).at("configure", "socket")?;
    }
    if protocol == Protocol::Tcp {
        // Connections of before that are not wholly over are in nobody's way.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).at("configure", "socket")?;
    }
    rustix::net::bind(&socket, &address).at("bind", address.to_string())?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, BACKLOG).at("listen on", address.to_string())?;
    }
    let own: SocketAddr = rustix::net::getsockname(&socket).at("look at", "socket")?.try_into().at("look at", "socket")?;
    Ok((Some(socket), own.port()))
}

/// Docker's words for a port that can't be had.
fn refused(port: &Published, ours: bool, container: IpAddr, error: Error) -> Error {
    let host = SocketAddr::new(port.host, port.host_port);
    if ours {
        return Error::conflict(format!("Bind for {host} failed: port is already allocated"));
    }
    let (protocol, to) = (port.protocol.as_str(), SocketAddr::new(container, port.container_port));
    let why = match error.to_string() {
        text if text.contains("in use") => "address already in use".to_owned(),
        text if text.contains("assign requested") => "cannot assign requested address".to_owned(),
        _ => return error.context(format!("failed to bind host port for {host}:{to}/{protocol}")),
    };
    Error::conflict(format!("failed to bind host port for {host}:{to}/{protocol}: {why}"))
}

/// Whether two published ports are in each other's way.
pub fn overlap(one: &Published, other: &Published) -> bool {
    (one.protocol, one.host_port) == (other.protocol, other.host_port)
        && one.host.is_ipv4() == other.host.is_ipv4()
        && (one.host == other.host || one.host.is_unspecified() || other.host.is_unspecified())
}

/// What the kernel's rules can do for a published port: translate to an address of the same version; but ::1 can't
/// leave the host.
pub fn rule(port: &Published, container: Option<IpAddr>) -> Option<Port> {
    let container = container?;
    let is_loopback6 = port.host == IpAddr::V6(Ipv6Addr::LOCALHOST);
    (container.is_ipv4() == port.host.is_ipv4() && !is_loopback6).then_some(Port {
        protocol: port.protocol,
        host: port.host,
        host_port: port.host_port,
        container,
        container_port: port.container_port,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_published_is_read_or_refused() {
        let config = json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}});
        let host = json!({"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000-8002"}, {"HostIp": "", "HostPort": ""}]}});
        let ports = wanted(&host, &config).unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[0].host, ports[0].host_ports.clone()), (Some([127, 0, 0, 1].into()), Some(8000..=8002)));
        assert_eq!((ports[1].host, ports[1].host_ports.clone()), (None, None));
        let all = json!({"PortBindings": {"80/tcp": []}, "PublishAllPorts": true});
        let mut ports = wanted(&all, &config).unwrap();
        ports.sort_by_key(|port| port.container_port);
        assert_eq!(
            ports.iter().map(|port| (port.container_port, port.protocol)).collect::<Vec<_>>(),
            [(53, Protocol::Udp), (80, Protocol::Tcp)]
        );
        for bad in [
            json!({"0/tcp": []}),
            json!({"80/icmp": []}),
            json!({"x": []}),
            json!({"80/tcp": [{"HostPort": "9-8"}]}),
            json!({"80/tcp": [{"HostPort": "70000"}]}),
            json!({"80/tcp": [{"HostIp": "nowhere"}]}),
        ] {
            assert!(wanted(&json!({"PortBindings": bad}), &json!({})).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_refused_in_dockers_words() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = holder.local_addr().unwrap().port();
        let port = Wanted { container_port: 80, protocol: Protocol::Tcp, host: None, host_ports: Some(number..=number) };
        let hosts = [Ipv4Addr::LOCALHOST.into()];
        let error = bind_one(&port, &hosts, &|_| false, [10, 0, 0, 2].into()).unwrap_err().to_string();
        assert_eq!(error, format!("failed to bind host port for 127.0.0.1:{number}:10.0.0.2:80/tcp: address already in use"));
        let error = bind_one(&port, &hosts, &|_| true, [10, 0, 0, 2].into()).unwrap_err().to_string();
        assert_eq!(error, format!("Bind for 127.0.0.1:{number} failed: port is already allocated"));
        let both = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let bound = bind_one(&Wanted { host_ports: None, ..port }, &both, &|_| false, [10, 0, 0, 2].into()).unwrap();
        assert!(bound.iter().all(|one| one.port.host_port == bound[0].port.host_port) && bound[0].port.host_port > 0);
    }
}
