//! Networks, and containers' places in them, as the API shows them.

use std::collections::HashMap;

use fs_base::{ContainerId, Result};
use serde_json::{Map, Value, json};

use super::linked::Link;
use super::model::{NONE, Pool};
use super::{Endpoint, Mode, Network, Published, ports};
use crate::app::App;
use crate::container::ContainerRow;
use crate::container::show::time;

/// A network as `GET /networks/{id}` shows it; in lists without its containers.
pub fn network(app: &App, network: &Network, with_containers: bool) -> Result<Value> {
    let spec = &network.spec;
    let mut containers = Map::new();
    if with_containers {
        for endpoint in app.db.endpoints_in(&network.id)? {
            let Some(lease) = &endpoint.lease else { continue };
            let name = app.db.container(&endpoint.container)?.map(|row| row.name).unwrap_or_default();
            let with_length = |is_v4: bool| match (lease.address(is_v4), network.pool(is_v4)) {
                (Some(address), Some(pool)) => format!("{address}/{}", pool.subnet.prefix_len()),
                _ => String::new(),
            };
            let shown = json!({
                "Name": name, "EndpointID": lease.id, "MacAddress": lease.mac, "IPv4Address": with_length(true),
                "IPv6Address": with_length(false),
            });
            containers.insert(endpoint.container.to_string(), shown);
        }
    }
    let predefined = network.is_predefined();
    Ok(json!({
        "Name": network.name, "Id": network.id, "Created": time(network.created), "Scope": "local", "Driver": spec.driver,
        "EnableIPv4": network.is_bridge(), "EnableIPv6": spec.enable_ipv6,
        "IPAM": {
            "Driver": "default", "Options": if predefined { Value::Null } else { json!({}) },
            "Config": spec.pools.iter().map(pool).collect::<Vec<_>>(),
        },
        "Internal": spec.internal, "Attachable": spec.attachable, "Ingress": false, "ConfigFrom": {"Network": ""},
        "ConfigOnly": false, "Containers": containers, "Options": spec.options, "Labels": spec.labels,
    }))
}

fn pool(pool: &Pool) -> Value {
    let mut shown = json!({"Subnet": pool.subnet, "Gateway": pool.gateway});
    if let Some(range) = pool.range {
        shown["IPRange"] = json!(range);
    }
    if !pool.reserved.is_empty() {
        shown["AuxiliaryAddresses"] = json!(pool.reserved);
    }
    shown
}

/// All that is known of containers' networks at one moment.
#[derive(Debug)]
pub struct Shown {
    networks: HashMap<String, Network>,
    endpoints: HashMap<ContainerId, Vec<Endpoint>>,
    published: HashMap<ContainerId, Vec<Published>>,
    links: Vec<Link>,
}

impl Shown {
    /// Of all containers.
    pub fn all(app: &App) -> Result<Shown> {
        Shown::of(app, app.db.endpoints()?, app.db.published(None)?, app.db.links()?)
    }

    /// Of one.
    pub fn one(app: &App, row: &ContainerRow) -> Result<Shown> {
        Shown::of(app, app.db.endpoints_of(&row.id)?, app.db.published(Some(&row.id))?, app.db.links_of(&row.id)?)
    }

    fn of(app: &App, endpoints: Vec<Endpoint>, published: Vec<(ContainerId, Published)>, links: Vec<Link>) -> Result<Shown> {
        let networks = app.db.networks()?.into_iter().map(|network| (network.id.clone(), network)).collect();
        let mut shown = Shown { networks, endpoints: HashMap::new(), published: HashMap::new(), links };
        for endpoint in endpoints {
            shown.endpoints.entry(endpoint.container.clone()).or_default().push(endpoint);
        }
        for (container, port) in published {
            shown.published.entry(container).or_default().push(port);
        }
        Ok(shown)
    }

    fn endpoints(&self, row: &ContainerRow) -> &[Endpoint] {
        self.endpoints.get(&row.id).map(Vec::as_slice).unwrap_or_default()
    }

    fn ports(&self, row: &ContainerRow) -> &[Published] {
        self.published.get(&row.id).map(Vec::as_slice).unwrap_or_default()
    }

    /// `HostConfig.Links`.
    pub fn links(&self, row: &ContainerRow) -> Value {
        let own: Vec<String> = self.links.iter().filter(|link| link.container == row.id).map(Link::shown).collect();
        if own.is_empty() { Value::Null } else { json!(own) }
    }

    /// All names that a container is known by, also by those who link to it.
    pub fn all_names(&self, row: &ContainerRow) -> Vec<String> {
        let mut names = vec![format!("/{}", row.name)];
        names.extend(self.links.iter().filter(|link| link.linked == row.id).map(Link::path));
        names.sort();
        names
    }

    /// Whether a container is in a network, by its name or id.
    pub fn is_in(&self, row: &ContainerRow, wanted: &str) -> bool {
        match Mode::of(row) {
            Mode::None => self.is_named(NONE, wanted),
            Mode::Host => self.is_named(super::model::HOST, wanted),
            _ => self.endpoints(row).iter().any(|endpoint| {
                endpoint.name == wanted
                    || !wanted.is_empty() && endpoint.network.starts_with(wanted) && endpoint.network.len() == 64
            }),
        }
    }

    fn is_named(&self, name: &str, wanted: &str) -> bool {
        name == wanted || self.networks.values().any(|network| network.name == name && network.id.starts_with(wanted))
    }

    /// Whether a container publishes a port: `80`, `80/udp`, `8000-8010/tcp`, by the number on either side.
    pub fn publishes(&self, row: &ContainerRow, wanted: &str) -> bool {
        let (numbers, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
        self.ports(row).iter().any(|port| {
            port.protocol.as_str() == protocol
                && [port.container_port, port.host_port].iter().any(|number| (first..=last).contains(number))
        })
    }

    /// `NetworkSettings.Networks`.
    pub fn networks(&self, row: &ContainerRow) -> Value {
        let mut all = Map::new();
        let nothing = |name: &str, network: Option<&Network>| {
            let endpoint = Endpoint {
                container: row.id.clone(),
                network: network.map(|network| network.id.clone()).unwrap_or_default(),
                name: name.to_owned(),
                position: 0,
                settings: super::model::Settings::default(),
                lease: None,
            };
            self.endpoint(row, &endpoint)
        };
        match Mode::of(row) {
            Mode::Of(_) => {}
            mode @ (Mode::None | Mode::Host) => {
                let name = if mode == Mode::None { NONE } else { super::model::HOST };
                let network = self.networks.values().find(|network| network.name == name);
                all.insert(name.to_owned(), nothing(name, network));
            }
            Mode::Bridges(_) => {
                for endpoint in self.endpoints(row) {
                    all.insert(endpoint.name.clone(), self.endpoint(row, endpoint));
                }
            }
        }
        Value::Object(all)
    }

    fn endpoint(&self, row: &ContainerRow, endpoint: &Endpoint) -> Value {
        let settings = &endpoint.settings;
        let network = self.networks.get(&endpoint.network);
        let user_defined = network.is_some_and(Network::is_user_defined);
        let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        let (aliases, links) = (list(&settings.aliases), list(&settings.links));
        let mut ipam = Map::new();
        if let Some(v4) = settings.ipv4 {
            ipam.insert("IPv4Address".to_owned(), json!(v4));
        }
        if let Some(v6) = settings.ipv6 {
            ipam.insert("IPv6Address".to_owned(), json!(v6));
        }
        let has_ipam = user_defined || !ipam.is_empty();
        let text = |value: Option<String>| value.unwrap_or_default();
        let lease = endpoint.lease.as_ref();
        let pool = |is_v4: bool| lease.and_then(|lease| lease.address(is_v4)).and_then(|_| network?.pool(is_v4));
        let address = |is_v4: bool| text(lease.and_then(|lease| lease.address(is_v4)).map(|address| address.to_string()));
        let length = |is_v4: bool| pool(is_v4).map_or(0, |pool| pool.subnet.prefix_len());
        let gateway = |is_v4: bool| {
            let outward = network.is_some_and(|network| !network.spec.internal);
            text(pool(is_v4).filter(|_| outward).map(|pool| pool.gateway.to_string()))
        };
        let names = if user_defined { json!(names(row, settings)) } else { Value::Null };
        json!({
            "IPAMConfig": if has_ipam { Value::Object(ipam) } else { Value::Null }, "Links": links, "Aliases": aliases,
            "MacAddress": text(lease.map(|lease| lease.mac.clone())), "DriverOpts": null, "GwPriority": settings.priority,
            "NetworkID": network.map(|network| network.id.clone()).unwrap_or_default(),
            "EndpointID": text(lease.map(|lease| lease.id.clone())), "Gateway": gateway(true), "IPAddress": address(true),
            "IPPrefixLen": length(true), "IPv6Gateway": gateway(false), "GlobalIPv6Address": address(false),
            "GlobalIPv6PrefixLen": length(false), "DNSNames": names,
        })
    }

    /// `NetworkSettings`.
    pub fn settings(&self, row: &ContainerRow) -> Value {
        let networks = self.networks(row);
        let on_default = networks.get(super::model::BRIDGE).cloned().unwrap_or_default();
        let text = |key: &str| on_default[key].as_str().unwrap_or_default().to_owned();
        let runs = row.state.is_running();
        let sandbox = if runs { engine::network::namespace::path_of(row.state.pid) } else { String::new() };
        json!({
            "Bridge": "", "SandboxID": if runs { row.id.as_str() } else { "" }, "SandboxKey": sandbox,
            "Ports": self.port_map(row), "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "EndpointID": text("EndpointID"),
            "Gateway": text("Gateway"), "GlobalIPv6Address": text("GlobalIPv6Address"),
            "GlobalIPv6PrefixLen": on_default["GlobalIPv6PrefixLen"].as_u64().unwrap_or(0), "IPAddress": text("IPAddress"),
            "IPPrefixLen": on_default["IPPrefixLen"].as_u64().unwrap_or(0), "IPv6Gateway": text("IPv6Gateway"),
            "MacAddress": text("MacAddress"), "Networks": networks,
        })
    }

    fn port_map(&self, row: &ContainerRow) -> Value {
        let mut map = Map::new();
        if !row.state.is_running() || !matches!(Mode::of(row), Mode::Bridges(_)) {
            return Value::Object(map);
        }
        for (port, protocol) in ports::exposed(&row.definition.config).unwrap_or_default() {
            map.insert(format!("{port}/{}", protocol.as_str()), Value::Null);
        }
        for port in self.ports(row) {
            let key = format!("{}/{}", port.container_port, port.protocol.as_str());
            let binding = json!({"HostIp": port.host, "HostPort": port.host_port.to_string()});
            match map.get_mut(&key) {
                Some(Value::Array(list)) => list.push(binding),
                _ => drop(map.insert(key, json!([binding]))),
            }
        }
        Value::Object(map)
    }

    /// `Ports` of a list's entry.
    pub fn port_list(&self, row: &ContainerRow) -> Value {
        let mut list = Vec::new();
        for (key, bindings) in self.port_map(row).as_object().into_iter().flatten() {
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            let port: u16 = port.parse().unwrap_or(0);
            if bindings.is_null() {
                list.push(json!({"PrivatePort": port, "Type": protocol}));
            }
            for binding in bindings.as_array().into_iter().flatten() {
                let public: u16 = binding["HostPort"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
                list.push(json!({"IP": binding["HostIp"], "PrivatePort": port, "PublicPort": public, "Type": protocol}));
            }
        }
        json!(list)
    }
}

/// The names that a container is found by in a network of its user's.
fn names(row: &ContainerRow, settings: &super::model::Settings) -> Vec<String> {
    let hostname = row.definition.config_text("Hostname");
    let all = [row.name.as_str()]
        .into_iter()
        .chain(settings.aliases.iter().map(String::as_str))
        .chain([&row.id.as_str()[..12], hostname]);
    let mut names: Vec<String> = Vec::new();
    for name in all.filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}
