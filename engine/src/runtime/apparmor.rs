//! Going over to an AppArmor profile.
//!
//! The kernel is told through a file of procfs, and by then the only procfs at hand is the container's, so a hostile
//! tree must not be able to put something else in its place: a write that lands elsewhere leaves the process without
//! its profile, and does what somebody else wanted (CVE-2019-19921, CVE-2025-52881). What is opened is reached from
//! the root of a procfs without crossing a mount; whatever procfs that is, `self` in it is this process or nobody.
//! Source: kernel `Documentation/security/` on `/proc/PID/attr`, `aa_change_profile`.

use std::os::fd::AsFd;
use std::path::Path;

use fs_base::{Error, IoContext, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::proc;

/// When a profile is to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// From the program on that this process becomes.
    Exec,
    /// From now on.
    Now,
}

/// Has this process go over to `profile`, which has to be loaded. A filter of system calls must not be in force yet.
/// `no_new_privs` makes no difference to one that is unconfined.
pub fn confine(profile: &str, when: When) -> Result<()> {
    let (file, word) = match when {
        When::Exec => ("exec", "exec"),
        When::Now => ("current", "changeprofile"),
    };
    apply(Path::new(proc::PROC), file, &format!("{word} {profile}")).map_err(|error| {
        let error = match error.raw_os_error().map(Errno::from_raw_os_error) {
            // The kernel's word for it is "no such file or directory", which people take for their program.
            Some(Errno::NOENT) => Error::unavailable("it is not loaded"),
            _ => error,
        };
        error.context(format!("unable to apply AppArmor profile {profile:?}"))
    })
}

fn apply(top: &Path, file: &str, text: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, top, flags, Mode::empty()).map_err(|error| no_proc(top, &error.to_string()))?;
    if !proc::is_root(root.as_fd(), top)? {
        return Err(no_proc(top, "it is no procfs"));
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let open = |path: String| {
        let opened = rustix::fs::openat2(&root, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve);
        opened.map_err(|error| (error, no_proc(&top.join(path), &error.to_string())))
    };
    // Before 5.8 modules share one folder.
    let opened = match open(format!("self/attr/apparmor/{file}")) {
        Err((Errno::NOENT, _)) => open(format!("self/attr/{file}")),
        other => other,
    };
    let attribute = opened.map_err(|(_, error)| error)?;
    rustix::io::write(&attribute, text.as_bytes()).map(drop).at("write", top.join("self/attr").join(file))
}

fn no_proc(path: &Path, why: &str) -> Error {
    Error::denied(format!("{} can't be trusted: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a kernel without AppArmor the last step fails, and only that.
    #[test]
    fn only_a_procfs_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("self/attr/apparmor")).unwrap();
        let fake = dir.path().join("self/attr/apparmor/exec");
        std::fs::write(&fake, "").unwrap();
        let said = apply(dir.path(), "exec", "exec x").unwrap_err().to_string();
        assert!(said.ends_with("can't be trusted: it is no procfs"), "{said}");
        assert_eq!(std::fs::read(&fake).unwrap(), b"", "nothing was written");
        let said = apply(Path::new("/proc/self"), "exec", "exec x").unwrap_err().to_string();
        assert!(said.contains("can't be trusted"), "a part of procfs is not its root: {said}");
        let link = dir.path().join("proc");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        let said = apply(&link, "exec", "exec x").unwrap_err().to_string();
        assert!(said.contains("can't be trusted"), "a symlink is not followed: {said}");
    }
}
