//! Names in networks of users: each container that is in one asks at 127.0.0.11, as under Docker.
//!
//! The sockets are made in the container's own network namespace, so only it can ask; rules there lead port 53 of that
//! address to them, so that it may have port 53 for itself. Who answers there is the [`super::helper`]; who is called what
//! is told to it whenever that changes. Other names are asked of the host's servers from the host's namespace, so that
//! those on its loopback can be asked too, but not for a container whose networks are all internal.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};

use engine::network::netlink::Socket;
use engine::network::{namespace, nft};
use fs_base::{ContainerId, IoContext, Result};

use super::attach::Place;
use super::files::{RESOLVER, upstream};
use super::helper::names::{Alias, Asker};
use super::linked;
use crate::container::ContainerRow;

/// The sockets by which a container whose namespace this is is answered, for datagrams and listening, and the rules that
/// lead to them.
pub fn sockets(container: &ContainerId, own: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let usual = usual_port(container);
    namespace::inside(own, || {
        let (udp, tcp) = match bind(usual) {
            Ok(both) => both,
            // Somebody in the container has it.
            Err(_) => bind(0)?,
        };
        let port = |address: std::io::Result<SocketAddr>| address.map(|address| address.port()).at("look at", "socket");
        let ports = (port(udp.local_addr())?, port(tcp.local_addr())?);
        nft::redirect_names(&mut Socket::netfilter()?, RESOLVER, ports, ports == (usual, usual))?;
        Ok((udp.into(), tcp.into()))
    })
}

/// The port that a container's names are answered at: the same each time, so that the rules in its namespace still hold
/// when a helper was killed. It is among those that are nobody's. Source: RFC 6335.
fn usual_port(id: &ContainerId) -> u16 {
    let number = u16::from_str_radix(&id.as_str()[..4], 16).unwrap_or(0);
    49_152 + number % 16_384
}

fn bind(port: u16) -> Result<(UdpSocket, TcpListener)> {
    let address = SocketAddr::from((RESOLVER, port));
    let udp = UdpSocket::bind(address).at("bind", address.to_string())?;
    let tcp = TcpListener::bind(address).at("bind", address.to_string())?;
    Ok((udp, tcp))
}

/// Whether a container in these places is answered names.
pub fn is_answered(places: &[Place]) -> bool {
    places.iter().any(|place| place.network.is_user_defined())
}

/// What a container in these places may know of names.
pub fn asker(row: &ContainerRow, places: &[Place]) -> Asker {
    let known = || places.iter().filter(|place| place.network.is_user_defined());
    let aliases = known().flat_map(|place| {
        // They were checked when they were asked for.
        let links = place.settings.links.iter().filter_map(|link| linked::parse(link).ok());
        links.map(|(name, alias)| Alias { network: place.network.id.clone(), own: alias.to_owned(), name: name.to_owned() })
    });
    Asker {
        networks: known().map(|place| place.network.id.clone()).collect(),
        aliases: aliases.collect(),
        leads_out: places.iter().any(|place| !place.network.spec.internal),
        upstream: upstream(row),
    }
}
