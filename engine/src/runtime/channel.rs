//! What a new process and its maker tell each other, over a socket that is closed when the process becomes the user's
//! program: an end without a word is success.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_base::{Error, IoContext, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The longest message; errors are cut.
const MESSAGE_MAX: usize = 16 << 10;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a process says once it has done all but become the user's program.
#[derive(Debug)]
pub struct Ready {
    /// Its "/".
    pub root: Option<OwnedFd>,
    /// The master side of its terminal.
    pub console: Option<OwnedFd>,
    /// What could not be done and was left.
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Ready { has_console: bool, warnings: Vec<String> },
    Pid(i32),
    Start,
    Failed(Failure),
}

impl Channel {
    /// Two connected ends.
    pub fn pair() -> Result<(Channel, Channel)> {
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .at("make", "socket pair")?;
        Ok((Channel(one), Channel(other)))
    }

    fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|error| Error::internal(format!("encode: {error}")))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .at("send to", "the other process")
            .map(drop)
    }

    /// `None` when the other end is closed.
    fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.at("receive from", "the other process")?.bytes,
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                descriptors.extend(list);
            }
        }
        let message = serde_json::from_slice(&bytes[..length]).map_err(|error| Error::internal(format!("decode: {error}")))?;
        Ok(Some((message, descriptors)))
    }

    /// From the new process: all is done but the last step.
    pub fn send_ready(&self, root: BorrowedFd<'_>, console: Option<BorrowedFd<'_>>, warnings: &[String]) -> Result<()> {
        let descriptors: Vec<_> = [root].into_iter().chain(console).collect();
        self.send(&Message::Ready { has_console: console.is_some(), warnings: warnings.to_vec() }, &descriptors)
    }

    /// From the new process: what went wrong. Nobody may be left to hear it.
    pub fn send_failure(&self, error: &Error) {
        let mut failure = Failure::from(error);
        failure.message = failure.message.chars().take(MESSAGE_MAX / 8).collect();
        let _ = self.send(&Message::Failed(failure), &[]);
    }

    /// To the maker, from a process in between: the number of the one that stays.
    pub fn send_pid(&self, pid: i32) -> Result<()> {
        self.send(&Message::Pid(pid), &[])
    }

    /// From the maker: go on.
    pub fn send_start(&self) -> Result<()> {
        self.send(&Message::Start, &[])
    }

    /// In the new process: until the maker says so. If the maker is gone, there is nothing to go on for.
    pub fn wait_for_start(&self) -> Result<()> {
        match self.receive()? {
            Some((Message::Start, _)) => Ok(()),
            _ => Err(Error::internal("the maker of this process is gone")),
        }
    }

    /// In the maker: until the process has the number that stays.
    pub fn wait_for_pid(&self) -> Result<i32> {
        match self.receive()? {
            Some((Message::Pid(pid), _)) => Ok(pid),
            Some((Message::Failed(failure), _)) => Err(failure.into()),
            _ => Err(Error::internal("the new process ended without a word")),
        }
    }

    /// In the maker: until the process is ready.
    pub fn wait_for_ready(&self) -> Result<Ready> {
        match self.receive()? {
            Some((Message::Ready { has_console, warnings }, descriptors)) => {
                let mut descriptors = descriptors.into_iter();
                let root = descriptors.next();
                let console = if has_console { descriptors.next() } else { None };
                Ok(Ready { root, console, warnings })
            }
            Some((Message::Failed(failure), _)) => Err(failure.into()),
            _ => Err(Error::internal("the new process ended without a word")),
        }
    }

    /// In the maker: until the process has become the user's program, or could not.
    pub fn wait_for_exec(&self) -> Result<()> {
        match self.receive()? {
            None => Ok(()),
            Some((Message::Failed(failure), _)) => Err(failure.into()),
            Some(_) => Err(Error::internal("the new process said something out of turn")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
