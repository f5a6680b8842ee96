//! A container's networks from its start to its end.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::network::nft::{Port, Protocol};
use engine::network::{End, Mac, namespace};
use fs_base::{ContainerId, Error, Result};
use ipnet::IpNet;

use super::helper::wire::Passage;
use super::model::{BRIDGE, Settings};
use super::ports::{self, Bound};
use super::{Endpoint, Lease, Mode, Network, Published, create, files, ipam, linked, links, request, resolver, tell};
use crate::app::App;
use crate::container::ContainerRow;

/// How long the kernel has for taking a container's wires away by itself.
const WIRES_GO: Duration = Duration::from_secs(1);

/// A container's place in a network that is known to be there.
#[derive(Debug, Clone)]
pub struct Place {
    /// The network.
    pub network: Network,
    /// The place.
    pub settings: Settings,
    /// What the container has there.
    pub lease: Lease,
}

impl Place {
    /// Its addresses, in their networks.
    pub fn addresses(&self) -> Vec<IpNet> {
        let of = |is_v4: bool| {
            let length = self.network.pool(is_v4)?.subnet.prefix_len();
            IpNet::new(self.lease.address(is_v4)?, length).ok()
        };
        [true, false].into_iter().filter_map(of).collect()
    }

    /// By whom it leads everywhere.
    pub fn gateways(&self) -> Vec<IpAddr> {
        if self.network.spec.internal {
            return Vec::new();
        }
        self.network.spec.pools.iter().map(|pool| pool.gateway).collect()
    }
}

/// Everything about networks that is settled before a container's processes are made.
#[derive(Debug)]
pub struct Prepared {
    /// What the engine has to know.
    pub network: engine::config::Network,
    /// What goes into its files.
    pub files: files::Files,
    places: Vec<Place>,
    bound: Vec<Bound>,
}

/// The place whose network leads everywhere: the one of the highest priority, or that was asked for first.
pub fn way_out(places: &[Place]) -> Option<&Place> {
    let outward = places.iter().filter(|place| !place.network.spec.internal);
    // Of equals, `max_by_key` would take the last.
    outward.rev().max_by_key(|place| place.settings.priority)
}

/// Gives a container its addresses and ports. `known` are lines of its `/etc/hosts`. If it fails, [`release`] takes back
/// what it had.
pub fn prepare(app: &App, row: &ContainerRow, known: &str) -> Result<Prepared> {
    let set_up = |error: Error| error.context("failed to set up container networking");
    match Mode::of(row) {
        Mode::Host => Ok(nothing(app, row, engine::config::Network::Host)),
        Mode::None => Ok(nothing(app, row, engine::config::Network::Own)),
        Mode::Of(name) => join(app, row, &name).map_err(set_up),
        Mode::Bridges(_) => bridges(app, row, known).map_err(set_up),
    }
}

fn nothing(app: &App, row: &ContainerRow, network: engine::config::Network) -> Prepared {
    Prepared { network, files: files::of(app, row, &[], ""), places: Vec::new(), bound: Vec::new() }
}

/// Another container's network, and its files with it.
fn join(app: &App, row: &ContainerRow, name: &str) -> Result<Prepared> {
    let joining = |error: Error| error.context("joining network namespace of container");
    let other = app.db.find_container(name).map_err(joining)?;
    if other.id == row.id {
        return Err(Error::invalid("cannot join own network namespace"));
    }
    if !other.state.is_running() {
        return Err(Error::conflict(format!("cannot join network of a non running container: {}", other.id)));
    }
    let path = PathBuf::from(namespace::path_of(other.state.pid));
    let mut prepared = nothing(app, row, engine::config::Network::Of(path));
    prepared.files.shared_with = Some(app.container_dir(&other.id));
    Ok(prepared)
}

fn bridges(app: &App, row: &ContainerRow, known: &str) -> Result<Prepared> {
    let asked = app.db.endpoints_of(&row.id)?;
    let mut places = Vec::new();
    for (number, endpoint) in asked.iter().enumerate() {
        places.push(lease(app, endpoint, number)?);
    }
    let mut bound = Vec::new();
    if let Some(way) = way_out(&places) {
        bound = bind(app, row, way).map_err(|error| {
            error.context(format!("driver failed programming external connectivity on endpoint {} ({})", row.name, way.lease.id))
        })?;
    }
    let files = files::of(app, row, &places, known);
    Ok(Prepared { network: engine::config::Network::Own, files, places, bound })
}

/// The network of a place, with its bridge.
fn network_of(app: &App, endpoint: &Endpoint) -> Result<Network> {
    let missing = |_| Error::not_found(format!("network {} not found", endpoint.name));
    let network = app.db.find_network(&endpoint.network).or_else(|_| app.db.find_network(&endpoint.name)).map_err(missing)?;
    if network.name == BRIDGE {
        return create::default_bridge(app);
    }
    if !network.is_bridge() {
        return Err(request::other_networks(&Mode::parse(&network.name)));
    }
    request::check(&network, &endpoint.settings)?;
    super::bring_up(app, &network)?;
    Ok(network)
}

/// Gives a container its addresses in one network.
pub fn lease(app: &App, endpoint: &Endpoint, number: usize) -> Result<Place> {
    let network = network_of(app, endpoint)?;
    let id = fs_base::id::random_hex::<32>()?;
    let settings = &endpoint.settings;
    let lease = app.db.lease(&endpoint.container, &network, &endpoint.network, &mut |taken| {
        let leases: Vec<&Lease> =
            taken.iter().filter(|other| other.container != endpoint.container).filter_map(|other| other.lease.as_ref()).collect();
        let taken: HashSet<IpAddr> =
            leases.iter().flat_map(|lease| [lease.address(true), lease.address(false)]).flatten().collect();
        let choose = |is_v4: bool, asked: Option<IpAddr>| -> Result<Option<IpAddr>> {
            let Some(pool) = network.pool(is_v4) else { return Ok(None) };
            match asked {
                Some(address) => ipam::chosen_address(pool, address, &taken).map(Some),
                None => ipam::free_address(&network, pool, &taken).map(Some),
            }
        };
        let ipv4 = match choose(true, settings.ipv4.map(IpAddr::V4))? {
            Some(IpAddr::V4(v4)) => Some(v4),
            _ => None,
        };
        let ipv6 = match choose(false, settings.ipv6.map(IpAddr::V6))? {
            Some(IpAddr::V6(v6)) => Some(v6),
            _ => None,
        };
        let own = ipv4.map(|v4| Mac::of(v4).to_string());
        let mac = settings.mac.clone().or(own).ok_or_else(|| Error::internal("a network without IPv4"))?;
        Ok(Lease { id: id.clone(), link: format!("eth{number}"), mac, ipv4, ipv6 })
    })?;
    Ok(Place { network, settings: settings.clone(), lease })
}

/// Binds the ports of a container, and records them.
pub fn bind(app: &App, row: &ContainerRow, way: &Place) -> Result<Vec<Bound>> {
    let Some(address) = way.lease.address(true) else { return Ok(Vec::new()) };
    let others = |port: &Published| {
        let all = app.db.published(None).unwrap_or_default();
        all.iter().any(|(container, other)| *container != row.id && ports::overlap(other, port))
    };
    let bound = ports::bind(&row.definition, &way.network, &others, address)?;
    if !bound.is_empty() {
        app.db.publish(&row.id, &bound.iter().map(|one| one.port).collect::<Vec<_>>())?;
    }
    Ok(bound)
}

/// Connects a container whose first process waits. If it fails, [`release`] takes back what it had.
pub fn attach(app: &App, row: &ContainerRow, prepared: Prepared, pid: i32) -> Result<()> {
    if prepared.places.is_empty() {
        return Ok(());
    }
    let set_up = |error: Error| error.context("failed to set up container networking");
    let namespace = namespace::of_process(pid)?;
    let way = way_out(&prepared.places).map(|place| place.lease.id.clone());
    for place in &prepared.places {
        let is_way = way.as_ref() == Some(&place.lease.id);
        connect(app, place, namespace.as_fd(), is_way).map_err(set_up)?;
        tell(app, "connect", &place.network.id, &place.network.name, &place.network.spec.driver, &row.id);
    }
    links::set(row, namespace.as_fd()).map_err(set_up)?;
    linked::settle(app, row);
    let way = way_out(&prepared.places);
    open_ports(app, (&row.id, pid), way, prepared.bound).map_err(set_up)?;
    answer(app, row, pid, &prepared.places).map_err(set_up)
}

/// Answers a container that is in these places, if it is in a network of users, and has others know its names.
pub fn answer(app: &App, row: &ContainerRow, pid: i32, places: &[Place]) -> Result<()> {
    let serving = &app.networks.serving;
    if !resolver::is_answered(places) && !serving.is_answered(&row.id) {
        return Ok(());
    }
    let asker = resolver::asker(row, places);
    if !serving.set_asker(&row.id, &asker)? && resolver::is_answered(places) {
        let sockets = resolver::sockets(&row.id, namespace::of_process(pid)?.as_fd())?;
        serving.answer(&row.id, pid, asker.clone(), &sockets)?;
    }
    serving.tell_names(&asker.networks.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Puts the wire into a container.
pub fn connect(app: &App, place: &Place, namespace: std::os::fd::BorrowedFd<'_>, is_way: bool) -> Result<()> {
    let host_link = place.lease.host_link();
    let gateways = if is_way { place.gateways() } else { Vec::new() };
    let end = End {
        namespace,
        bridge: &place.network.spec.link,
        host_link: &host_link,
        name: &place.lease.link,
        mac: place.lease.mac()?,
        addresses: &place.addresses(),
        gateways: &gateways,
        mtu: place.network.mtu(),
    };
    app.networks.host.connect(&end)
}

/// Where what comes to a port's socket goes.
pub fn passage(port: &Published, way: &Place) -> Option<Passage> {
    let address = way.lease.address(port.host.is_ipv4()).or_else(|| way.lease.address(true))?;
    (port.protocol != Protocol::Sctp).then_some(Passage { port: *port, to: SocketAddr::new(address, port.container_port) })
}

/// Rules for published ports of a container, whose first process is given, and somebody who serves their sockets.
pub fn open_ports(app: &App, (container, pid): (&ContainerId, i32), way: Option<&Place>, bound: Vec<Bound>) -> Result<()> {
    let Some(way) = way else { return Ok(()) };
    let rules: Vec<Port> =
        bound.iter().filter_map(|one| ports::rule(&one.port, way.lease.address(one.port.host.is_ipv4()))).collect();
    app.networks.host.publish(&rules)?;
    let sockets = bound.into_iter().filter_map(|one| Some((passage(&one.port, way)?, one.socket?)));
    app.networks.serving.pass(container, pid, &sockets.collect::<Vec<_>>())
}

/// Takes back what a container had of networks, when it has ended or could not start. What can't be taken back now is
/// taken back at the next start of the daemon.
pub fn release(app: &App, row: &ContainerRow) {
    app.networks.serving.forget(&row.id);
    let (had, ports) = match app.db.release(&row.id) {
        Ok(had) => had,
        Err(error) => {
            tracing::warn!(container = %row.id, %error, "a container's addresses could not be given back");
            return;
        }
    };
    if had.is_empty() {
        return;
    }
    close_ports(app, &had, &ports);
    let networks = had.iter().map(|endpoint| endpoint.network.as_str()).collect::<Vec<_>>();
    if let Err(error) = app.networks.serving.tell_names(&networks) {
        tracing::warn!(container = %row.id, %error, "the names of a container that has ended are still answered");
    }
    if ports.iter().any(|port| port.protocol == Protocol::Udp) {
        let addresses = had.iter().filter_map(|endpoint| endpoint.lease.as_ref());
        for address in addresses.flat_map(|lease| [lease.address(true), lease.address(false)]).flatten() {
            if let Err(error) = app.networks.host.forget_connections(address) {
                tracing::warn!(container = %row.id, %error, "connections to a container that has ended are still known");
            }
        }
    }
    let links: Vec<String> = had.iter().filter_map(|endpoint| endpoint.lease.as_ref()).map(Lease::host_link).collect();
    let host = Arc::clone(&app.networks.host);
    // The wires go with the container's namespace, many at once where many containers end, and that is faster than to
    // take each away. But another container may be in the namespace.
    tokio::runtime::Handle::current().spawn(async move {
        tokio::time::sleep(WIRES_GO).await;
        let cut = move || {
            for link in links {
                if let Err(error) = host.cut(&link) {
                    tracing::warn!(link, %error, "a wire could not be taken away");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(cut).await;
    });
    for endpoint in &had {
        tell(app, "disconnect", &endpoint.network, &endpoint.name, BRIDGE, &row.id);
    }
}

/// Takes the rules of ports away.
pub fn close_ports(app: &App, had: &[Endpoint], published: &[Published]) {
    let address = |is_v4| had.iter().filter_map(|endpoint| endpoint.lease.as_ref()).find_map(|lease| lease.address(is_v4));
    let rules: Vec<Port> = published.iter().filter_map(|port| ports::rule(port, address(port.host.is_ipv4()))).collect();
    if let Err(error) = app.networks.host.unpublish(&rules) {
        tracing::warn!(%error, "the rules of published ports could not be taken away");
    }
}
