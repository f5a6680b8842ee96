//! The flags that `create` and `run` share, and the request body that they make.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::format::units::parse_bytes;
use crate::opts::env::{environment, labels, pairs};
use crate::opts::health::Health;
use crate::opts::limits::Limits;
use crate::opts::mounts::{self, Bind};
use crate::opts::network::NetworkFlags;
use crate::opts::values::{boolean, cpus, device, restart, security, ulimit};

/// What a new container is to be like.
#[derive(Debug, Args)]
pub struct CreateFlags {
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short = 'a', long, value_name = "list")]
    pub attach: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long, value_name = "string")]
    cgroup_parent: Option<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "string")]
    pub cidfile: Option<PathBuf>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", allow_hyphen_values = true)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// Add a host device to the container
    #[arg(long, value_name = "list")]
    device: Vec<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "string")]
    entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,
    /// Add additional groups to join
    #[arg(long, value_name = "list")]
    group_add: Vec<String>,
    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    limits: Limits,
    /// Container host name
    #[arg(short = 'h', long, value_name = "string")]
    hostname: Option<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "string")]
    domainname: Option<String>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    init: bool,
    /// Keep STDIN open even if not attached
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// IPC mode to use
    #[arg(long, value_name = "string")]
    ipc: Option<String>,
    /// Set meta data on a container
    #[arg(short = 'l', long, value_name = "list")]
    label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "list")]
    label_file: Vec<PathBuf>,
    /// Logging driver for the container
    #[arg(long, value_name = "string")]
    log_driver: Option<String>,
    /// Log driver options
    #[arg(long, value_name = "list")]
    log_opt: Vec<String>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "mount")]
    mount: Vec<String>,
    /// Assign a name to the container
    #[arg(long, value_name = "string")]
    pub name: Option<String>,
    #[command(flatten)]
    network: NetworkFlags,
    /// Disable OOM Killer
    #[arg(long)]
    oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// PID namespace to use
    #[arg(long, value_name = "string")]
    pid: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    privileged: bool,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, value_name = "string", default_value = "missing", hide_default_value = true)]
    pub pull: String,
    /// Suppress the pull output
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    /// Automatically remove the container and its associated anonymous volumes when it exits
    #[arg(long)]
    pub rm: bool,
    /// Runtime to use for this container
    #[arg(long, value_name = "string")]
    runtime: Option<String>,
    /// Security Options
    #[arg(long, value_name = "list")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    shm_size: Option<String>,
    /// Signal to stop the container
    #[arg(long, value_name = "string")]
    stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// Sysctl options
    #[arg(long, value_name = "map")]
    sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "list")]
    tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short = 'u', long, value_name = "string")]
    user: Option<String>,
    /// User namespace to use
    #[arg(long, value_name = "string")]
    userns: Option<String>,
    /// UTS namespace to use
    #[arg(long, value_name = "string")]
    uts: Option<String>,
    /// Bind mount a volume
    #[arg(short = 'v', long, value_name = "list")]
    volume: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long, value_name = "string")]
    volume_driver: Option<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "list")]
    volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short = 'w', long, value_name = "string")]
    workdir: Option<String>,
}

/// Which of the three standard streams are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Attach {
    /// Whether any is.
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

impl CreateFlags {
    /// The streams to attach when not detached: those named, or else output and, with `-i`, input.
    pub fn streams(&self) -> Result<Attach> {
        if self.attach.is_empty() {
            return Ok(Attach { stdin: self.interactive, stdout: true, stderr: true });
        }
        let mut streams = Attach::default();
        for name in &self.attach {
            match name.to_lowercase().as_str() {
                "stdin" => streams.stdin = true,
                "stdout" => streams.stdout = true,
                "stderr" => streams.stderr = true,
                _ => bail!("invalid argument \"{name}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"),
            }
        }
        Ok(streams)
    }

    /// The body of `POST /containers/create`.
    pub fn body(&self, image: &str, command: &[String], attach: Attach) -> Result<Value> {
        if self.rm && self.restart.as_deref().is_some_and(|policy| !matches!(policy, "" | "no")) {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        let current = std::env::current_dir()?;
        let binds = self.binds(&current)?;
        let mut config = json!({
            "Hostname": self.hostname.as_deref().unwrap_or_default(),
            "Domainname": self.domainname.as_deref().unwrap_or_default(),
            "User": self.user.as_deref().unwrap_or_default(),
            "AttachStdin": attach.stdin, "AttachStdout": attach.stdout, "AttachStderr": attach.stderr,
            "Tty": self.tty, "OpenStdin": self.interactive, "StdinOnce": self.interactive && attach.stdin,
            "Env": environment(&self.env_file, &self.env, &|key| std::env::var(key).ok())?,
            "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
            "Image": image,
            "Volumes": binds.iter().filter_map(|bind| match bind {
                Bind::Anonymous(target) => Some((target.clone(), json!({}))),
                Bind::Bind(_) => None,
            }).collect::<Map<_, _>>(),
            "WorkingDir": self.workdir.as_deref().unwrap_or_default(),
            "Entrypoint": match self.entrypoint.as_deref() { None => Value::Null, Some(program) => json!([program]) },
            "Labels": labels(&self.label_file, &self.label)?,
        });
        if let Some(check) = self.health.check()? {
            config["Healthcheck"] = check;
        }
        if let Some(signal) = &self.stop_signal {
            config["StopSignal"] = signal.as_str().into();
        }
        if let Some(timeout) = self.stop_timeout {
            config["StopTimeout"] = timeout.into();
        }
        config["HostConfig"] = self.host_config(&binds)?;
        self.network.fill(&mut config)?;
        Ok(config)
    }

    fn binds(&self, current: &Path) -> Result<Vec<Bind>> {
        self.volume.iter().map(|volume| mounts::volume(volume, current)).collect()
    }

    fn host_config(&self, binds: &[Bind]) -> Result<Value> {
        let current = std::env::current_dir()?;
        let binds: Vec<&str> =
            binds.iter().filter_map(|bind| if let Bind::Bind(text) = bind { Some(text.as_str()) } else { None }).collect();
        let tmpfs: Map<String, Value> = self.tmpfs.iter().map(|text| mounts::tmpfs(text)).collect();
        let mut host = json!({
            "Binds": binds,
            "Mounts": self.mount.iter().map(|text| mounts::mount(text, &current)).collect::<Result<Vec<_>>>()?,
            "Tmpfs": tmpfs,
            "RestartPolicy": restart(self.restart.as_deref().unwrap_or("no"))?,
            "AutoRemove": self.rm,
            "LogConfig": {"Type": self.log_driver.as_deref().unwrap_or_default(), "Config": pairs(&self.log_opt)},
            "VolumesFrom": self.volumes_from, "VolumeDriver": self.volume_driver.as_deref().unwrap_or_default(),
            "CapAdd": self.cap_add, "CapDrop": self.cap_drop,
            "GroupAdd": self.group_add,
            "IpcMode": self.ipc.as_deref().unwrap_or_default(), "PidMode": self.pid.as_deref().unwrap_or_default(),
            "UTSMode": self.uts.as_deref().unwrap_or_default(), "UsernsMode": self.userns.as_deref().unwrap_or_default(),
            "Privileged": self.privileged, "ReadonlyRootfs": self.read_only,
            "SecurityOpt": self.security_opt.iter().map(|option| security(option)).collect::<Result<Vec<_>>>()?,
            "Sysctls": pairs(&self.sysctl),
            "Devices": self.device.iter().map(|text| device(text)).collect::<Result<Vec<_>>>()?,
            "Ulimits": self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<Vec<_>>>()?,
        });
        if let Some((rows, columns)) = crate::term::raw::size().filter(|_| self.tty) {
            host["ConsoleSize"] = json!([rows, columns]);
        }
        self.common_limits(&mut host)?;
        self.limits.fill(&mut host)?;
        Ok(host)
    }

    fn common_limits(&self, host: &mut Value) -> Result<()> {
        let bytes = |text: &Option<String>| text.as_deref().map(parse_bytes).transpose();
        let swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            Some(text) => Some(parse_bytes(text)?),
            None => None,
        };
        let numbers = [
            ("CpuShares", self.cpu_shares),
            ("NanoCpus", self.cpus.as_deref().map(cpus).transpose()?),
            ("Memory", bytes(&self.memory)?),
            ("MemorySwap", swap),
            ("MemoryReservation", bytes(&self.memory_reservation)?),
            ("OomScoreAdj", self.oom_score_adj),
            ("PidsLimit", self.pids_limit),
            ("ShmSize", bytes(&self.shm_size)?),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                host[key] = number.into();
            }
        }
        for (key, text) in [("CpusetCpus", &self.cpuset_cpus), ("CgroupParent", &self.cgroup_parent), ("Runtime", &self.runtime)]
        {
            if let Some(text) = text {
                host[key] = text.as_str().into();
            }
        }
        if self.init {
            host["Init"] = true.into();
        }
        if self.oom_kill_disable {
            host["OomKillDisable"] = true.into();
        }
        Ok(())
    }
}

/// `--sig-proxy=false` and its like.
pub fn go_bool(text: &str) -> Result<bool, String> {
    boolean(text).ok_or_else(|| format!("invalid boolean value {text:?}"))
}
