//! `start`, `attach`, `exec`, `logs`: verbs that show what a container says.

use anyhow::{Result, bail};
use clap::Args;
use hyper::Method;
use jiff::Zoned;
use serde_json::{Value, json};

use super::create::exit_code;
use super::flags::{Attach as Streams, go_bool};
use super::run::{Started, proxy_signals, wiring};
use crate::client::query::escape;
use crate::client::stream::{Output, next_data, stdin_is_terminal};
use crate::client::{Client, Query, whole};
use crate::failure::Exit;
use crate::format::json::{number, text};
use crate::format::time::moment;
use crate::opts::env::environment;
use crate::out;
use crate::term::session::{self, Ended};
use crate::term::signals;

/// Start one or more stopped containers
#[derive(Debug, Args)]
pub struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short = 'a', long)]
    attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Attach container's STDIN
    #[arg(short = 'i', long)]
    interactive: bool,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Start {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.attach || self.interactive {
            return self.attached(client).await;
        }
        let mut failed = Vec::new();
        for name in &self.containers {
            match client.post(&format!("/containers/{}/start", escape(name)), None).await {
                Ok(_) => out::line(name),
                Err(error) => {
                    out::error_line(format!("{error:#}"));
                    if let Some(hint) =
                        error.downcast_ref::<crate::failure::Refused>().and_then(|refused| refused.hint.as_deref())
                    {
                        out::error_line(format!("hint: {hint}"));
                    }
                    failed.push(name.as_str());
                }
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Exit::with(1, format!("Error: failed to start containers: {}", failed.join(", "))))
        }
    }

    async fn attached(self, client: &Client) -> Result<()> {
        let [name] = self.containers.as_slice() else { bail!("you cannot start and attach multiple containers at once") };
        let container = client.get(&format!("/containers/{}/json", escape(name))).await?;
        let config = &container["Config"];
        let (tty, open_stdin) = (config["Tty"] == true, config["OpenStdin"] == true);
        let streams = Streams { stdin: self.interactive && open_stdin, stdout: true, stderr: true };
        let wiring = wiring(streams, tty, self.detach_keys.as_deref())?;
        let until = if container["HostConfig"]["AutoRemove"] == true { "removed" } else { "next-exit" };
        let started = Started { client, id: text(&container, "Id"), wiring: &wiring, sig_proxy: !tty, attach: true, until };
        match started.go("start").await? {
            Some(0) | None => Ok(()),
            Some(code) => Err(Exit::silent(code)),
        }
    }
}

/// Attach local standard input, output, and error streams to a running container
#[derive(Debug, Args)]
pub struct Attach {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, value_name = "bool", default_value = "true", hide_default_value = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    sig_proxy: bool,
    /// The container
    container: String,
}

impl Attach {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let container = client.get(&format!("/containers/{}/json", escape(&self.container))).await?;
        let state = &container["State"];
        match () {
            () if state["Running"] != true => bail!("You cannot attach to a stopped container, start it first"),
            () if state["Paused"] == true => bail!("You cannot attach to a paused container, unpause it first"),
            () if state["Restarting"] == true => bail!("You cannot attach to a restarting container, wait until it is running"),
            () => {}
        }
        let config = &container["Config"];
        let tty = config["Tty"] == true;
        let stdin = !self.no_stdin && config["OpenStdin"] == true;
        if stdin && tty && !stdin_is_terminal() {
            bail!("the input device is not a TTY");
        }
        let wiring = wiring(Streams { stdin, stdout: true, stderr: true }, tty, self.detach_keys.as_deref())?;
        let target = format!("/containers/{}", text(&container, "Id"));
        let wait = client.send(Method::POST, &format!("{target}/wait"), None, whole("")).await?;
        let path = Query::new(format!("{target}/attach"))
            .flag("stderr", true)
            .flag("stdin", stdin)
            .flag("stdout", true)
            .with("stream", "1");
        let hijacked = client.hijack(&path.build(), None).await?;
        if self.sig_proxy && !tty {
            proxy_signals(client, text(&container, "Id"))?;
        } else {
            signals::end_on_termination()?;
        }
        if tty && out::is_terminal() {
            // A size that differs makes full-screen programs draw again.
            let _ = session::send_size(client, &target, 1).await;
            session::follow_size(client, &target)?;
        }
        if session::run(hijacked, &wiring).await? == Ended::Detached {
            bail!("read escape sequence");
        }
        let bytes = http_body_util::BodyExt::collect(wait.into_body()).await?.to_bytes();
        match exit_code(&serde_json::from_slice(&bytes)?)? {
            0 => Ok(()),
            code => Err(Exit::silent(code)),
        }
    }
}

/// Execute a command in a running container
#[derive(Debug, Args)]
#[command(override_usage = "ctl exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Exec {
    /// Detached mode: run command in the background
    #[arg(short = 'd', long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<std::path::PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short = 't', long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short = 'u', long, value_name = "string")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short = 'w', long, value_name = "string")]
    workdir: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// What to run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND [ARG...]")]
    command: Vec<String>,
}

impl Exec {
    /// Does it; the exit code is the command's.
    pub async fn run(self, client: &Client) -> Result<()> {
        let attach = !self.detach;
        let stdin = self.interactive && attach;
        if stdin && self.tty && !stdin_is_terminal() {
            bail!("the input device is not a TTY");
        }
        let mut body = json!({
            "User": self.user.as_deref().unwrap_or_default(), "Privileged": self.privileged, "Tty": self.tty,
            "AttachStdin": stdin, "AttachStdout": attach, "AttachStderr": attach, "Detach": self.detach,
            "DetachKeys": self.detach_keys.as_deref().unwrap_or_default(),
            "Env": environment(&self.env_file, &self.env, &|key| std::env::var(key).ok())?,
            "WorkingDir": self.workdir.as_deref().unwrap_or_default(), "Cmd": self.command,
        });
        let size = crate::term::raw::size().filter(|_| self.tty);
        if let Some((rows, columns)) = size {
            body["ConsoleSize"] = json!([rows, columns]);
        }
        let created = client.post(&format!("/containers/{}/exec", escape(&self.container)), Some(&body)).await?;
        let target = format!("/exec/{}", text(&created, "Id"));
        let mut start = json!({"Detach": self.detach, "Tty": self.tty});
        if let Some((rows, columns)) = size {
            start["ConsoleSize"] = json!([rows, columns]);
        }
        if self.detach {
            return client.post(&format!("{target}/start"), Some(&start)).await.map(drop);
        }
        let wiring = wiring(Streams { stdin, stdout: true, stderr: true }, self.tty, self.detach_keys.as_deref())?;
        let hijacked = client.hijack(&format!("{target}/start"), Some(&start)).await?;
        signals::end_on_termination()?;
        if self.tty && out::is_terminal() {
            session::follow_size(client, &target)?;
        }
        if session::run(hijacked, &wiring).await? == Ended::Detached {
            bail!("read escape sequence");
        }
        match number(&client.get(&format!("{target}/json")).await?, "ExitCode") {
            0 => Ok(()),
            code => Err(Exit::silent(code as i32)),
        }
    }
}

/// Fetch the logs of a container
#[derive(Debug, Args)]
pub struct Logs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short = 'f', long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(
        short = 'n',
        long,
        value_name = "string",
        default_value = "all",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    tail: String,
    /// Show timestamps
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    until: Option<String>,
    /// The container
    container: String,
}

impl Logs {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let now = Zoned::now();
        let when = |name: &str, text: &Option<String>| match text.as_deref() {
            None => Ok(None),
            Some(text) => moment(text, &now).map(Some).map_err(|error| error.context(format!("invalid value for {name:?}"))),
        };
        let container = client.get(&format!("/containers/{}/json", escape(&self.container))).await?;
        let path = Query::new(format!("/containers/{}/logs", text(&container, "Id")))
            .flag("details", self.details)
            .flag("follow", self.follow)
            .maybe("since", when("since", &self.since)?)
            .flag("stderr", true)
            .flag("stdout", true)
            .with("tail", &self.tail)
            .flag("timestamps", self.timestamps)
            .maybe("until", when("until", &self.until)?)
            .build();
        let mut body = client.send(Method::GET, &path, None, whole("")).await?.into_body();
        let mut output = Output::new(container["Config"]["Tty"] == true, true, true);
        while let Some(data) = next_data(&mut body).await? {
            output.feed(&data).await?;
        }
        Ok(())
    }
}

/// Inspect changes to files or directories on a container's filesystem, or between any two trees
///
/// One name is a container's: what changed in it since its image. With two, `image:NAME` and `container:NAME`, or bare
/// names that are looked up (containers first), what it takes to get from the first to the second.
#[derive(Debug, Args)]
pub struct Diff {
    /// Show sizes, and whether content or only metadata differs
    #[arg(short = 's', long)]
    size: bool,
    /// 'json' for one object a line
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// A container, or a tree to start from
    from: String,
    /// The tree to compare it with
    to: Option<String>,
}

impl Diff {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some(to) = &self.to else { return self.container(client).await };
        let (from, to) = (side(client, &self.from).await?, side(client, to).await?);
        let path = Query::new("/fsd/v1/diff").with("from", &from).with("to", &to).build();
        let entries: Vec<fsd_api::DiffEntry> = serde_json::from_slice(&client.get_bytes(&path).await?)?;
        for entry in entries {
            show_difference(&entry, self.format.as_deref(), self.size)?;
        }
        Ok(())
    }

    async fn container(&self, client: &Client) -> Result<()> {
        let name = self.from.strip_prefix("container:").unwrap_or(&self.from);
        if name.trim().is_empty() {
            bail!("Container name cannot be empty");
        }
        let changes = client.get(&format!("/containers/{}/changes", escape(name))).await?;
        for change in changes.as_array().into_iter().flatten() {
            if self.format.as_deref() == Some("json") {
                out::line(change.to_string());
                continue;
            }
            let letter = ["C", "A", "D"].get(number(change, "Kind") as usize).copied().unwrap_or("?");
            out::line(format!("{letter} {}", text(change, "Path")));
        }
        Ok(())
    }
}

/// One line of a diff.
pub(super) fn show_difference(entry: &fsd_api::DiffEntry, format: Option<&str>, with_size: bool) -> Result<()> {
    if format == Some("json") {
        out::line(serde_json::to_string(entry)?);
        return Ok(());
    }
    let letter = match entry.kind {
        fsd_api::ChangeKind::Modified => 'C',
        fsd_api::ChangeKind::Added => 'A',
        fsd_api::ChangeKind::Deleted => 'D',
    };
    if with_size {
        let what = if entry.content { "content" } else { "metadata" };
        let sign = if entry.size < 0 { "-" } else { "+" };
        let size = crate::format::units::size3(entry.size.unsigned_abs() as f64);
        out::line(format!("{letter} {:>9} {what:8} {}", format!("{sign}{size}"), entry.path));
    } else {
        out::line(format!("{letter} {}", entry.path));
    }
    Ok(())
}

/// Says what a bare name is.
async fn side(client: &Client, name: &str) -> Result<String> {
    if name.starts_with("image:") || name.starts_with("container:") {
        return Ok(name.to_owned());
    }
    let container: Result<Value> = client.get(&format!("/containers/{}/json", escape(name))).await;
    match container {
        Ok(_) => Ok(format!("container:{name}")),
        Err(error) if crate::failure::status_of(&error) == Some(404) => Ok(format!("image:{name}")),
        Err(error) => Err(error),
    }
}
