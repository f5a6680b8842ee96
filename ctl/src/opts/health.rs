//! The flags of health checks.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::format::time::go_duration;

/// How a container is checked.
#[derive(Debug, Args)]
#[allow(clippy::struct_field_names)] // the flags are named so
pub struct Health {
    /// Command to run to check health
    #[arg(long, value_name = "string")]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", allow_hyphen_values = true)]
    health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", allow_hyphen_values = true)]
    health_start_interval: Option<String>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", allow_hyphen_values = true)]
    health_start_period: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", allow_hyphen_values = true)]
    health_timeout: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
}

impl Health {
    /// Docker's `Healthcheck`; `None` if nothing is said of it.
    pub fn check(&self) -> Result<Option<Value>> {
        let mut check = Map::new();
        if let Some(command) = self.health_cmd.as_ref().filter(|command| !command.is_empty()) {
            check.insert("Test".to_owned(), json!(["CMD-SHELL", command]));
        }
        for (key, flag, text) in [
            ("Interval", "--health-interval", &self.health_interval),
            ("Timeout", "--health-timeout", &self.health_timeout),
            ("StartPeriod", "--health-start-period", &self.health_start_period),
            ("StartInterval", "--health-start-interval", &self.health_start_interval),
        ] {
            let Some(text) = text else { continue };
            let seconds = go_duration(text)
                .ok_or_else(|| anyhow!("invalid argument \"{text}\" for \"{flag}\" flag: time: invalid duration \"{text}\""))?;
            if seconds < 0.0 {
                bail!("{flag} cannot be negative");
            }
            check.insert(key.to_owned(), json!((seconds * 1e9) as i64));
        }
        if let Some(retries) = self.health_retries {
            if retries < 0 {
                bail!("--health-retries cannot be negative");
            }
            check.insert("Retries".to_owned(), json!(retries));
        }
        if self.no_healthcheck {
            if !check.is_empty() {
                bail!("--no-healthcheck conflicts with --health-* options");
            }
            check.insert("Test".to_owned(), json!(["NONE"]));
        }
        Ok((!check.is_empty()).then_some(Value::Object(check)))
    }
}
