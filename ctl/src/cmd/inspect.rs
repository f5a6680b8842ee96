//! `inspect`, of anything.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use serde_json::Value;

use crate::client::query::{escape, escape_name};
use crate::client::{Client, Query};
use crate::failure::{Exit, status_of};
use crate::format::json::indent;
use crate::format::template::Format;
use crate::out;

/// Return low-level information on objects
#[derive(Debug, Args)]
pub struct Inspect {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short = 's', long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string", value_parser = ["container", "image", "volume", "network"])]
    kind: Option<String>,
    /// The objects
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// `inspect` of one kind of thing.
#[derive(Debug, Args)]
pub struct InspectOne {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes (of containers)
    #[arg(short = 's', long)]
    size: bool,
    /// The objects
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

impl InspectOne {
    /// Does it.
    pub async fn run(self, client: &Client, kind: &'static str) -> Result<()> {
        inspect(client, &self.names, self.format.as_deref(), self.size, &[kind]).await
    }
}

impl Inspect {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let kinds: &[&str] = match self.kind.as_deref() {
            Some("container") => &["container"],
            Some("image") => &["image"],
            Some("volume") => &["volume"],
            Some(_) => &["network"],
            None => &["container", "image", "network", "volume"],
        };
        inspect(client, &self.names, self.format.as_deref(), self.size, kinds).await
    }
}

async fn inspect(client: &Client, names: &[String], format: Option<&str>, size: bool, kinds: &[&str]) -> Result<()> {
    let format = format.filter(|format| !format.is_empty());
    let template = match format {
        None | Some("json") => None,
        Some(text) => Some(Format::parse(text, false)?),
    };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match look_up(client, name, size, kinds).await.and_then(|raw| show(&raw, template.as_ref())) {
            Ok(text) => found.push(text),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    match (&template, format) {
        (Some(_), _) => found.iter().for_each(out::line),
        (None, Some(_)) => out::line(format!("[{}]", found.join(","))),
        (None, None) => out::line(indent(&format!("[{}]", found.join(",")))),
    }
    if errors.is_empty() { Ok(()) } else { Err(Exit::with(1, errors.join("\n"))) }
}

fn show(raw: &Bytes, template: Option<&Format>) -> Result<String> {
    match template {
        None => Ok(String::from_utf8_lossy(raw).trim().to_owned()),
        Some(template) => template.render(&serde_json::from_slice::<Value>(raw)?),
    }
}

/// The first thing of that name, of the kinds in their order.
async fn look_up(client: &Client, name: &str, size: bool, kinds: &[&str]) -> Result<Bytes> {
    for kind in kinds {
        let path = match *kind {
            "container" => Query::new(format!("/containers/{}/json", escape(name))).flag("size", size),
            "image" => Query::new(format!("/images/{}/json", escape_name(name))),
            "volume" => Query::new(format!("/volumes/{}", escape(name))),
            _ => Query::new(format!("/networks/{}", escape(name))),
        };
        match client.get_bytes(&path.build()).await {
            Ok(raw) => return Ok(raw),
            // A daemon may know nothing of a kind, or find the name impossible for it: look on.
            Err(error) if kinds.len() > 1 && matches!(status_of(&error), Some(400 | 404 | 501)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(anyhow::anyhow!("Error: No such object: {name}"))
}
