//! What daemon and helper say to each other: to each request what it asks for, if anything, then [`Reply::Done`] or
//! [`Reply::Failed`]. A message is a length and a number of descriptors (32 bits each, big end first), then JSON; the
//! descriptors come with those first eight bytes.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use fs_base::{ContainerId, Error, IoContext, Result};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::names::{Asker, Table};
use crate::network::Published;

/// Which of these messages are understood. A helper of another version is ended by the daemon that finds it, and its
/// work begun anew. `Hello` and its answer never change.
pub const VERSION: u32 = 1;
/// Descriptors beside one message at most; the kernel takes 253. Source: unix(7).
pub const DESCRIPTORS: usize = 128;
/// A longer message is not one of ours.
const MESSAGE_MAX: usize = 16 << 20;
const PLACE: &str = "network helper's socket";

/// A published port, and where what comes to it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Passage {
    /// The port.
    pub port: Published,
    /// The container's address.
    pub to: SocketAddr,
}

/// What the helper does for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Which.
    pub container: ContainerId,
    /// Its ports that are held.
    pub ports: Vec<Passage>,
    /// Whether it is answered names.
    pub names: bool,
}

/// What the helper is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who it is, and whom it serves.
    Hello,
    /// To pass on what comes to these ports. Beside it: the container's first process, and a socket for each port.
    Pass {
        /// Whose ports.
        container: ContainerId,
        /// Which.
        ports: Vec<Passage>,
    },
    /// To answer names. Beside it: the container's first process, a socket for datagrams, and one that listens.
    Answer {
        /// Who asks there.
        container: ContainerId,
        /// What it may know.
        asker: Asker,
    },
    /// What a container that is answered may know from now on.
    Asker {
        /// Which.
        container: ContainerId,
        /// That.
        asker: Asker,
    },
    /// Who is in these networks from now on.
    Tables(Vec<Table>),
    /// To hold a container's ports no more. They are free when this is answered.
    ClosePorts(ContainerId),
    /// To do nothing for it any more.
    Forget(ContainerId),
    /// To give all sockets back, [`Reply::Left`] for each container. It finishes the connections that it has, and ends.
    Leave,
    /// To end at once.
    End,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Beside it: its process.
    Hello {
        /// The number of that.
        pid: i32,
        /// [`VERSION`].
        version: u32,
        /// See [`super::identity`].
        identity: (u64, u64),
        /// Whom it serves.
        served: Vec<Served>,
    },
    /// Some of what it did for a container. Beside it: the sockets of these ports, then the two for names.
    Left(Served),
    /// Done.
    Done,
    /// Not done, and why.
    Failed(String),
}

/// Sends a message.
pub fn send(to: &UnixStream, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let body = serde_json::to_vec(message).map_err(|error| Error::internal(format!("encode: {error}")))?;
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
    head[4..].copy_from_slice(&(descriptors.len() as u32).to_be_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = descriptors.len() <= DESCRIPTORS;
    if !fits || !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::internal(format!("{} descriptors beside one message", descriptors.len())));
    }
    let bytes = [IoSlice::new(&head)];
    let sent = retry_on_intr(|| rustix::net::sendmsg(to, &bytes, &mut control, SendFlags::NOSIGNAL)).at("send to", PLACE)?;
    let mut to = to;
    to.write_all(&head[sent..]).and_then(|()| to.write_all(&body)).at("send to", PLACE)
}

/// Receives one, and its descriptors.
pub fn receive<T: DeserializeOwned>(from: &UnixStream) -> Result<(T, VecDeque<OwnedFd>)> {
    let mut head = [0; 8];
    let mut descriptors = VecDeque::new();
    let mut filled = 0;
    while filled < head.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut rest = [IoSliceMut::new(&mut head[filled..])];
        let message = retry_on_intr(|| rustix::net::recvmsg(from, &mut rest, &mut control, RecvFlags::CMSG_CLOEXEC))
            .at("receive from", PLACE)?;
        if message.bytes == 0 {
            return Err(Error::unavailable("the network helper's socket was closed"));
        }
        filled += message.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                descriptors.extend(list);
            }
        }
    }
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    if number(0) > MESSAGE_MAX || number(4) != descriptors.len() {
        return Err(Error::invalid(format!("a message of {} bytes with {} descriptors", number(0), number(4))));
    }
    let mut body = vec![0; number(0)];
    let mut from = from;
    from.read_exact(&mut body).at("receive from", PLACE)?;
    let message = serde_json::from_slice(&body).map_err(|error| Error::invalid(format!("decode: {error}")))?;
    Ok((message, descriptors))
}
