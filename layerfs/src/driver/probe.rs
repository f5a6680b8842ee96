//! What this host can do, found by doing it in the store that will be used.

use std::path::Path;
use std::sync::Arc;

use fs_base::sys::mount::Mount;
use fs_base::{Class, Error, IoContext, Probe, Result, id};

use super::stack::{Lower, Method, Stacker, Writable};
use crate::ingest::{IngestOptions, ingest};
use crate::store::{Layer, Store};

/// What a probe found.
#[derive(Debug, Clone)]
pub struct Probed {
    /// What was tried: a driver by its name, or `writable` for an overlay with a writable layer in the store.
    pub driver: &'static str,
    /// The answer.
    pub probe: Probe,
}

/// A folder in the store's `tmp/` that goes away again.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(store: &Store) -> Result<Scratch> {
        let dir = store.tmp().join(id::random_hex::<16>()?);
        std::fs::create_dir(&dir).at("make directory", &dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed now is removed at the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a layer of one file in the store's `tmp/`, mounts it, and reads the file through the mount.
pub fn layer(store: &Store, mount: impl FnOnce(&Arc<Layer>) -> Result<Mount>) -> Probe {
    answer((|| {
        let scratch = Scratch::new(store)?;
        let built = ingest(&mut &one_file()[..], &scratch.0, &IngestOptions::default())?;
        let mount = mount(&Arc::new(store.open_at(&built.id, scratch.0.clone())?))?;
        read_back(&mount)
    })())
}

/// Finds the way of stacking that works: mounts an overlay whose writable layer is in the store, and writes through it.
pub fn stacker(store: &Store) -> (Option<Stacker>, Probe) {
    let mut best = None;
    for method in Method::ALL {
        match Stacker::new(method, &store.tmp()).and_then(|stacker| writable(store, &stacker).map(|()| stacker)) {
            Ok(stacker) => return (Some(stacker), Probe::Supported),
            // The best way's reason says the most, unless this kernel has only not heard of it.
            Err(error) => drop(best.get_or_insert(error)),
        }
    }
    (None, best.map_or(Probe::Unknown("nothing was tried".to_owned()), |error| answer(Err(error))))
}

fn writable(store: &Store, stacker: &Stacker) -> Result<()> {
    let scratch = Scratch::new(store)?;
    let dir = |name: &str| {
        let path = scratch.0.join(name);
        std::fs::create_dir(&path).at("make directory", &path).map(|()| path)
    };
    let (upper, work) = (dir("upper")?, dir("work")?);
    let mount = stacker.stack(&[&Lower::empty()?], Some(Writable { upper: &upper, work: &work }))?;
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(&mount, "probe", flags, rustix::fs::Mode::RUSR).at("write to", "overlay")?;
    drop(mount);
    upper.join("probe").metadata().at("find what was written to", &upper).map(drop)
}

const CONTENT: &[u8] = b"the probe's content\n";

fn one_file() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..5].copy_from_slice(b"probe");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(CONTENT.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), CONTENT].concat();
    bytes.resize(4 * 512, 0);
    bytes
}

fn read_back(mount: &Mount) -> Result<()> {
    use std::io::Read;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(mount, Path::new("probe"), flags, rustix::fs::Mode::empty()).at("open", "mounted file")?;
    let mut content = Vec::new();
    std::fs::File::from(file).read_to_end(&mut content).at("read", "mounted file")?;
    if content == CONTENT { Ok(()) } else { Err(Error::unsupported("a mounted layer does not read as it was written")) }
}

fn answer(result: Result<()>) -> Probe {
    let Err(error) = result else { return Probe::Supported };
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    match error.class() {
        Class::Denied => Probe::Unsupported(format!("{error} (mounting needs CAP_SYS_ADMIN)")),
        Class::Internal | Class::Corrupt | Class::Unavailable | Class::Busy => Probe::Unknown(format!("{error}{hint}")),
        _ => Probe::Unsupported(format!("{error}{hint}")),
    }
}
