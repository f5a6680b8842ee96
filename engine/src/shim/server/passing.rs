//! A descriptor beside the bytes of a message. Source: unix(7), SCM_RIGHTS.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_base::{IoContext, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Sends all of `bytes` with a descriptor beside the first of them.
pub fn send(to: impl AsFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = rustix::net::sendmsg(&to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).at("send to", "socket")?;
    let mut rest = &bytes[sent..];
    while !rest.is_empty() {
        let sent = rustix::net::send(&to, rest, SendFlags::NOSIGNAL).at("send to", "socket")?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Receives some bytes, and the descriptor that came with them.
pub fn receive(from: impl AsFd) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .at("receive from", "socket")?;
    bytes.truncate(message.bytes);
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut list) = message {
            descriptor = list.next();
        }
    }
    Ok((bytes, descriptor))
}
