//! What the daemon is told: defaults, then the file, then the environment, then flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fs_base::sys::ids::IdMap;
use fs_base::{Error, IoContext, Result};
use layerfs::driver::Choice;
use layerfs::tar::Limits;

use crate::registry::Settings;
use serde::Deserialize;

/// Where the configuration is looked for if no flag names it.
pub const DEFAULT_FILE: &str = "/etc/fsd/config.toml";

/// The container storage daemon: images as layers, mounted without unpacking, behind the Docker Engine API.
#[derive(Debug, Parser)]
#[command(name = "fsd", version, after_help = "Settings: built-in defaults, then the file, then FSD_* variables, then flags.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Verify a store that no daemon serves; `ctl system check` asks a daemon to.
    Check(Check),
    /// Write the manual pages into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        dir: PathBuf,
    },
}

/// How to verify a store.
#[derive(Debug, Args)]
pub struct Check {
    /// Also read every byte and compare it with its digest
    #[arg(long, alias = "deep")]
    pub data: bool,
    /// Put right what can be put right without taking anything from an image or container
    #[arg(long)]
    pub repair: bool,
    /// With --repair: also remove what nothing can put right, and what stands on it
    #[arg(long, requires = "repair")]
    pub force: bool,
    /// 'json' for one object a line
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    pub format: Option<String>,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the configuration is good, and print what would be used.
    Check,
}

/// The flags, which are also the environment's names.
#[derive(Debug, Args)]
pub struct Options {
    /// Configuration file in TOML [default: /etc/fsd/config.toml, if it is there]
    #[arg(long, global = true, env = "FSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder that holds images, volumes and the database [default: /var/lib/fsd]
    #[arg(long, global = true, env = "FSD_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Folder for sockets and mounts, empty after a reboot [default: /run/fsd]
    #[arg(long, global = true, env = "FSD_RUN", value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Socket to serve [default: unix://RUN/fsd.sock]
    #[arg(short = 'H', long = "host", global = true, env = "FSD_LISTEN", value_name = "unix://SOCKET")]
    pub host: Option<String>,
    /// Group that may use the socket, besides root [default: fsd, if there is such a group]
    #[arg(long, global = true, env = "FSD_GROUP", value_name = "NAME")]
    pub group: Option<String>,
    /// Storage driver: erofs, erofs-loop, overlay or fuse [default: the first that works here]
    #[arg(long, global = true, env = "FSD_STORAGE_DRIVER", value_name = "NAME")]
    pub storage_driver: Option<String>,
    /// Option of the storage driver: stacking=descriptors, paths or options; merge-above=LAYERS
    #[arg(long = "storage-opt", global = true, value_name = "KEY=VALUE")]
    pub storage_opts: Vec<String>,
    /// Program that looks after a container [default: fsd-shim, beside this program]
    #[arg(long, global = true, env = "FSD_SHIM", value_name = "FILE")]
    pub shim: Option<PathBuf>,
    /// OCI runtime for 'run --runtime NAME', besides runc and crun where they are installed
    #[arg(long = "add-runtime", global = true, value_name = "NAME=FILE")]
    pub runtimes: Vec<String>,
    /// Runtime of containers that name none [default: builtin]
    #[arg(long, global = true, env = "FSD_DEFAULT_RUNTIME", value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Where containers log that name no driver: json-file, local, journald or none [default: json-file]
    #[arg(long, global = true, env = "FSD_LOG_DRIVER", value_name = "NAME")]
    pub log_driver: Option<String>,
    /// Option of that driver for containers that do not give it, as for 'run --log-opt'
    #[arg(long = "log-opt", global = true, value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,
    /// Give containers users of their own: 'default', or whose ids in /etc/subuid and /etc/subgid [default: the host's users]
    #[arg(long, global = true, env = "FSD_USERNS_REMAP", value_name = "USER[:GROUP]")]
    pub userns_remap: Option<String>,
    /// Give containers SELinux labels, where the host has SELinux
    #[arg(long, global = true, env = "FSD_SELINUX_ENABLED")]
    pub selinux_enabled: bool,
    /// Program that serves a tree by FUSE [default: fsd-fuse, beside this program or in ../bin]
    #[arg(long, global = true, env = "FSD_FUSE", value_name = "FILE")]
    pub fuse: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace [default: info]
    #[arg(long, global = true, env = "FSD_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
}

/// The file. An unknown key is an error that names it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    root: Option<PathBuf>,
    run: Option<PathBuf>,
    host: Option<String>,
    group: Option<String>,
    #[serde(rename = "storage-driver")]
    storage_driver: Option<String>,
    #[serde(rename = "storage-opts", default)]
    storage_opts: Vec<String>,
    shim: Option<PathBuf>,
    #[serde(default)]
    runtimes: BTreeMap<String, PathBuf>,
    #[serde(rename = "default-runtime")]
    default_runtime: Option<String>,
    #[serde(rename = "userns-remap")]
    userns_remap: Option<String>,
    #[serde(rename = "selinux-enabled")]
    selinux_enabled: Option<bool>,
    fuse: Option<PathBuf>,
    log: Option<String>,
    #[serde(rename = "log-driver")]
    log_driver: Option<String>,
    #[serde(rename = "log-opts", default)]
    log_opts: BTreeMap<String, String>,
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    registries: FileRegistries,
}

/// How registries are reached.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRegistries {
    /// `host[:port]` of registries that speak plain HTTP; those on this machine do anyway.
    #[serde(default)]
    insecure: Vec<String>,
    /// Base addresses (`https://mirror.example`) that are asked before docker.io.
    #[serde(default)]
    mirrors: Vec<String>,
}

/// Bounds on layers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    /// Entries in one layer.
    entries: Option<u64>,
    /// Uncompressed bytes of one layer.
    bytes: Option<u64>,
    /// Uncompressed bytes per compressed byte, counted from 4 GiB on.
    ratio: Option<u64>,
    /// Bytes of one file, holes included.
    file_bytes: Option<u64>,
    /// Bytes of one layer's index.
    index_bytes: Option<u64>,
    /// How long one layer may take.
    seconds: Option<u64>,
}

/// What is asked for in place of the best driver that works here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// The driver.
    driver: Option<String>,
    /// The way of stacking layers.
    stacking: Option<String>,
    /// From how many layers on they are merged into one.
    merge_above: Option<usize>,
}

impl Storage {
    fn of(driver: Option<String>, options: &[String]) -> Result<Storage> {
        let mut storage = Storage { driver, ..Storage::default() };
        for option in options {
            match option.split_once('=') {
                Some(("stacking", way)) => storage.stacking = Some(way.to_owned()),
                Some(("merge-above", layers)) => match layers.parse() {
                    Ok(layers @ 1..) => storage.merge_above = Some(layers),
                    _ => return Err(Error::invalid(format!("invalid storage option {option:?}: a number of layers is wanted"))),
                },
                _ => {
                    return Err(Error::invalid(format!("unknown storage option {option:?}"))
                        .with_hint("there are stacking=descriptors, stacking=paths, stacking=options, and merge-above=LAYERS"));
                }
            }
        }
        Ok(storage)
    }

    /// In layerfs's words; `fuse` is the program that serves a tree by FUSE, `label` the SELinux label of layers.
    pub fn choice<'a>(&'a self, fuse: &'a Path, label: Option<&'a str>) -> Choice<'a> {
        let (driver, stacking) = (self.driver.as_deref(), self.stacking.as_deref());
        Choice { driver, stacking, merge_above: self.merge_above, fuse: Some(fuse), label }
    }
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store.
    pub root: PathBuf,
    /// Sockets and mounts.
    pub run: PathBuf,
    /// The socket's path.
    pub socket: PathBuf,
    /// Whose members may use the socket. `None`: the default group, if it exists.
    pub group: Option<String>,
    /// What serves layers, as far as it is not to be chosen.
    pub storage: Storage,
    /// What looks after a container.
    pub shim: PathBuf,
    /// OCI runtimes by name, besides those that are known.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// The runtime of containers that name none.
    pub default_runtime: String,
    /// The users of containers, where they are not the host's.
    pub userns_remap: Option<IdMap>,
    /// Whether containers are to have SELinux labels, where the host has SELinux.
    pub selinux_enabled: bool,
    /// What serves a tree by FUSE.
    pub fuse: PathBuf,
    /// Where containers log that name no driver.
    pub log_driver: String,
    /// Its options.
    pub log_opts: BTreeMap<String, String>,
    /// The log level.
    pub log: tracing::level_filters::LevelFilter,
    /// Bounds on layers.
    pub limits: Limits,
    /// How registries are reached.
    pub registries: Settings,
}

impl Config {
    /// Puts the sources together and checks them.
    pub fn load(options: &Options) -> Result<Config> {
        let file = read_file(options.config.as_deref())?;
        let root = absolute(&options.root.clone().or(file.root).unwrap_or_else(|| "/var/lib/fsd".into()), "root")?;
        let run = absolute(&options.run.clone().or(file.run).unwrap_or_else(|| "/run/fsd".into()), "run")?;
        let host = options.host.clone().or(file.host);
        let socket = match host.as_deref() {
            None => run.join("fsd.sock"),
            Some(host) => socket_path(host)?,
        };
        let log = options.log.clone().or(file.log).unwrap_or_else(|| "info".to_owned());
        let config = Config {
            root,
            run,
            socket,
            group: options.group.clone().or(file.group),
            storage: Storage::of(
                options.storage_driver.clone().or(file.storage_driver),
                if options.storage_opts.is_empty() { &file.storage_opts } else { &options.storage_opts },
            )?,
            shim: options.shim.clone().or(file.shim).map_or_else(|| beside_us("fsd-shim"), |path| absolute(&path, "shim"))?,
            fuse: options.fuse.clone().or(file.fuse).map_or_else(fuse_program, |path| absolute(&path, "fuse"))?,
            log: log.parse().map_err(|_| {
                Error::invalid(format!("invalid log level {log:?}")).with_hint("use error, warn, info, debug or trace")
            })?,
            log_driver: options.log_driver.clone().or(file.log_driver).unwrap_or_else(|| "json-file".to_owned()),
            log_opts: log_opts(file.log_opts, &options.log_opts)?,
            runtimes: runtimes(file.runtimes, &options.runtimes)?,
            default_runtime: options
                .default_runtime
                .clone()
                .or(file.default_runtime)
                .unwrap_or_else(|| crate::container::runtimes::BUILTIN.to_owned()),
            userns_remap: crate::userns::remap(
                options.userns_remap.clone().or(file.userns_remap).as_deref().unwrap_or_default(),
            )?,
            selinux_enabled: options.selinux_enabled || file.selinux_enabled.unwrap_or(false),
            limits: limits(&file.limits),
            registries: Settings { insecure: file.registries.insecure, mirrors: file.registries.mirrors },
        };
        crate::container::runtimes::find(&config, "").map_err(|error| error.context("default-runtime"))?;
        crate::container::logs::check(&config.log_driver, &config.log_opts)
            .map_err(|error| error.context("failed to set log opts"))?;
        Ok(config)
    }
}

fn limits(file: &FileLimits) -> Limits {
    let defaults = Limits::default();
    Limits {
        entries: file.entries.unwrap_or(defaults.entries),
        size: file.bytes.unwrap_or(defaults.size),
        ratio: file.ratio.unwrap_or(defaults.ratio).max(1),
        file_size: file.file_bytes.unwrap_or(defaults.file_size),
        index: file.index_bytes.unwrap_or(defaults.index),
        time: file.seconds.map_or(defaults.time, Duration::from_secs),
        ..defaults
    }
}

/// The file's and the flags', which win.
fn log_opts(mut all: BTreeMap<String, String>, flags: &[String]) -> Result<BTreeMap<String, String>> {
    for flag in flags {
        let (key, value) = flag.split_once('=').ok_or_else(|| {
            Error::invalid(format!("invalid log option {flag:?}")).with_hint("write --log-opt KEY=VALUE, as for 'run'")
        })?;
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// The file's and the flags', which win.
fn runtimes(mut all: BTreeMap<String, PathBuf>, flags: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    for flag in flags {
        let (name, path) = flag.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()).ok_or_else(|| {
            Error::invalid(format!("invalid runtime {flag:?}")).with_hint("write --add-runtime NAME=/path/to/program")
        })?;
        all.insert(name.to_owned(), path.into());
    }
    for (name, path) in &mut all {
        if name == crate::container::runtimes::BUILTIN {
            return Err(Error::invalid(format!("the runtime {name} is built in and can't be another program")));
        }
        *path = absolute(path, &format!("runtime {name}"))?;
        if !path.is_file() {
            return Err(Error::not_found(format!("runtime {name}: {} is no program", path.display())));
        }
    }
    Ok(all)
}

fn read_file(named: Option<&Path>) -> Result<File> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        other => other.at("read", path)?,
    };
    toml::from_str(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

fn absolute(path: &Path, what: &str) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|_| Error::invalid(format!("--{what}: {:?} is no usable path", path.display())))
}

/// What is installed with this program.
fn beside_us(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().at("find", "this program")?;
    Ok(own.with_file_name(name))
}

/// It is a program for everybody, so it may be installed in `bin` where the daemon is in `sbin`.
fn fuse_program() -> Result<PathBuf> {
    let beside = beside_us("fsd-fuse")?;
    let other = beside.parent().and_then(Path::parent).map(|prefix| prefix.join("bin/fsd-fuse"));
    Ok(other.filter(|other| !beside.exists() && other.exists()).unwrap_or(beside))
}

/// The path of a `unix://` address.
fn socket_path(host: &str) -> Result<PathBuf> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => Err(Error::invalid(format!("invalid address {host:?}")).with_hint("use unix:///absolute/path; TCP is not offered")),
    }
}
