//! Which system calls the helper makes once it serves: what it takes from strangers is datagrams and connections, and
//! whoever would make it do something else finds that it can't. It starts nothing, opens nothing and maps no code. A call
//! that is not listed fails with EPERM, and the kernel's log names it (`audit: type=1326 … comm="fsd-net"`).
//!
//! What the list lets through is more than one libc on one kernel needs: it holds the calls that do the same for others
//! (`futex_wait` for `futex`, `epoll_pwait2` for `epoll_wait`).

use engine::config::Seccomp;
use engine::seccomp::{Filter, compile, to_spec};
use fs_base::{Class, Error, Result};

/// In the form of Docker's profiles.
const PROFILE: &str = include_str!("calls.json");

/// The filter, for this machine.
pub fn filter() -> Result<Filter> {
    let spec = to_spec(&Seccomp::Profile(PROFILE.to_owned()), &[], false)?;
    compile(&spec.ok_or_else(|| Error::internal("a profile that filters nothing"))?)
}

/// Puts the calling thread under it. A kernel that has no filters is no reason to have no names.
pub fn install(filter: &Filter) -> Result<()> {
    match filter.install() {
        Err(error) if error.class() == Class::Unsupported => {
            eprintln!("system calls are not filtered: {error}");
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// Runs it on a thread of its own: a filter is for good.
    fn under_filter<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let filter = filter().unwrap();
        let under = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            install(&filter).unwrap();
            work()
        };
        std::thread::spawn(under).join().unwrap()
    }

    #[test]
    fn sockets_of_the_internet_are_served() {
        let (said, datagram) = under_filter(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"hello").unwrap();
            drop(client);
            let mut said = String::new();
            server.read_to_string(&mut said).unwrap();
            let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0"));
            assert!(other.is_ok_and(|socket| socket.set_nonblocking(true).is_ok()));
            one.send_to(b"x", one.local_addr().unwrap()).unwrap();
            (said, one.recv(&mut [0; 9]).unwrap())
        });
        assert_eq!((said.as_str(), datagram), ("hello", 1));
    }

    #[test]
    fn a_runtime_and_memory_work_under_it() {
        let done = under_filter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let large: usize = (0..64).map(|n| vec![1u8; n << 16].len()).sum();
            let slept = async {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                tokio::task::yield_now().await;
            };
            runtime.block_on(slept);
            large
        });
        assert_eq!(done, (0..64).sum::<usize>() << 16);
    }

    #[test]
    fn nothing_else_can_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = fs_base::sys::pid::Process::open(victim.id() as i32).unwrap();
        let kinds = under_filter(move || {
            let denied = |error: std::io::Error| error.kind();
            let class =
                |error: Error| if error.class() == Class::Denied { ErrorKind::PermissionDenied } else { ErrorKind::Other };
            [
                ("open", std::fs::File::open("/etc/hosts").map(drop).map_err(denied)),
                ("list", std::fs::read_dir("/").map(drop).map_err(denied)),
                ("look at", std::fs::metadata("/").map(drop).map_err(denied)),
                ("remove", std::fs::remove_file("/nowhere").map_err(denied)),
                ("run", std::process::Command::new("true").status().map(drop).map_err(denied)),
                ("a thread", std::thread::Builder::new().spawn(|| ()).map(drop).map_err(denied)),
                ("a socket of the machine's", UnixListener::bind(&path).map(drop).map_err(denied)),
                ("a pair of sockets", UnixStream::pair().map(drop).map_err(denied)),
                ("kill", process.signal(9).map_err(class)),
                ("mount", fs_base::sys::mount::unmount(std::path::Path::new("/nowhere"), true).map_err(class)),
                ("chroot", rustix::process::chroot("/").map_err(|error| denied(error.into()))),
            ]
        });
        for (what, done) in kinds {
            assert_eq!(done, Err(ErrorKind::PermissionDenied), "{what}");
        }
        assert!(victim.try_wait().unwrap().is_none(), "it lives");
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
}
