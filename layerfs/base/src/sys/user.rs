//! Other users: who asks on a socket, and what is done with that user's rights instead of ours.
//!
//! Source: unix(7) (SO_PEERCRED, SO_PEERGROUPS), credentials(7), capabilities(7).

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{IoContext, Result};

/// Source: asm-generic/socket.h; the same on all architectures that count here.
const SO_PEERGROUPS: libc::c_int = 59;

/// A user, as files see one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its main group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

impl User {
    /// The one that this process is.
    pub fn own() -> User {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        User { uid, gid, groups: Vec::new() }
    }

    /// Whether everything is allowed.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// Who is on the other end of a connected unix socket, as it was when it connected; and its process, if it is in sight.
pub fn peer(socket: impl AsFd) -> Result<(User, Option<i32>)> {
    let libc::ucred { pid, uid, gid } = peer_credentials(&socket)?;
    let groups = peer_groups(&socket)?;
    Ok((User { uid, gid, groups }, Some(pid).filter(|pid| *pid > 0)))
}

/// rustix takes the process for one that has a number, which one of another process namespace has not.
fn peer_credentials(socket: &impl AsFd) -> Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, place) = (socket.as_fd().as_raw_fd(), &raw mut credentials);
    // SAFETY: `credentials` has `length` writable bytes, and any bytes are a value of its numbers.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, place.cast(), &raw mut length) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).at("ask for the peer of", "a socket");
    }
    Ok(credentials)
}

fn peer_groups(socket: &impl AsFd) -> Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(libc::socklen_t::MAX);
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `groups` has `length` writable bytes, and the kernel writes how many it used, or would have, to `length`.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut length) };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error).at("ask for the peer's groups of", "a socket");
        }
        groups.resize(count, 0);
    }
}

/// Does `work` with what the kernel lets `user` do to files instead of us. Only this thread changes, and only its effective
/// ids: nobody but us can send it a signal meanwhile.
pub fn as_user<T>(user: &User, work: impl FnOnce() -> Result<T>) -> Result<T> {
    borrowed(user, CapabilitySet::empty(), work)
}

/// As [`as_user`], but every file can be read and every directory looked into.
pub fn as_reading_user<T>(user: &User, work: impl FnOnce() -> Result<T>) -> Result<T> {
    borrowed(user, CapabilitySet::DAC_READ_SEARCH, work)
}

fn borrowed<T>(user: &User, kept: CapabilitySet, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = User::own();
    if user.uid == own.uid {
        return work();
    }
    let groups = rustix::process::getgroups().at("ask for", "our groups")?;
    let _back = Back { own, groups };
    let asked: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&asked).at("take the groups of", "a user")?;
    rustix::thread::set_thread_res_gid(None, Some(Gid::from_raw(user.gid)), None).at("become", "a user's group")?;
    rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(user.uid)), None).at("become", "a user")?;
    if !kept.is_empty() {
        let sets = rustix::thread::capabilities(None).at("ask for", "capabilities")?;
        rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, ..sets }).at("limit", "capabilities")?;
    }
    work()
}

/// Makes the thread its own again when dropped.
struct Back {
    own: User,
    groups: Vec<Gid>,
}

impl Drop for Back {
    fn drop(&mut self) {
        // With the user come the capabilities that the others need.
        let back = rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(self.own.uid)), None)
            .and_then(|()| rustix::thread::set_thread_res_gid(None, Some(Gid::from_raw(self.own.gid)), None))
            .and_then(|()| rustix::thread::set_thread_groups(&self.groups));
        if back.is_err() {
            // A thread that went on with somebody else's rights would be worse than none.
            std::process::abort();
        }
    }
}

/// Makes this process, which must have one thread, the user's for good. If it `reads_all`, it may read every file and look
/// into every directory all the same.
pub fn become_user(user: &User, reads_all: bool) -> Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_keep_capabilities(reads_all).at("keep", "capabilities")?;
    rustix::thread::set_thread_groups(&groups).at("take the groups of", "a user")?;
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid)).at("become", "a user's group")?;
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid)).at("become", "a user")?;
    if reads_all {
        let kept = CapabilitySet::DAC_READ_SEARCH;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).at("limit", "capabilities")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_socket_says_who_is_at_its_other_end() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (user, pid) = peer(&ours).unwrap();
        assert_eq!((user.uid, user.gid), (User::own().uid, User::own().gid));
        assert_eq!(pid, i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn one_in_another_process_namespace_is_not_in_sight() {
        if !User::own().is_root() {
            println!("SKIPPED: process namespaces: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
        let mut asker = std::process::Command::new("unshare");
        asker.args(["--pid", "--fork", std::env::current_exe().unwrap().to_str().unwrap()]);
        asker.args(["--exact", "sys::user::tests::asks_who_listens", "--ignored", "--nocapture"]);
        let output = asker.env("SOCKET", dir.path().join("sock")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        drop(listener);
    }

    #[test]
    #[ignore = "a part of the test above"]
    fn asks_who_listens() {
        let Some(path) = std::env::var_os("SOCKET") else { return };
        let socket = std::os::unix::net::UnixStream::connect(path).unwrap();
        assert_eq!(peer(&socket).unwrap().1, None);
    }

    #[test]
    fn work_for_a_user_has_the_users_rights_and_ends_with_it() {
        if !User::own().is_root() {
            println!("SKIPPED: other users: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let nobody = User { uid: 65534, gid: 65533, groups: vec![12] };
        let write = || std::fs::write(path.join("file"), "x").at("write", &path);
        assert_eq!(as_user(&nobody, write).unwrap_err().class(), crate::Class::Denied);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        as_user(&nobody, write).unwrap();
        let made = std::fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((made.uid(), made.gid()), (65534, 65533));
        assert!(User::own().is_root());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let read = || std::fs::read(path.join("file")).at("read", &path);
        assert!(as_user(&nobody, read).is_err() && as_reading_user(&nobody, read).is_ok());
        let make = || std::fs::write(path.join("other"), "x").at("write", &path);
        assert!(as_reading_user(&nobody, make).is_err());
        std::fs::write(path.join("file"), "ours again").unwrap();
    }
}
