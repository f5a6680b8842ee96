//! The end of a process that is held by descriptor, without a thread.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use fs_base::{IoContext, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

struct Held<T>(T);

impl<T: AsFd> AsRawFd for Held<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What is done when the process has ended, whose pidfd this is. Must be called in the runtime.
pub fn of_process<T: AsFd>(process: T) -> Result<impl Future<Output = ()>> {
    #[expect(deprecated, reason = "its successor is for descriptors that can change; this one is held to the end")]
    let held = AsyncFd::with_interest(Held(process), Interest::READABLE).at("watch", "a process")?;
    Ok(async move {
        let _ = held.readable().await;
    })
}
