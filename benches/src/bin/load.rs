//! Images in and out, beside Docker: `load ARCHIVE IMAGE` measures loading, mounting, removing and idle memory.
//!
//! Both daemons run in this one process's time, each on a root of its own below the archive's folder, so that the ratio
//! means something where other work shares the machine. Needs root, `dockerd` and the `docker` CLI.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Runs of each measurement; the best counts, as the others had company.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, archive, image] = &arguments[..] else { anyhow::bail!("usage: load ARCHIVE.tar IMAGE") };
    let archive = Path::new(archive).canonicalize()?;
    let dir = tempfile::tempdir_in(archive.parent().context("a path with a folder is wanted")?)?;
    let base = best(|| {
        let time =
            run("bash", &["-c", &format!("cp {0} {1}/copy && sha256sum {1}/copy", archive.display(), dir.path().display())]);
        std::fs::remove_file(dir.path().join("copy"))?;
        time
    })?;
    let ours = Daemon::fsd(dir.path())?;
    let resting = ours.rss()?;
    let (ours_load, ours_remove) = ours.load_and_remove("docker", &archive, image)?;
    let mount = ours.mount(&archive, image)?;
    let idle = ours.rss()?;
    drop(ours);
    let docker = Daemon::dockerd(dir.path())?;
    let (docker_load, docker_remove) = docker.load_and_remove("docker", &archive, image)?;
    drop(docker);
    println!("{:<34} {:>9.3} s", "cp + sha256sum", base);
    println!("{:<34} {:>9.3} s", "docker load", docker_load);
    println!(
        "{:<34} {:>9.3} s   {:.2} of docker, {:.2} of cp + sha256sum",
        "load",
        ours_load,
        ours_load / docker_load,
        ours_load / base
    );
    println!("{:<34} {:>9.3} s", "docker rmi", docker_remove);
    println!("{:<34} {:>9.3} s   {:.3} of docker", "rmi", ours_remove, ours_remove / docker_remove);
    println!("{:<34} {:>9.4} s", "mount on the host, first", mount);
    println!("{:<34} {:>9.1} MB at start, {:.1} MB after the above", "memory of the daemon", resting, idle);
    Ok(())
}

fn best(mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..RUNS).map(|_| work()).try_fold(f64::MAX, |best, time| Ok(best.min(time?)))
}

fn run(program: &str, arguments: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(start.elapsed().as_secs_f64())
}

/// A daemon that ends with this value.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn fsd(dir: &Path) -> Result<Daemon> {
        let program = std::env::current_exe()?.with_file_name("fsd");
        let socket = dir.join("fsd/run/fsd.sock");
        let mut command = Command::new(program);
        command.arg("--root").arg(dir.join("fsd/root")).arg("--run").arg(dir.join("fsd/run"));
        Daemon::spawn(command, socket)
    }

    fn dockerd(dir: &Path) -> Result<Daemon> {
        let (home, socket) = (dir.join("docker"), dir.join("docker.sock"));
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(home.join("data")).arg("--exec-root").arg(home.join("exec"));
        command.arg("--pidfile").arg(home.join("pid")).arg("-H").arg(format!("unix://{}", socket.display()));
        command.args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        std::fs::create_dir(&home)?;
        Daemon::spawn(command, socket)
    }

    fn spawn(mut command: Command, socket: PathBuf) -> Result<Daemon> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a daemon")?;
        let daemon = Daemon { child, socket };
        let end = Instant::now() + Duration::from_secs(60);
        while daemon.cli("docker", &["version"]).is_err() {
            ensure!(Instant::now() < end, "the daemon at {} does not answer", daemon.socket.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn cli(&self, program: &str, arguments: &[&str]) -> Result<f64> {
        let host = format!("unix://{}", self.socket.display());
        run(program, &[&["-H", &host], arguments].concat())
    }

    fn load_and_remove(&self, program: &str, archive: &Path, image: &str) -> Result<(f64, f64)> {
        let archive = archive.to_str().context("a path in UTF-8 is wanted")?;
        let (mut load, mut remove) = (f64::MAX, f64::MAX);
        for _ in 0..RUNS {
            load = load.min(self.cli(program, &["load", "-q", "-i", archive])?);
            remove = remove.min(self.cli(program, &["rmi", image])?);
        }
        Ok((load, remove))
    }

    /// The whole time of `ctl image mount`, the first after the layers came in.
    fn mount(&self, archive: &Path, image: &str) -> Result<f64> {
        let ctl = std::env::current_exe()?.with_file_name("ctl");
        let ctl = ctl.to_str().context("a path in UTF-8 is wanted")?;
        let seen = tempfile::tempdir()?;
        let target = seen.path().join("tree");
        let target = target.to_str().context("a path in UTF-8 is wanted")?;
        best(|| {
            self.cli("docker", &["load", "-q", "-i", archive.to_str().context("a path in UTF-8 is wanted")?])?;
            let time = self.cli(ctl, &["image", "mount", image, target])?;
            self.cli(ctl, &["umount", target])?;
            self.cli("docker", &["rmi", image])?;
            Ok(time)
        })
    }

    /// Resident memory in MB.
    fn rss(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
