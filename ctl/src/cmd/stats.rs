//! `stats`: what containers use, once or as it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::query::escape;
use crate::client::stream::Lines;
use crate::client::{Client, Query, whole};
use crate::failure::Several;
use crate::format::json::{list, number, text};
use crate::format::list::{Columns, Style, render, row};
use crate::format::names::short_id;
use crate::format::units::{binary, size3};
use crate::out;

/// How often the table is drawn.
const STEP: Duration = Duration::from_millis(500);
/// Docker's: goes home and clears what is below, and to the end of each line.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Display a live stream of container(s) resource usage statistics
#[derive(Debug, Args)]
pub struct Stats {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// The containers; all that run, if none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: Columns = Columns {
    titles: &[
        ("ID", "CONTAINER ID"),
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "ID",
};

impl Stats {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.no_stream { self.once(client).await } else { self.follow(client).await }
    }

    async fn names(&self, client: &Client) -> Result<Vec<String>> {
        if !self.containers.is_empty() {
            return Ok(self.containers.clone());
        }
        let containers = client.get(&Query::new("/containers/json").flag("all", self.all).build()).await?;
        Ok(containers.as_array().into_iter().flatten().map(|one| short_id(text(one, "Id")).to_owned()).collect())
    }

    async fn once(&self, client: &Client) -> Result<()> {
        let names = self.names(client).await?;
        // Each takes a second, so all are asked at once.
        let asked: Vec<_> = names
            .iter()
            .map(|name| {
                let (client, path) = (client.clone(), format!("/containers/{}/stats?stream=0", escape(name)));
                tokio::spawn(async move { client.get(&path).await })
            })
            .collect();
        let (mut several, mut rows) = (Several::default(), Vec::new());
        for (name, answer) in names.iter().zip(asked) {
            if let Some(stats) = several.note(answer.await?) {
                rows.push(stats_row(name, &stats, !self.no_trunc));
            }
        }
        out::bytes(self.table(&rows)?.as_bytes());
        several.finish()
    }

    fn table(&self, rows: &[Value]) -> Result<String> {
        render(&COLUMNS, rows, Style { format: self.format.as_deref(), quiet: false })
    }

    async fn follow(&self, client: &Client) -> Result<()> {
        let (to, mut from) = mpsc::channel::<(String, Result<Option<Value>>)>(64);
        let mut known: Vec<String> = Vec::new();
        let mut rows: BTreeMap<usize, Value> = BTreeMap::new();
        let mut several = Several::default();
        let mut draw = tokio::time::interval(STEP);
        let mut ticks = 0u32;
        loop {
            tokio::select! {
                Some((name, stats)) = from.recv() => {
                    let Some(place) = known.iter().position(|other| *other == name) else { continue };
                    match stats {
                        Ok(Some(stats)) => drop(rows.insert(place, stats_row(&name, &stats, !self.no_trunc))),
                        // It is gone.
                        Ok(None) => drop(rows.remove(&place)),
                        Err(error) if self.containers.is_empty() => drop((error, rows.remove(&place))),
                        Err(error) => {
                            several.note::<()>(Err(error));
                            return several.finish();
                        }
                    }
                }
                _ = draw.tick() => {
                    if known.is_empty() || self.containers.is_empty() && ticks.is_multiple_of(2) {
                        self.look_for(client, &mut known, &to).await?;
                    }
                    if ticks > 0 {
                        let shown: Vec<Value> = rows.values().cloned().collect();
                        self.draw(&shown)?;
                    }
                    ticks = ticks.wrapping_add(1).max(1);
                }
            }
        }
    }

    /// Follows those that have come since.
    async fn look_for(
        &self,
        client: &Client,
        known: &mut Vec<String>,
        to: &mpsc::Sender<(String, Result<Option<Value>>)>,
    ) -> Result<()> {
        for name in self.names(client).await? {
            if known.contains(&name) {
                continue;
            }
            known.push(name.clone());
            let (client, to) = (client.clone(), to.clone());
            tokio::spawn(async move {
                let end = match stream(&client, &name, &to).await {
                    Ok(()) => Ok(None),
                    Err(error) => Err(error),
                };
                let _ = to.send((name, end)).await;
            });
        }
        Ok(())
    }

    fn draw(&self, rows: &[Value]) -> Result<()> {
        let text = self.table(rows)?;
        if !out::is_terminal() {
            out::bytes(text.as_bytes());
            return Ok(());
        }
        let mut screen = HOME.to_owned();
        for line in text.lines() {
            screen.push_str(line);
            screen.push_str(CLEAR_LINE);
            screen.push('\n');
        }
        screen.push_str(CLEAR_BELOW);
        out::bytes(screen.as_bytes());
        Ok(())
    }
}

async fn stream(client: &Client, name: &str, to: &mpsc::Sender<(String, Result<Option<Value>>)>) -> Result<()> {
    let path = format!("/containers/{}/stats?stream=1", escape(name));
    let mut lines = Lines::new(client.send(Method::GET, &path, None, whole("")).await?.into_body());
    while let Some(stats) = lines.next().await? {
        // The first has nothing to compare with.
        if text(&stats, "preread").starts_with("0001-") && number(&stats["pids_stats"], "current") > 0 {
            continue;
        }
        to.send((name.to_owned(), Ok(Some(stats)))).await?;
    }
    Ok(())
}

/// One container's row. Source of the formulas: docker/cli, `stats_helpers.go`.
fn stats_row(name: &str, stats: &Value, short: bool) -> Value {
    let id = text(stats, "id");
    let usage = memory_usage(&stats["memory_stats"]);
    let limit = stats["memory_stats"]["limit"].as_f64().unwrap_or(0.0);
    let percent = if limit > 0.0 { usage / limit * 100.0 } else { 0.0 };
    let (read, written) = block_io(&stats["blkio_stats"]);
    let sum = |key: &str| -> f64 {
        stats["networks"].as_object().into_iter().flatten().filter_map(|(_, network)| network[key].as_f64()).sum()
    };
    row([
        ("Container", name.into()),
        ("ID", if short { short_id(id) } else { id }.into()),
        ("Name", text(stats, "name").trim_start_matches('/').into()),
        ("CPUPerc", format!("{:.2}%", cpu_percent(stats)).into()),
        ("MemUsage", format!("{} / {}", binary(usage), binary(limit)).into()),
        ("MemPerc", format!("{percent:.2}%").into()),
        ("NetIO", format!("{} / {}", size3(sum("rx_bytes")), size3(sum("tx_bytes"))).into()),
        ("BlockIO", format!("{} / {}", size3(read), size3(written)).into()),
        ("PIDs", number(&stats["pids_stats"], "current").to_string().into()),
    ])
}

fn cpu_percent(stats: &Value) -> f64 {
    let figure = |of: &str, key: &str| stats[of][key].as_f64().unwrap_or(0.0);
    let total = |of: &str| stats[of]["cpu_usage"]["total_usage"].as_f64().unwrap_or(0.0);
    let used = total("cpu_stats") - total("precpu_stats");
    let passed = figure("cpu_stats", "system_cpu_usage") - figure("precpu_stats", "system_cpu_usage");
    let processors = match figure("cpu_stats", "online_cpus") {
        0.0 => stats["cpu_stats"]["cpu_usage"]["percpu_usage"].as_array().map_or(0, Vec::len) as f64,
        online => online,
    };
    if used > 0.0 && passed > 0.0 { used / passed * processors * 100.0 } else { 0.0 }
}

/// Without the files that were not read lately.
fn memory_usage(memory: &Value) -> f64 {
    let usage = memory["usage"].as_f64().unwrap_or(0.0);
    let stats = &memory["stats"];
    let files = stats["total_inactive_file"].as_f64().filter(|files| *files < usage);
    let files = files.or(stats["inactive_file"].as_f64()).filter(|files| *files < usage);
    usage - files.unwrap_or(0.0)
}

fn block_io(blkio: &Value) -> (f64, f64) {
    let of = |letter: char| -> f64 {
        let is = |entry: &&Value| text(entry, "op").to_ascii_lowercase().starts_with(letter);
        list(blkio, "io_service_bytes_recursive").iter().filter(is).filter_map(|entry| entry["value"].as_f64()).sum()
    };
    (of('r'), of('w'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_dockers_figures() {
        let stats = json!({
            "id": "0123456789abcdef", "name": "/w", "pids_stats": {"current": 3},
            "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000_u64}, "system_cpu_usage": 12_000_000_000_u64, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 1_000_000_000_u64}, "system_cpu_usage": 10_000_000_000_u64},
            "memory_stats": {"usage": 3 << 20, "limit": 64 << 20, "stats": {"total_inactive_file": 1 << 20, "inactive_file": 5}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 1000}, {"op": "write", "value": 2000}, {"op": "Total", "value": 9}]},
            "networks": {"eth0": {"rx_bytes": 1086, "tx_bytes": 1}, "eth1": {"rx_bytes": 1, "tx_bytes": 1}},
        });
        let row = stats_row("w", &stats, true);
        assert_eq!((&row["ID"], &row["CPUPerc"], &row["PIDs"]), (&json!("0123456789ab"), &json!("50.00%"), &json!("3")));
        assert_eq!((&row["MemUsage"], &row["MemPerc"]), (&json!("2MiB / 64MiB"), &json!("3.12%")));
        assert_eq!((&row["NetIO"], &row["BlockIO"]), (&json!("1.09kB / 2B"), &json!("1kB / 2kB")));
        let stopped = stats_row("w", &json!({"id": "1", "name": "/w", "memory_stats": {}}), true);
        assert_eq!((&stopped["MemUsage"], &stopped["CPUPerc"]), (&json!("0B / 0B"), &json!("0.00%")));
    }
}
