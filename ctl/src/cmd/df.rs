//! `system df`: where the disk went.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;

use super::{images, ps, volume};
use crate::client::Client;
use crate::format::json::{list, number, text};
use crate::format::list::{Columns, Style, print, render, row};
use crate::format::units::size;
use crate::out;

/// Show disk usage
#[derive(Debug, Args)]
pub struct Df {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short = 'v', long)]
    verbose: bool,
}

const SUMMARY: Columns = Columns {
    titles: &[("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")],
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "Type",
};

const CACHE: Columns = Columns {
    titles: &[
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ],
    table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
    quiet: "ID",
};

const WRITTEN: Columns = Columns {
    titles: &[
        ("ID", "MOUNT ID"),
        ("Kind", "KIND"),
        ("Object", "NAME"),
        ("Target", "TARGET"),
        ("Size", "SIZE"),
        ("State", "STATE"),
    ],
    table: "{{.ID}}\t{{.Object}}\t{{.Target}}\t{{.Size}}\t{{.State}}",
    quiet: "ID",
};

impl Df {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let usage = client.get("/system/df").await?;
        if !self.verbose {
            return print(&SUMMARY, &summary(&usage), Style { format: self.format.as_deref(), quiet: false });
        }
        let sections = Sections::of(&usage);
        match self.format.as_deref().filter(|format| *format != "table") {
            None => sections.print(number(&usage, "BuilderSize")),
            Some("json") => {
                out::line(serde_json::to_string(&sections.json())?);
                Ok(())
            }
            Some(template) => {
                out::line(crate::format::template::Format::parse(template, false)?.render(&sections.json())?);
                Ok(())
            }
        }
    }
}

fn share(part: i64, whole: i64) -> String {
    if whole > 0 { format!("{} ({}%)", size(part as f64), part * 100 / whole) } else { size(part as f64) }
}

fn line(kind: &str, total: usize, active: usize, bytes: i64, reclaimable: String) -> Value {
    row([
        ("Type", kind.into()),
        ("TotalCount", total.to_string().into()),
        ("Active", active.to_string().into()),
        ("Size", size(bytes as f64).into()),
        ("Reclaimable", reclaimable.into()),
    ])
}

fn runs(container: &Value) -> bool {
    matches!(text(container, "State"), "running" | "paused" | "restarting")
}

/// Docker's four rows, and one for what is written to mounts on the host, if there is any that can be written to.
fn summary(usage: &Value) -> Vec<Value> {
    let (images, containers, volumes) = (list(usage, "Images"), list(usage, "Containers"), list(usage, "Volumes"));
    let layers = number(usage, "LayersSize");
    let used: i64 = images
        .iter()
        .filter(|image| number(image, "Containers") != 0 && number(image, "Size") != -1 && number(image, "SharedSize") != -1)
        .map(|image| number(image, "Size") - number(image, "SharedSize"))
        .sum();
    let in_use = images.iter().filter(|image| number(image, "Containers") > 0).count();
    let written: i64 = containers.iter().map(|container| number(container, "SizeRw")).sum();
    let idle: i64 = containers.iter().filter(|container| !runs(container)).map(|container| number(container, "SizeRw")).sum();
    let bytes = |volume: &&Value| number(&volume["UsageData"], "Size").max(0);
    let held: i64 = volumes.iter().map(|volume| bytes(&volume)).sum();
    let unused: i64 =
        volumes.iter().filter(|volume| number(&volume["UsageData"], "RefCount") == 0).map(|volume| bytes(&volume)).sum();
    let linked = volumes.iter().filter(|volume| number(&volume["UsageData"], "RefCount") > 0).count();
    let cache = list(usage, "BuildCache");
    let builder = number(usage, "BuilderSize");
    let busy: i64 = cache
        .iter()
        .filter(|record| record["InUse"] == true && record["Shared"] != true)
        .map(|record| number(record, "Size"))
        .sum();
    let cache_active = cache.iter().filter(|record| record["InUse"] == true).count();
    let mut rows = vec![
        line("Images", images.len(), in_use, layers, share(layers - used, layers)),
        line(
            "Containers",
            containers.len(),
            containers.iter().filter(|container| runs(container)).count(),
            written,
            share(idle, written),
        ),
        line("Local Volumes", volumes.len(), linked, held, share(unused, held)),
        line("Build Cache", cache.len(), cache_active, builder, size((builder - busy) as f64)),
    ];
    let mounts = list(usage, "Mounts");
    if !mounts.is_empty() {
        let taken = |mounts: &mut dyn Iterator<Item = &Value>| mounts.map(|mount| number(mount, "size")).sum::<i64>();
        let written = taken(&mut mounts.iter());
        let idle = taken(&mut mounts.iter().filter(|mount| mount["in_use"] != true));
        let active = mounts.iter().filter(|mount| mount["in_use"] == true).count();
        rows.push(line("Mounts", mounts.len(), active, written, share(idle, written)));
    }
    rows
}

/// `-v`: each thing.
struct Sections {
    images: Vec<Value>,
    containers: Vec<Value>,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl Sections {
    fn of(usage: &Value) -> Sections {
        let image = |image: &Value| images::image_rows(image, true, false).into_iter().next();
        let container = |container: &Value| {
            let mut container = container.clone();
            container["SizeRootFs"] = json!(0);
            ps::container_row(&container, true)
        };
        Sections {
            images: list(usage, "Images").iter().filter_map(image).collect(),
            containers: list(usage, "Containers").iter().map(container).collect(),
            volumes: list(usage, "Volumes").iter().map(volume::volume_row).collect(),
            mounts: list(usage, "Mounts").iter().map(written_row).collect(),
        }
    }

    fn json(&self) -> Value {
        let mut all = json!({"Images": self.images, "Containers": self.containers, "Volumes": self.volumes, "BuildCache": []});
        if !self.mounts.is_empty() {
            all["Mounts"] = json!(self.mounts);
        }
        all
    }

    fn print(&self, builder: i64) -> Result<()> {
        let mut images = images::COLUMNS;
        images.table =
            "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
        let mut containers = ps::COLUMNS;
        containers.table =
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
        let mut volumes = volume::COLUMNS;
        volumes.table = "{{.Name}}\t{{.Links}}\t{{.Size}}";
        let style = Style::default();
        let mut text = format!("Images space usage:\n\n{}", render(&images, &self.images, style)?);
        let _ = write!(text, "\nContainers space usage:\n\n{}", render(&containers, &self.containers, style)?);
        let _ = write!(text, "\nLocal Volumes space usage:\n\n{}", render(&volumes, &self.volumes, style)?);
        let _ = write!(text, "\nBuild cache usage: {}\n\n{}", size(builder as f64), render(&CACHE, &[], style)?);
        if !self.mounts.is_empty() {
            let _ = write!(text, "\nMounts space usage:\n\n{}", render(&WRITTEN, &self.mounts, style)?);
        }
        out::bytes(text.as_bytes());
        Ok(())
    }
}

/// What is written to one mount.
fn written_row(mount: &Value) -> Value {
    let shown = |key| match text(mount, key) {
        "" => "<unknown>".to_owned(),
        known => known.to_owned(),
    };
    row([
        ("ID", text(mount, "id").into()),
        ("Kind", text(mount, "kind").into()),
        ("Object", shown("object").into()),
        ("Target", shown("target").into()),
        ("Size", size(number(mount, "size") as f64).into()),
        ("State", text(mount, "state").into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_add_up_as_dockers() {
        let usage = json!({"LayersSize": 3_000, "Images": [
                {"Size": 2_000, "SharedSize": 1_000, "Containers": 1}, {"Size": 2_000, "SharedSize": 1_000, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"Size": 5, "RefCount": 1}}, {"UsageData": {"Size": -1, "RefCount": 0}}]});
        let text = render(&SUMMARY, &summary(&usage), Style::default()).unwrap();
        insta::assert_snapshot!(text, @r"
        TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE
        Images          2         1         3kB       2kB (66%)
        Containers      2         1         40B       30B (75%)
        Local Volumes   2         1         5B        0B (0%)
        Build Cache     0         0         0B        0B
        ");
    }
}
