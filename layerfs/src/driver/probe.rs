//! What this host can do, found by doing it in the store that will be used.

use std::path::Path;
use std::sync::Arc;

use fs_base::sys::ids::ActingAs;
use fs_base::sys::mount::Mount;
use fs_base::{Class, Error, IoContext, Probe, Result, id};

use super::stack::{Lower, Method, Owners, Stacker, Writable};
use super::{Driver, Whole};
use crate::ingest::{IngestOptions, ingest};
use crate::store::{Layer, Store};

/// What a probe was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What serves a layer.
    Driver,
    /// A way of putting an overlay, with a writable layer in the store, over layers.
    Stacking,
}

/// What became of one thing that could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It works, and is in use.
    Taken,
    /// It was not tried, for this reason: a better one works, or the configuration names another.
    Passed(String),
    /// It was tried and does not work: never [`Probe::Supported`].
    Failed(Probe),
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What it was for.
    pub part: Part,
    /// The name in configuration.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

impl std::fmt::Display for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match self.part {
            Part::Driver => "driver",
            Part::Stacking => "stacking",
        };
        write!(f, "{part} {}", self.name)
    }
}

impl Probed {
    /// Why it is not in use; `None` if it is.
    pub fn why(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Taken => None,
            Verdict::Passed(why) => Some(why),
            Verdict::Failed(probe) => probe.why(),
        }
    }

    /// What failed and how, for an error that lists it.
    fn failure(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Failed(probe) => Some(format!("{}: {}", self.name, probe.why().unwrap_or_default())),
            Verdict::Taken | Verdict::Passed(_) => None,
        }
    }
}

/// Tries candidates in their order until one works. If one is named, that one only.
pub fn choose<C, T>(
    part: Part,
    candidates: impl IntoIterator<Item = (&'static str, C)>,
    named: Option<&str>,
    mut attempt: impl FnMut(C) -> std::result::Result<T, Probe>,
) -> Result<(Option<T>, Vec<Probed>)> {
    let (mut taken, mut probed, mut best) = (None, Vec::new(), None);
    for (name, candidate) in candidates {
        let verdict = if let Some(named) = named.filter(|named| *named != name) {
            Verdict::Passed(format!("the configuration names {named}"))
        } else if let Some(best) = best {
            Verdict::Passed(format!("{best} works, and is tried before it"))
        } else {
            match attempt(candidate) {
                Ok(works) => {
                    (taken, best) = (Some(works), Some(name));
                    Verdict::Taken
                }
                Err(probe) => Verdict::Failed(probe),
            }
        };
        probed.push(Probed { part, name, verdict });
    }
    let what = match part {
        Part::Driver => "storage driver",
        Part::Stacking => "way of stacking layers",
    };
    match named {
        Some(named) if probed.iter().all(|probed| probed.name != named) => {
            let known: Vec<_> = probed.iter().map(|probed| probed.name).collect();
            Err(Error::invalid(format!("unknown {what} {named:?}")).with_hint(format!("there are: {}", known.join(", "))))
        }
        Some(named) if taken.is_none() => {
            let why = probed.iter().find(|probed| probed.name == named).and_then(Probed::why).unwrap_or_default();
            Err(Error::unsupported(format!("{what} {named:?} does not work here: {why}"))
                .with_hint("leave it out to have the best one chosen"))
        }
        _ => Ok((taken, probed)),
    }
}

/// Where `useless` was taken and can't be used, tries `others` that were passed over for it until one works.
pub fn instead<T>(
    probed: &mut [Probed],
    useless: &'static str,
    others: impl IntoIterator<Item = Box<dyn Driver>>,
    mut attempt: impl FnMut(Box<dyn Driver>) -> std::result::Result<T, Probe>,
) -> Option<T> {
    let mut note = |name: &str, verdict| {
        probed.iter_mut().filter(|p| p.part == Part::Driver && p.name == name).for_each(|p| p.verdict = Verdict::clone(&verdict));
    };
    for other in others {
        let name = other.name();
        match attempt(other) {
            Ok(works) => {
                note(useless, Verdict::Passed("no way of stacking its layers works".to_owned()));
                note(name, Verdict::Taken);
                return Some(works);
            }
            Err(probe) => note(name, Verdict::Failed(probe)),
        }
    }
    None
}

/// The error of a host on which one of the parts works in no way.
pub fn refusal(probed: &[Probed]) -> Error {
    let works = |part| probed.iter().any(|probed| probed.part == part && probed.verdict == Verdict::Taken);
    let why: Vec<_> = probed.iter().filter(|probed| !works(probed.part)).filter_map(Probed::failure).collect();
    Error::unsupported(format!("this host can't mount images ({})", why.join("; "))).with_hint(
        "run the daemon as root with CAP_SYS_ADMIN; without it, images can still be listed, read, compared and copied from",
    )
}

/// A folder in the store's `tmp/` that goes away again.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(store: &Store) -> Result<Scratch> {
        let dir = store.tmp().join(id::random_hex::<16>()?);
        std::fs::create_dir(&dir).at("make directory", &dir)?;
        Ok(Scratch(dir))
    }

    fn dir(&self, name: &str) -> Result<std::path::PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir(&path).at("make directory", &path).map(|()| path)
    }

    /// A layer of one file.
    fn layer(&self, store: &Store) -> Result<Arc<Layer>> {
        let dir = self.dir("layer")?;
        let built = ingest(&mut &one_file()[..], &dir, &IngestOptions::default())?;
        Ok(Arc::new(store.open_at(&built.id, dir)?))
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
    answer(Scratch::new(store).and_then(|scratch| read_back(&mount(&scratch.layer(store)?)?)))
}

/// Mounts a tree of such a layer that can be written, reads the file, removes it, and looks for the mark of that.
pub fn whole(store: &Store, driver: &dyn Whole) -> Probe {
    answer((|| {
        let scratch = Scratch::new(store)?;
        let layer = scratch.layer(store)?;
        let (upper, work) = (scratch.dir("upper")?, scratch.dir("work")?);
        let mount = driver.mount_tree(store, &[layer], Some(Writable::new(&upper, &work)), None)?;
        read_back(&mount)?;
        rustix::fs::unlinkat(&mount, "probe", rustix::fs::AtFlags::empty()).at("remove", "mounted file")?;
        let mark = rustix::fs::lstat(upper.join("probe")).at("find what was removed in", &upper)?;
        let is_device = rustix::fs::FileType::from_raw_mode(mark.st_mode) == rustix::fs::FileType::CharacterDevice;
        if is_device && mark.st_rdev == 0 { Ok(()) } else { Err(Error::unsupported("the store can't hold a whiteout")) }
    })())
}

/// Stacks by this method: mounts an overlay whose writable layer is in the store, and writes through it.
pub fn stacker(store: &Store, method: Method) -> std::result::Result<Stacker, Probe> {
    let made = Stacker::new(method, &store.unseen()).and_then(|stacker| writable(store, &stacker).map(|()| stacker));
    made.map_err(|error| answer(Err(error)))
}

fn writable(store: &Store, stacker: &Stacker) -> Result<()> {
    let scratch = Scratch::new(store)?;
    let (upper, work) = (scratch.dir("upper")?, scratch.dir("work")?);
    let mount = stacker.stack(&[&Lower::empty()?], Some(Writable::new(&upper, &work)))?;
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(&mount, "probe", flags, rustix::fs::Mode::RUSR).at("write to", "overlay")?;
    drop(mount);
    upper.join("probe").metadata().at("find what was written to", &upper).map(drop)
}

/// Makes a layer of one file and has a tree of it mounted that can be written, for a user namespace; then changes the
/// file's owner and bytes as root there.
pub fn mapped(store: &Store, owners: &Owners, mount: impl FnOnce(&Arc<Layer>, Writable<'_>) -> Result<Mount>) -> Result<()> {
    let (scratch, sides) = (Scratch::new(store)?, Scratch::new(store)?);
    let built = ingest(&mut &one_file()[..], &scratch.0, &IngestOptions::default())?;
    let layer = Arc::new(store.open_at(&built.id, scratch.0.clone())?);
    let (upper, work) = (sides.dir("upper")?, sides.dir("work")?);
    let mount = mount(&layer, Writable::new(&upper, &work))?;
    read_back(&mount)?;
    let root = owners.ids().root()?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(root.0), rustix::fs::Gid::from_raw(root.1));
    {
        let _acting = ActingAs::root_of(owners.ids())?;
        rustix::fs::chownat(&mount, "probe", Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .at("set owner in", "mounted tree")?;
    }
    let written = std::fs::symlink_metadata(upper.join("probe")).at("find what was written to", &upper)?;
    if std::os::unix::fs::MetadataExt::uid(&written) == 0 {
        return Ok(());
    }
    Err(Error::unsupported("a tree for a user namespace does not keep the ids on the disk as they are"))
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
