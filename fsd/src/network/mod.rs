//! Networks: which there are, who is in them, and what the kernel and this process do for that.
//!
//! The database says which networks there are, which a container is to be in ([`Endpoint`]), and, while it runs, what it
//! has there ([`Lease`]) and which ports lead to it ([`Published`]). The kernel holds bridges, wires and rules
//! ([`engine::network`]), and goes on without us. Names are answered, and what the kernel can't translate is passed on, by a
//! process beside this one ([`helper`]), which goes on too.
//!
//! ```text
//! create: request ──► endpoints in the database
//! start:  prepare: addresses, ports, files ──► (the processes are made) ──► attach: wires, rules, names
//! end:    release: all of it back
//! ```

mod attach;
pub mod connect;
pub mod create;
mod end;
pub mod files;
pub mod helper;
mod ipam;
mod link;
pub mod linked;
pub mod links;
mod model;
mod ports;
mod recover;
pub mod remove;
pub mod request;
mod resolver;
mod serving;
pub mod show;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::network::{Host, Scope};
use fs_base::{Class, ContainerId, Error, Result};

use crate::app::App;
use crate::container::ContainerRow;
use crate::db::Db;
pub use attach::{attach, prepare, release};
pub use create::NewNetwork;
pub use model::{Endpoint, Lease, Network, Published, Settings};
pub use recover::{recover, stop};
pub use request::Asked;
use serving::Serving;

/// What of networks only this process knows.
#[derive(Debug)]
pub struct Networks {
    host: Arc<Host>,
    /// The networks whose bridges are known to be there; held while one comes or goes.
    up: Mutex<HashSet<String>>,
    /// Who is answered names, and whose ports are passed on.
    serving: Arc<Serving>,
    /// Held while the `/etc/hosts` of a container is written: others' addresses change in it at any time.
    hosts: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Networks {
    /// Of the daemon whose store and run folder are there.
    pub fn new(root: &Path, run: &Path, db: Db) -> Networks {
        let host = Arc::new(Host::new(Scope::of_root(root)));
        Networks { host, up: Mutex::default(), serving: Serving::new(run, db), hosts: Mutex::default() }
    }

    /// Keeps others from containers' `/etc/hosts`.
    pub fn hosts(&self) -> MutexGuard<'_, ()> {
        lock(&self.hosts)
    }
}

/// Makes sure that a network's bridge is there.
fn bring_up(app: &App, network: &Network) -> Result<()> {
    let mut up = lock(&app.networks.up);
    if up.contains(&network.id) {
        return recover::keep_rules(app);
    }
    if !app.networks.host.links()?.0.contains(&network.spec.link) {
        // Its subnet was free when it was made; that may be long ago.
        let used = app.networks.host.networks_in_use()?;
        for pool in &network.spec.pools {
            ipam::check_subnet(pool.subnet, &used, &[]).map_err(|error| error.context(format!("network {}", network.name)))?;
        }
    }
    app.networks.host.bring_up(&network.bridge()).map_err(|error| unable(error, &network.name))?;
    up.insert(network.id.clone());
    Ok(())
}

/// Why a network could not be had.
fn unable(error: Error, name: &str) -> Error {
    let denied = matches!(error.class(), Class::Denied | Class::Unsupported);
    let error = error.context(format!("network {name}"));
    if denied { error.with_hint("where bridges can't be made, containers run with --network none or host") } else { error }
}

/// Takes it away.
fn take_down(app: &App, network: &Network) -> Result<()> {
    let mut up = lock(&app.networks.up);
    up.remove(&network.id);
    app.networks.host.take_down(&network.bridge())
}

/// What a container's `NetworkMode` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Nothing but a loopback interface.
    None,
    /// The host's network.
    Host,
    /// Another container's, by name.
    Of(String),
    /// Networks of bridges, the first of this name.
    Bridges(String),
}

impl Mode {
    /// Reads it.
    pub fn parse(text: &str) -> Mode {
        match text {
            model::NONE => Mode::None,
            model::HOST => Mode::Host,
            "" | "default" => Mode::Bridges(model::BRIDGE.to_owned()),
            other => match other.strip_prefix("container:") {
                Some(name) => Mode::Of(name.to_owned()),
                None => Mode::Bridges(other.to_owned()),
            },
        }
    }

    /// Of a container.
    pub fn of(row: &ContainerRow) -> Mode {
        Mode::parse(row.definition.host_text("NetworkMode"))
    }
}

/// A network's value for tests.
#[cfg(test)]
pub fn sample_spec() -> model::NetworkSpec {
    model::NetworkSpec {
        driver: model::BRIDGE.to_owned(),
        internal: false,
        attachable: false,
        enable_ipv6: false,
        pools: Vec::new(),
        options: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        link: "br-1".to_owned(),
    }
}

/// A container has another name.
pub fn renamed(app: &App, container: &ContainerId) -> Result<()> {
    let endpoints = app.db.endpoints_of(container)?;
    let networks = endpoints.iter().filter(|endpoint| endpoint.lease.is_some()).map(|endpoint| endpoint.network.as_str());
    app.networks.serving.tell_names(&networks.collect::<Vec<_>>())
}

/// Tells of a container that came into a network or left it.
fn tell(app: &App, action: &str, network: &str, name: &str, driver: &str, container: &ContainerId) {
    let attributes = [("container", container.as_str()), ("name", name), ("type", driver)];
    app.events.object("network", action, network, &attributes);
}
