//! `volume`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use fsd_api::ObjectKind;
use serde_json::{Value, json};

use super::images::PruneFlags;
use super::inspect::InspectOne;
use super::mounts::{MountVolume, Umount};
use crate::client::query::{Filters, escape};
use crate::client::{Client, Query};
use crate::failure::Several;
use crate::format::json::{labels, list, number, text};
use crate::format::list::{Columns, Style, print, row};
use crate::format::units;
use crate::opts::env::pairs;
use crate::out;

/// Manage volumes
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Create a volume
    Create(Create),
    /// Display detailed information on one or more volumes
    Inspect(InspectOne),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    Mount(MountVolume),
    /// Remove unused local volumes
    Prune(Prune),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(Rm),
    #[command(visible_alias = "unmount")]
    Umount(Umount),
}

impl Volume {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Volume::Create(args) => args.run(client).await,
            Volume::Inspect(args) => args.run(client, "volume").await,
            Volume::Ls(args) => args.run(client).await,
            Volume::Mount(args) => args.run(client).await,
            Volume::Prune(args) => args.run(client).await,
            Volume::Rm(args) => args.run(client).await,
            Volume::Umount(args) => args.run(client, Some(ObjectKind::Volume)).await,
        }
    }
}

/// `volume create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Specify volume driver name
    #[arg(short = 'd', long, value_name = "string", default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short = 'o', long, value_name = "map")]
    opt: Vec<String>,
    /// Its name; without one the daemon makes one up
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

impl Create {
    async fn run(self, client: &Client) -> Result<()> {
        let body = json!({
            "Driver": self.driver, "DriverOpts": pairs(&self.opt), "Labels": pairs(&self.label),
            "Name": self.name.unwrap_or_default(),
        });
        let volume = client.post("/volumes/create", Some(&body)).await?;
        out::line(text(&volume, "Name"));
        Ok(())
    }
}

/// The columns of a list of volumes.
pub const COLUMNS: Columns = Columns {
    titles: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "Name",
};

/// `volume ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only display volume names
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Ls {
    async fn run(self, client: &Client) -> Result<()> {
        let answer = client.get(&Query::new("/volumes").filters(&Filters::parse(&self.filter)?).build()).await?;
        let mut volumes: Vec<&Value> = list(&answer, "Volumes").iter().collect();
        volumes.sort_by(|a, b| crate::format::names::natural(text(a, "Name"), text(b, "Name")));
        let rows: Vec<Value> = volumes.into_iter().map(volume_row).collect();
        print(&COLUMNS, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })?;
        for warning in list(&answer, "Warnings") {
            out::error_line(warning.as_str().unwrap_or_default());
        }
        Ok(())
    }
}

/// One volume's row.
pub fn volume_row(volume: &Value) -> Value {
    let usage = &volume["UsageData"];
    let (links, size) = if usage.is_object() {
        let size = number(usage, "Size");
        let size = if size == -1 { "N/A".to_owned() } else { units::size(size as f64) };
        (number(usage, "RefCount").to_string(), size)
    } else {
        ("N/A".to_owned(), "N/A".to_owned())
    };
    row([
        ("Driver", text(volume, "Driver").into()),
        ("Name", text(volume, "Name").into()),
        ("Scope", text(volume, "Scope").into()),
        ("Mountpoint", text(volume, "Mountpoint").into()),
        ("Labels", labels(&volume["Labels"]).into()),
        ("LabelMap", Value::Object(volume["Labels"].as_object().cloned().unwrap_or_default())),
        ("Links", links.into()),
        ("Size", size.into()),
        ("Status", "N/A".into()),
        ("Availability", "N/A".into()),
        ("Group", "N/A".into()),
    ])
}

/// `volume rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Force the removal of one or more volumes
    #[arg(short = 'f', long)]
    force: bool,
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

impl Rm {
    async fn run(self, client: &Client) -> Result<()> {
        let mut several = Several::default();
        for name in &self.volumes {
            let path = Query::new(format!("/volumes/{}", escape(name))).flag("force", self.force).build();
            if several.note(client.delete(&path).await).is_some() {
                out::line(name);
            }
        }
        several.finish()
    }
}

/// `volume prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short = 'a', long)]
    all: bool,
    #[command(flatten)]
    common: PruneFlags,
}

impl Prune {
    async fn run(self, client: &Client) -> Result<()> {
        let kind = if self.all { "all" } else { "anonymous" };
        if !self.common.agreed(&format!("WARNING! This will remove {kind} local volumes not used by at least one container."))? {
            return Err(crate::failure::Exit::with(1, "volume prune has been cancelled"));
        }
        let (report, bytes) = prune_volumes(client, self.all, &self.common.filter).await?;
        out::bytes(report.as_bytes());
        out::line(format!("Total reclaimed space: {}", units::size(bytes as f64)));
        Ok(())
    }
}

/// Prunes volumes; what was removed as text, and the bytes that it gave back.
pub async fn prune_volumes(client: &Client, all: bool, given: &[String]) -> Result<(String, i64)> {
    let mut filters = Filters::parse(given)?;
    if all {
        if filters.has("all") {
            bail!("conflicting options: cannot specify both --all and --filter all=1");
        }
        // Older daemons remove all of them anyway, and know no such filter.
        if client.api_version().await? >= (1, 42) {
            filters.add("all", "true");
        }
    }
    let answer = client.post(&Query::new("/volumes/prune").filters(&filters).build(), None).await?;
    Ok((super::system::deleted("Deleted Volumes", list(&answer, "VolumesDeleted")), number(&answer, "SpaceReclaimed")))
}
