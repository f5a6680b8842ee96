//! Hears of logs that grow.
//!
//! All followers share one thread and one inotify instance: threads for work that blocks are few, and a user may only
//! have some hundred instances on the whole host.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_base::{IoContext, Result};
use rustix::fs::inotify;
use tokio::sync::watch;

/// The folders that are watched.
#[derive(Debug, Default)]
pub struct Followers(Mutex<Option<Arc<Watched>>>);

#[derive(Debug)]
struct Watched {
    inotify: OwnedFd,
    folders: Mutex<HashMap<i32, watch::Sender<()>>>,
}

/// Hears of changes in one folder.
#[derive(Debug)]
pub struct Follower {
    watched: Arc<Watched>,
    folder: i32,
    changes: watch::Receiver<()>,
}

impl Followers {
    /// Watches the files of a folder from now on.
    pub fn watch(&self, folder: &Path) -> Result<Follower> {
        let watched = self.watched().at("watch", folder)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        // Held until the follower is known, so that no other one that leaves ends the watch in between.
        let mut folders = watched.folders();
        let number = inotify::add_watch(&watched.inotify, folder, events).at("watch", folder)?;
        let changes = folders.entry(number).or_default().subscribe();
        drop(folders);
        Ok(Follower { watched, folder: number, changes })
    }

    fn watched(&self) -> std::io::Result<Arc<Watched>> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = &*shared {
            return Ok(Arc::clone(watched));
        }
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let watched = Arc::new(Watched { inotify, folders: Mutex::default() });
        let listening = Arc::clone(&watched);
        std::thread::Builder::new().name("logs".to_owned()).stack_size(128 << 10).spawn(move || listening.listen())?;
        *shared = Some(Arc::clone(&watched));
        Ok(watched)
    }
}

impl Watched {
    fn folders(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<()>>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return tracing::error!(%error, "logs can be followed no more"),
                Ok(event) => event,
            };
            let folders = self.folders();
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                folders.values().for_each(|folder| folder.send_modify(|()| {}));
            } else if let Some(folder) = folders.get(&event.wd()) {
                folder.send_modify(|()| {});
            }
        }
    }
}

impl Follower {
    /// Returns when something has changed since this was asked last.
    pub async fn changed(&mut self) {
        // Its sender lives as long as it does.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut folders = self.watched.folders();
        if folders.get(&self.folder).is_some_and(|folder| folder.receiver_count() == 1) {
            folders.remove(&self.folder);
            // The folder may be gone, and its watch with it.
            let _ = inotify::remove_watch(&self.watched.inotify, self.folder);
        }
    }
}
