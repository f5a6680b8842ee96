//! Trees that are mounted by `fsd-fuse` and written to, beside the kernel's overlayfs.
//!
//! Every server is a process of its own; all work is under a timeout, and what was mounted is detached at the end.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // a failed step fails the test

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fs_base::sys::mount::{mount_table, unmount};

use crate::{can, may_mount, ok, program};

/// The processes of the session at a mount point, and the number of what the mount table has there.
const TOOLS: &str = r#"
guard() { getfattr -n user.fsd-fuse.session --only-values --absolute-names "$1"; }
server() { pgrep -P "$(guard "$1")"; }
mounted() { awk -v at="$PWD/$1" '$5 == at { print $1 }' /proc/self/mountinfo; }
"#;

/// A folder for a test; what is mounted in it goes away with it.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

impl Place {
    /// A new one.
    #[allow(clippy::new_without_default)] // it makes a folder
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// bash in this folder; a mount that hangs ends it.
    pub fn bash(&self, script: &str) -> Output {
        let script = &format!("{TOOLS}\n{script}");
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "600", "bash", "-euo", "pipefail", "-c", script]).current_dir(self.dir());
        command.env("FUSE", program("fsd-fuse")).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The deepest first.
        for mount in mount_table().unwrap_or_default().into_iter().rev() {
            if mount.target.starts_with(self.dir()) {
                let _ = unmount(&mount.target, true);
            }
        }
    }
}

/// Whether FUSE can be used here.
pub fn has_fuse() -> bool {
    may_mount() && can("FUSE (no /dev/fuse)", Path::new("/dev/fuse").exists())
}

/// Whether something is mounted right there.
pub fn is_mounted(path: &Path) -> bool {
    mount_table().unwrap().iter().any(|mount| mount.target == path)
}

/// The processes of the session at `target`, guard and server, by their command lines.
pub fn session(target: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&b| b == 0).collect();
        let last = words.iter().rev().find(|word| !word.is_empty());
        // One that the daemon has started for a user is known by its flags: its program is a descriptor.
        let is_session = words[0].ends_with(b"fsd-fuse") || words.contains(&&b"--lock"[..]);
        if is_session && last == Some(&target.as_os_str().as_encoded_bytes()) {
            found.push(pid);
        }
    }
    // The server is the guard's child.
    let all = found.clone();
    found.sort_by_key(|pid| parent(*pid).is_some_and(|parent| all.contains(&parent)));
    found
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Kills a process, which may be gone: another that was killed may have taken it along.
pub fn kill(pid: i32) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
}

/// Mounts layers `l2` and `l1` by FUSE.
pub fn fuse(upper: &str, work: &str, at: &str) -> String {
    format!("mkdir -p {upper} {work} {at}; \"$FUSE\" -o lowerdir=l2:l1,upperdir={upper},workdir={work} {at}")
}

/// The same by the kernel's overlayfs.
pub fn kernel(upper: &str, work: &str, at: &str) -> String {
    format!(
        "mkdir -p {upper} {work} {at}; mount -t overlay o -o lowerdir=l2:l1,upperdir={upper},workdir={work},redirect_dir=off,index=off {at}"
    )
}

/// Mounts, works or looks, and unmounts; what was printed.
pub fn within(place: &Place, mount: &str, at: &str, script: &str) -> String {
    ok(&place.bash(&format!("{mount}; cd {at}; {script}; cd ..; umount {at}")))
}

/// Two texts must be equal; else the lines that are in one of them only are shown.
pub fn same(what: &str, left: &str, right: &str) {
    let only = |a: &str, b: &str| a.lines().filter(|line| !b.lines().any(|other| other == *line)).collect::<Vec<_>>().join("\n");
    assert!(left == right, "{what}\nonly left:\n{}\nonly right:\n{}", only(left, right), only(right, left));
}
