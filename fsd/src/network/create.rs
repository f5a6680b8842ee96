//! Making networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fs_base::{Error, Result};
use ipnet::IpNet;
use serde::Deserialize;

use super::model::{BRIDGE, HOST, NONE, Network, NetworkSpec, Pool, option};
use super::{ipam, lock, recover};
use crate::app::App;

/// Docker's `NetworkCreateRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NewNetwork {
    name: String,
    driver: Option<String>,
    scope: Option<String>,
    internal: Option<bool>,
    attachable: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: Option<String>,
    #[serde(rename = "IPRange")]
    ip_range: Option<String>,
    gateway: Option<String>,
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

/// Makes a network, with its bridge.
pub fn create(app: &App, new: NewNetwork) -> Result<Network> {
    check(&new)?;
    if matches!(new.name.as_str(), BRIDGE | HOST | NONE | "default") {
        return Err(Error::denied(format!("operation is not permitted on predefined {} network", new.name)));
    }
    let id = fs_base::id::random_hex::<32>()?;
    let options = new.options.unwrap_or_default();
    let link = options.get(option::LINK).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| format!("br-{}", &id[..12]));
    if link.len() > 15 || !link.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Error::invalid(format!("invalid {}: {link:?} can't be the name of a link", option::LINK)));
    }
    let mut spec = NetworkSpec {
        driver: BRIDGE.to_owned(),
        internal: new.internal.unwrap_or(false),
        attachable: new.attachable.unwrap_or(false),
        enable_ipv6: new.enable_ipv6.unwrap_or(false),
        pools: Vec::new(),
        options,
        labels: new.labels.unwrap_or_default(),
        link,
    };
    let given = new.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let pools = given.iter().filter(|config| !is_nothing(config)).map(pool).collect::<Result<Vec<_>>>()?;
    let mut network = Network { id, name: new.name, created: crate::db::now(), spec: spec.clone() };
    {
        // Two networks that are made at once must not choose one subnet.
        let _alone = lock(&app.networks.up);
        spec.pools = subnets(app, &network, pools)?;
        network.spec = spec;
        if !app.db.add_network(&network)? {
            return Err(Error::conflict(format!("network with name {} already exists", network.name)));
        }
    }
    if let Err(error) = super::bring_up(app, &network) {
        let _ = super::take_down(app, &network);
        app.db.remove_network(&network.id)?;
        return Err(error);
    }
    app.events.object("network", "create", &network.id, &[("name", &network.name), ("type", BRIDGE)]);
    Ok(network)
}

fn check(new: &NewNetwork) -> Result<()> {
    let refuse = |flag: &str, why: &str| Err(Error::unsupported(format!("{flag} is not supported: {why}")));
    if new.name.trim().is_empty() {
        return Err(Error::invalid("network name cannot be empty"));
    }
    if !fs_base::id::is_object_name(&new.name) {
        return Err(Error::invalid(format!("invalid network name: {:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", new.name)));
    }
    match new.driver.as_deref().unwrap_or_default() {
        "" | "default" | BRIDGE => {}
        HOST | "null" => {
            let driver = new.driver.as_deref().unwrap_or_default();
            return Err(Error::denied(format!("only one instance of \"{driver}\" network is allowed")));
        }
        other => return refuse(&format!("--driver {other}"), "networks are bridges"),
    }
    let of_swarms = [
        ("--ingress", new.ingress == Some(true)),
        ("--config-only", new.config_only == Some(true)),
        ("--config-from", new.config_from.as_ref().is_some_and(|from| !from.network.is_empty())),
    ];
    if let Some((flag, _)) = of_swarms.iter().find(|(_, asked)| *asked) {
        return refuse(flag, "this daemon is no swarm node");
    }
    if !matches!(new.scope.as_deref().unwrap_or_default(), "" | "local") {
        return refuse("--scope", "this daemon is no swarm node");
    }
    if new.enable_ipv4 == Some(false) {
        return refuse("--ipv4=false", "a network has IPv4, and IPv6 beside it");
    }
    if let Some(ipam) = &new.ipam {
        match ipam.driver.as_deref().unwrap_or_default() {
            "" | "default" => {}
            other => return refuse(&format!("--ipam-driver {other}"), "addresses are given by the daemon"),
        }
        if let Some(key) = ipam.options.iter().flatten().map(|(key, _)| key).next() {
            return refuse(&format!("--ipam-opt {key}"), "the daemon's way to give addresses has no options");
        }
    }
    for (key, value) in new.options.iter().flatten() {
        check_option(key, value)?;
    }
    Ok(())
}

fn check_option(key: &str, value: &str) -> Result<()> {
    let bad = || Error::invalid(format!("invalid value for {key}: {value:?}"));
    match key {
        option::LINK => Ok(()),
        option::TALK | option::MASQUERADE => {
            let known = ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"];
            known.contains(&value).then_some(()).ok_or_else(bad)
        }
        option::BINDING => value.parse::<std::net::Ipv4Addr>().map(drop).map_err(|_| bad()),
        option::MTU => value.parse::<u32>().ok().filter(|mtu| (68..=65_535).contains(mtu)).map(drop).ok_or_else(bad),
        option::DEFAULT if value == "false" => Ok(()),
        _ => Err(Error::unsupported(format!("--opt {key} is not supported: bridge networks have no such option here"))),
    }
}

fn is_nothing(config: &IpamConfig) -> bool {
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    empty(&config.subnet)
        && empty(&config.ip_range)
        && empty(&config.gateway)
        && config.auxiliary_addresses.iter().flatten().count() == 0
}

fn pool(config: &IpamConfig) -> Result<Pool> {
    let invalid = |what: String| Error::invalid(format!("invalid network config:\n{what}"));
    let text = config.subnet.as_deref().filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| invalid("a gateway, a range or an address was given without its subnet".to_owned()))?;
    let subnet: IpNet = text.parse().map_err(|_| invalid(format!("invalid subnet {text}: invalid CIDR block notation")))?;
    if subnet != subnet.trunc() {
        return Err(invalid(format!("invalid subnet {subnet}: it should be {}", subnet.trunc())));
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return Err(invalid(format!("invalid subnet {subnet}: it has no room for a gateway and a container")));
    }
    let inside = |what: &str, text: &str| -> Result<IpAddr> {
        let address: IpAddr = text.parse().map_err(|_| invalid(format!("invalid {what} {text}: invalid address")))?;
        if subnet.contains(&address) { Ok(address) } else { Err(Error::invalid(format!("no matching subnet for {what} {text}"))) }
    };
    let gateway = match config.gateway.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => inside("gateway", text)?,
        None => first_of(subnet),
    };
    if let (IpNet::V4(net), IpAddr::V4(address)) = (subnet, gateway)
        && (address == net.network() || address == net.broadcast())
    {
        return Err(Error::denied(format!("failed to allocate gateway ({address}): Address already in use")));
    }
    let range = match config.ip_range.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let range: IpNet =
                text.parse().map_err(|_| invalid(format!("invalid ip-range {text}: invalid CIDR block notation")))?;
            if !subnet.contains(&range) {
                return Err(Error::invalid(format!("no matching subnet for range {text}")));
            }
            Some(range.trunc())
        }
    };
    let reserved = config.auxiliary_addresses.iter().flatten();
    let reserved =
        reserved.map(|(name, text)| Ok((name.clone(), inside("aux-address", text)?))).collect::<Result<BTreeMap<_, _>>>()?;
    Ok(Pool { subnet, gateway, range, reserved, chosen: true })
}

/// The address behind that of the network itself, which Docker gives to gateways.
fn first_of(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
    }
}

/// A subnet that nobody chose.
fn unasked(subnet: IpNet) -> Pool {
    Pool { subnet, gateway: first_of(subnet), range: None, reserved: BTreeMap::new(), chosen: false }
}

/// Checks the subnets that were given, and finds those that were not.
fn subnets(app: &App, network: &Network, given: Vec<Pool>) -> Result<Vec<Pool>> {
    let used = app.networks.host.networks_in_use()?;
    let networks = app.db.networks()?;
    let mut pools: Vec<Pool> = Vec::new();
    for pool in given {
        let is_v4 = pool.subnet.addr().is_ipv4();
        if pools.iter().any(|other| other.subnet.addr().is_ipv4() == is_v4) {
            return Err(Error::unsupported("several subnets of one version are not supported: a bridge has one of each"));
        }
        if !is_v4 && !network.spec.enable_ipv6 {
            return Err(Error::invalid(format!("the IPv6 subnet {} needs --ipv6", pool.subnet)));
        }
        ipam::check_subnet(pool.subnet, &used, &networks)?;
        pools.push(pool);
    }
    if !pools.iter().any(|pool| pool.subnet.addr().is_ipv4()) {
        pools.insert(0, unasked(ipam::free_subnet(app.networks.host.scope().number, &used, &networks)?));
    }
    if network.spec.enable_ipv6 && !pools.iter().any(|pool| pool.subnet.addr().is_ipv6()) {
        pools.push(unasked(ipam::local_subnet(&network.id)?));
    }
    pools.sort_by_key(|pool| pool.subnet.addr().is_ipv6());
    Ok(pools)
}

/// The three networks that are always there are made with the store.
pub fn predefined(app: &App) -> Result<()> {
    let known = app.db.networks()?;
    for (name, driver) in [(BRIDGE, BRIDGE), (HOST, HOST), (NONE, "null")] {
        if known.iter().any(|network| network.name == name) {
            continue;
        }
        let mut spec = NetworkSpec {
            driver: driver.to_owned(),
            internal: false,
            attachable: false,
            enable_ipv6: false,
            pools: Vec::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            link: String::new(),
        };
        if driver == BRIDGE {
            spec.link.clone_from(&app.networks.host.scope().bridge);
            let options = [
                (option::DEFAULT, "true"),
                (option::TALK, "true"),
                (option::MASQUERADE, "true"),
                (option::BINDING, "0.0.0.0"),
                (option::LINK, &spec.link),
                (option::MTU, "1500"),
            ];
            spec.options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let subnet = ipam::free_subnet(app.networks.host.scope().number, &app.networks.host.networks_in_use()?, &known)?;
            spec.pools = vec![unasked(subnet)];
        }
        let network = Network { id: fs_base::id::random_hex::<32>()?, name: name.to_owned(), created: crate::db::now(), spec };
        app.db.add_network(&network)?;
    }
    Ok(())
}

/// The default bridge with a subnet that is free: chosen when it is first needed, and again if somebody else has taken
/// it while no container of ours was there.
pub fn default_bridge(app: &App) -> Result<Network> {
    let mut up = lock(&app.networks.up);
    let mut network = app.db.find_network(BRIDGE)?;
    if up.contains(&network.id) {
        recover::keep_rules(app)?;
        return Ok(network);
    }
    let is_there = app.networks.host.links()?.0.contains(&network.spec.link);
    if !is_there {
        let used = app.networks.host.networks_in_use()?;
        let others: Vec<Network> = app.db.networks()?.into_iter().filter(|other| other.id != network.id).collect();
        let is_good = network.pool(true).is_some_and(|pool| ipam::check_subnet(pool.subnet, &used, &others).is_ok());
        if !is_good {
            let subnet = ipam::free_subnet(app.networks.host.scope().number, &used, &others)?;
            network.spec.pools = vec![unasked(subnet)];
            app.db.set_network_spec(&network)?;
        }
    }
    app.networks.host.bring_up(&network.bridge()).map_err(|error| super::unable(error, BRIDGE))?;
    up.insert(network.id.clone());
    Ok(network)
}
