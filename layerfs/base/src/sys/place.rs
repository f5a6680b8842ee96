//! Where mounts get a place that somebody else may change while we look: a path without symlinks, held by descriptor.
//!
//! Source: openat2(2), umount(2); what a user may mount over is what fusermount3(1) lets one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Mode, OFlags, ResolveFlags};

use super::mount::Mount;
use super::user::{User, as_user};
use crate::{Error, IoContext, Result};

/// File systems that the kernel makes up: what lies there is a user's only in name. Source: linux/magic.h.
const MADE_UP: [i64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6e73_6673, // nsfs
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
];

/// A directory that a mount can cover.
#[derive(Debug)]
pub struct Place {
    fd: OwnedFd,
}

impl Place {
    /// The directory at an absolute path without symlinks, if `user` may mount over it: it must be able to write there,
    /// and own it where everybody can.
    pub fn of_user(path: &Path, user: &User) -> Result<Place> {
        as_user(user, || {
            let fd = open_plain(path, OFlags::PATH | OFlags::DIRECTORY)?;
            if user.is_root() {
                return Ok(Place { fd });
            }
            let refused = |why: &str| Err(Error::denied(format!("mount over {}: {why}", path.display())));
            let stat = rustix::fs::fstat(&fd).at("stat", path)?;
            if rustix::fs::accessat(&fd, ".", Access::WRITE_OK, AtFlags::EACCESS).is_err() {
                return refused("you can't write there");
            }
            if stat.st_mode & 0o1000 != 0 && stat.st_uid != user.uid {
                return refused("it belongs to somebody else");
            }
            #[allow(clippy::unnecessary_cast)] // its width differs between architectures
            let kind = rustix::fs::fstatfs(&fd).at("ask for the file system of", path)?.f_type as i64;
            if MADE_UP.contains(&kind) {
                return refused("it lies in a file system that the kernel makes up");
            }
            Ok(Place { fd })
        })
    }

    /// Puts a mount there.
    pub fn cover(&self, mount: &Mount) -> Result<()> {
        mount.attach_at(self.fd.as_fd(), Path::new(""))
    }
}

/// Opens an absolute path that must have no symlink in it.
fn open_plain(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(rustix::fs::CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).at("open", path)
}

/// The real path of a directory that `user` names, and whether it had to be made: as that user, who must be able to.
pub fn find_or_make(path: &Path, user: &User) -> Result<(PathBuf, bool)> {
    as_user(user, || {
        let made = match std::fs::create_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).at("make directory", path)?;
                true
            }
            other => other.at("make directory", path).map(|()| true)?,
        };
        Ok((path.canonicalize().at("find", path)?, made))
    })
}

/// Takes the topmost mount at an absolute path away, as [`super::mount::unmount`] does, but follows no symlink on the way:
/// the path is what the mount table said, and who owns a directory of it may have put a symlink there since.
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::invalid(format!("{} is no place of a mount", target.display())));
    };
    let (parent, name) = (open_plain(parent, OFlags::PATH | OFlags::DIRECTORY)?, name.to_owned());
    // umount(2) knows no directory but the current one, and that is the whole process's, unless a thread leaves it.
    let thread = std::thread::Builder::new().name("umount".to_owned()).spawn(move || {
        super::mount::own_directory()?;
        rustix::process::fchdir(&parent).at("change to", "the directory of a mount")?;
        drop(parent);
        super::mount::unmount(Path::new(&name), lazy)
    });
    let result = thread.at("start", "thread")?.join();
    result.unwrap_or_else(|_| Err(Error::internal("an unmount panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn a_user_covers_what_it_may_write_and_no_symlink() {
        if !User::own().is_root() {
            println!("SKIPPED: other users: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        for (name, mode, owner) in [("own", 0o755, 65534), ("roots", 0o755, 0), ("open", 0o777, 0), ("sticky", 0o1777, 0)] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
            chown(at(name), Some(owner), None).unwrap();
        }
        symlink("own", at("link")).unwrap();
        std::fs::create_dir(at("own/below")).unwrap();
        chown(at("own/below"), Some(65534), None).unwrap();
        let nobody = User { uid: 65534, gid: 65534, groups: Vec::new() };
        let allowed = |name: &str| Place::of_user(&at(name), &nobody).is_ok();
        assert!(allowed("own") && allowed("open") && allowed("own/below"));
        assert!(!allowed("roots") && !allowed("sticky") && !allowed("link") && !allowed("link/below"));
        assert!(Place::of_user(Path::new("/proc"), &nobody).is_err());
        let (found, made) = find_or_make(&at("link/new/deep"), &nobody).unwrap();
        assert!(made && found == at("own/new/deep"));
        assert!(!find_or_make(&at("link"), &nobody).unwrap().1);
        assert!(find_or_make(&at("roots/new"), &nobody).is_err());
    }

    #[test]
    fn an_unmount_is_led_astray_by_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let error = unmount(&dir.path().join("link/proc"), false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        assert!(Path::new("/proc/self").exists());
    }
}
