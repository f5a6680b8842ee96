//! A mounted tree and the threads that serve it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use fs_base::sys::fuse::{self, FuseOptions, Mounted};
use fs_base::{Error, IoContext, Result};
use rustix::process::Pid;

use super::adapter::Adapter;
use super::fs::Fs;

/// How a tree is mounted and served.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How it is mounted.
    pub mount: FuseOptions,
    /// How many requests are worked on at once.
    pub threads: usize,
}

/// A tree that is mounted. Requests wait until [`Session::serve`] takes them.
#[derive(Debug)]
pub struct Session {
    device: OwnedFd,
    place: Option<Mounted>,
    threads: usize,
}

impl Session {
    /// Mounts over the directory `target`.
    pub fn mount(target: &Path, options: &SessionOptions) -> Result<Session> {
        let target = target.canonicalize().at("find", target)?;
        let device = fuse::mount(&target, &options.mount)?;
        let place =
            Mounted::at(&target)?.ok_or_else(|| Error::unavailable(format!("{} was unmounted at once", target.display())))?;
        Ok(Session { device, place: Some(place), threads: options.threads.max(1) })
    }

    /// Serves what somebody else has mounted, by its device.
    pub fn of_device(device: OwnedFd, threads: usize) -> Session {
        Session { device, place: None, threads: threads.max(1) }
    }

    /// Where it is mounted, if it was this that mounted it.
    pub fn place(&self) -> Option<&Mounted> {
        self.place.as_ref()
    }

    /// Serves requests until it is mounted nowhere any more; an error says that it may still be. `last` is the process that
    /// ends when all is cleaned up. `ready` is called when the kernel and this agree on how.
    pub fn serve(self, fs: Arc<Fs>, last: Pid, ready: impl FnOnce()) -> Result<()> {
        // Who creates a file through the mount has had the kernel apply his own.
        rustix::process::umask(rustix::fs::Mode::empty());
        let mut config = fuser::Config::default();
        config.n_threads = Some(self.threads);
        // The kernel has let in only whom it may.
        let shown = self.place.map_or_else(|| "a tree without a place".into(), |place| place.target().to_owned());
        let adapter = Adapter::new(fs, last);
        let session = fuser::Session::from_fd(adapter, self.device, fuser::SessionACL::All, config).at("serve", &shown)?;
        ready();
        session.run().at("serve", &shown)
    }
}
