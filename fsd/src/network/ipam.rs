//! Which addresses and subnets are free.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::network::link::Used;
use fs_base::{Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::model::{Network, Pool};

/// Where subnets are looked for, and how large they are: parts of the private ranges (RFC 1918) that neither Docker
/// (172.17 to 172.20 first) nor Podman (10.88, 10.89) nor libvirt (192.168.122) begin with.
const RANGES: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(172, 24, 0, 0), 13), (Ipv4Addr::new(10, 208, 0, 0), 12)];
/// 4,094 addresses.
const SIZE: u8 = 20;

/// The lowest free address of a pool. `taken` are those that are given.
pub fn free_address(network: &Network, pool: &Pool, taken: &HashSet<IpAddr>) -> Result<IpAddr> {
    let range = pool.range.unwrap_or(pool.subnet);
    let usable = |ip: &IpAddr| {
        !taken.contains(ip)
            && *ip != pool.gateway
            && *ip != pool.subnet.network()
            && !(ip.is_ipv4() && *ip == pool.subnet.broadcast())
            && !pool.reserved.values().any(|reserved| reserved == ip)
    };
    // As many can't be taken as to make this slow: all but a handful lie next to each other at the beginning.
    let found = match range {
        IpNet::V4(net) => addresses4(net).map(IpAddr::V4).find(usable),
        IpNet::V6(net) => addresses6(net).map(IpAddr::V6).find(usable),
    };
    found.ok_or_else(|| {
        Error::unavailable(format!(
            "no available IPv{} addresses on this network's address pools: {} ({})",
            if range.addr().is_ipv4() { 4 } else { 6 },
            network.name,
            network.id
        ))
    })
}

fn addresses4(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
}

fn addresses6(net: Ipv6Net) -> impl Iterator<Item = Ipv6Addr> {
    (u128::from(net.network())..=u128::from(net.broadcast())).map(Ipv6Addr::from)
}

/// An address that somebody chose, checked.
pub fn chosen_address(pool: &Pool, address: IpAddr, taken: &HashSet<IpAddr>) -> Result<IpAddr> {
    if !pool.subnet.contains(&address) {
        return Err(Error::invalid(format!("invalid endpoint settings:\nno configured subnet contains IP address {address}")));
    }
    let is_bound = address == pool.subnet.network() || address.is_ipv4() && address == pool.subnet.broadcast();
    if taken.contains(&address) || address == pool.gateway || is_bound {
        return Err(Error::denied("Address already in use"));
    }
    Ok(address)
}

/// Whether two networks have an address in common.
pub fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// A subnet that nobody uses: neither this host nor another network. Daemons begin to look at different places, so that
/// several on one host rarely want the same.
pub fn free_subnet(number: u32, used: &[Used], networks: &[Network]) -> Result<IpNet> {
    let count = |length: u8| 1u32 << (SIZE - length);
    let total: u32 = RANGES.iter().map(|(_, length)| count(*length)).sum();
    for step in 0..total {
        let mut place = (number % total + step) % total;
        for (first, length) in RANGES {
            if place >= count(length) {
                place -= count(length);
                continue;
            }
            let base = Ipv4Addr::from(u32::from(first) + (place << (32 - SIZE)));
            let subnet = IpNet::V4(Ipv4Net::new_assert(base, SIZE));
            if is_free(subnet, used, networks) {
                return Ok(subnet);
            }
            break;
        }
    }
    Err(Error::unavailable(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
    )
    .with_hint("remove networks that nobody needs (docker network prune), or name one with --subnet"))
}

/// A unique local subnet (RFC 4193) of a network that has none.
pub fn local_subnet(id: &str) -> Result<IpNet> {
    let number = u64::from_str_radix(id.get(..14).unwrap_or_default(), 16).map_err(|_| Error::internal("a network's id"))?;
    let address = 0xfd_u128 << 120 | u128::from(number) << 64;
    Ok(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(address), 64)))
}

fn is_free(subnet: IpNet, used: &[Used], networks: &[Network]) -> bool {
    !used.iter().any(|used| overlap(used.net, subnet))
        && !networks.iter().flat_map(|network| &network.spec.pools).any(|pool| overlap(pool.subnet, subnet))
}

/// Whether somebody may have a subnet of his choice: no other network has any of it, nor has this host an address in
/// it, or a way to a part of it. A way to more than it (a private network behind a router) may stay.
pub fn check_subnet(subnet: IpNet, used: &[Used], networks: &[Network]) -> Result<()> {
    let other = networks.iter().find(|network| network.spec.pools.iter().any(|pool| overlap(pool.subnet, subnet)));
    if let Some(other) = other {
        return Err(Error::denied("invalid pool request: Pool overlaps with other one on this address space")
            .with_hint(format!("the network {} has some of {subnet}", other.name)));
    }
    let in_way = |used: &&Used| overlap(used.net, subnet) && (used.has_address || used.net.prefix_len() >= subnet.prefix_len());
    match used.iter().find(in_way) {
        None => Ok(()),
        Some(used) => Err(Error::denied("invalid pool request: Pool overlaps with other one on this address space")
            .with_hint(format!("this host itself uses {}", used.net))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(net: &str, has_address: bool) -> Used {
        Used { link: 1, net: net.parse().unwrap(), has_address }
    }

    fn pool(subnet: &str, gateway: &str) -> Pool {
        Pool {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: None,
            reserved: std::collections::BTreeMap::new(),
            chosen: true,
        }
    }

    fn network(pools: Vec<Pool>) -> Network {
        let spec = super::super::model::NetworkSpec { pools, ..super::super::sample_spec() };
        Network { id: "1".repeat(64), name: "n".into(), created: 0, spec }
    }

    #[test]
    fn a_subnet_in_use_is_not_taken() {
        assert_eq!(free_subnet(0, &[], &[]).unwrap().to_string(), "172.24.0.0/20");
        assert_eq!(free_subnet(0, &[used("172.24.3.0/24", true)], &[]).unwrap().to_string(), "172.24.16.0/20");
        let mine = network(vec![pool("172.24.16.0/20", "172.24.16.1")]);
        assert_eq!(free_subnet(0, &[used("172.24.0.0/20", false)], &[mine]).unwrap().to_string(), "172.24.32.0/20");
        assert_eq!(free_subnet(0, &[used("172.16.0.0/12", false)], &[]).unwrap().to_string(), "10.208.0.0/20");
        assert_eq!(free_subnet(127, &[used("172.31.240.0/20", true)], &[]).unwrap().to_string(), "10.208.0.0/20");
        let all = [used("172.16.0.0/12", false), used("10.0.0.0/8", false)];
        assert!(free_subnet(7, &all, &[]).unwrap_err().to_string().contains("non-overlapping IPv4 address pool"));
    }

    #[test]
    fn a_subnet_of_ones_choice_is_checked() {
        let subnet: IpNet = "10.5.0.0/24".parse().unwrap();
        check_subnet(subnet, &[used("10.0.0.0/8", false)], &[]).unwrap();
        for other in [used("10.5.0.0/24", false), used("10.5.0.7/32", false), used("10.0.0.0/8", true)] {
            assert!(check_subnet(subnet, &[other], &[]).is_err(), "{other:?}");
        }
        let error = check_subnet(subnet, &[], &[network(vec![pool("10.5.0.0/16", "10.5.0.1")])]).unwrap_err();
        assert_eq!(error.to_string(), "invalid pool request: Pool overlaps with other one on this address space");
    }

    #[test]
    fn addresses_are_given_from_below_and_once() {
        let mut small = pool("10.5.0.0/29", "10.5.0.1");
        small.reserved.insert("router".into(), "10.5.0.3".parse().unwrap());
        let network = network(vec![small.clone()]);
        let mut taken = HashSet::new();
        let mut given = Vec::new();
        while let Ok(address) = free_address(&network, &small, &taken) {
            taken.insert(address);
            given.push(address.to_string());
        }
        assert_eq!(given, ["10.5.0.2", "10.5.0.4", "10.5.0.5", "10.5.0.6"]);
        small.range = Some("10.5.0.4/30".parse().unwrap());
        assert_eq!(free_address(&network, &small, &HashSet::new()).unwrap().to_string(), "10.5.0.4");
        let own = |text: &str| chosen_address(&small, text.parse().unwrap(), &taken).map_err(|error| error.to_string());
        assert_eq!(own("10.5.0.4").unwrap_err(), "Address already in use");
        assert_eq!(own("10.5.0.1").unwrap_err(), "Address already in use");
        assert!(own("10.6.0.1").unwrap_err().contains("no configured subnet contains IP address 10.6.0.1"));
        let six = local_subnet(&"ab".repeat(32)).unwrap();
        assert_eq!(six.to_string(), "fdab:abab:abab:abab::/64");
        let six = Pool { subnet: six, gateway: "fdab:abab:abab:abab::1".parse().unwrap(), ..small };
        let six = Pool { range: None, ..six };
        assert_eq!(free_address(&network, &six, &HashSet::new()).unwrap().to_string(), "fdab:abab:abab:abab::2");
    }
}
