//! What a process tells the kernel of itself by way of `/proc/PID/attr`, where security modules listen.
//!
//! The kernel is told through a file of procfs, and by then the only procfs at hand is the container's, so a hostile
//! tree must not be able to put something else in its place: a write that lands elsewhere leaves the process without
//! its profile or label, and does what somebody else wanted (CVE-2019-19921, CVE-2025-52881). What is opened is reached
//! from the root of a procfs without crossing a mount; whatever procfs that is, `self` in it is this process or nobody.
//! Source: kernel `Documentation/security/` on `/proc/PID/attr`.

use std::os::fd::AsFd;
use std::path::Path;

use fs_base::{Error, IoContext, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::proc;

/// When what is told is to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// From the program on that this process becomes.
    Exec,
    /// From now on.
    Now,
}

/// Writes `text` to the first of these files of its `attr` folder that is there.
pub fn write(files: &[&str], text: &str) -> Result<()> {
    write_below(Path::new(proc::PROC), files, text)
}

fn write_below(top: &Path, files: &[&str], text: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, top, flags, Mode::empty()).map_err(|error| no_proc(top, &error.to_string()))?;
    if !proc::is_root(root.as_fd(), top)? {
        return Err(no_proc(top, "it is no procfs"));
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let mut missing = None;
    for file in files {
        let path = Path::new("self/attr").join(file);
        match rustix::fs::openat2(&root, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(attribute) => return rustix::io::write(&attribute, text.as_bytes()).map(drop).at("write", top.join(path)),
            Err(error) => {
                let said = no_proc(&top.join(path), &error.to_string());
                if error != Errno::NOENT {
                    return Err(said);
                }
                missing = Some(said);
            }
        }
    }
    missing.map_or(Ok(()), Err)
}

fn no_proc(path: &Path, why: &str) -> Error {
    Error::denied(format!("{} can't be trusted: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a kernel without any module the last step fails, and only that.
    #[test]
    fn only_a_procfs_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("self/attr/apparmor")).unwrap();
        let fake = dir.path().join("self/attr/apparmor/exec");
        std::fs::write(&fake, "").unwrap();
        let apply = |top: &Path| write_below(top, &["apparmor/exec", "exec"], "exec x").unwrap_err().to_string();
        let said = apply(dir.path());
        assert!(said.ends_with("can't be trusted: it is no procfs"), "{said}");
        assert_eq!(std::fs::read(&fake).unwrap(), b"", "nothing was written");
        let said = apply(Path::new("/proc/self"));
        assert!(said.contains("can't be trusted"), "a part of procfs is not its root: {said}");
        let link = dir.path().join("proc");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        let said = apply(&link);
        assert!(said.contains("can't be trusted"), "a symlink is not followed: {said}");
        let said = write_below(Path::new("/proc"), &["no-module/exec", "no-file"], "x").unwrap_err().to_string();
        assert!(said.starts_with("/proc/self/attr/no-file can't be trusted"), "the last that was tried is named: {said}");
    }
}
