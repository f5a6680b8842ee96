//! Taking networks away.

use fs_base::{Class, Error, Result};

use super::model::BRIDGE;
use super::{Endpoint, Network};
use crate::app::App;

/// Removes a network that no container is in.
pub fn remove(app: &App, network: &Network) -> Result<()> {
    if network.is_predefined() {
        return Err(Error::denied(format!("{} is a pre-defined network and cannot be removed", network.name)));
    }
    let inside = app.db.remove_network(&network.id)?;
    if !inside.is_empty() {
        return Err(Error::denied(format!(
            "error while removing network: network {} has active endpoints ({})",
            network.name,
            inside.iter().map(|endpoint| named(app, endpoint)).collect::<Vec<_>>().join(", ")
        )));
    }
    if let Err(error) = super::take_down(app, network) {
        // Its row is gone; the next start of the daemon takes away what has none.
        tracing::warn!(network = network.name, %error, "a removed network's bridge is left");
    }
    app.events.object("network", "destroy", &network.id, &[("name", &network.name), ("type", BRIDGE)]);
    Ok(())
}

fn named(app: &App, endpoint: &Endpoint) -> String {
    let name = app.db.container(&endpoint.container).ok().flatten().map(|row| row.name).unwrap_or_default();
    let id = endpoint.lease.as_ref().map_or("", |lease| &lease.id[..12]);
    format!("name:\"{name}\" id:\"{id}\"")
}

/// Removes the networks that no container is to be in and that `wanted` takes. The result is their names.
pub fn prune(app: &App, wanted: &dyn Fn(&Network) -> bool) -> Result<Vec<String>> {
    let used = app.db.endpoints()?;
    let mut removed = Vec::new();
    for network in app.db.networks()? {
        let in_use = used.iter().any(|endpoint| endpoint.network == network.id || endpoint.network == network.name);
        if network.is_predefined() || in_use || !wanted(&network) {
            continue;
        }
        match remove(app, &network) {
            Ok(()) => removed.push(network.name),
            // Somebody came in meanwhile.
            Err(error) if error.class() == Class::Denied => {}
            Err(error) => return Err(error),
        }
    }
    app.events.pruned("network", 0);
    Ok(removed)
}
