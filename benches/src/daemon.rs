//! Daemons that end with the value that stands for them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::measure::{Memory, memory, processes_of, run, text};

/// How long a daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon on a root of its own.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    /// A path that only its own processes have on their command lines.
    own: PathBuf,
}

/// A program that was built beside this one.
pub fn built(name: &str) -> Result<String> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is not built", program.display());
    Ok(text(&program)?.to_owned())
}

impl Daemon {
    /// Ours, below `dir`.
    pub fn fsd(dir: &Path) -> Result<Daemon> {
        std::fs::create_dir(dir.join("fsd"))?;
        Daemon::fsd_again(dir)
    }

    /// Ours, on what one below `dir` has left.
    pub fn fsd_again(dir: &Path) -> Result<Daemon> {
        let home = dir.join("fsd");
        let mut command = Command::new(built("fsd")?);
        command.arg("--root").arg(home.join("root")).arg("--run").arg(home.join("run"));
        Daemon::spawn(command, home.join("run/fsd.sock"), home)
    }

    /// Docker's, below `dir`, without a network.
    pub fn dockerd(dir: &Path) -> Result<Daemon> {
        let mut command = Command::new("dockerd");
        command.args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        Daemon::docker_of(command, dir.join("docker"))
    }

    /// Docker's with its default network, in a network namespace of its own: it would change the host's firewall.
    pub fn dockerd_with_network(dir: &Path) -> Result<Daemon> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; exec dockerd \"$@\"", "dockerd"]);
        Daemon::docker_of(command, dir.join("docker-net"))
    }

    fn docker_of(mut command: Command, home: PathBuf) -> Result<Daemon> {
        let socket = home.with_extension("sock");
        command.arg("--data-root").arg(home.join("data")).arg("--exec-root").arg(home.join("exec"));
        command.arg("--pidfile").arg(home.join("pid")).arg("-H").arg(format!("unix://{}", socket.display()));
        std::fs::create_dir(&home)?;
        Daemon::spawn(command, socket, home)
    }

    fn spawn(mut command: Command, socket: PathBuf, own: PathBuf) -> Result<Daemon> {
        let log = std::fs::File::create(own.join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
        let daemon = Daemon { child, socket, own };
        let end = Instant::now() + PATIENCE;
        while daemon.cli("docker", &["version"]).is_err() {
            if Instant::now() > end {
                let log = std::fs::read_to_string(daemon.own.join("log")).unwrap_or_default();
                anyhow::bail!("the daemon at {} does not answer: {log}", daemon.socket.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// Runs a CLI on this daemon; how long it took.
    pub fn cli(&self, program: &str, arguments: &[&str]) -> Result<f64> {
        let host = format!("unix://{}", text(&self.socket)?);
        run(program, &[&["-H", &host], arguments].concat())
    }

    /// The memory of the daemon itself.
    pub fn memory(&self) -> Result<Memory> {
        memory(self.child.id())
    }

    /// The memory of each of its shims.
    pub fn shims(&self) -> Result<Vec<Memory>> {
        // By the name that it was started by: what a process runs may be a file that nobody else can see.
        let is_shim = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).next().is_some_and(|name| String::from_utf8_lossy(name).contains("shim"))
        };
        processes_of(&self.own)?.into_iter().filter(is_shim).map(memory).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
