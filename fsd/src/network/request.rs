//! What a new container asks of networks, checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use engine::network::Mac;
use fs_base::{ContainerId, Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::model::{BRIDGE, Settings};
use super::{Endpoint, Mode, Network, linked, ports};
use crate::app::App;

/// Docker's `EndpointSettings`, as far as it is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Asked {
    #[serde(rename = "IPAMConfig")]
    ipam: Option<AskedAddresses>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: Option<String>,
    driver_opts: Option<Map<String, Value>>,
    gw_priority: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AskedAddresses {
    #[serde(rename = "IPv4Address")]
    ipv4: Option<String>,
    #[serde(rename = "IPv6Address")]
    ipv6: Option<String>,
    #[serde(rename = "LinkLocalIPs")]
    link_local: Option<Vec<String>>,
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

impl Asked {
    /// Reads it, and refuses by name what can't be had.
    pub fn settings(&self) -> Result<Settings> {
        let unsupported = |flag: &str, why: &str| Err(Error::unsupported(format!("{flag} is not supported: {why}")));
        let links: Vec<String> = self.links.iter().flatten().cloned().collect();
        links.iter().try_for_each(|link| linked::parse(link).map(drop))?;
        if let Some(key) = self.driver_opts.iter().flatten().map(|(key, _)| key).next() {
            return unsupported(&format!("--driver-opt {key}"), "a container's place in a bridge network has no options");
        }
        let none = AskedAddresses::default();
        let ipam = self.ipam.as_ref().unwrap_or(&none);
        if ipam.link_local.iter().flatten().count() > 0 {
            return unsupported("--link-local-ip", "links of containers have the addresses of their networks only");
        }
        let ipv4 = given(ipam.ipv4.as_ref())
            .map(|text| text.parse::<Ipv4Addr>().map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}"))));
        let ipv6 = given(ipam.ipv6.as_ref())
            .map(|text| text.parse::<Ipv6Addr>().map_err(|_| Error::invalid(format!("invalid IPv6 address: {text}"))));
        let mac = given(self.mac_address.as_ref()).map(|text| text.parse::<Mac>().map(|mac| mac.to_string()));
        Ok(Settings {
            links,
            aliases: self.aliases.iter().flatten().filter(|name| !name.is_empty()).cloned().collect(),
            ipv4: ipv4.transpose()?,
            ipv6: ipv6.transpose()?,
            mac: mac.transpose()?,
            priority: self.gw_priority.unwrap_or(0),
        })
    }
}

/// Whether a network can give what was asked for.
pub fn check(network: &Network, settings: &Settings) -> Result<()> {
    if !network.is_user_defined() {
        if settings.ipv4.is_some() || settings.ipv6.is_some() {
            return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
        }
        if !settings.aliases.is_empty() {
            return Err(Error::invalid("network-scoped alias is supported only for containers in user defined networks"));
        }
        if !settings.links.is_empty() {
            return Err(Error::invalid("links are only supported for user-defined networks"));
        }
    }
    for (asked, is_v4) in [(settings.ipv4.is_some(), true), (settings.ipv6.is_some(), false)] {
        if asked && !network.pool(is_v4).is_some_and(|pool| pool.chosen) {
            return Err(Error::invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets",
            ));
        }
    }
    let address = settings.ipv4.map(std::net::IpAddr::V4);
    if let (Some(address), Some(pool)) = (address, network.pool(true))
        && !pool.subnet.contains(&address)
    {
        return Err(Error::invalid(format!("invalid endpoint settings:\nno configured subnet contains IP address {address}")));
    }
    Ok(())
}

/// The body's parts that are about networks.
#[derive(Debug)]
pub struct Request<'a> {
    /// `NetworkingConfig`.
    pub networking: &'a Value,
    /// `Config`.
    pub config: &'a Value,
    /// `HostConfig`.
    pub host_config: &'a Value,
}

/// The places that a new container is to have, and what its user should know.
pub fn endpoints(app: &App, id: &ContainerId, request: &Request<'_>) -> Result<(Vec<Endpoint>, Vec<String>)> {
    let mode = Mode::parse(request.host_config["NetworkMode"].as_str().unwrap_or_default());
    check_mode(&mode, request)?;
    ports::check(request.host_config, request.config)?;
    let mut asked: Vec<(String, Settings)> = Vec::new();
    for (name, value) in request.networking["EndpointsConfig"].as_object().into_iter().flatten() {
        let settings = match value {
            Value::Null => Settings::default(),
            value => {
                let asked: Asked = crate::container::create::read(value, &format!("network {name}"))?;
                asked.settings()?
            }
        };
        let name = if name == "default" { BRIDGE } else { name };
        asked.push((name.to_owned(), settings));
    }
    let Mode::Bridges(first) = &mode else {
        let mine = request.host_config["NetworkMode"].as_str().unwrap_or_default();
        if asked.iter().any(|(name, _)| name != mine) {
            return Err(other_networks(&mode));
        }
        let ports = request.host_config["PortBindings"].as_object().is_some_and(|bindings| !bindings.is_empty());
        let lost = (mode == Mode::Host && ports).then(|| "Published ports are discarded when using host network mode".to_owned());
        return Ok((Vec::new(), lost.into_iter().collect()));
    };
    let primary = asked.iter().position(|(name, _)| is_same(app, name, first));
    let mut own = primary.map_or_else(Settings::default, |place| asked.remove(place).1);
    if own.links.is_empty() && first != BRIDGE {
        // Some clients say it only here.
        own.links = linked::requested(request.host_config);
        own.links.iter().try_for_each(|link| linked::parse(link).map(drop))?;
    }
    asked.insert(0, (first.clone(), own));
    if let Some(mac) = request.config["MacAddress"].as_str().filter(|text| !text.is_empty()) {
        asked[0].1.mac.get_or_insert(mac.parse::<Mac>()?.to_string());
    }
    let mut all = Vec::new();
    for (position, (name, settings)) in asked.into_iter().enumerate() {
        // One that is not there is an error when the container starts, as Docker has it.
        let found = app.db.find_network(&name).ok();
        if let Some(network) = &found {
            check(network, &settings)?;
        }
        let (network, name) = found.map_or_else(|| (name.clone(), name.clone()), |network| (network.id, network.name));
        if all.iter().any(|other: &Endpoint| other.network == network) {
            return Err(Error::invalid(format!("network {name} is asked for twice")));
        }
        all.push(Endpoint { container: id.clone(), network, name, position: position as i64, settings, lease: None });
    }
    Ok((all, Vec::new()))
}

fn is_same(app: &App, name: &str, other: &str) -> bool {
    name == other || matches!((app.db.find_network(name), app.db.find_network(other)), (Ok(one), Ok(two)) if one.id == two.id)
}

/// Docker's words for networks beside a mode that has none.
pub fn other_networks(mode: &Mode) -> Error {
    Error::invalid(match mode {
        Mode::None => "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        Mode::Host => "container cannot be disconnected from host network or connected to host network",
        _ => "container sharing network namespace with another container or host cannot be connected to any other network",
    })
}

/// What goes with another's network only. Source of the texts: moby `runconfig/errors.go`.
fn check_mode(mode: &Mode, request: &Request<'_>) -> Result<()> {
    if *mode == Mode::Host && !linked::requested(request.host_config).is_empty() {
        return Err(linked::of_host());
    }
    let Mode::Of(name) = mode else { return Ok(()) };
    if name.is_empty() {
        return Err(Error::invalid("invalid container format container:<name|id>"));
    }
    let says = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(flag) => *flag,
        _ => false,
    };
    let (host, config) = (request.host_config, request.config);
    let conflicts = [
        (says(&host["Links"]), "container type network can't be used with links. This would result in undefined behavior"),
        (says(&host["Dns"]), "dns and the network mode"),
        (says(&host["ExtraHosts"]), "custom host-to-IP mapping and the network mode"),
        (says(&config["MacAddress"]), "mac-address and the network mode"),
        (says(&host["PortBindings"]), "port publishing and the container type network mode"),
        (says(&host["PublishAllPorts"]), "port publishing and the container type network mode"),
    ];
    match conflicts.iter().find(|(is_said, _)| *is_said) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// `--hostname` and `--expose` are about the container's own config, before the image's is merged in.
pub fn check_config(mode: &Mode, config: &Map<String, Value>, host: &Map<String, Value>) -> Result<()> {
    let is_given = |key: &str| config.get(key).and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if host.get("UTSMode").and_then(Value::as_str) == Some("host") {
        for (key, what) in [("Hostname", "hostname"), ("Domainname", "domainname")] {
            if is_given(key) {
                return Err(Error::invalid(format!("conflicting options: {what} and the UTS mode")));
            }
        }
    }
    if !matches!(mode, Mode::Of(_)) {
        return Ok(());
    }
    if is_given("Hostname") {
        return Err(Error::invalid("conflicting options: hostname and the network mode"));
    }
    let says = |from: &Map<String, Value>, key: &str| from.get(key).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    // What is published is exposed too, and that it is published says more.
    if says(config, "ExposedPorts") && !says(host, "PortBindings") {
        return Err(Error::invalid("conflicting options: port exposing and the container type network mode"));
    }
    Ok(())
}
