//! Networks: bridges, wires between them and containers, and the rules for packets, all by netlink.
//!
//! [`Host`] is what one daemon has of it on this host: a table of rules ([`nft`]) and a bridge for each network that is
//! in use ([`link`]). A container's network namespace belongs to its processes and goes with them, and with it its end
//! of the wire, and so the wire. Nothing here remembers anything: the daemon's database says what should be, the kernel
//! what is.
//!
//! ```text
//! host ── bridge ── veth ═══ eth0 ── container
//! ```

mod conntrack;
pub mod dns;
mod firewall;
mod host;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod nft;

pub use host::{Bridge, End, Host, Scope, Way, set_way};

use std::net::Ipv4Addr;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that goes with an address: who gets an address that somebody else had is found where that one was.
    pub fn of(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

impl std::str::FromStr for Mac {
    type Err = fs_base::Error;

    fn from_str(text: &str) -> fs_base::Result<Mac> {
        let bad = || fs_base::Error::invalid(format!("{text} is not a valid mac address"));
        let parts: Vec<u8> =
            text.split([':', '-']).map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>().map_err(|_| bad())?;
        let bytes: [u8; 6] = parts.try_into().map_err(|_| bad())?;
        // The lowest bit of the first byte is for groups, which no link can be.
        if bytes[0] & 1 != 0 { Err(bad()) } else { Ok(Mac(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;

    #[test]
    fn a_hardware_address_is_read_and_written() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!((mac.to_string().as_str(), mac), ("02:42:ac:11:00:02", Mac::of([172, 17, 0, 2].into())));
        for bad in ["", "02:42", "01:00:00:00:00:00", "xx:42:ac:11:00:02", "02:42:ac:11:00:02:03"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
