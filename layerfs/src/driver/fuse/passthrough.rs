//! Files that the kernel reads and writes without this process: those that are a file on the disk, where it lets us.
//!
//! The kernel wants all who have a file open to go the same way: by its cache and requests to us, or all by the same
//! backing file. So the first open file of a node decides for those that come while it is open.
//! Source: Linux `Documentation/filesystems/fuse/fuse-passthrough.rst`, `fs/fuse/iomode.c`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;

use super::cache::Numbers;
use super::fs::Fs;

/// Smaller files are read with one request, which costs less than two more calls at each open and close.
const WORTH_IT: u64 = 128 << 10;

/// How a file is used from now on.
#[derive(Debug)]
pub(super) enum Way {
    /// By requests, through the kernel's cache.
    Cached,
    /// By the kernel alone.
    Passed(Arc<BackingId>),
}

/// Who goes which way.
#[derive(Debug, Default)]
pub(super) struct Passthrough {
    able: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    nodes: HashMap<u64, Users, Numbers>,
    handles: HashMap<u64, (u64, bool), Numbers>,
}

#[derive(Debug, Default)]
struct Users {
    cached: u32,
    passed: u32,
    backing: Option<Arc<BackingId>>,
}

impl Passthrough {
    /// Whether this kernel, and this process's privileges, allow it.
    pub fn set_able(&self, able: bool) {
        self.able.store(able, Ordering::Relaxed);
    }

    /// Decides for a file that was just opened.
    pub fn choose(&self, fs: &Fs, handle: u64, to_write: bool, open_backing: impl FnOnce(&File) -> io::Result<BackingId>) -> Way {
        let Ok(file) = fs.open_file(handle) else { return Way::Cached };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *open;
        let users = open.nodes.entry(file.number()).or_default();
        if users.passed == 0 && users.cached == 0 && self.able.load(Ordering::Relaxed) {
            users.backing = None;
            let wanted =
                file.on_disk().filter(|(disk, in_upper)| (*in_upper || fs.is_read_only()) && is_worth_it(disk, to_write));
            if let Some((disk, _)) = wanted {
                match open_backing(&disk) {
                    Ok(backing) => users.backing = Some(Arc::new(backing)),
                    // Not privileged, or the upper is on a file system that is stacked already.
                    Err(error) if error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) => self.set_able(false),
                    Err(_) => {}
                }
            }
        }
        let way = match &users.backing {
            Some(backing) if users.cached == 0 => Way::Passed(Arc::clone(backing)),
            _ => Way::Cached,
        };
        let passed = matches!(way, Way::Passed(_));
        if passed {
            // Nobody will tell us when it is read.
            file.node.note_read();
        }
        *(if passed { &mut users.passed } else { &mut users.cached }) += 1;
        open.handles.insert(handle, (file.number(), passed));
        way
    }

    /// A file is closed.
    pub fn closed(&self, handle: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *open;
        let Some((node, passed)) = open.handles.remove(&handle) else { return };
        let Some(users) = open.nodes.get_mut(&node) else { return };
        *(if passed { &mut users.passed } else { &mut users.cached }) -= 1;
        if users.passed == 0 && users.cached == 0 {
            open.nodes.remove(&node);
        }
    }
}

fn is_worth_it(file: &File, to_write: bool) -> bool {
    // The kernel would not take set-id bits away from a file that it writes in our name.
    rustix::fs::fstat(file).is_ok_and(|stat| if to_write { stat.st_mode & 0o6000 == 0 } else { stat.st_size as u64 >= WORTH_IT })
}
