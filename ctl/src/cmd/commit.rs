//! `commit`.

use anyhow::Result;
use clap::Args;

use super::flags::go_bool;
use crate::client::{Client, Query};
use crate::format::json::text;
use crate::format::names::Reference;
use crate::out;

/// Create a new image from a container's changes
#[derive(Debug, Args)]
pub struct Commit {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short = 'a', long, value_name = "string")]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short = 'm', long, value_name = "string")]
    message: Option<String>,
    /// Pause container during commit
    #[arg(short = 'p', long, value_name = "bool", default_value = "true", hide_default_value = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pause: bool,
    /// The container
    container: String,
    /// The new image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Commit {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let reference = self.name.as_deref().map(Reference::parse);
        let mut path = Query::new("/commit")
            .maybe("author", self.author.as_deref())
            .maybe("comment", self.message.as_deref())
            .with("container", &self.container)
            .maybe("repo", reference.as_ref().map(|reference| reference.name))
            .maybe("tag", reference.as_ref().and_then(|reference| reference.tag));
        for change in &self.change {
            path = path.with("changes", change);
        }
        if !self.pause {
            path = path.with("pause", "0");
        }
        out::line(text(&client.post(&path.build(), None).await?, "Id"));
        Ok(())
    }
}
