//! Connections that the kernel keeps in mind. One that was translated to a container goes on to its address for as long
//! as somebody sends, even when the container is gone and its port leads elsewhere: datagrams have no end.
//!
//! Source: linux/netfilter/nfnetlink_conntrack.h.

use std::net::IpAddr;

use fs_base::Result;

use super::netlink::{Message, Socket, attrs, find};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const SOURCE4: u16 = 1;
const SOURCE6: u16 = 3;
/// Bytes of struct nfgenmsg.
const FIXED: usize = 4;

/// Forgets the connections that were translated to this address.
pub fn forget(socket: &mut Socket, address: IpAddr) -> Result<()> {
    let (family, kind, bytes) = match address {
        IpAddr::V4(v4) => (2, SOURCE4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, SOURCE6, v6.octets().to_vec()),
    };
    let mut message = Message::new(SUBSYSTEM | GET, 0);
    message.put(&[family, 0, 0, 0]);
    let mut deletions = Vec::new();
    for connection in socket.dump(message)? {
        let source = |tuple: u16| find(find(connection.attr(FIXED, tuple)?, TUPLE_ADDRESSES)?, kind);
        // Whoever answers is the container; whoever was asked is another: the port was translated.
        if source(TUPLE_REPLY) != Some(&bytes) || source(TUPLE_ORIGINAL) == Some(&bytes) {
            continue;
        }
        let Some(original) = connection.attr(FIXED, TUPLE_ORIGINAL) else { continue };
        let mut delete = Message::new(SUBSYSTEM | DELETE, 0);
        delete.put(&[family, 0, 0, 0]);
        delete.nest(TUPLE_ORIGINAL, |tuple| copy(tuple, original));
        deletions.push(delete);
    }
    for some in deletions.chunks_mut(32) {
        // One that has ended meanwhile is no error.
        socket.send(some)?;
    }
    Ok(())
}

/// Attributes as they came; those of a tuple are nested once.
fn copy(message: &mut Message, attributes: &[u8]) {
    for (kind, value) in attrs(attributes) {
        message.nest(kind, |inner| {
            for (kind, value) in attrs(value) {
                inner.attr(kind, value);
            }
        });
    }
}
