//! Extended attributes of what is copied: which travel, and what becomes of those that a place does not take.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, Result};
use fs_base::sys::xattr;
use fs_base::tar::acl;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Full names and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

const CAPABILITY: &[u8] = b"security.capability";
/// The byte of a file capability that says its revision, the revision that names the root of a user namespace behind the
/// sets, and the one without, which ends before that. Source: Linux `include/uapi/linux/capability.h`.
const REVISION: usize = 3;
const WITH_ROOT: u8 = 3;
const WITHOUT_ROOT: u8 = 2;
const LENGTH_WITHOUT_ROOT: usize = 20;

/// Attributes that could not be set.
#[derive(Debug, Default)]
pub struct Left {
    count: u64,
    first: String,
}

impl Left {
    /// What to tell a person; nothing if all could be set.
    pub fn warning(&self) -> Option<String> {
        match self.count {
            0 => None,
            1 => Some(format!("an extended attribute could not be kept: {}", self.first)),
            count => Some(format!("{count} extended attributes could not be kept, the first: {}", self.first)),
        }
    }

    fn note(&mut self, name: &[u8], path: &Path, why: impl fmt::Display) {
        if self.count == 0 {
            self.first = format!("{:?} of {:?}: {why}", String::from_utf8_lossy(name), path.display().to_string());
        }
        self.count += 1;
    }
}

/// The attributes of a local file that mean something elsewhere, a link not followed.
pub fn of(path: &Path) -> io::Result<Attributes> {
    let all = xattr::list_of_path(path).map_err(|error| io::Error::other(error.to_string()))?;
    let all = all.into_iter().map(|(name, value)| (name.into_vec(), value));
    Ok(all.filter(|(name, _)| travels(name)).map(for_any_root).collect())
}

/// Those that a copy here takes. As with set-user-ID, what gives a file privileges is only taken if it was asked for
/// that everything be kept, and so with ACLs that let in users and groups of another place, by their numbers.
pub fn wanted(mut given: Attributes, archive: bool) -> Attributes {
    let lets_in = |name: &[u8], value: &[u8]| name == acl::DEFAULT || name == acl::ACCESS && acl::is_named(value);
    given.retain(|(name, value)| travels(name) && (archive || !is_privilege(name) && !lets_in(name, value)));
    given
}

/// The mode of a file that has none of its ACLs: else its group may do what only those may whom an ACL names.
pub fn mode_without_acl(given: &Attributes, mode: u32) -> u32 {
    let acl = given.iter().find(|(name, _)| name == acl::ACCESS);
    acl.map_or(mode, |(_, value)| acl::mode_without(value, mode))
}

/// Labels and signatures of a security module belong to the machine, overlayfs's own attributes to its mount.
fn travels(name: &[u8]) -> bool {
    let is_overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let is_known = name.starts_with(b"user.") || is_privilege(name) || name == acl::ACCESS || name == acl::DEFAULT;
    is_known && !is_overlay
}

fn is_privilege(name: &[u8]) -> bool {
    name == CAPABILITY || name.starts_with(b"trusted.")
}

/// Whose root has a file's capabilities means nothing in another place: as docker, it becomes root there.
fn for_any_root((name, mut value): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    if name == CAPABILITY && value.len() > LENGTH_WITHOUT_ROOT && value[REVISION] == WITH_ROOT {
        value[REVISION] = WITHOUT_ROOT;
        value.truncate(LENGTH_WITHOUT_ROOT);
    }
    (name, value)
}

/// Sets attributes of an open file, or of a path descriptor. What the file system or a lack of privileges forbids is
/// noted, as docker does it. Answers whether the file has the ACL that was given, if one was.
pub fn set(fd: &OwnedFd, attributes: &Attributes, path: &Path, left: &mut Left) -> Result<bool> {
    let mut has_acl = false;
    for (name, value) in attributes {
        match set_one(fd, OsStr::from_bytes(name), value) {
            Ok(()) => has_acl |= name == acl::ACCESS,
            Err(error) if is_refusal(name, &error) => left.note(name, path, error),
            Err(error) => return Err(error).with_context(|| format!("set {:?}", String::from_utf8_lossy(name))),
        }
    }
    Ok(has_acl)
}

fn set_one(fd: &OwnedFd, name: &OsStr, value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        // A path descriptor is only taken by its name in /proc.
        Err(Errno::BADF) => {
            let set = xattr::set(fd.as_fd(), name, value);
            set.map_err(|error| error.raw_os_error().map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error))
        }
        other => Ok(other?),
    }
}

/// What is too large, and what names somebody whom a user namespace does not have, is refused too.
fn is_refusal(name: &[u8], error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => true,
        Some(Errno::INVAL) => name == acl::ACCESS || name == acl::DEFAULT || name == CAPABILITY,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_taken_only_when_asked_for() {
        let all = ["user.a", "user.overlay.x", "trusted.a", "trusted.overlay.opaque", "security.capability", "security.selinux"];
        let all = [&all[..], &["system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "odd"]].concat();
        let names = |archive| -> Vec<String> {
            let given = all.iter().map(|name| (name.as_bytes().to_vec(), Vec::new())).collect();
            wanted(given, archive).into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect()
        };
        assert_eq!(names(false), ["user.a", "system.posix_acl_access"]);
        let mut privileged = names(true);
        privileged.retain(|name| !names(false).contains(name));
        assert_eq!(privileged, ["trusted.a", "security.capability", "system.posix_acl_default"]);
    }

    #[test]
    fn an_acl_lets_in_those_it_names_only_when_asked_for() {
        let given = |text: &[u8]| vec![(acl::ACCESS.to_vec(), acl::encode(text).unwrap())];
        let named = given(b"u::rw,u:1001:rw,g::-,m::rw,o::-");
        assert!(wanted(named.clone(), false).is_empty());
        assert_eq!(wanted(named.clone(), true), named);
        let masked = given(b"u::rw,g::rw,m::r,o::-");
        assert_eq!(wanted(masked.clone(), false), masked);
        assert_eq!((mode_without_acl(&named, 0o660), mode_without_acl(&Vec::new(), 0o660)), (0o600, 0o660));
    }

    #[test]
    fn what_has_no_room_is_refused_and_what_fails_is_not() {
        let is = |name: &[u8], errno: Errno| is_refusal(name, &io::Error::from_raw_os_error(errno.raw_os_error()));
        for errno in [Errno::NOTSUP, Errno::NOSPC, Errno::TOOBIG, Errno::RANGE] {
            assert!(is(b"user.a", errno), "{errno}");
        }
        assert!(is(acl::ACCESS, Errno::INVAL) && is(CAPABILITY, Errno::INVAL));
        assert!(!is(b"user.a", Errno::INVAL) && !is(acl::ACCESS, Errno::IO));
    }

    #[test]
    fn capabilities_of_a_namespaces_root_become_roots() {
        let with_root = [[1, 0, 0, 3].as_slice(), &[7; 16], &[0, 0, 1, 0]].concat();
        let (_, value) = for_any_root((CAPABILITY.to_vec(), with_root));
        assert_eq!(value, [[1, 0, 0, 2].as_slice(), &[7; 16]].concat());
        let (_, short) = for_any_root((CAPABILITY.to_vec(), vec![0, 0, 0]));
        assert_eq!(short, [0, 0, 0]);
    }

    #[test]
    fn what_a_place_does_not_take_is_told_once() {
        assert!(Left::default().warning().is_none());
        let mut left = Left::default();
        left.note(b"user.a", Path::new("d/f"), "no");
        assert_eq!(left.warning().unwrap(), r#"an extended attribute could not be kept: "user.a" of "d/f": no"#);
        left.note(b"user.\x1b", Path::new("d/g"), "never");
        assert_eq!(left.warning().unwrap(), r#"2 extended attributes could not be kept, the first: "user.a" of "d/f": no"#);
    }
}
