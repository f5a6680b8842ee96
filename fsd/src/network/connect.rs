//! Containers that come into networks and leave them, running or not.

use std::os::fd::AsFd;

use engine::network::{Way, namespace, set_way};
use fs_base::{Error, Result};

use super::attach::{self, Place};
use super::model::BRIDGE;
use super::request::{self, Asked};
use super::{Endpoint, Mode, Network, files, linked, ports, tell};
use crate::app::App;
use crate::container::ContainerRow;

/// The places that a container has now.
pub fn places_of(app: &App, row: &ContainerRow) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for endpoint in app.db.endpoints_of(&row.id)? {
        if let Some(lease) = endpoint.lease {
            places.push(Place { network: app.db.find_network(&endpoint.network)?, settings: endpoint.settings, lease });
        }
    }
    Ok(places)
}

/// Whether networks can be connected to a container beside those that it has.
fn check_mode(row: &ContainerRow, network: &Network) -> Result<()> {
    match Mode::of(row) {
        Mode::Bridges(_) if network.is_bridge() => Ok(()),
        Mode::Bridges(_) => Err(request::other_networks(&Mode::parse(&network.name))),
        mode => Err(request::other_networks(&mode)),
    }
}

/// Connects a container to a network.
pub fn connect(app: &App, network: &Network, container: &str, asked: &Asked) -> Result<()> {
    let live = app.containers.of(&app.db.find_container(container)?.id);
    let _alone = live.alone();
    let row = app.db.find_container(container)?;
    check_mode(&row, network)?;
    let settings = asked.settings()?;
    request::check(network, &settings)?;
    let known = app.db.endpoints_of(&row.id)?;
    if known.iter().any(|endpoint| endpoint.network == network.id || endpoint.network == network.name) {
        return Err(Error::denied(format!("endpoint with name {} already exists in network {}", row.name, network.name)));
    }
    let position = known.iter().map(|endpoint| endpoint.position + 1).max().unwrap_or(0);
    let endpoint = Endpoint {
        container: row.id.clone(),
        network: network.id.clone(),
        name: network.name.clone(),
        position,
        settings,
        lease: None,
    };
    app.db.add_endpoint(&endpoint)?;
    if !row.state.is_running() {
        return Ok(());
    }
    plug_in(app, &row, &endpoint).inspect_err(|_| {
        if let Err(error) = app.db.remove_endpoint(&row.id, &network.id) {
            tracing::warn!(container = %row.id, %error, "a place in a network that could not be had is still noted");
        }
    })
}

fn plug_in(app: &App, row: &ContainerRow, endpoint: &Endpoint) -> Result<()> {
    let before = places_of(app, row)?;
    let number = (0..=before.len()).find(|n| !before.iter().any(|place| place.lease.link == format!("eth{n}"))).unwrap_or(0);
    let place = attach::lease(app, endpoint, number)?;
    let namespace = namespace::of_process(row.state.pid)?;
    attach::connect(app, &place, namespace.as_fd(), false)?;
    let after = places_of(app, row)?;
    move_way(app, row, &before, &after, &namespace)?;
    if let Err(error) = files::update(app, row, &place, true, &after) {
        tracing::warn!(container = %row.id, %error, "a container's files could not be brought up to date");
    }
    linked::settle(app, row);
    attach::answer(app, row, row.state.pid, &after)?;
    let network = &place.network;
    tell(app, "connect", &network.id, &network.name, &network.spec.driver, &row.id);
    Ok(())
}

/// The way to everywhere, and the ports that lead in by it.
fn move_way(app: &App, row: &ContainerRow, before: &[Place], after: &[Place], namespace: &impl AsFd) -> Result<()> {
    let id = |place: Option<&Place>| place.map(|place| place.lease.id.clone());
    let (old, new) = (attach::way_out(before), attach::way_out(after));
    if id(old) == id(new) {
        return Ok(());
    }
    if let Some(new) = new {
        set_way(&Way { namespace: namespace.as_fd(), name: &new.lease.link, gateways: &new.gateways() })?;
    }
    let published: Vec<_> = app.db.published(Some(&row.id))?.into_iter().map(|(_, port)| port).collect();
    if !published.is_empty() {
        app.networks.serving.close_ports(&row.id);
        let gone: Vec<_> =
            published.iter().filter_map(|port| ports::rule(port, old?.lease.address(port.host.is_ipv4()))).collect();
        app.networks.host.unpublish(&gone)?;
    }
    let Some(new) = new else { return Ok(()) };
    let bound = if published.is_empty() {
        attach::bind(app, row, new)?
    } else {
        published
            .into_iter()
            .map(|port| Ok(ports::Bound { socket: ports::hold_again(&port)?, port }))
            .collect::<Result<Vec<_>>>()?
    };
    attach::open_ports(app, (&row.id, row.state.pid), Some(new), bound)
}

/// Disconnects a container from a network.
pub fn disconnect(app: &App, network: &Network, container: &str) -> Result<()> {
    let live = app.containers.of(&app.db.find_container(container)?.id);
    let _alone = live.alone();
    let row = app.db.find_container(container)?;
    if Mode::of(&row) == Mode::Host {
        return Err(request::other_networks(&Mode::Host));
    }
    let known = app.db.endpoints_of(&row.id)?;
    let Some(endpoint) = known.iter().find(|one| one.network == network.id || one.network == network.name) else {
        return Err(Error::denied(format!("container {} is not connected to network {}", row.id, network.name)));
    };
    let before = places_of(app, &row)?;
    app.db.remove_endpoint(&row.id, &endpoint.network)?;
    if let Some(lease) = &endpoint.lease {
        app.networks.host.disconnect(&lease.host_link())?;
    }
    if row.state.is_running()
        && let Some(gone) = before.iter().find(|place| place.network.id == network.id)
    {
        let after = places_of(app, &row)?;
        move_way(app, &row, &before, &after, &namespace::of_process(row.state.pid)?)?;
        attach::answer(app, &row, row.state.pid, &after)?;
        app.networks.serving.tell_names(&[&network.id])?;
        if let Err(error) = files::update(app, &row, gone, false, &after) {
            tracing::warn!(container = %row.id, %error, "a container's files could not be brought up to date");
        }
        tell(app, "disconnect", &network.id, &network.name, BRIDGE, &row.id);
    }
    Ok(())
}
