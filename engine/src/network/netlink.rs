//! Netlink: messages built and read, and a socket that sends many at once and collects what the kernel says.
//!
//! Source: netlink(7), rtnetlink(7), linux/netlink.h. Everything that needs to be fast is one `send` and one `recv`:
//! the kernel works on a datagram of several messages in order, and acknowledges each.

use std::io;
use std::os::fd::OwnedFd;

use fs_base::{Error, IoContext, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Source: linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// The kernel's largest piece of a dump.
const BUFFER: usize = 64 << 10;

/// It is a request; every message that we send is.
pub const REQUEST: u16 = 1;
/// An answer is wanted even if nothing went wrong.
pub const ACK: u16 = 4;
/// What is there stays as it is, and that is an error.
pub const EXCL: u16 = 0x200;
/// What is not there is made.
pub const CREATE: u16 = 0x400;
/// What is there is replaced.
pub const REPLACE: u16 = 0x100;
/// After what is there, not before.
pub const APPEND: u16 = 0x800;
/// All of a kind is wanted.
pub const DUMP: u16 = 0x300;

/// One message under construction: header, the fixed part of its family, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of this kind with nothing in it.
    pub fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        Message { bytes }
    }

    /// Adds the family's fixed part, or more of an attribute's value.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Message {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// Adds an attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Message {
        let length = (4 + value.len()) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a text with its closing zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Adds a number in the machine's own order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the network's order, as netfilter wants all of its.
    pub fn number_be(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds an attribute that holds others.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Message {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// What was put in so far, without the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// One message that the kernel sent: its kind, and what follows the header.
#[derive(Debug, Clone)]
pub struct Received {
    /// Which kind.
    pub kind: u16,
    /// The fixed part and the attributes.
    pub payload: Vec<u8>,
}

impl Received {
    /// The value of the first attribute of a kind, behind a fixed part of `fixed` bytes.
    pub fn attr(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        find(self.payload.get(fixed..)?, kind)
    }
}

/// The value of the first attribute of a kind.
pub fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// All attributes, as kind and value. What is cut off ends them.
pub fn attrs(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A text attribute's value, without its closing zero.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number attribute's value in the machine's own order.
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A netlink socket in the network namespace of the thread that made it; it stays there, whoever uses it.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    pub fn route() -> Result<Socket> {
        Socket::open(None)
    }

    /// For rules and connections.
    pub fn netfilter() -> Result<Socket> {
        Socket::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Socket> {
        match rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol) {
            Err(rustix::io::Errno::PROTONOSUPPORT) => Err(Error::unsupported("this kernel has no nf_tables")
                .with_hint("load the module nf_tables; without it containers run with --network none or host")),
            other => Ok(Socket { socket: other.at("open", "netlink socket")?, sequence: 0 }),
        }
    }

    /// Sends messages as one datagram, and waits until each is dealt with. The result is one entry for each message:
    /// the kernel goes on after one that fails.
    pub fn send(&mut self, messages: &mut [Message]) -> Result<Vec<io::Result<()>>> {
        let first = self.sequence + 1;
        self.transmit(messages, |_| ACK)?;
        let mut results: Vec<Option<io::Result<()>>> = messages.iter().map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            for (header, received) in self.receive()? {
                if let (NLMSG_ERROR, Some(code)) = (received.kind, code_of(&received)) {
                    let place = header.sequence.wrapping_sub(first) as usize;
                    if let Some(slot) = results.get_mut(place) {
                        *slot = Some(code);
                    }
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Sends messages, all of which must succeed; `what` is the object of the error's message.
    pub fn request(&mut self, what: &str, messages: &mut [Message]) -> Result<()> {
        for result in self.send(messages)? {
            result.at("set up", what)?;
        }
        Ok(())
    }

    /// Sends a batch that is done as a whole or not at all: the first and the last message are its brackets, and are
    /// not acknowledged. Source: linux/netfilter/nfnetlink.h.
    pub fn batch(&mut self, what: &str, messages: &mut [Message]) -> Result<()> {
        let (first, last) = (self.sequence + 1, messages.len() - 1);
        self.transmit(messages, |index| if index == 0 || index == last { 0 } else { ACK })?;
        let mut open = messages.len() - 2;
        let mut failure = None;
        while open > 0 {
            for (header, received) in self.receive()? {
                let Some(code) = code_of(&received).filter(|_| received.kind == NLMSG_ERROR) else { continue };
                let is_bracket = header.sequence == first || header.sequence == first + last as u32;
                open = if is_bracket { 0 } else { open.saturating_sub(1) };
                if let Err(error) = code {
                    failure.get_or_insert((error, header.sequence - first));
                }
            }
        }
        match failure {
            None => Ok(()),
            Some((error, place)) => Err(error).at("change", what).map_err(|error| error.context(format!("message {place}"))),
        }
    }

    /// Asks for all objects of a kind.
    pub fn dump(&mut self, mut message: Message) -> Result<Vec<Received>> {
        self.transmit(std::slice::from_mut(&mut message), |_| DUMP)?;
        let mut all = Vec::new();
        loop {
            for (_, received) in self.receive()? {
                match received.kind {
                    NLMSG_DONE => return Ok(all),
                    NLMSG_ERROR => code_of(&received).unwrap_or(Ok(())).at("list", "kernel objects")?,
                    _ => all.push(received),
                }
            }
        }
    }

    /// Asks for one object; `None` if there is none.
    pub fn get(&mut self, mut message: Message) -> Result<Option<Received>> {
        self.transmit(std::slice::from_mut(&mut message), |_| 0)?;
        for (_, received) in self.receive()? {
            match (received.kind, code_of(&received)) {
                (NLMSG_ERROR, Some(Err(error))) if matches!(error.raw_os_error(), Some(ENOENT | ENODEV)) => return Ok(None),
                (NLMSG_ERROR, Some(Err(error))) => return Err(error).at("look up", "kernel object"),
                (NLMSG_ERROR, _) => {}
                _ => return Ok(Some(received)),
            }
        }
        Ok(None)
    }

    fn transmit(&mut self, messages: &mut [Message], flags: impl Fn(usize) -> u16) -> Result<()> {
        let mut bytes = Vec::new();
        for (index, message) in messages.iter_mut().enumerate() {
            self.sequence += 1;
            bytes.extend(message.finish(self.sequence, flags(index)));
        }
        rustix::net::send(&self.socket, &bytes, SendFlags::empty()).at("send to", "the kernel").map(drop)
    }

    fn receive(&mut self) -> Result<Vec<(Header, Received)>> {
        let mut buffer = vec![0u8; BUFFER];
        let length = loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.at("receive from", "the kernel")?.0,
            }
        };
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some((header, body, next)) = split(rest) {
            messages.push((header, body));
            rest = next;
        }
        if messages.is_empty() {
            return Err(Error::internal("the kernel's answer can't be read"));
        }
        Ok(messages)
    }
}

const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// What of a header is needed.
struct Header {
    sequence: u32,
}

fn split(bytes: &[u8]) -> Option<(Header, Received, &[u8])> {
    let length = number(bytes)? as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = number(bytes.get(8..)?)?;
    let payload = bytes.get(HEADER..length)?.to_vec();
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Header { sequence }, Received { kind, payload }, next))
}

/// An error message's code; 0 is success.
fn code_of(received: &Received) -> Option<io::Result<()>> {
    let code = i32::from_ne_bytes(received.payload.get(..4)?.try_into().ok()?);
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut message = Message::new(16, CREATE);
        message.put(&[1, 2, 3, 4]).text(3, "eth0").nest(18, |m| {
            m.text(1, "veth");
        });
        message.number(27, 7);
        let bytes = message.finish(9, ACK).to_vec();
        let (header, received, rest) = split(&bytes).unwrap();
        assert_eq!((header.sequence, received.kind, rest.len()), (9, 16, 0));
        assert_eq!(received.attr(4, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(received.attr(4, 18).and_then(|nest| find(nest, 1)).map(text).as_deref(), Some("veth"));
        assert_eq!(received.attr(4, 27).and_then(number), Some(7));
        assert_eq!(received.attr(4, 28), None);
        for end in 0..bytes.len() {
            // Whatever is cut off, nothing panics.
            let _ = split(&bytes[..end]).map(|(_, received, _)| attrs(&received.payload).count());
        }
    }
}
