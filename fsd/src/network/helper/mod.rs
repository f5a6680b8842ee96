//! The network helper: a process beside the daemon that answers names and passes on what comes to published ports, so
//! that both go on while the daemon is killed, restarted or upgraded. There is one for a daemon, whatever the number of
//! its containers, and none while no container needs it.
//!
//! It is this program in another role, so it is always there and always fits; it knows nothing but what it was told over
//! one socket ([`wire`]), and writes nothing. The daemon makes all sockets, some of them in containers' namespaces, and
//! hands them over; the helper itself is nobody, in an empty root, with no capability, and can make only the system calls
//! that this takes ([`calls`]). Which containers it serves, the
//! daemon tells it anew after either of them has died ([`super::serving`]). It watches their first processes, so that
//! with the daemon away nothing of an ended container (its namespace, a name, a port) is kept.
//!
//! ```text
//! daemon ── sock ──► control (a thread) ──► shared ◄── resolver, proxy (tasks of one thread)
//! ```

mod calls;
mod control;
mod datagram;
pub mod names;
mod proxy;
mod resolver;
mod shared;
#[cfg(test)]
mod tests;
pub mod wire;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::sys::user::{User, become_user};
use fs_base::sys::{limits, memory, process};
use fs_base::{Error, IoContext, Result};

use shared::Shared;

/// What the helper is called; a program of ours that was started under this name is one.
pub const NAME: &str = "fsd-net";
/// Its program, for who runs it.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// Who may do nothing. Source: kernel, `overflowuid`; the same everywhere.
const NOBODY: u32 = 65_534;

/// The folder that is named behind [`NAME`], if this process was started as a helper.
pub fn asked_for() -> Option<PathBuf> {
    let mut arguments = std::env::args_os();
    (arguments.next()? == NAME).then(|| arguments.next().map(PathBuf::from))?
}

/// Device and inode of a program: two of the same are the same version.
pub fn identity(program: &Path) -> Result<(u64, u64)> {
    let metadata = std::fs::metadata(program).at("look at", program)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Serves until nobody needs it. The standard input is its socket, which listens; `dir` becomes its root.
pub fn run(dir: &Path) -> Result<()> {
    process::close_inherited()?;
    let _ = rustix::thread::set_name(c"fsd-net");
    let identity = identity(Path::new(OWN_PROGRAM))?;
    let listener = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).at("duplicate", "standard input")?;
    let null = File::open("/dev/null").at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).at("set", "standard input")?;
    rustix::process::setsid().at("setsid", NAME)?;
    limits::raise_open_files()?;
    rustix::process::chroot(dir).at("change root directory to", dir)?;
    rustix::process::chdir("/").at("change directory to", "/")?;
    become_user(&User { uid: NOBODY, gid: NOBODY, groups: Vec::new() }, false)?;
    rustix::thread::set_no_new_privs(true).at("forbid", "new privileges")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start", "the runtime", error))?;
    let shared = Arc::new(Shared::default());
    // Whoever started it is about to come.
    shared.set_connected(true);
    let control = control::Control { shared: Arc::clone(&shared), runtime: runtime.handle().clone(), identity };
    let (filter, own) = calls::filter().map(|filter| (filter.clone(), filter))?;
    let (tell, told) = std::sync::mpsc::channel();
    let serve = move || {
        let installed = calls::install(&own);
        let is_installed = installed.is_ok();
        // Who waits for it is below.
        let _ = tell.send(installed);
        if is_installed {
            control.serve(&UnixListener::from(listener));
        }
    };
    let thread = std::thread::Builder::new().name("fsd-net".to_owned());
    thread.spawn(serve).at("start", "thread")?;
    told.recv().map_err(|_| Error::internal("the thread that hears the daemon has ended"))??;
    memory::give_back_code();
    calls::install(&filter)?;
    runtime.block_on(shared.until_idle());
    Ok(())
}
