//! The last steps of a new process before it is the user's program: limits, user, capabilities, system calls, place.

use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_base::sys::process::{close_on_exec_from, exec, new_session_keyring};
use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process};
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::apparmor;
use super::attr::When;
use super::selinux;
use crate::capability;
use crate::seccomp::Filter;

/// A program that was found and is about to be run.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    name: String,
}

impl Program {
    /// Becomes it. Returns only what went wrong.
    pub fn run(&self) -> Error {
        let Err(error) = exec(&self.path, &self.args, &self.env);
        exec_error(&self.name, &error)
    }
}

/// Docker's words for a program that can't be run; its clients tell 126 and 127 apart by them.
fn exec_error(name: &str, error: &std::io::Error) -> Error {
    let why = match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NOEXEC.raw_os_error() => "exec format error".to_owned(),
        _ => match error.kind() {
            ErrorKind::NotFound => "no such file or directory".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            ErrorKind::IsADirectory => "is a directory".to_owned(),
            ErrorKind::NotADirectory => "not a directory".to_owned(),
            _ => error.to_string(),
        },
    };
    Error::invalid(format!("exec: {name:?}: {why}"))
}

/// Turns this process into what the spec's process says, and looks its program up.
pub fn prepare(process: &Process, filter: Option<&Filter>, warnings: &mut Vec<String>) -> Result<Program> {
    restrict(process, filter, When::Exec, warnings)?;
    find(process)
}

/// Gives this process the limits, the user and the place of the spec's process, and `when` it says its profile and its
/// label. With `no_new_privileges` the caller installs the filter last, see [`late_filter`].
pub fn restrict(process: &Process, filter: Option<&Filter>, when: When, warnings: &mut Vec<String>) -> Result<()> {
    let label = process.selinux_label().as_deref().filter(|label| !label.is_empty());
    label.map_or(Ok(()), selinux::label_keys)?;
    new_session_keyring()?;
    close_on_exec_from(3)?;
    for limit in process.rlimits().iter().flatten() {
        set_limit(limit, warnings)?;
    }
    rustix::process::umask(Mode::from(process.user().umask().unwrap_or(0o022)));
    // Before the filter, which may forbid what this takes.
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|name| !name.is_empty()) {
        apparmor::confine(profile, when)?;
    }
    if let Some(label) = label {
        selinux::confine(label, when)?;
    }
    if let Some(filter) = filter.filter(|_| !is_late(process)) {
        filter.install()?;
    }
    give_streams_to(process.user().uid(), &[rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]);
    let here = rustix::process::chdir(process.cwd());
    become_user(process, warnings)?;
    if here.is_err() {
        // Root without its capabilities, or with a squashed file system, may not go where the user may.
        rustix::process::chdir(process.cwd()).map_err(|error| cwd_error(process.cwd(), &error.into()))?;
    }
    check_cwd(process.cwd())
}

/// Whether the filter is installed as the very last step: without new privileges nothing after it needs any.
fn is_late(process: &Process) -> bool {
    process.no_new_privileges().unwrap_or(false)
}

/// The filter, if it comes last.
pub fn late_filter(process: &Process, filter: Option<&Filter>) -> Result<()> {
    if !is_late(process) {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true).at("set", "no_new_privs")?;
    filter.map_or(Ok(()), Filter::install)
}

/// Writes the score of `pid`, or of this process while /proc is still the host's.
pub fn set_oom_score(process: &Process, pid: Option<i32>, warnings: &mut Vec<String>) -> Result<()> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    let path = pid.map_or_else(|| "/proc/self/oom_score_adj".to_owned(), |pid| format!("/proc/{pid}/oom_score_adj"));
    match std::fs::write(&path, score.to_string()) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            warnings.push(format!("the OOM score could not be set to {score}: {error}"));
            Ok(())
        }
        other => other.at("write", path),
    }
}

/// Gives a process in a user namespace the limits that it may not raise itself. What the host does not allow, it will
/// find out and tell when it sets them.
pub fn raise_limits(process: &Process, pid: i32) {
    let number = |value: u64| (value != u64::MAX).then_some(value);
    for limit in process.rlimits().iter().flatten() {
        let wanted = Rlimit { current: number(limit.soft()), maximum: number(limit.hard()) };
        let _ = rustix::process::prlimit(rustix::process::Pid::from_raw(pid), resource(limit.typ()), wanted);
    }
}

/// A limit above what this process may have is cut to that, and told.
fn set_limit(limit: &PosixRlimit, warnings: &mut Vec<String>) -> Result<()> {
    let resource = resource(limit.typ());
    let number = |value: u64| (value != u64::MAX).then_some(value);
    let wanted = Rlimit { current: number(limit.soft()), maximum: number(limit.hard()) };
    match rustix::process::setrlimit(resource, wanted) {
        Err(rustix::io::Errno::PERM) => {
            let most = rustix::process::getrlimit(resource).maximum;
            let current = match (number(limit.soft()), most) {
                (Some(soft), Some(most)) => Some(soft.min(most)),
                (soft, most) => soft.or(most),
            };
            warnings.push(not_raised(limit));
            let allowed = Rlimit { current, maximum: most };
            rustix::process::setrlimit(resource, allowed).at("set limit", limit.typ().to_string())
        }
        other => other.at("set limit", limit.typ().to_string()),
    }
}

/// Takes from a process that another runtime is to make what this host does not allow, which that would fail by.
pub fn fit(process: &mut Process) -> Vec<String> {
    let may = rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
    let mut warnings = Vec::new();
    if may {
        return warnings;
    }
    let mut fitted = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let most = rustix::process::getrlimit(resource(limit.typ())).maximum.filter(|most| limit.hard() > *most);
        fitted.push(match most {
            None => *limit,
            Some(most) => {
                warnings.push(not_raised(limit));
                let cut = PosixRlimitBuilder::default().typ(limit.typ()).soft(limit.soft().min(most)).hard(most).build();
                // All that it has to have is there.
                cut.unwrap_or(*limit)
            }
        });
    }
    process.set_rlimits(Some(fitted));
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = process.oom_score_adj().filter(|score| own.is_some_and(|own| *score < own)) {
        warnings.push(format!("the OOM score could not be set to {score}: this host does not allow it"));
        process.set_oom_score_adj(None);
    }
    warnings
}

fn not_raised(limit: &PosixRlimit) -> String {
    format!("{} could not be raised to {}: this host allows less", limit.typ(), limit.hard())
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// So that the user can open /dev/stdout again. What does not belong to this container (a null device) keeps its owner.
pub fn give_streams_to(uid: u32, streams: &[BorrowedFd<'_>]) {
    for stream in streams {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let is_terminal = rustix::termios::isatty(stream);
        if stat.st_uid != uid && (is_terminal || kind == rustix::fs::FileType::Fifo) {
            // A stream whose owner can't be changed still works as a stream.
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
        }
    }
}

fn become_user(process: &Process, warnings: &mut Vec<String>) -> Result<()> {
    let none = LinuxCapabilities::default();
    let capabilities = process.capabilities().as_ref().unwrap_or(&none);
    let bounding = bits(capabilities.bounding().as_ref());
    for number in 0..64u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if bounding.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.at("drop from bounding set", format!("capability {number}"))?,
        }
    }
    let user = process.user();
    rustix::thread::set_keep_capabilities(true).at("keep", "capabilities")?;
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).at("set", "groups")?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid).at("set", format!("group {}", user.gid()))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at("set", format!("user {}", user.uid()))?;
    rustix::thread::set_keep_capabilities(false).at("keep", "capabilities")?;
    let possible = rustix::thread::capabilities(None).at("read", "capabilities")?.permitted;
    let sets = CapabilitySets {
        effective: bits(capabilities.effective().as_ref()) & possible,
        permitted: bits(capabilities.permitted().as_ref()) & possible,
        inheritable: bits(capabilities.inheritable().as_ref()) & possible,
    };
    rustix::thread::set_capabilities(None, sets).at("set", "capabilities")?;
    for number in 0..64u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if bits(capabilities.ambient().as_ref()).contains(one) {
            match rustix::thread::configure_capability_in_ambient_set(one, true) {
                // Only what is permitted and inheritable can be: runc says so too, and goes on.
                Err(rustix::io::Errno::PERM) => warnings.push(format!("capability {number} could not be made ambient")),
                other => other.at("set", "ambient capabilities")?,
            }
        }
    }
    Ok(())
}

fn bits(set: Option<&Capabilities>) -> CapabilitySet {
    capability::to_set(set.into_iter().flatten().copied())
}

fn cwd_error(cwd: &Path, error: &std::io::Error) -> Error {
    let why = match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::NotADirectory => "not a directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Error::invalid(format!("chdir to cwd ({:?}) set in config.json failed: {why}", cwd.display().to_string()))
}

/// A directory outside of the root, reached by a descriptor that leaked, has no path. (CVE-2024-21626)
fn check_cwd(cwd: &Path) -> Result<()> {
    match std::env::current_dir() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) => Err(Error::denied(format!("current working directory {} is outside of the container", cwd.display()))),
        Err(error) => Err(cwd_error(cwd, &error)),
    }
}

/// Looks the program up as its user will: by path, or in the PATH of its own environment.
fn find(process: &Process) -> Result<Program> {
    let args = process.args().clone().unwrap_or_default();
    let name = args.first().cloned().ok_or_else(|| Error::invalid("no command specified"))?;
    let env = process.env().clone().unwrap_or_default();
    let path = if name.contains('/') { by_path(&name)? } else { in_path(&name, &env)? };
    let c_strings = |list: &[String]| list.iter().map(|text| c_string(text.as_bytes())).collect::<Result<Vec<_>>>();
    Ok(Program { path: c_string(path.as_os_str().as_bytes())?, args: c_strings(&args)?, env: c_strings(&env)?, name })
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::invalid("an argument or variable holds a zero byte"))
}

fn by_path(name: &str) -> Result<PathBuf> {
    match executable(Path::new(name)) {
        Ok(()) => Ok(name.into()),
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => Error::invalid(format!("exec: {name:?}: stat {name}: no such file or directory")),
            ErrorKind::NotADirectory => Error::invalid(format!("exec: {name:?}: stat {name}: not a directory")),
            _ => exec_error(name, &error),
        }),
    }
}

fn in_path(name: &str, env: &[String]) -> Result<PathBuf> {
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = None;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match executable(&candidate) {
            Ok(()) if candidate.is_absolute() => return Ok(candidate),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => denied = Some(error),
            _ => {}
        }
    }
    Err(match denied {
        Some(error) => exec_error(name, &error),
        None => Error::invalid(format!("exec: {name:?}: executable file not found in $PATH")),
    })
}

/// Whether it is a file that this process may run.
fn executable(path: &Path) -> std::io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let access = rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS);
    Ok(access?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_docker_says() {
        let env = ["PATH=/usr/bin:/bin".to_owned()];
        assert!(in_path("sh", &env).unwrap().ends_with("sh"));
        let missing = in_path("no-such-program", &env).unwrap_err().to_string();
        assert_eq!(missing, "exec: \"no-such-program\": executable file not found in $PATH");
        let missing = by_path("/no/such").unwrap_err().to_string();
        assert_eq!(missing, "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(by_path("/etc/passwd").unwrap_err().to_string(), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(by_path("/etc/").unwrap_err().to_string(), "exec: \"/etc/\": is a directory");
        assert!(in_path("sh", &["PATH=".to_owned()]).is_err(), "the current directory is not looked in");
    }
}
