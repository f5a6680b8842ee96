//! The parts of an image's config that we read; what is kept and served is its bytes.

use fs_base::{Error, LayerId, Result};
use serde::Deserialize;
use serde_json::Value;

/// An image's config. Source: OCI image spec, config.md; Docker adds fields, which stay in the bytes.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v7`, …
    #[serde(default)]
    pub variant: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// RFC 3339.
    pub created: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// Of the last commit.
    #[serde(default)]
    pub comment: String,
    /// Of the Docker that made it.
    #[serde(default)]
    pub docker_version: String,
    /// What a container gets by default.
    #[serde(default, rename = "config")]
    pub defaults: Value,
    /// The layers.
    pub rootfs: RootFs,
    /// How it was built, oldest first.
    #[serde(default)]
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Debug, Clone, Deserialize)]
pub struct RootFs {
    /// Bottom first.
    #[serde(default)]
    pub diff_ids: Vec<LayerId>,
}

/// One step of a build.
#[derive(Debug, Clone, Deserialize)]
pub struct History {
    /// RFC 3339.
    pub created: Option<String>,
    /// The command.
    #[serde(default)]
    pub created_by: String,
    /// Of the commit.
    #[serde(default)]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

/// Layers of one image. Docker stops at 125; what is built elsewhere has been seen with some hundreds.
const MOST_LAYERS: usize = 1000;

/// Refuses an image of very many layers: each costs files, memory and time wherever the image is used.
pub fn check_count(layers: usize) -> Result<()> {
    if layers > MOST_LAYERS {
        return Err(Error::invalid(format!("the image has {layers} layers: {MOST_LAYERS} is the most")));
    }
    Ok(())
}

impl Config {
    /// Reads a config's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(format!("the image's config can't be read: {error}")))
    }

    /// Its labels.
    pub fn labels(&self) -> serde_json::Map<String, Value> {
        self.defaults.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// When it was made, seconds since the epoch; 0 if it does not say.
    pub fn created_seconds(&self) -> i64 {
        self.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
    }
}
