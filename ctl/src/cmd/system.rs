//! `system prune`, `system check`, `container prune`, `events`.

use anyhow::{Result, bail};
use clap::Args;
use fsd_api::{CheckEvent, PrunedMounts};
use hyper::Method;
use jiff::Zoned;
use serde_json::Value;
use std::fmt::Write as _;

use super::images::{PruneFlags, confirm, prune_images};
use super::volume::prune_volumes;
use crate::auth::Logins;
use crate::client::query::Filters;
use crate::client::stream::Lines;
use crate::client::{Client, Query, whole};
use crate::failure::Exit;
use crate::format::json::{list, number, text};
use crate::format::template::Format;
use crate::format::{time, units};
use crate::out;

/// A heading and what was removed under it; nothing if nothing was.
pub fn deleted(heading: &str, ids: &[Value]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    let lines: Vec<&str> = ids.iter().filter_map(Value::as_str).collect();
    format!("{heading}:\n{}\n\n", lines.join("\n"))
}

async fn prune_containers(client: &Client, given: &[String]) -> Result<(String, i64)> {
    let answer = client.post(&Query::new("/containers/prune").filters(&Filters::parse(given)?).build(), None).await?;
    Ok((deleted("Deleted Containers", list(&answer, "ContainersDeleted")), number(&answer, "SpaceReclaimed")))
}

/// Remove all stopped containers
#[derive(Debug, Args)]
pub struct PruneContainers {
    #[command(flatten)]
    common: PruneFlags,
}

impl PruneContainers {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        if !self.common.agreed("WARNING! This will remove all stopped containers.")? {
            return Err(Exit::with(1, "container prune has been cancelled"));
        }
        let (report, bytes) = prune_containers(client, &self.common.filter).await?;
        out::bytes(report.as_bytes());
        out::line(format!("Total reclaimed space: {}", units::size(bytes as f64)));
        Ok(())
    }
}

/// Remove unused data
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all unused images not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    common: PruneFlags,
}

impl Prune {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.volumes && self.common.filter.iter().any(|filter| filter.starts_with("until=")) {
            bail!("ERROR: The \"until\" filter is not supported with \"--volumes\"");
        }
        if !self.common.agreed(&self.warning())? {
            return Err(Exit::with(1, "system prune has been cancelled"));
        }
        let filters = &self.common.filter;
        let mut total = 0;
        match prune_containers(client, filters).await {
            Ok((report, bytes)) => {
                out::bytes(report.as_bytes());
                total += bytes;
            }
            Err(error) if lacks(&error) => {}
            Err(error) => return Err(error),
        }
        let path = Query::new("/networks/prune").filters(&Filters::parse(filters)?).build();
        match client.post(&path, None).await {
            Ok(answer) => out::bytes(deleted("Deleted Networks", list(&answer, "NetworksDeleted")).as_bytes()),
            Err(error) if lacks(&error) => {}
            Err(error) => return Err(error),
        }
        if self.volumes {
            let (report, bytes) = prune_volumes(client, false, filters).await?;
            out::bytes(report.as_bytes());
            total += bytes;
        }
        let (report, bytes) = prune_images(client, self.all, filters).await?;
        out::bytes(report.as_bytes());
        total += bytes;
        if filters.is_empty() {
            match client.post("/fsd/v1/mounts/prune", None).await {
                Ok(answer) => {
                    let gone: PrunedMounts = serde_json::from_value(answer)?;
                    let ids: Vec<Value> = gone.mounts_deleted.into_iter().map(Value::from).collect();
                    out::bytes(deleted("Deleted Mounts", &ids).as_bytes());
                    total += i64::try_from(gone.space_reclaimed).unwrap_or(i64::MAX);
                }
                Err(error) if lacks(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let path = Query::new("/build/prune").flag("all", self.all).filters(&Filters::parse(filters)?).build();
        match client.post(&path, None).await {
            Ok(answer) => {
                out::bytes(deleted("Deleted build cache objects", list(&answer, "CachesDeleted")).as_bytes());
                total += number(&answer, "SpaceReclaimed");
            }
            Err(error) if lacks(&error) => {}
            Err(error) => return Err(error),
        }
        out::line(format!("Total reclaimed space: {}", units::size(total as f64)));
        Ok(())
    }

    fn warning(&self) -> String {
        let mut lines = vec!["  - all stopped containers", "  - all networks not used by at least one container"];
        if self.volumes {
            lines.push("  - all anonymous volumes not used by at least one container");
        }
        if self.all {
            lines.extend(["  - all images without at least one container associated to them", "  - all build cache"]);
        } else {
            lines.extend(["  - all dangling images", "  - unused build cache"]);
        }
        let mut text = format!("WARNING! This will remove:\n{}\n", lines.join("\n"));
        if !self.common.filter.is_empty() {
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            for filter in &self.common.filter {
                let _ = writeln!(text, "  - {filter}");
            }
        }
        text
    }
}

/// A daemon without containers, networks or a builder has nothing of them to prune.
fn lacks(error: &anyhow::Error) -> bool {
    matches!(crate::failure::status_of(error), Some(404 | 405 | 501))
}

/// Verify the store: every image, layer, container and volume is what its record says
#[derive(Debug, Args)]
pub struct Check {
    /// Also read every byte and compare it with its digest
    #[arg(long, alias = "deep")]
    data: bool,
    /// Put right what can be put right without taking anything from an image or container
    #[arg(long)]
    repair: bool,
    /// With --repair: also remove what nothing can put right, and what stands on it, without asking
    #[arg(short, long, requires = "repair")]
    force: bool,
    /// 'json' for one object a line
    #[arg(long, value_name = "string", value_parser = ["json"])]
    format: Option<String>,
}

impl Check {
    /// Does it; the exit code is 1 if something is wrong and stays so.
    pub async fn run(self, client: &Client) -> Result<()> {
        let mut summary = self.check(client, self.force).await?;
        if summary.only_by_force > 0 && self.may_ask() && confirm("WARNING! This will do what is named above after --force.")? {
            summary = self.check(client, true).await?;
        }
        if summary.is_clean() { Ok(()) } else { Err(Exit::silent(1)) }
    }

    /// Whether there is somebody to ask.
    fn may_ask(&self) -> bool {
        use std::io::IsTerminal;
        self.format.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    async fn check(&self, client: &Client, force: bool) -> Result<fsd_api::CheckSummary> {
        let path = Query::new("/fsd/v1/check")
            .with("data", self.data.to_string())
            .with("repair", self.repair.to_string())
            .with("force", force.to_string())
            .build();
        // What is bad may have to be fetched again from any of them.
        let logins = if self.repair { Logins::of_user().all() } else { None };
        let mut lines = Lines::new(client.post_as(&path, "x-registry-config", logins).await?.into_body());
        let bar = crate::progress::upload(None, "Checking");
        while let Some(value) = lines.next().await? {
            if self.format.is_some() {
                out::line(value.to_string());
            }
            if let Some(message) = value["error"].as_str() {
                bail!("the check did not finish: {message}");
            }
            match serde_json::from_value(value)? {
                CheckEvent::Progress(progress) => {
                    bar.set_length(progress.total);
                    bar.set_message(format!("Checking {}", progress.object));
                    bar.set_position(progress.done);
                }
                CheckEvent::Finding(finding) if self.format.is_none() => bar.suspend(|| out::line(finding.to_string())),
                CheckEvent::Finding(_) => {}
                CheckEvent::Summary(summary) => {
                    bar.finish_and_clear();
                    if self.format.is_none() {
                        self.conclude(&summary);
                    }
                    return Ok(summary);
                }
            }
        }
        bail!("the check broke off before its end: the daemon hung up")
    }

    fn conclude(&self, summary: &fsd_api::CheckSummary) {
        let read = if self.data { format!(" ({} read)", units::size(summary.bytes as f64)) } else { String::new() };
        out::line(format!("{summary}{read}"));
        let left = summary.findings - summary.repaired - summary.only_by_force;
        if left > 0 && !self.repair {
            out::line("Run `ctl system check --repair` to put right what can be put right.");
        }
    }
}

/// Get real time events from the server
#[derive(Debug, Args)]
pub struct Events {
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

impl Events {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let now = Zoned::now();
        let when = |text: &Option<String>| text.as_deref().map(|text| time::moment(text, &now)).transpose();
        let path = Query::new("/events")
            .filters(&Filters::parse(&self.filter)?)
            .maybe("since", when(&self.since)?)
            .maybe("until", when(&self.until)?)
            .build();
        let template = match self.format.as_deref().filter(|format| !format.is_empty()) {
            None => None,
            Some("json") => Some(Format::parse("{{json .}}", false)?),
            Some(text) => Some(Format::parse(text, false)?),
        };
        let mut lines = Lines::new(client.send(Method::GET, &path, None, whole("")).await?.into_body());
        while let Some(event) = lines.next().await? {
            match &template {
                Some(template) => out::line(template.render(&event)?),
                None => out::line(event_line(&event)),
            }
        }
        Ok(())
    }
}

/// `2026-…Z container start ID (image=x, name=y)`.
fn event_line(event: &Value) -> String {
    let nanos = match number(event, "timeNano") {
        0 => number(event, "time").saturating_mul(1_000_000_000),
        nanos => nanos,
    };
    let mut line = format!(
        "{} {} {} {}",
        time::rfc3339_nanos(nanos),
        text(event, "Type"),
        text(event, "Action"),
        text(&event["Actor"], "ID")
    );
    let mut attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .map(|all| all.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect())
        .unwrap_or_default();
    attributes.sort();
    if !attributes.is_empty() {
        let _ = write!(line, " ({})", attributes.join(", "));
    }
    line
}
