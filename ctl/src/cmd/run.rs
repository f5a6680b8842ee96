//! `run`: create, attach, wait, start, in this order, so that nothing the container says or does is missed.

use anyhow::Result;
use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;

use super::create::{create, exit_code, explain, start_code};
use super::flags::{Attach, CreateFlags, go_bool};
use crate::client::{Client, Query, hijack::Hijacked, whole};
use crate::failure::Exit;
use crate::out;
use crate::term::session::{self, Ended, Wiring};
use crate::term::{keys, signals};

/// Create and run a new container from an image
#[derive(Debug, Args)]
#[command(override_usage = "ctl run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub struct Run {
    #[command(flatten)]
    flags: CreateFlags,
    /// Run container in background and print container ID
    #[arg(short = 'd', long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, value_name = "bool", default_value = "true", hide_default_value = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    sig_proxy: bool,
    /// The image, and what to run in it
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG...]")]
    words: Vec<String>,
}

impl Run {
    /// Does it; the exit code is the container's.
    pub async fn run(self, client: &Client) -> Result<()> {
        let prepared = self.prepare();
        let (attach, wiring) = prepared.map_err(|error| if error.is::<Exit>() { error } else { explain("run", 125, &error) })?;
        let id = create(client, &self.flags, &self.words, attach).await.map_err(|error| explain("run", 125, &error))?;
        if self.detach {
            out::line(&id);
        }
        let until = if self.flags.rm { "removed" } else { "next-exit" };
        let started = Started { client, id: &id, wiring: &wiring, sig_proxy: self.sig_proxy, attach: attach.any(), until };
        match started.go("run").await? {
            Some(0) | None => Ok(()),
            Some(code) => Err(Exit::silent(code)),
        }
    }

    fn prepare(&self) -> Result<(Attach, Wiring)> {
        let attach = if self.detach { Attach::default() } else { self.flags.streams()? };
        if attach.stdin && self.flags.tty && !crate::client::stream::stdin_is_terminal() {
            return Err(Exit::with(1, "the input device is not a TTY"));
        }
        Ok((attach, wiring(attach, self.flags.tty, self.detach_keys.as_deref())?))
    }
}

/// The wiring for these streams.
pub fn wiring(attach: Attach, tty: bool, detach_keys: Option<&str>) -> Result<Wiring> {
    let detach_keys = keys::parse(detach_keys.unwrap_or(keys::DEFAULT))?;
    Ok(Wiring { tty, stdin: attach.stdin, stdout: attach.stdout, stderr: attach.stderr, detach_keys })
}

/// A container that is there and is to be started and followed.
pub struct Started<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// The container.
    pub id: &'a str,
    /// What to carry.
    pub wiring: &'a Wiring,
    /// Pass signals on.
    pub sig_proxy: bool,
    /// Attach at all.
    pub attach: bool,
    /// The condition to wait for.
    pub until: &'static str,
}

impl Started<'_> {
    /// Starts it; gives its exit code once it has ended, or `None` if the person left before.
    pub async fn go(&self, verb: &str) -> Result<Option<i32>> {
        if !self.attach {
            self.start(verb).await?;
            return Ok(None);
        }
        let hijacked = self.attach().await?;
        let wait = Query::new(format!("/containers/{}/wait", self.id)).with("condition", self.until).build();
        let wait = self.client.send(Method::POST, &wait, None, whole("")).await?.into_body();
        if self.sig_proxy {
            proxy_signals(self.client, self.id)?;
        } else {
            signals::end_on_termination()?;
        }
        self.start(verb).await?;
        if self.wiring.tty && out::is_terminal() {
            session::follow_size(self.client, &format!("/containers/{}", self.id))?;
        }
        if session::run(hijacked, self.wiring).await? == Ended::Detached {
            return Ok(None);
        }
        read_wait(wait).await.map(Some)
    }

    async fn attach(&self) -> Result<Hijacked> {
        let path = Query::new(format!("/containers/{}/attach", self.id))
            .flag("stderr", self.wiring.stderr)
            .flag("stdin", self.wiring.stdin)
            .flag("stdout", self.wiring.stdout)
            .with("stream", "1")
            .build();
        self.client.hijack(&path, None).await
    }

    async fn start(&self, verb: &str) -> Result<()> {
        let result = self.client.post(&format!("/containers/{}/start", self.id), None).await;
        result.map(drop).map_err(
            |error| {
                if verb == "run" { explain(verb, start_code(&error.to_string()), &error) } else { error }
            },
        )
    }
}

async fn read_wait(body: Incoming) -> Result<i32> {
    let bytes = body.collect().await?.to_bytes();
    exit_code(&serde_json::from_slice::<Value>(&bytes)?)
}

/// Sends on to the container what signals come in.
pub fn proxy_signals(client: &Client, id: &str) -> Result<()> {
    let mut incoming = signals::proxied()?;
    let (client, id) = (client.clone(), id.to_owned());
    tokio::spawn(async move {
        while let Some(name) = incoming.recv().await {
            let path = Query::new(format!("/containers/{id}/kill")).with("signal", name).build();
            let _ = client.post(&path, None).await;
        }
    });
    Ok(())
}
