//! Work in the network namespace of somebody else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_base::{Error, IoContext, Result};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespace of a process.
pub fn of_process(pid: i32) -> Result<OwnedFd> {
    let path = path_of(pid);
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
}

/// Where that is.
pub fn path_of(pid: i32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// Whether two descriptors are of the same namespace.
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool> {
    let stat = |namespace| rustix::fs::fstat(namespace).at("look at", "network namespace");
    let (one, other) = (stat(one)?, stat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Runs `work` on a thread of its own in the namespace. Sockets that it makes stay there.
pub fn inside<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = namespace.as_fd();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).at("enter", "network namespace")?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(Error::internal("the work in a network namespace panicked")))
    })
}
