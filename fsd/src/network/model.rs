//! Networks and who is in them, as the database keeps them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::network::nft::{Change, Protocol};
use engine::network::{Bridge, Mac};
use fs_base::{ContainerId, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The network that a container is in if nothing is said.
pub const BRIDGE: &str = "bridge";
/// The host's own.
pub const HOST: &str = "host";
/// None but a loopback interface.
pub const NONE: &str = "none";

/// Options of a bridge network that mean something here.
pub mod option {
    /// The link's name.
    pub const LINK: &str = "com.docker.network.bridge.name";
    /// Whether containers may talk to each other.
    pub const TALK: &str = "com.docker.network.bridge.enable_icc";
    /// Whether containers go out with the host's address.
    pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    /// The host's address that ports are published on.
    pub const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    /// The largest packet.
    pub const MTU: &str = "com.docker.network.driver.mtu";
    /// That it is the default one.
    pub const DEFAULT: &str = "com.docker.network.bridge.default_bridge";
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// What it is.
    pub spec: NetworkSpec,
}

/// What a network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Whether it leads nowhere.
    pub internal: bool,
    /// Kept for who asks; it means something to swarms only.
    pub attachable: bool,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// Its subnets.
    pub pools: Vec<Pool>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The link of its bridge; empty if it has none.
    pub link: String,
}

/// A subnet, and which addresses of it are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// All addresses.
    pub subnet: IpNet,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// Those that are given; all if `None`.
    pub range: Option<IpNet>,
    /// Those that somebody else has.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Whether its user chose the subnet.
    pub chosen: bool,
}

impl Network {
    /// Whether there is a bridge to it.
    pub fn is_bridge(&self) -> bool {
        self.spec.driver == BRIDGE
    }

    /// Whether it is one of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), BRIDGE | HOST | NONE)
    }

    /// Whether names are answered in it, and addresses can be chosen.
    pub fn is_user_defined(&self) -> bool {
        !self.is_predefined()
    }

    fn flag(&self, key: &str) -> bool {
        self.spec.options.get(key).is_none_or(|value| !matches!(value.as_str(), "false" | "0" | "f" | "F" | "False" | "FALSE"))
    }

    /// The largest packet, if it is not the usual.
    pub fn mtu(&self) -> Option<u32> {
        self.spec.options.get(option::MTU).and_then(|text| text.parse().ok()).filter(|mtu| *mtu > 0)
    }

    /// Where ports are published if nobody says.
    pub fn binding(&self) -> Option<IpAddr> {
        self.spec.options.get(option::BINDING).and_then(|text| text.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified())
    }

    /// What the kernel has to know of it.
    pub fn bridge(&self) -> Bridge {
        let on = |pool: &Pool| IpNet::new_assert(pool.gateway, pool.subnet.prefix_len());
        Bridge {
            rules: Change {
                bridge: self.spec.link.clone(),
                subnets: self.spec.pools.iter().map(|pool| pool.subnet).collect(),
                internal: self.spec.internal,
                talkative: self.flag(option::TALK),
                masquerade: self.flag(option::MASQUERADE),
            },
            addresses: self.spec.pools.iter().map(on).collect(),
            mtu: self.mtu(),
        }
    }

    /// Its subnet of one version.
    pub fn pool(&self, is_v4: bool) -> Option<&Pool> {
        self.spec.pools.iter().find(|pool| pool.subnet.addr().is_ipv4() == is_v4)
    }
}

/// What was asked for of a container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Names of its own for others, `NAME:ALIAS`.
    #[serde(default)]
    pub links: Vec<String>,
    /// An address of its own.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// An address of its own.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// A hardware address of its own.
    #[serde(default)]
    pub mac: Option<String>,
    /// Which network leads everywhere: the highest.
    #[serde(default)]
    pub priority: i64,
}

/// What a container has in a network while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// 64 hex digits.
    pub id: String,
    /// The link in the container.
    pub link: String,
    /// Its hardware address.
    pub mac: String,
    /// Its addresses.
    pub ipv4: Option<Ipv4Addr>,
    /// Its addresses.
    pub ipv6: Option<Ipv6Addr>,
}

impl Lease {
    /// The wire's end on the host.
    pub fn host_link(&self) -> String {
        format!("veth{}", &self.id[..10])
    }

    /// Its hardware address.
    pub fn mac(&self) -> Result<Mac> {
        self.mac.parse()
    }

    /// Its address of a version.
    pub fn address(&self, is_v4: bool) -> Option<IpAddr> {
        if is_v4 { self.ipv4.map(IpAddr::V4) } else { self.ipv6.map(IpAddr::V6) }
    }
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose.
    pub container: ContainerId,
    /// The network's id, or the name of one that was not there.
    pub network: String,
    /// The network's name when it was asked for.
    pub name: String,
    /// The order in which they were asked for.
    pub position: i64,
    /// What was asked for.
    pub settings: Settings,
    /// What it has while it runs.
    pub lease: Option<Lease>,
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Published {
    /// The container's port.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's address.
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
}
