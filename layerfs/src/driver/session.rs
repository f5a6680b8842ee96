//! Whole trees by FUSE, each served by a process of its own: for a kernel without overlayfs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fs_base::sys::fuse::{FuseOptions, mount_detached};
use fs_base::sys::ids::{IdMap, IdRange};
use fs_base::sys::mount::Mount;
use fs_base::{Error, IoContext, Probe, Result};

use super::fuse::option_path;
use super::stack::{Lower, Writable};
use super::{Capabilities, Driver, Serves, Whole, probe};
use crate::store::{Layer, Store};

/// Starts sessions. A session ends when the kernel lets go of its tree.
#[derive(Debug)]
pub struct Sessions {
    program: Option<PathBuf>,
}

impl Sessions {
    /// By this program, which takes `fsd-fuse`'s command line. Without one, the probe says so.
    pub fn of(program: Option<&Path>) -> Sessions {
        Sessions { program: program.map(Path::to_owned) }
    }

    /// Hands the device to a process that serves requests from it. The tree can be used when this returns.
    fn start(&self, store: &Store, device: OwnedFd, options: String) -> Result<()> {
        let program = self.program.as_ref().ok_or_else(|| Error::unsupported("no program that serves trees is known"))?;
        let output = Command::new(program)
            .arg("--serve")
            .arg("-o")
            .arg(options)
            .current_dir(store.root())
            .stdin(Stdio::from(device))
            .output()
            .at("run", program)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::unavailable(format!("serve a tree by FUSE: {}", said.trim().trim_start_matches("fsd-fuse: "))))
    }
}

impl Driver for Sessions {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { outlives_removal: true, in_place: true, merges: true, stacks: false }
    }

    fn probe(&self, store: &Store) -> Probe {
        match &self.program {
            None => Probe::Unsupported("no program that serves trees is known".to_owned()),
            Some(program) if !program.exists() => Probe::Unsupported(format!("{} is not there", program.display())),
            Some(_) => probe::whole(store, self),
        }
    }

    fn serves(&self) -> Serves<'_> {
        Serves::Trees(self)
    }
}

impl Whole for Sessions {
    fn mount_tree(
        &self,
        store: &Store,
        chain: &[Arc<Layer>],
        writable: Option<Writable<'_>>,
        owners: Option<&IdMap>,
    ) -> Result<Mount> {
        if chain.is_empty() && writable.is_none() {
            return Lower::empty()?.into_look_only();
        }
        // Below the store's root, so that a deep chain fits one argument of a program (128 KiB).
        let shown = |layer: &Arc<Layer>| option_path(layer.dir.strip_prefix(store.root()).unwrap_or(&layer.dir));
        let layers: Vec<String> = chain.iter().rev().map(|layer| format!("@{}", shown(layer))).collect();
        let mut options = Vec::new();
        if !layers.is_empty() {
            options.push(format!("lowerdir={}", layers.join(":")));
        }
        if let Some(Writable { upper, work, .. }) = writable {
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                let path = std::path::absolute(path).at("find", path)?;
                options.push(format!("{key}={}", option_path(&path)));
            }
        } else {
            options.push("ro".to_owned());
        }
        if let Some(ids) = owners {
            options.push(format!("uidmapping={}", mapping(ids.uids())));
            options.push(format!("gidmapping={}", mapping(ids.gids())));
        }
        let (device, mount) = mount_detached(&FuseOptions {
            source: "fsd".to_owned(),
            subtype: "fsd-fuse".to_owned(),
            read_only: writable.is_none(),
            allow_other: true,
            suid: writable.is_some(),
            dev: writable.is_some(),
            user: None,
            label: writable.and_then(|writable| writable.label).map(str::to_owned),
        })?;
        self.start(store, device, options.join(","))?;
        Ok(mount)
    }
}

/// What is on the disk is inside, what is shown outside: the kernel turns that into what is inside for who looks.
fn mapping(ranges: &[IdRange]) -> String {
    let three = |range: &IdRange| format!("{}:{}:{}", range.inside, range.outside, range.count);
    ranges.iter().map(three).collect::<Vec<_>>().join(":")
}
