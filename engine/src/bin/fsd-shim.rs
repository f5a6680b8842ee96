//! `fsd-shim DIR`: looks after one container. Started by the daemon, with the container's tree as standard input and a
//! socket, which hears how the start went, as standard output.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use fs_base::sys::process::{close_inherited, find_title};
use fs_base::{Error, IoContext, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fsd-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    close_inherited()?;
    find_title();
    // It may have been started by descriptor, whose number is its name then.
    let _ = rustix::thread::set_name(c"fsd-shim");
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(Error::invalid("usage: fsd-shim DIR (it is started by fsd, not by hand)"));
    };
    let root = rustix::stdio::stdin().try_clone_to_owned().at("duplicate", "standard input")?;
    let ready = rustix::stdio::stdout().try_clone_to_owned().at("duplicate", "standard output")?;
    let null = File::options().read(true).write(true).open("/dev/null").at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).and_then(|()| rustix::stdio::dup2_stdout(&null)).at("set", "standard streams")?;
    rustix::process::setsid().at("setsid", "shim")?;
    rustix::process::chdir("/").at("change directory to", "/")?;
    engine::shim::server::run(&dir, root, UnixStream::from(ready))
}
