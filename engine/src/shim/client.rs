//! The daemon's side of a shim.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fs_base::sys::mount::Mount;
use fs_base::{Class, Error, IoContext, Result};
use oci_spec::runtime::Spec;
use rustix::mount::MountAttrFlags;

use crate::runtime::External;

use super::proto::{self, Answer, ExecRequest, Exit, Options, Reply, Request, State};

/// How long a shim may take to make its container: mounts of a network file system can be slow.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);
/// How long a shim may take for anything that is not a wait.
const DEADLINE: Duration = Duration::from_secs(60);

/// What [`launch`] needs.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The shim's program.
    pub program: &'a Path,
    /// The container's folder, made if missing; see [`super`].
    pub dir: &'a Path,
    /// What is to run.
    pub spec: &'a Spec,
    /// How.
    pub options: &'a Options,
    /// The container's tree, detached.
    pub root: Mount,
}

/// A container that waits to be started.
#[derive(Debug)]
pub struct Launched {
    /// Its first process, on the host.
    pub pid: i32,
    /// What could not be done and was left.
    pub warnings: Vec<String>,
    /// Its shim, to be waited for when the container has ended.
    pub shim: Child,
}

/// Starts a shim, and returns when its container is made. If that fails, the shim has ended and nothing is left but
/// the folder.
pub fn launch(launch: Launch<'_>) -> Result<Launched> {
    make_folder(&launch)?;
    let (ours, theirs) = UnixStream::pair().at("make", "socket pair")?;
    let log = launch.dir.join("shim.log");
    let log = std::fs::File::create(&log).at("create", &log)?;
    let program = protected(launch.program)?;
    let mut shim = Command::new(format!("/proc/self/fd/{}", program.as_fd().as_raw_fd()))
        .arg0("fsd-shim")
        .arg(launch.dir)
        .env_clear()
        .stdin(Stdio::from(launch.root.into_fd()))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::from(log))
        .spawn()
        .at("run", launch.program)
        .map_err(|error| error.with_hint("fsd-shim belongs beside fsd: install both, or name it with --shim"))?;
    fs_base::sys::limits::give_custom_open_files(&shim)?;
    match answered(ours, &mut shim) {
        Ok((pid, warnings)) => Ok(Launched { pid, warnings, shim }),
        Err(error) => {
            let _ = shim.kill();
            let _ = shim.wait();
            Err(error)
        }
    }
}

fn make_folder(launch: &Launch<'_>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let scratch = launch.dir.join("rootfs");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&scratch).at("make directory", &scratch)?;
    // Left by an earlier life of the container.
    for old in ["exit.json", "shim.sock"] {
        let path = launch.dir.join(old);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).at("remove", &path),
            _ => {}
        }
    }
    let write = |name: &str, json: serde_json::Result<Vec<u8>>| {
        let path = launch.dir.join(name);
        let bytes = json.map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
        std::fs::write(&path, bytes).at("write", &path)
    };
    write("config.json", serde_json::to_vec(launch.spec))?;
    write("shim.json", serde_json::to_vec(launch.options))
}

/// The program on a mount of its own that can't be written through, whatever gets hold of /proc/PID/exe.
/// (CVE-2019-5736) It is in no mount table and lives as long as somebody runs it.
fn protected(program: &Path) -> Result<Mount> {
    let mount = Mount::clone_of(program, false)?;
    mount.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty(), false)?;
    Ok(mount)
}

fn answered(mut from: UnixStream, shim: &mut Child) -> Result<(i32, Vec<String>)> {
    from.set_read_timeout(Some(LAUNCH_DEADLINE)).at("configure", "shim socket")?;
    match proto::read::<Answer>(&mut from) {
        Ok(Ok(Reply::Started { pid, warnings })) => Ok((pid, warnings)),
        Ok(Ok(other)) => Err(Error::internal(format!("the shim answered {other:?}"))),
        Ok(Err(failure)) => Err(failure.into()),
        Err(error) => {
            let ended = shim.try_wait().ok().flatten().map(|status| format!(" ({status})")).unwrap_or_default();
            Err(error.context(format!("the shim did not make the container{ended}")).with_class(Class::Internal))
        }
    }
}

/// Has the OCI runtime that ran a container forget it, where its shim was killed and could not.
pub fn forget(dir: &Path) -> Result<()> {
    let path = dir.join("shim.json");
    let json = std::fs::read(&path).at("read", &path)?;
    let options: Options =
        serde_json::from_slice(&json).map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    options.runtime.map_or(Ok(()), |program| External::new(&program, dir).delete())
}

/// A shim that may be there or not: each call connects anew. One that has ended is [`Class::NotFound`].
#[derive(Debug, Clone)]
pub struct Client {
    dir: PathBuf,
}

impl Client {
    /// The shim in this folder.
    pub fn new(dir: &Path) -> Client {
        Client { dir: dir.to_owned() }
    }

    /// Connects. The path of a socket may be 107 bytes long, so it is named by the descriptor of its folder.
    fn connect(&self) -> Result<UnixStream> {
        let folder = fs_base::sys::mount::open_dir(&self.dir)?;
        let short = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
        UnixStream::connect(short).map_err(|error| {
            let class = match error.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => Class::NotFound,
                _ => Class::Unavailable,
            };
            Error::io("connect to", self.dir.join("shim.sock"), error).with_class(class)
        })
    }

    fn ask(&self, request: &Request) -> Result<(Reply, UnixStream)> {
        let mut stream = self.send(request)?;
        stream.set_read_timeout(Some(DEADLINE)).at("configure", "shim socket")?;
        let reply = proto::read::<Answer>(&mut stream).map_err(|error| {
            let class = if error.class() == Class::Corrupt || has_hung_up(&error) { Class::NotFound } else { Class::Unavailable };
            error.with_class(class)
        })??;
        stream.set_read_timeout(None).at("configure", "shim socket")?;
        stream.set_write_timeout(None).at("configure", "shim socket")?;
        Ok((reply, stream))
    }

    /// Lets the container's program run.
    pub fn start(&self) -> Result<()> {
        self.ask(&Request::Start).map(drop)
    }

    /// How the container is.
    pub fn state(&self) -> Result<State> {
        match self.ask(&Request::State)?.0 {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Blocks until the container has ended.
    pub fn wait(&self) -> Result<Exit> {
        exit_of(proto::read::<Answer>(&mut self.begin_wait()?)??)
    }

    /// A connection on which the answer to a wait will come: a [`proto::Answer`] with a [`Reply::Exit`].
    pub fn begin_wait(&self) -> Result<UnixStream> {
        self.send(&Request::Wait)
    }

    /// The same for a further process.
    pub fn begin_exec_wait(&self, id: &str) -> Result<UnixStream> {
        self.send(&Request::ExecWait { id: id.to_owned() })
    }

    /// The same for the moment when the kernel has ended more of its processes for want of memory than are known of; at
    /// once if that is `None`. The answer is a [`Reply::OutOfMemory`]; a shim of an older version hangs up.
    pub fn begin_oom_wait(&self, known: Option<u64>) -> Result<UnixStream> {
        self.send(&Request::OutOfMemory { known })
    }

    fn send(&self, request: &Request) -> Result<UnixStream> {
        let mut stream = self.connect()?;
        stream.set_write_timeout(Some(DEADLINE)).at("configure", "shim socket")?;
        proto::write(&mut stream, request)
            .map_err(|error| if has_hung_up(&error) { error.with_class(Class::NotFound) } else { error })?;
        Ok(stream)
    }

    /// Sends the container's first process a signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.ask(&Request::Kill { signal }).map(drop)
    }

    /// Tells the shim that its container's cgroup is in more hierarchies than it was.
    pub fn regroup(&self) -> Result<()> {
        self.ask(&Request::Regroup).map(drop)
    }

    /// The container's streams; see [`proto`] for what goes over them.
    pub fn attach(&self, stdin: bool, stdout: bool, stderr: bool) -> Result<UnixStream> {
        Ok(self.ask(&Request::Attach { stdin, stdout, stderr, logs: false })?.1)
    }

    /// The same, and before it what the log has.
    pub fn attach_with_logs(&self, stdin: bool, stdout: bool, stderr: bool) -> Result<UnixStream> {
        Ok(self.ask(&Request::Attach { stdin, stdout, stderr, logs: true })?.1)
    }

    /// Runs a further process. The result is its number, and its streams if they were asked for.
    pub fn exec(&self, request: ExecRequest) -> Result<(i32, UnixStream)> {
        match self.ask(&Request::Exec(Box::new(request)))? {
            (Reply::Started { pid, .. }, stream) => Ok((pid, stream)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Blocks until that process has ended.
    pub fn exec_wait(&self, id: &str) -> Result<Exit> {
        exit_of(proto::read::<Answer>(&mut self.begin_exec_wait(id)?)??)
    }

    /// Sets the size of the terminal of the container, or of a further process.
    pub fn resize(&self, exec: Option<&str>, rows: u16, cols: u16) -> Result<()> {
        self.ask(&Request::Resize { exec: exec.map(str::to_owned), rows, cols }).map(drop)
    }

    /// The container's "/", as a path descriptor that reaches what is mounted in it.
    pub fn root(&self) -> Result<OwnedFd> {
        let stream = self.send(&Request::Root)?;
        stream.set_read_timeout(Some(DEADLINE)).at("configure", "shim socket")?;
        let ended = |error: Error| {
            let has_ended = error.class() == Class::Corrupt || has_hung_up(&error);
            if has_ended { error.with_class(Class::NotFound) } else { error }
        };
        let (bytes, descriptor) = super::server::passing::receive(&stream).map_err(ended)?;
        let mut whole = std::io::Cursor::new(bytes).chain(&stream);
        proto::read::<Answer>(&mut whole).map_err(ended)??;
        descriptor.ok_or_else(|| Error::internal("the shim sent no descriptor"))
    }

    /// How the container ended, if its shim is gone and wrote it down.
    pub fn exit_record(&self) -> Result<Option<Exit>> {
        let path = self.dir.join("exit.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::corrupt(format!("{}: {error}", path.display())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }
}

/// The shim ended while we asked.
fn has_hung_up(error: &Error) -> bool {
    use rustix::io::Errno;
    [Errno::CONNRESET, Errno::PIPE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn exit_of(reply: Reply) -> Result<Exit> {
    match reply {
        Reply::Exit(exit) => Ok(exit),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::internal(format!("the shim answered {reply:?}"))
}
