//! Processes made with clone3, and what a process does with itself before it becomes another program.
//!
//! Source: clone(2), execve(2), close_range(2), keyctl(2).

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use crate::{Error, IoContext, Result};

/// Source: linux/sched.h; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Every `CLONE_NEW*` but that of time, whose number fork and unshare read differently.
const NAMESPACES: u64 = 0x7e02_0000;

/// How [`fork`] makes the new process.
#[derive(Debug, Default)]
pub struct ForkOptions<'a> {
    /// `CLONE_NEW*`: the namespaces that it gets of its own. Source: namespaces(7).
    pub namespaces: u64,
    /// The cgroup v2 directory that it starts in.
    pub into_cgroup: Option<BorrowedFd<'a>>,
    /// It becomes a sibling of its maker, not a child.
    pub sibling: bool,
}

/// On which side of a [`fork`] one is.
#[derive(Debug)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In its maker.
    Parent(Child),
}

/// A process that was just made.
#[derive(Debug)]
pub struct Child {
    /// Its number, as its maker sees it.
    pub pid: i32,
    /// It, by descriptor.
    pub pidfd: OwnedFd,
}

/// Makes a copy of this process. Only a process with one thread may: in another, the copy could find a lock taken
/// for ever, so it is refused.
pub fn fork(options: &ForkOptions<'_>) -> Result<Forked> {
    if !has_one_thread() {
        return Err(Error::internal("a process with several threads can't be copied"));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = options.namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if options.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = options.into_cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no stack is given and no memory is shared, so this is fork(2) with namespaces; there is one thread, so
    // no lock of another is copied in a taken state. `args` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel just wrote a descriptor that nobody else owns.
        1.. => Ok(Forked::Parent(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
        _ => Err(std::io::Error::last_os_error()).at("clone", "a new process"),
    }
}

/// Asked of the kernel, not of procfs, which need not be ours: unsharing the thread group is refused to a process with
/// several threads and does nothing for one alone. Source: unshare(2).
fn has_one_thread() -> bool {
    // SAFETY: has no effect, whatever it answers.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Becomes the program at `path`. Signals get their default meaning again and none is blocked: Rust's runtime ignores
/// SIGPIPE, which the program would inherit.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> Result<Infallible, std::io::Error> {
    let pointers = |list: &[CString]| list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    reset_signals();
    // SAFETY: path and the arrays, which end with a null pointer, live across the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(std::io::Error::last_os_error())
}

fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours; numbers that can't be set are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an empty set is valid, and the mask of this thread is all that changes.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives this process new namespaces of its own. Source: unshare(2).
pub fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: namespaces are not memory; flags that would share or part memory are not let through.
    let result = unsafe { libc::unshare((namespaces & NAMESPACES) as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).at("unshare", "namespaces") }
}

/// Marks every descriptor from `first` on to be closed at exec, whoever opened it.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: only descriptor flags change.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).at("close_range", format!("from {first}")) }
}

/// Closes every descriptor but the standard streams. Only for the first lines of a program, when it owns no other:
/// what is open then was left open by its maker.
pub fn close_inherited() -> Result<()> {
    // SAFETY: by this function's contract nobody in this process owns one of them yet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).at("close_range", "from 3") }
}

/// Gives this process a session keyring of its own, so that it sees none of its maker's keys. A kernel without keys
/// has nothing to hide.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name makes an anonymous keyring; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match (result, std::io::Error::last_os_error()) {
        (0.., _) => Ok(()),
        (_, error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EDQUOT)) => Ok(()),
        (_, error) => Err(error).at("keyctl", "session keyring"),
    }
}

/// Where the arguments of this process lie in its memory: start and end.
static ARGUMENTS: OnceLock<(usize, usize)> = OnceLock::new();

/// Notes where this process's arguments lie, for [`set_title`]. Called first of all, while /proc is the host's.
pub fn find_title() {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(place) = arguments_of(&stat) {
        ARGUMENTS.get_or_init(|| place);
    }
}

/// Has `ps` show this text for this process, as far as there is room, in place of the arguments it was started with.
/// Without [`find_title`] nothing happens.
pub fn set_title(text: &str) {
    let Some(&(start, end)) = ARGUMENTS.get() else { return };
    // The kernel wants a null byte at the end; where there is none it reads on into the environment.
    let room = (end - start).saturating_sub(1);
    let text = &text.as_bytes()[..text.len().min(room)];
    // SAFETY: the kernel said that the arguments lie there, on this process's own stack, which is writable and lives as
    // long as the process. Rust copies arguments out when asked and keeps no reference; a null byte at the end stays.
    unsafe {
        let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
        std::ptr::write_bytes(arguments, 0, end - start);
        std::ptr::copy_nonoverlapping(text.as_ptr(), arguments, text.len());
    }
}

/// Source: proc_pid_stat(5), fields 48 and 49. The name, field 2, may hold anything, but ends at the last parenthesis.
fn arguments_of(stat: &str) -> Option<(usize, usize)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start > 0 && start < end).then_some((start, end))
}

/// Ends this process at once, without running what waits for an exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_is_not_copied() {
        // The test harness itself has several threads.
        let error = fork(&ForkOptions::default()).unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
    }

    #[test]
    fn arguments_are_found_behind_any_name() {
        let mut fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        assert_eq!(arguments_of(&format!("1 (a) b) (c) S {}", fields.join(" "))), Some((48, 49)));
        fields[48 - 4] = "0".to_owned();
        assert_eq!(arguments_of(&format!("1 (a) S {}", fields.join(" "))), None);
        assert_eq!(arguments_of(""), None);
    }
}
