//! Verbs that do one thing to each of several containers.

use anyhow::{Result, bail};
use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::create::exit_code;
use crate::client::query::escape;
use crate::client::{Client, Query};
use crate::failure::Several;
use crate::out;

/// Of how many containers something is asked at once, as the docker CLI does: a stop may wait for seconds.
const AT_ONCE: usize = 50;

/// Asks something of each, of several at once, and prints in their order the names of those that say that they took it.
async fn each<'a, F: Future<Output = Result<bool>>>(names: &'a [String], ask: impl Fn(&'a str) -> F) -> Result<()> {
    let mut several = Several::default();
    let ask = &ask;
    let mut answers = stream::iter(names).map(|name| async move { (name, ask(name).await) }).buffered(AT_ONCE);
    while let Some((name, answer)) = answers.next().await {
        if several.note(answer) == Some(true) {
            out::line(name);
        }
    }
    several.finish()
}

/// Posts to each.
async fn post_each(client: &Client, names: &[String], path: impl Fn(&str) -> String) -> Result<()> {
    let ask = |name: &str| {
        let path = path(&escape(name));
        async move { client.post(&path, None).await.map(|_| true) }
    };
    each(names, ask).await
}

/// Stop one or more running containers
#[derive(Debug, Args)]
pub struct Stop {
    /// Signal to send to the container
    #[arg(short = 's', long, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short = 't', long, visible_alias = "time", value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stop {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        self.send(client, "stop").await
    }

    /// Starts them again, too.
    pub async fn restart(self, client: &Client) -> Result<()> {
        self.send(client, "restart").await
    }

    async fn send(self, client: &Client, verb: &str) -> Result<()> {
        let timeout = self.timeout.map(|seconds| seconds.to_string());
        post_each(client, &self.containers, |name| {
            Query::new(format!("/containers/{name}/{verb}"))
                .maybe("signal", self.signal.as_deref())
                .maybe("t", timeout.as_deref())
                .build()
        })
        .await
    }
}

/// Kill one or more running containers
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal to send to the container
    #[arg(short = 's', long, value_name = "string")]
    signal: Option<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Kill {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        post_each(client, &self.containers, |name| {
            Query::new(format!("/containers/{name}/kill")).with("signal", self.signal.as_deref().unwrap_or("KILL")).build()
        })
        .await
    }
}

/// Containers, and nothing else to say.
#[derive(Debug, Args)]
pub struct Containers {
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Containers {
    /// `pause` or `unpause`.
    pub async fn post(self, client: &Client, verb: &str) -> Result<()> {
        post_each(client, &self.containers, |name| format!("/containers/{name}/{verb}")).await
    }

    /// Blocks until each has stopped and prints its exit code.
    pub async fn wait(self, client: &Client) -> Result<()> {
        let mut several = Several::default();
        for name in &self.containers {
            let answer: Result<Value> = client.post(&format!("/containers/{}/wait", escape(name)), None).await;
            if let Some(answer) = several.note(answer) {
                out::line(exit_code(&answer)?.to_string());
            }
        }
        several.finish()
    }
}

/// Rename a container
#[derive(Debug, Args)]
pub struct Rename {
    /// The container
    container: String,
    /// Its new name
    new_name: String,
}

impl Rename {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.container.trim().is_empty() || self.new_name.trim().is_empty() {
            bail!("Error: Neither old nor new names may be empty");
        }
        let path = Query::new(format!("/containers/{}/rename", escape(&self.container))).with("name", &self.new_name);
        client.post(&path.build(), None).await.map(drop).map_err(|error| {
            crate::failure::Exit::with(1, format!("{error:#}\nError: failed to rename container named {}", self.container))
        })
    }
}

/// Remove one or more containers
#[derive(Debug, Args)]
pub struct Rm {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove the specified link
    #[arg(short = 'l', long)]
    link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short = 'v', long)]
    volumes: bool,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Rm {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        each(&self.containers, |name| self.remove(client, name)).await
    }

    async fn remove(&self, client: &Client, name: &str) -> Result<bool> {
        let bare = name.trim_matches('/');
        if bare.is_empty() {
            bail!("Container name cannot be empty");
        }
        let path = Query::new(format!("/containers/{}", escape(bare)))
            .flag("force", self.force)
            .flag("link", self.link)
            .flag("v", self.volumes)
            .build();
        match client.delete(&path).await {
            Err(error) if self.force && crate::failure::status_of(&error) == Some(404) => {
                out::error_line(error.to_string());
                Ok(false)
            }
            other => other.map(|_| true),
        }
    }
}

/// Display the running processes of a container
#[derive(Debug, Args)]
pub struct Top {
    /// The container
    container: String,
    /// Options for ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ps OPTIONS")]
    options: Vec<String>,
}

impl Top {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let options = (!self.options.is_empty()).then(|| self.options.join(" "));
        let path = Query::new(format!("/containers/{}/top", escape(&self.container))).maybe("ps_args", options);
        let answer = client.get(&path.build()).await?;
        let join = |row: &Value| row.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\t");
        let mut text = join(&answer["Titles"]) + "\n";
        for process in answer["Processes"].as_array().into_iter().flatten() {
            text.push_str(&join(process));
            text.push('\n');
        }
        out::bytes(crate::format::tabs::align_with(&text, 20, 3).as_bytes());
        Ok(())
    }
}

/// List port mappings or a specific mapping for the container
#[derive(Debug, Args)]
pub struct Port {
    /// The container
    container: String,
    /// Only this port
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

impl Port {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let container = client.get(&format!("/containers/{}/json", escape(&self.container))).await?;
        let ports = container["NetworkSettings"]["Ports"].as_object().cloned().unwrap_or_default();
        let wanted = self.port.as_ref().map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") });
        let mut lines = Vec::new();
        for (port, bindings) in ports.iter().filter(|(port, _)| wanted.as_ref().is_none_or(|wanted| wanted == *port)) {
            for binding in bindings.as_array().into_iter().flatten() {
                let (ip, host) =
                    (binding["HostIp"].as_str().unwrap_or_default(), binding["HostPort"].as_str().unwrap_or_default());
                let place = if ip.contains(':') { format!("[{ip}]:{host}") } else { format!("{ip}:{host}") };
                lines.push(if wanted.is_some() { place } else { format!("{port} -> {place}") });
            }
        }
        if let (Some(_), true, Some(port)) = (&wanted, lines.is_empty(), &self.port) {
            bail!("Error: No public port '{port}' published for {}", self.container);
        }
        lines.sort();
        lines.iter().for_each(out::line);
        Ok(())
    }
}
