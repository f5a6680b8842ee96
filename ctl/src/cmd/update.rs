//! `update`: other limits for containers that are there.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::client::query::escape;
use crate::failure::Several;
use crate::format::json::list;
use crate::format::units::parse_bytes;
use crate::opts::values::{cpus, restart};
use crate::out;

/// Update configuration of one or more containers
#[derive(Debug, Args)]
pub struct Update {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", allow_hyphen_values = true)]
    blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", allow_hyphen_values = true)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Update {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let body = self.body()?;
        let mut several = Several::default();
        let mut warnings = Vec::new();
        for name in &self.containers {
            let answer = client.post(&format!("/containers/{}/update", escape(name)), Some(&body)).await;
            if let Some(answer) = several.note(answer) {
                out::line(name);
                warnings.extend(list(&answer, "Warnings").iter().filter_map(Value::as_str).map(str::to_owned));
            }
        }
        if !warnings.is_empty() {
            out::error_line(warnings.join("\n"));
        }
        several.finish()
    }

    fn body(&self) -> Result<Value> {
        let bytes = |text: &Option<String>| text.as_deref().map(parse_bytes).transpose();
        let swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            other => other.map(parse_bytes).transpose()?,
        };
        let numbers = [
            ("BlkioWeight", self.blkio_weight.map(i64::from)),
            ("CpuPeriod", self.cpu_period),
            ("CpuQuota", self.cpu_quota),
            ("CpuShares", self.cpu_shares),
            ("NanoCpus", self.cpus.as_deref().map(cpus).transpose()?),
            ("Memory", bytes(&self.memory)?),
            ("MemoryReservation", bytes(&self.memory_reservation)?),
            ("MemorySwap", swap),
            ("PidsLimit", self.pids_limit),
        ];
        let texts = [("CpusetCpus", &self.cpuset_cpus), ("CpusetMems", &self.cpuset_mems)];
        let mut body: Map<String, Value> =
            numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))).collect();
        body.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.as_deref()?.into()))));
        if let Some(policy) = &self.restart {
            body.insert("RestartPolicy".to_owned(), restart(policy)?);
        }
        if body.is_empty() {
            bail!("you must provide one or more flags when using this command");
        }
        Ok(body.into())
    }
}
