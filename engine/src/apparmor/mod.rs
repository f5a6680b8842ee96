//! AppArmor: whether this host has it, and which profile a container gets.
//!
//! A container that is not privileged gets [`DEFAULT`], a profile of our own, which `apparmor_parser` loads into the
//! kernel when it is first needed. The name is not Docker's: a dockerd on the same host takes whatever is loaded as
//! `docker-default` for its own, and would confine its containers by our text. Where no dockerd has loaded
//! `docker-default`, who asks for that name gets ours.
//!
//! As with Docker and Podman, a host whose kernel has AppArmor but that lacks `apparmor_parser` confines nothing by
//! default: whoever took it away does not use AppArmor. That is a warning, while a profile that was asked for by name
//! and is not there is an error. Source: apparmor.d(5), apparmor_parser(8), kernel `security/apparmor/apparmorfs.c`.

mod profile;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use fs_base::{Error, IoContext, Result};

/// The profile of a container that asks for none.
pub const DEFAULT: &str = "fsd-default";
/// The word for "none".
pub const UNCONFINED: &str = "unconfined";
/// The name of the profile that dockerd makes.
const DOCKERS: &str = "docker-default";

/// Whether this process has given the kernel its own text. What another version of ours has loaded may differ.
static LOADED: Mutex<bool> = Mutex::new(false);

/// AppArmor on a host.
#[derive(Debug, Clone)]
pub struct AppArmor {
    /// `Y` if the kernel has it and it is on.
    enabled: PathBuf,
    /// What is loaded, a line each: its name, and its mode in brackets.
    profiles: PathBuf,
    /// Where the program that loads profiles may be.
    parsers: Vec<PathBuf>,
}

impl AppArmor {
    /// This host's.
    pub fn of_host() -> AppArmor {
        let folders = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
        AppArmor {
            enabled: "/sys/module/apparmor/parameters/enabled".into(),
            profiles: "/sys/kernel/security/apparmor/profiles".into(),
            parsers: folders.iter().map(|folder| Path::new(folder).join("apparmor_parser")).collect(),
        }
    }

    /// Whether the kernel has it and it is on.
    pub fn is_enabled(&self) -> bool {
        std::fs::read(&self.enabled).is_ok_and(|text| text.starts_with(b"Y"))
    }

    /// Why containers get no profile by default although it is on; `None` if they do get one, or if it is off.
    pub fn missing(&self) -> Option<&'static str> {
        if !self.is_enabled() {
            return None;
        }
        if !self.profiles.exists() {
            return Some("securityfs is not mounted at /sys/kernel/security");
        }
        let can_confine = self.parser().is_some() || self.is_loaded(DEFAULT).unwrap_or(false);
        (!can_confine).then_some("apparmor_parser is not installed")
    }

    /// Whether containers get a profile by default.
    pub fn confines(&self) -> bool {
        self.is_enabled() && self.missing().is_none()
    }

    /// Whether what was asked for can be had.
    pub fn check(&self, wanted: &str) -> Result<()> {
        if wanted == UNCONFINED {
            return Ok(());
        }
        if !self.is_enabled() {
            return Err(Error::unsupported("AppArmor is not enabled on this host"));
        }
        if is_default(wanted) && self.confines() || self.is_loaded(wanted)? {
            return Ok(());
        }
        Err(Error::invalid(format!("AppArmor profile {wanted:?} is not loaded"))
            .with_hint("load it with apparmor_parser, or leave the option out for the default profile"))
    }

    /// The profile of a container, ready to be used: what it asked for, none if it is privileged, else the default.
    /// `None` where there is nothing to set.
    pub fn choose(&self, wanted: Option<&str>, privileged: bool) -> Result<Option<String>> {
        if let Some(wanted) = wanted {
            self.check(wanted)?;
        }
        if !self.is_enabled() {
            return Ok(None);
        }
        let name = wanted.unwrap_or(if privileged { UNCONFINED } else { DEFAULT });
        if name == UNCONFINED || !is_default(name) || name == DOCKERS && self.is_loaded(name)? {
            return Ok(Some(name.to_owned()));
        }
        if !self.confines() {
            return Ok(None);
        }
        self.load_default()?;
        Ok(Some(DEFAULT.to_owned()))
    }

    /// Gives the kernel the default profile, once, and whenever somebody has taken it away since.
    fn load_default(&self) -> Result<()> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if *loaded && self.is_loaded(DEFAULT)? {
            return Ok(());
        }
        let Some(parser) = self.parser() else { return Ok(()) };
        let context = format!("AppArmor profile {DEFAULT:?} could not be loaded");
        run(parser, &profile::text(DEFAULT, own_profile().as_deref())).map_err(|error| error.context(context))?;
        *loaded = true;
        Ok(())
    }

    fn parser(&self) -> Option<&Path> {
        self.parsers.iter().find(|path| path.exists()).map(PathBuf::as_path)
    }

    fn is_loaded(&self, name: &str) -> Result<bool> {
        let text = std::fs::read_to_string(&self.profiles).at("read", &self.profiles)?;
        Ok(text.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name)))
    }
}

/// Names for the profile that the daemon makes.
fn is_default(name: &str) -> bool {
    name == DEFAULT || name == DOCKERS
}

/// The profile of this process, whose signals containers are to get; `None` if it has none.
fn own_profile() -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(path);
    let text = read("/proc/self/attr/apparmor/current").or_else(|_| read("/proc/self/attr/current")).ok()?;
    let text = text.trim_end_matches(['\n', '\0']);
    let name = text.rsplit_once(" (").map_or(text, |(name, _)| name);
    let is_plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "/_-.".contains(letter));
    (!name.is_empty() && name != UNCONFINED && is_plain(name)).then(|| name.to_owned())
}

/// Loads a profile, or puts it in the place of one of its name. It is not cached: a cache is for what comes at boot.
fn run(parser: &Path, text: &str) -> Result<()> {
    let mut command = Command::new(parser);
    command.args(["--replace", "--skip-cache"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().at("run", parser)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it reads no more, it has said why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().at("wait for", parser)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::unavailable(format!("{}: {}", parser.display(), String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests;
