//! The built-in runtime behind the command line of an OCI runtime, for suites that test such: `oci [--root DIR] create
//! --bundle DIR ID`, `start`, `state`, `kill`, `delete`. What keeps a container is a shim, as in the daemon.
//! Source: OCI runtime spec, runtime.md; the command line is runc's.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use engine::shim::{Client, Launch, Options, Status, launch};
use fs_base::sys::mount::Mount;
use fs_base::{Class, Error, IoContext, Result};
use serde_json::{Value, json};

/// The annotation that a state keeps its bundle by, in the container's folder.
const BUNDLE: &str = "bundle.json";
/// How long an end that was asked for may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Words and options, whatever their order.
struct Line {
    words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Line {
    fn parse(arguments: &[String]) -> Line {
        let with_value = ["--root", "--bundle", "-b", "--pid-file", "--console-socket", "--log", "--log-format"];
        let (mut words, mut options) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if let Some((name, value)) = argument.split_once('=').filter(|_| argument.starts_with("--")) {
                options.push((name.to_owned(), value.to_owned()));
            } else if with_value.contains(&argument.as_str()) {
                options.push((argument.clone(), rest.next().cloned().unwrap_or_default()));
            } else if argument.starts_with('-') {
                options.push((argument.clone(), String::new()));
            } else {
                words.push(argument.clone());
            }
        }
        Line { words, options }
    }

    fn option(&self, names: &[&str]) -> Option<&str> {
        self.options.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str())
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let line = Line::parse(arguments);
    let root = PathBuf::from(line.option(&["--root"]).unwrap_or("/run/fsd-oci"));
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    match words[..] {
        ["create", id] => create(&line, &root, id),
        ["start", id] => {
            let (client, status) = known(&root, id)?;
            if status != Status::Created {
                return Err(Error::conflict(format!("cannot start container {id}: it is {}", word(status))));
            }
            client.start()
        }
        ["state", id] => state(&root, id),
        ["kill", id, ref signal @ ..] => kill(&root, id, signal.first().copied().unwrap_or("TERM")),
        ["delete", id] => delete(&root, id, line.option(&["--force", "-f"]).is_some()),
        ["relay", dir] => relay(Path::new(dir)),
        _ => Err(Error::unsupported(format!("{} is not supported", words.join(" ")))),
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Ended => "stopped",
    }
}

/// A container's folder: its id is one ordinary name.
fn folder(root: &Path, id: &str) -> Result<PathBuf> {
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || !id.chars().all(ordinary) {
        return Err(Error::invalid(format!("invalid container id {id:?}")));
    }
    Ok(root.join(id))
}

/// A container, and how it is.
fn known(root: &Path, id: &str) -> Result<(Client, Status)> {
    let dir = folder(root, id)?;
    if !dir.join(BUNDLE).exists() {
        return Err(Error::not_found(format!("container {id} does not exist")));
    }
    let client = Client::new(&dir);
    let status = client.state().map_or(Status::Ended, |state| state.status);
    Ok((client, status))
}

fn create(line: &Line, root: &Path, id: &str) -> Result<()> {
    let dir = folder(root, id)?;
    let bundle = std::path::absolute(line.option(&["--bundle", "-b"]).unwrap_or(".")).at("find", "bundle")?;
    for unknown in ["--console-socket", "--no-pivot", "--preserve-fds"] {
        if line.option(&[unknown]).is_some() {
            return Err(Error::unsupported(format!("{unknown} is not supported")));
        }
    }
    if dir.exists() {
        return Err(Error::conflict(format!("container with id {id} already exists")));
    }
    let mut config: Value = read(&bundle.join("config.json"))?;
    let rootfs = bundle.join(config["root"]["path"].as_str().unwrap_or("rootfs"));
    let path = config["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    if path.is_empty() {
        config["linux"]["cgroupsPath"] = format!("/fsd-test/{id}").into();
    }
    let bad = |error: serde_json::Error| Error::invalid(format!("config.json: {error}"));
    let spec = serde_json::from_value(config.clone()).map_err(bad)?;
    let options = Options { open_stdin: false, stdin_once: false, init: false, runtime: None, log: None };
    let shim = std::env::current_exe().at("find", "this program")?.with_file_name("fsd-shim");
    let launched =
        launch(Launch { program: &shim, dir: &dir, spec: &spec, options: &options, root: Mount::clone_of(&rootfs, true)? });
    let launched = match launched {
        Ok(launched) => launched,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(error);
        }
    };
    let note =
        json!({"bundle": bundle, "pid": launched.pid, "annotations": config["annotations"], "version": config["ociVersion"]});
    std::fs::write(dir.join(BUNDLE), note.to_string()).at("write", dir.join(BUNDLE))?;
    if let Some(file) = line.option(&["--pid-file"]) {
        std::fs::write(file, launched.pid.to_string()).at("write", file)?;
    }
    // Whoever started this reads the container's output from it, and it is to end now.
    let own = std::env::current_exe().at("find", "this program")?;
    let (mut ours, theirs) = UnixStream::pair().at("make", "socket pair")?;
    let relay = Command::new(own).args(["relay".as_ref(), dir.as_os_str()]).stdin(Stdio::from(OwnedFd::from(theirs))).spawn();
    relay.at("run", "relay")?;
    // A byte says that it is there.
    ours.read(&mut [0]).at("read from", "relay").map(drop)
}

/// Copies the container's output to this process's own, until it ends.
fn relay(dir: &Path) -> Result<()> {
    let mut stream = Client::new(dir).attach(false, true, true)?;
    rustix::io::write(rustix::stdio::stdin(), b"x").at("write to", "maker")?;
    let mut head = [0; 8];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as u64;
        let mut piece = Read::by_ref(&mut stream).take(length);
        let copied = match head[0] {
            1 => std::io::copy(&mut piece, &mut std::io::stdout()),
            _ => std::io::copy(&mut piece, &mut std::io::stderr()),
        };
        copied.at("write", "output")?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

fn state(root: &Path, id: &str) -> Result<()> {
    let (client, status) = known(root, id)?;
    let note = read(&folder(root, id)?.join(BUNDLE))?;
    let pid = client.state().map_or(Value::Null, |state| json!(state.pid));
    let mut answer = json!({"ociVersion": note["version"], "id": id, "status": word(status), "bundle": note["bundle"]});
    if status != Status::Ended {
        answer["pid"] = pid;
    }
    if note["annotations"].is_object() {
        answer["annotations"] = note["annotations"].clone();
    }
    println!("{answer:#}");
    Ok(())
}

fn kill(root: &Path, id: &str, signal: &str) -> Result<()> {
    let (client, status) = known(root, id)?;
    if status == Status::Ended {
        return Err(Error::conflict(format!("container {id} is not running")));
    }
    let number = match signal.trim_start_matches("SIG") {
        "KILL" => 9,
        "TERM" => 15,
        "INT" => 2,
        "HUP" => 1,
        "USR1" => 10,
        "USR2" => 12,
        other => other.parse().map_err(|_| Error::invalid(format!("unknown signal {signal:?}")))?,
    };
    client.kill(number)
}

fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let (client, status) = known(root, id)?;
    if status == Status::Running && !force {
        return Err(Error::conflict(format!("cannot delete container {id}: it is running")));
    }
    if status != Status::Ended {
        match client.kill(9) {
            Err(error) if error.class() != Class::NotFound => return Err(error),
            _ => {}
        }
    }
    let end = Instant::now() + PATIENCE;
    while client.state().is_ok() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let dir = folder(root, id)?;
    std::fs::remove_dir_all(&dir).at("remove", dir)
}
