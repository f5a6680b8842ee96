//! At the start of the daemon: what the database says of networks, and what the kernel has, are put together again; at
//! its end: what nobody needs is taken away.

use std::sync::Arc;

use fs_base::sys::pid::Process;
use fs_base::{ContainerId, Result};

use super::attach::{self, Place};
use super::connect::places_of;
use super::helper::wire::Served;
use super::link::Kept;
use super::serving::Wanted;
use super::{Network, create, lock, ports, resolver};
use crate::app::App;
use crate::container::ContainerRow;

/// Finds the networks of the containers that run on, and clears away the rest. Must be called on a thread of the
/// runtime's, when it is known which containers run.
pub fn recover(app: &Arc<App>) -> Result<()> {
    create::predefined(app)?;
    app.db.remove_lost_endpoints()?;
    let leased = app.db.leased_endpoints()?;
    let running: Vec<ContainerRow> = app.db.containers()?.into_iter().filter(|row| row.state.is_running()).collect();
    let runs = |id: &ContainerId| running.iter().any(|row| row.id == *id);
    for endpoint in leased.iter().filter(|endpoint| !runs(&endpoint.container)) {
        app.db.release(&endpoint.container)?;
    }
    let mut places = Vec::new();
    for row in &running {
        let own = places_of(app, row)?;
        if !own.is_empty() {
            places.push((row, own));
        }
    }
    // Before anything can fail: a helper that nobody has found would be one that nobody ends.
    let (served, mut kept) = app.networks.serving.adopt(!places.is_empty());
    clear(app, &places)?;
    if places.is_empty() {
        // A kernel without a firewall, and who may not look at it, has no rules of ours; a daemon starts there too.
        if let Err(error) = app.networks.host.remove_all() {
            tracing::info!(%error, "the kernel's firewall can't be looked at");
        }
        return Ok(());
    }
    restore(app, &places, &served, &mut kept)
}

/// Links of ours that no container needs.
fn clear(app: &App, places: &[(&ContainerRow, Vec<Place>)]) -> Result<()> {
    app.networks.host.remove_unfinished()?;
    let (bridges, wires) = app.networks.host.links()?;
    let known: Vec<String> = places.iter().flat_map(|(_, own)| own).map(|place| place.lease.host_link()).collect();
    for wire in wires.iter().filter(|wire| !known.contains(wire)) {
        tracing::info!(link = wire, "removing a wire that no container is at");
        app.networks.host.disconnect(wire)?;
    }
    let networks = app.db.networks()?;
    for bridge in bridges.iter().filter(|bridge| !networks.iter().any(|network| network.spec.link == **bridge)) {
        tracing::info!(link = bridge, "removing a bridge that no network has");
        app.networks.host.remove_link(bridge)?;
    }
    Ok(())
}

/// Makes the rules anew from what the database says. The result is the networks whose bridges are there.
fn reset_rules(app: &App) -> Result<Vec<Network>> {
    let there = app.networks.host.links()?.0;
    let bridges: Vec<Network> = app.db.networks()?.into_iter().filter(|network| there.contains(&network.spec.link)).collect();
    let mut rules = Vec::new();
    for row in app.db.containers()?.iter().filter(|row| row.state.is_running()) {
        let own = places_of(app, row)?;
        let way = attach::way_out(&own);
        let published = app.db.published(Some(&row.id))?;
        rules.extend(published.iter().filter_map(|(_, port)| ports::rule(port, way?.lease.address(port.host.is_ipv4()))));
    }
    app.networks.host.reset_rules(&bridges.iter().map(Network::bridge).collect::<Vec<_>>(), &rules)?;
    Ok(bridges)
}

/// Makes the rules anew if somebody has swept them away, as those do who load rules of their own with `flush ruleset`.
pub fn keep_rules(app: &App) -> Result<()> {
    if app.networks.host.has_rules()? {
        return Ok(());
    }
    tracing::warn!("the rules of networks were gone, and are made anew");
    reset_rules(app).map(drop)
}

fn restore(app: &App, places: &[(&ContainerRow, Vec<Place>)], served: &[Served], kept: &mut Kept) -> Result<()> {
    // Whoever changed the rules meanwhile, afterwards they are right.
    let bridges = reset_rules(app)?;
    for network in &bridges {
        super::bring_up(app, network)?;
    }
    for (row, own) in places {
        // One container in disorder keeps no other from its network.
        if let Err(error) = wanted(app, row, own).and_then(|wanted| app.networks.serving.resume(&row.id, wanted, served, kept)) {
            tracing::error!(container = %row.id, %error, "a container's names or ports are not served");
        }
    }
    app.networks.serving.settle(served)
}

fn wanted(app: &App, row: &ContainerRow, own: &[Place]) -> Result<Wanted> {
    let way = attach::way_out(own);
    let published = app.db.published(Some(&row.id))?;
    let ports = published.iter().filter_map(|(_, port)| attach::passage(port, way?)).collect();
    let asker = resolver::is_answered(own).then(|| resolver::asker(row, own));
    Ok(Wanted { process: Process::open(row.state.pid)?, ports, asker })
}

/// At a clean end: with no container in any network, nothing of them stays on the host.
pub fn stop(app: &App) {
    let _alone = lock(&app.networks.up);
    let result = app.db.leased_endpoints().and_then(|leased| if leased.is_empty() { remove_all(app) } else { Ok(()) });
    if let Err(error) = result {
        tracing::warn!(%error, "what is left of networks could not be taken away");
    }
}

fn remove_all(app: &App) -> Result<()> {
    app.networks.serving.end();
    app.networks.host.remove_all()
}
