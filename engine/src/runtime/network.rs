//! The loopback interface of a new network namespace, brought up over netlink. Source: rtnetlink(7).

use fs_base::{Error, IoContext, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// A new namespace numbers its `lo` so.
const LOOPBACK_INDEX: i32 = 1;
/// Source: linux/rtnetlink.h, linux/netlink.h, linux/if.h.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Brings `lo` of this process's network namespace up.
pub fn bring_loopback_up() -> Result<()> {
    let what = "loopback interface";
    // NETLINK_ROUTE is protocol 0, the default.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .at("open netlink socket for", what)?;
    // struct nlmsghdr, then struct ifinfomsg.
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty()).at("set up", what)?;
    let mut answer = [0u8; 1024];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).at("set up", what)?;
    let kind = answer[..length].get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let code = answer[..length].get(16..20).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Error::io("set up", what, std::io::Error::from_raw_os_error(-code))),
        _ => Err(Error::internal("the kernel's answer about the loopback interface can't be read")),
    }
}
