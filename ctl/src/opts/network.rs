//! The flags of a new container that are about networks.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::ports;

/// Where a new container is to be, and how it is reached.
#[derive(Debug, Args)]
pub struct NetworkFlags {
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list")]
    add_host: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list")]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt", value_name = "list")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list")]
    dns_search: Vec<String>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list")]
    expose: Vec<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "string")]
    ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "string")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, value_name = "string")]
    mac_address: Option<String>,
    /// Connect a container to a network
    #[arg(long, alias = "net", value_name = "network")]
    network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias", value_name = "list")]
    network_alias: Vec<String>,
    /// Publish a container's port(s) to the host
    #[arg(short = 'p', long, value_name = "list")]
    publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,
}

/// One `--network`.
#[derive(Debug, Default)]
struct Wanted {
    name: String,
    aliases: Vec<String>,
    ip: String,
    ip6: String,
    mac: String,
    priority: i64,
    options: Map<String, Value>,
    link_local: Vec<String>,
    links: Vec<String>,
}

/// Whether a network is one that people made.
fn is_users(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// Docker's words for a `--link` that is neither `NAME` nor `NAME:ALIAS`.
pub fn check_link(text: &str) -> Result<()> {
    match text.split(':').count() {
        _ if text.is_empty() => bail!("invalid argument \"\" for \"--link\" flag: empty string specified for links"),
        1 | 2 => Ok(()),
        _ => bail!("invalid argument \"{text}\" for \"--link\" flag: bad format for links: {text}"),
    }
}

impl Wanted {
    /// A name, or `name=…,alias=…,ip=…`.
    fn parse(text: &str) -> Result<Wanted> {
        if !text.contains('=') {
            return Ok(Wanted { name: text.to_owned(), ..Wanted::default() });
        }
        let mut wanted = Wanted::default();
        for field in text.split(',') {
            let (key, value) =
                field.split_once('=').ok_or_else(|| anyhow!("invalid key/value pair format in network options: {field}"))?;
            match key.trim().to_lowercase().as_str() {
                "name" => value.clone_into(&mut wanted.name),
                "alias" => wanted.aliases.push(value.to_owned()),
                "ip" => value.clone_into(&mut wanted.ip),
                "ip6" => value.clone_into(&mut wanted.ip6),
                "mac-address" => value.clone_into(&mut wanted.mac),
                "link-local-ip" => wanted.link_local.push(value.to_owned()),
                "gw-priority" => wanted.priority = value.parse().map_err(|_| anyhow!("invalid gw-priority: {value}"))?,
                "driver-opt" => {
                    let (name, value) = value.split_once('=').unwrap_or((value, ""));
                    wanted.options.insert(name.to_owned(), value.into());
                }
                other => bail!("invalid field key {other}"),
            }
        }
        if wanted.name.is_empty() {
            bail!("network name is not specified: {text}");
        }
        Ok(wanted)
    }

    fn endpoint(&self) -> Value {
        let mut ipam = Map::new();
        for (key, value) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if !value.is_empty() {
                ipam.insert(key.to_owned(), value.as_str().into());
            }
        }
        if !self.link_local.is_empty() {
            ipam.insert("LinkLocalIPs".to_owned(), json!(self.link_local));
        }
        json!({
            "IPAMConfig": if ipam.is_empty() { Value::Null } else { ipam.into() }, "Aliases": self.aliases,
            "Links": if self.links.is_empty() { Value::Null } else { json!(self.links) }, "MacAddress": self.mac, "DriverOpts": self.options, "GwPriority": self.priority,
        })
    }
}

impl NetworkFlags {
    fn wanted(&self) -> Result<Vec<Wanted>> {
        let mut all = self.network.iter().map(|text| Wanted::parse(text)).collect::<Result<Vec<_>>>()?;
        if all.is_empty() {
            all.push(Wanted { name: "default".to_owned(), ..Wanted::default() });
        }
        if all.len() > 1
            && all.iter().any(|one| matches!(one.name.as_str(), "host" | "none") || one.name.starts_with("container:"))
        {
            bail!("conflicting options: cannot attach both user-defined and non-user-defined network-modes");
        }
        let first = &mut all[0];
        // The separate flags are about the first network.
        for (flag, own, given) in [
            ("--ip", &mut first.ip, &self.ip),
            ("--ip6", &mut first.ip6, &self.ip6),
            ("--mac-address", &mut first.mac, &self.mac_address),
        ] {
            match given {
                Some(_) if !own.is_empty() => bail!("conflicting options: cannot specify both {flag} and its per-network field"),
                Some(text) => own.clone_from(text),
                None => {}
            }
        }
        if !first.aliases.is_empty() && !self.network_alias.is_empty() {
            bail!("conflicting options: cannot specify both --network-alias and per-network alias");
        }
        first.aliases.extend(self.network_alias.iter().cloned());
        self.link.iter().try_for_each(|link| check_link(link))?;
        if is_users(&first.name) {
            // In the default network they are the container's, below.
            first.links.clone_from(&self.link);
        }
        if all.iter().any(|one| !one.aliases.is_empty() && !is_users(&one.name)) {
            bail!("network-scoped aliases are only supported for user-defined networks");
        }
        Ok(all)
    }

    /// Puts them into the body of `POST /containers/create`.
    pub fn fill(&self, body: &mut Value) -> Result<()> {
        let wanted = self.wanted()?;
        let mut exposed = Map::new();
        let mut bindings: Map<String, Value> = Map::new();
        for text in &self.publish {
            for (port, binding) in ports::publish(text)? {
                exposed.insert(port.clone(), json!({}));
                if let Some(list) = bindings.entry(port).or_insert_with(|| json!([])).as_array_mut() {
                    list.push(binding);
                }
            }
        }
        for text in &self.expose {
            exposed.extend(ports::expose(text)?.into_iter().map(|port| (port, json!({}))));
        }
        if !exposed.is_empty() {
            body["ExposedPorts"] = exposed.into();
        }
        let endpoints: Map<String, Value> = wanted.iter().map(|one| (one.name.clone(), one.endpoint())).collect();
        body["NetworkingConfig"] = json!({"EndpointsConfig": endpoints});
        let host = &mut body["HostConfig"];
        host["NetworkMode"] = wanted[0].name.as_str().into();
        host["PortBindings"] = bindings.into();
        host["PublishAllPorts"] = self.publish_all.into();
        host["Links"] = if self.link.is_empty() { Value::Null } else { json!(self.link) };
        host["Dns"] = json!(self.dns);
        host["DnsOptions"] = json!(self.dns_option);
        host["DnsSearch"] = json!(self.dns_search);
        host["ExtraHosts"] = json!(self.add_host);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        flags: NetworkFlags,
    }

    fn body(words: &[&str]) -> Result<Value> {
        let mut body = json!({"HostConfig": {}});
        Words::parse_from([&["x"], words].concat()).flags.fill(&mut body).map(|()| body)
    }

    #[test]
    fn flags_become_endpoints_and_bindings() {
        let plain = body(&[]).unwrap();
        assert_eq!((&plain["HostConfig"]["NetworkMode"], plain.get("ExposedPorts")), (&json!("default"), None));
        let own =
            body(&["--network", "n", "--ip", "10.0.0.9", "--network-alias", "a", "-p", "8080:80", "--expose", "53/udp", "-P"])
                .unwrap();
        assert_eq!(own["HostConfig"]["PortBindings"], json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}));
        assert_eq!(own["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        let endpoint = &own["NetworkingConfig"]["EndpointsConfig"]["n"];
        assert_eq!((&endpoint["IPAMConfig"]["IPv4Address"], &endpoint["Aliases"]), (&json!("10.0.0.9"), &json!(["a"])));
        let linked = |network: &str| body(&["--network", network, "--link", "db:store"]).unwrap();
        for (network, want) in [("n", json!(["db:store"])), ("default", Value::Null)] {
            let body = linked(network);
            assert_eq!(body["NetworkingConfig"]["EndpointsConfig"][network]["Links"], want, "{network}");
            assert_eq!(body["HostConfig"]["Links"], json!(["db:store"]), "{network}");
        }
        let two = body(&["--network", "name=n,alias=x,ip=10.0.0.2", "--network", "m"]).unwrap();
        assert_eq!(two["NetworkingConfig"]["EndpointsConfig"].as_object().unwrap().len(), 2);
        assert_eq!(two["HostConfig"]["NetworkMode"], json!("n"));
        for bad in [
            &["--network", "host", "--network", "n"][..],
            &["--network", "alias=x"],
            &["--link", "a:b:c"],
            &["--network", "name=n,ip=1.1.1.1", "--ip", "1.1.1.2"],
        ] {
            assert!(body(bad).is_err(), "{bad:?}");
        }
    }
}
