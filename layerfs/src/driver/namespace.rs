//! A mount namespace that only one thread of this process is in.
//!
//! Before Linux 6.15 overlayfs takes no layer that is in no mount namespace, and a detached mount can't be cloned. So
//! there the layers get a place, but one that nobody sees: in the namespace of a thread, on a tmpfs of its own. The
//! overlay made there is detached again and free of it. The namespace, and what is mounted in it, goes when the last
//! [`Namespace`] handle is dropped or the process ends, however it ends.
//! Source: Linux `fs/namespace.c`, `clone_private_mount`; mount_namespaces(7).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use fs_base::sys::mount::{FsContext, Mount, unmount, unshare_mount_namespace};
use fs_base::{Error, IoContext, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::MountAttrFlags;

type Job = Box<dyn FnOnce(&Ground) + Send>;

/// A handle to the thread.
#[derive(Debug)]
pub struct Namespace {
    jobs: Mutex<Sender<Job>>,
    next: AtomicU64,
}

/// Where mounts get a place in the namespace. Exists only on its thread.
pub struct Ground {
    directory: OwnedFd,
}

/// A place that a mount has got; dropped, the mount is taken off it.
#[derive(Debug)]
pub struct Held {
    namespace: Arc<Namespace>,
    name: String,
}

impl Namespace {
    /// Starts the thread. `scratch` is a directory that a tmpfs is put over in the namespace.
    pub fn start(scratch: &Path) -> Result<Arc<Namespace>> {
        let (jobs, queue) = channel::<Job>();
        let (started, start) = channel();
        let scratch = scratch.to_owned();
        let body = move || match Ground::make(&scratch) {
            Ok(ground) => {
                let _ = started.send(Ok(()));
                for job in queue {
                    job(&ground);
                }
            }
            Err(error) => drop(started.send(Err(error))),
        };
        std::thread::Builder::new().name("layer-mounts".to_owned()).spawn(body).at("start", "mount thread")?;
        start.recv().map_err(|_| Error::internal("the mount thread died"))??;
        Ok(Arc::new(Namespace { jobs: Mutex::new(jobs), next: AtomicU64::new(0) }))
    }

    /// Runs `work` in the namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(&Ground) -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, wait) = channel();
        self.send(Box::new(move |ground| drop(answer.send(work(ground)))))?;
        wait.recv().map_err(|_| Error::internal("the mount thread died"))?
    }

    fn send(&self, job: Job) -> Result<()> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.send(job).map_err(|_| Error::internal("the mount thread died"))
    }

    /// Gives a detached mount a place in the namespace.
    pub fn hold(self: &Arc<Namespace>, mount: &Mount) -> Result<Held> {
        let name = short_name(self.next.fetch_add(1, Ordering::Relaxed));
        let (mount, at) = (mount.try_clone()?, name.clone());
        self.run(move |ground| {
            ground.make_place(&at)?;
            let attached = mount.attach_at(ground.directory.as_fd(), Path::new(&at));
            if attached.is_err() {
                ground.remove_place(&at);
            }
            attached
        })?;
        Ok(Held { namespace: Arc::clone(self), name })
    }
}

impl Held {
    /// Its name in the namespace's working directory.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A number in few letters: all the layers of a deep chain have to fit into one page of mount options.
fn short_name(mut number: u64) -> String {
    let mut name = Vec::new();
    loop {
        name.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return name.into_iter().rev().collect();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // If the thread is dead its namespace is gone, and the mount with it.
        let _ = self.namespace.send(Box::new(move |ground| {
            let _ = unmount(&ground.path(&name), true);
            ground.remove_place(&name);
        }));
    }
}

impl Ground {
    fn make(scratch: &Path) -> Result<Ground> {
        unshare_mount_namespace()?;
        let context = FsContext::open("tmpfs")?;
        context.string("mode", "0700")?;
        context.mount(MountAttrFlags::empty())?.attach(scratch)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(scratch, flags, Mode::empty()).at("open", scratch)?;
        // The thread's own working directory, apart from the process's: places can be named by their names alone.
        rustix::process::fchdir(&directory).at("change directory to", scratch)?;
        Ok(Ground { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }

    fn make_place(&self, name: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.directory, name, Mode::RWXU).at("make directory", name)
    }

    fn remove_place(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR);
    }

    /// A detached mount made by `mount`, which puts it over the path that it is given.
    pub fn detached(&self, mount: impl FnOnce(&Path) -> Result<()>) -> Result<Mount> {
        let name = "_new";
        self.make_place(name)?;
        let made = mount(&self.path(name)).and_then(|()| {
            let clone = Mount::clone_of(&self.path(name), false);
            let _ = unmount(&self.path(name), true);
            clone
        });
        self.remove_place(name);
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_differ() {
        let names: std::collections::HashSet<_> = (0..40_000).map(short_name).collect();
        assert_eq!((names.len(), names.iter().map(String::len).max()), (40_000, Some(3)));
    }
}
