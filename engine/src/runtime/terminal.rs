//! A container's terminal: a pair of its own devpts.

use std::os::fd::{BorrowedFd, OwnedFd};

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Source: linux/magic.h.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Master and slave.
#[derive(Debug)]
pub struct Terminal {
    /// The maker's side.
    pub master: OwnedFd,
    /// The process's side.
    pub slave: OwnedFd,
}

impl Terminal {
    /// A new terminal of the devpts whose root is `devpts`, of the size that the process wants from its start. It is checked to be one, because in a running container
    /// anything may be mounted at /dev/pts.
    pub fn open(devpts: BorrowedFd<'_>, process: &Process) -> Result<Terminal> {
        let master =
            rustix::fs::openat(devpts, "ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
                .at("open", "/dev/pts/ptmx")?;
        if rustix::fs::fstatfs(&master).at("stat", "/dev/pts/ptmx")?.f_type as u64 != DEVPTS_SUPER_MAGIC {
            return Err(Error::denied("/dev/pts of the container is no devpts, so it can't have a terminal"));
        }
        rustix::pty::unlockpt(&master).at("unlock", "terminal")?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .at("open", "terminal")?;
        if let Some(size) = process.console_size() {
            // Source: ioctl_tty(2), a size is of 16 bits.
            let [rows, columns] = [size.height(), size.width()].map(|length| u16::try_from(length).unwrap_or(u16::MAX));
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&master, size).at("resize", "terminal")?;
        }
        Ok(Terminal { master, slave })
    }
}

/// Makes the terminal the controlling one of this process's new session, and its standard streams.
pub fn take(slave: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).at("take", "controlling terminal")?;
    set_streams(slave, slave, slave)
}

/// Sets the standard streams of this process.
pub fn set_streams(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<()> {
    rustix::stdio::dup2_stdin(stdin).at("set", "standard input")?;
    rustix::stdio::dup2_stdout(stdout).at("set", "standard output")?;
    rustix::stdio::dup2_stderr(stderr).at("set", "standard error")
}
