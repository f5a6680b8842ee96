//! `network`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::images::PruneFlags;
use super::inspect::InspectOne;
use crate::client::query::{Filters, escape};
use crate::client::{Client, Query};
use crate::failure::Several;
use crate::format::json::{labels, list, text};
use crate::format::list::{Columns, Style, print, row};
use crate::format::names::short_id;
use crate::opts::env::pairs;
use crate::opts::network::check_link;
use crate::out;

/// Manage networks
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Connect a container to a network
    Connect(Connect),
    /// Create a network
    Create(Box<Create>),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Display detailed information on one or more networks
    Inspect(InspectOne),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Remove all unused networks
    Prune(Prune),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

impl Network {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Network::Connect(args) => args.run(client).await,
            Network::Create(args) => args.run(client).await,
            Network::Disconnect(args) => args.run(client).await,
            Network::Inspect(args) => args.run(client, "network").await,
            Network::Ls(args) => args.run(client).await,
            Network::Prune(args) => args.run(client).await,
            Network::Rm(args) => args.run(client).await,
        }
    }
}

/// `network create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by the network
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// Driver to manage the network
    #[arg(short = 'd', long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long, value_name = "strings")]
    gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container IPs from a sub-range
    #[arg(long, value_name = "strings")]
    ip_range: Vec<String>,
    /// Enable IPv6 networking
    #[arg(long)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short = 'o', long, value_name = "map")]
    opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings")]
    subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

impl Create {
    async fn run(self, client: &Client) -> Result<()> {
        let body = json!({
            "Name": self.name, "Driver": self.driver, "Internal": self.internal, "Attachable": self.attachable,
            "EnableIPv6": self.ipv6, "Options": pairs(&self.opt), "Labels": pairs(&self.label),
            "IPAM": {"Driver": "default", "Options": {}, "Config": self.pools()?},
        });
        let network = client.post("/networks/create", Some(&body)).await?;
        if !text(&network, "Warning").is_empty() {
            out::error_line(format!("WARNING: {}", text(&network, "Warning")));
        }
        out::line(text(&network, "Id"));
        Ok(())
    }

    /// Gateways, ranges and addresses, each with the subnet that it lies in.
    fn pools(&self) -> Result<Vec<Value>> {
        let mut pools: Vec<(Subnet, Map<String, Value>)> = Vec::new();
        for given in self.subnet.iter().flat_map(|text| text.split(',')) {
            pools.push((Subnet::parse(given)?, Map::from_iter([("Subnet".to_owned(), given.into())])));
        }
        let mut put = |kind: &str, key: &str, given: &str| -> Result<()> {
            let address = given.split('/').next().unwrap_or(given);
            let address = address.parse().map_err(|_| anyhow::anyhow!("invalid {kind} {given}: invalid address"))?;
            match pools.iter_mut().find(|(subnet, _)| subnet.contains(address)) {
                Some((_, pool)) if pool.contains_key(key) => {
                    bail!("cannot configure multiple {kind}s ({given}) on the same subnet")
                }
                Some((_, pool)) => drop(pool.insert(key.to_owned(), given.into())),
                None => bail!("no matching subnet for {kind} {given}"),
            }
            Ok(())
        };
        for given in self.ip_range.iter().flat_map(|text| text.split(',')) {
            put("range", "IPRange", given)?;
        }
        for given in self.gateway.iter().flat_map(|text| text.split(',')) {
            put("gateway", "Gateway", given)?;
        }
        for (name, value) in pairs(&self.aux_address) {
            let given = value.as_str().unwrap_or_default();
            let address = given.parse().map_err(|_| anyhow::anyhow!("invalid aux-address {given}: invalid address"))?;
            let Some((_, pool)) = pools.iter_mut().find(|(subnet, _)| subnet.contains(address)) else {
                bail!("no matching subnet for aux-address {given}");
            };
            pool.entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = given.into();
        }
        Ok(pools.into_iter().map(|(_, pool)| pool.into()).collect())
    }
}

/// A network's addresses.
struct Subnet {
    address: std::net::IpAddr,
    length: u32,
}

impl Subnet {
    fn parse(text: &str) -> Result<Subnet> {
        let bad = || anyhow::anyhow!("invalid subnet {text}: invalid CIDR block notation");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        Ok(Subnet { address: address.parse().map_err(|_| bad())?, length: length.parse().map_err(|_| bad())? })
    }

    fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        let beyond = |width: u32| width.saturating_sub(self.length);
        match (self.address, address) {
            (V4(own), V4(other)) => (u32::from(own) ^ u32::from(other)).checked_shr(beyond(32)).unwrap_or(0) == 0,
            (V6(own), V6(other)) => (u128::from(own) ^ u128::from(other)).checked_shr(beyond(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

/// `network connect`.
#[derive(Debug, Args)]
pub struct Connect {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    alias: Vec<String>,
    /// Highest gw-priority provides the default gateway
    #[arg(long, value_name = "int", default_value_t = 0, allow_hyphen_values = true, hide_default_value = true)]
    gw_priority: i64,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "string")]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "string")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// The network
    network: String,
    /// The container
    container: String,
}

impl Connect {
    async fn run(self, client: &Client) -> Result<()> {
        let mut ipam = Map::new();
        for (key, given) in [("IPv4Address", self.ip), ("IPv6Address", self.ip6)] {
            if let Some(given) = given {
                ipam.insert(key.to_owned(), given.into());
            }
        }
        let aliases: Vec<&str> = self.alias.iter().flat_map(|text| text.split(',')).collect();
        self.link.iter().try_for_each(|link| check_link(link))?;
        let config = json!({"IPAMConfig": ipam, "Aliases": aliases, "Links": self.link, "GwPriority": self.gw_priority});
        let body = json!({"Container": self.container, "EndpointConfig": config});
        client.post(&format!("/networks/{}/connect", escape(&self.network)), Some(&body)).await.map(drop)
    }
}

/// `network disconnect`.
#[derive(Debug, Args)]
pub struct Disconnect {
    /// Force the container to disconnect from a network
    #[arg(short = 'f', long)]
    force: bool,
    /// The network
    network: String,
    /// The container
    container: String,
}

impl Disconnect {
    async fn run(self, client: &Client) -> Result<()> {
        let body = json!({"Container": self.container, "Force": self.force});
        client.post(&format!("/networks/{}/disconnect", escape(&self.network)), Some(&body)).await.map(drop)
    }
}

/// The columns of a list of networks.
const COLUMNS: Columns = Columns {
    titles: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "ID",
};

/// `network ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Ls {
    async fn run(self, client: &Client) -> Result<()> {
        let answer = client.get(&Query::new("/networks").filters(&Filters::parse(&self.filter)?).build()).await?;
        let mut networks: Vec<&Value> = answer.as_array().into_iter().flatten().collect();
        networks.sort_by(|a, b| crate::format::names::natural(text(a, "Name"), text(b, "Name")));
        let rows: Vec<Value> = networks.into_iter().map(|network| network_row(network, !self.no_trunc)).collect();
        print(&COLUMNS, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })
    }
}

fn network_row(network: &Value, short: bool) -> Value {
    let id = text(network, "Id");
    let flag = |key: &str| network[key].as_bool().unwrap_or(false).to_string();
    row([
        ("ID", if short { short_id(id) } else { id }.into()),
        ("Name", text(network, "Name").into()),
        ("Driver", text(network, "Driver").into()),
        ("Scope", text(network, "Scope").into()),
        ("IPv4", flag("EnableIPv4").into()),
        ("IPv6", flag("EnableIPv6").into()),
        ("Internal", flag("Internal").into()),
        ("Labels", labels(&network["Labels"]).into()),
        ("LabelMap", Value::Object(network["Labels"].as_object().cloned().unwrap_or_default())),
        ("CreatedAt", text(network, "Created").into()),
    ])
}

/// `network rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Do not error if the network does not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// The networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Rm {
    async fn run(self, client: &Client) -> Result<()> {
        let mut several = Several::default();
        for name in &self.networks {
            let removed = client.delete(&format!("/networks/{}", escape(name))).await;
            if self.force && removed.as_ref().is_err_and(|error| crate::failure::status_of(error) == Some(404)) {
                continue;
            }
            if several.note(removed).is_some() {
                out::line(name);
            }
        }
        several.finish()
    }
}

/// `network prune`.
#[derive(Debug, Args)]
pub struct Prune {
    #[command(flatten)]
    common: PruneFlags,
}

impl Prune {
    async fn run(self, client: &Client) -> Result<()> {
        if !self.common.agreed("WARNING! This will remove all custom networks not used by at least one container.")? {
            return Err(crate::failure::Exit::with(1, "network prune has been cancelled"));
        }
        let path = Query::new("/networks/prune").filters(&Filters::parse(&self.common.filter)?).build();
        let answer = client.post(&path, None).await?;
        out::bytes(super::system::deleted("Deleted Networks", list(&answer, "NetworksDeleted")).as_bytes());
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
        create: Create,
    }

    fn pools(words: &[&str]) -> Result<Value> {
        Words::parse_from([&["x", "n"], words].concat()).create.pools().map(Value::from)
    }

    #[test]
    fn what_lies_in_a_subnet_goes_with_it() {
        let given =
            ["--subnet", "10.1.0.0/16,fd00::/64", "--gateway", "fd00::9", "--gateway", "10.1.0.9", "--ip-range", "10.1.2.0/24"];
        let want = json!([
            {"Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.9"},
            {"Subnet": "fd00::/64", "Gateway": "fd00::9"},
        ]);
        assert_eq!(pools(&given).unwrap(), want);
        let aux = pools(&["--subnet", "10.1.0.0/16", "--aux-address", "a=10.1.0.5"]).unwrap();
        assert_eq!(aux[0]["AuxiliaryAddresses"], json!({"a": "10.1.0.5"}));
        let error = |words: &[&str]| pools(words).unwrap_err().to_string();
        assert_eq!(error(&["--gateway", "10.1.0.1"]), "no matching subnet for gateway 10.1.0.1");
        assert_eq!(error(&["--subnet", "10.1.0.0/16", "--ip-range", "10.2.0.0/24"]), "no matching subnet for range 10.2.0.0/24");
        assert!(error(&["--subnet", "10.1.0.0"]).contains("invalid CIDR"));
    }
}
