//! `create`, and what `run` shares with it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::flags::{Attach, CreateFlags};
use super::pull;
use crate::client::{Client, Query};
use crate::failure::{self, Exit};
use crate::format::json::{list, text};
use crate::out;
use crate::progress::To;

/// Create a new container
#[derive(Debug, Args)]
#[command(override_usage = "ctl create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub struct Create {
    #[command(flatten)]
    flags: CreateFlags,
    /// The image, and what to run in it
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG...]")]
    words: Vec<String>,
}

impl Create {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let attach = self.flags.streams()?;
        let id = create(client, &self.flags, &self.words, attach).await?;
        out::line(id);
        Ok(())
    }
}

/// Creates a container, pulling its image if that isn't there and may be pulled. Gives its ID.
pub async fn create(client: &Client, flags: &CreateFlags, words: &[String], attach: Attach) -> Result<String> {
    let Some((image, command)) = words.split_first() else { bail!("'ctl create' requires at least 1 argument") };
    let body = flags.body(image, command, attach)?;
    let path = Query::new("/containers/create")
        .maybe("name", flags.name.as_deref())
        .maybe("platform", flags.platform.as_deref())
        .build();
    if let Some(file) = &flags.cidfile
        && file.exists()
    {
        bail!("container ID file found, make sure the other container isn't running or delete {}", file.display());
    }
    let progress = if flags.quiet { To::Nowhere } else { To::Stderr };
    match flags.pull.as_str() {
        "always" => pull::fetch(client, image, flags.platform.as_deref(), progress).await?,
        "missing" | "never" => {}
        other => bail!("invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""),
    }
    let answer = match client.post(&path, Some(&body)).await {
        Err(error) if failure::status_of(&error) == Some(404) && flags.pull == "missing" && is_missing_image(&error) => {
            if !flags.quiet {
                out::error_line(format!("Unable to find image '{}' locally", with_tag(image)));
            }
            pull::fetch(client, image, flags.platform.as_deref(), progress).await?;
            client.post(&path, Some(&body)).await?
        }
        other => other?,
    };
    for warning in list(&answer, "Warnings") {
        out::error_line(format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    let id = text(&answer, "Id").to_owned();
    if let Some(file) = &flags.cidfile {
        write_id(file, &id)?;
    }
    Ok(id)
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    let message = error.to_string().to_lowercase();
    message.contains("image") || message.contains("manifest")
}

fn with_tag(image: &str) -> String {
    let reference = crate::format::names::Reference::parse(image);
    if reference.tag.is_none() && reference.digest.is_none() { format!("{}:latest", reference.name) } else { image.to_owned() }
}

fn write_id(file: &Path, id: &str) -> Result<()> {
    std::fs::write(file, id).with_context(|| format!("write the container's ID to {}", file.display()))
}

/// The exit code that docker gives a container that could not be started, by the daemon's message.
pub fn start_code(message: &str) -> i32 {
    let lower = message.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["executable file not found", "no such file or directory", "system cannot find the file"]) {
        127
    } else if has(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    }
}

/// An error of `run` or `create` in docker's words, with its exit code.
pub fn explain(verb: &str, code: i32, error: &anyhow::Error) -> anyhow::Error {
    let hint =
        error.downcast_ref::<failure::Refused>().and_then(|refused| refused.hint.as_ref()).map(|hint| format!("\nhint: {hint}"));
    let hint = hint.unwrap_or_default();
    Exit::with(code, format!("ctl: {error:#}{hint}\n\nRun 'ctl {verb} --help' for more information"))
}

/// The exit code in the answer of `wait`.
pub fn exit_code(answer: &Value) -> Result<i32> {
    if let Some(message) = answer["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        out::error_line(format!("Error waiting for container: {message}"));
        return Ok(125);
    }
    answer["StatusCode"].as_i64().map(|code| code as i32).context("the daemon did not say how the container ended")
}

#[cfg(test)]
mod tests {
    #[test]
    fn exit_codes_follow_the_message() {
        assert_eq!(super::start_code("exec: \"x\": executable file not found in $PATH: unknown"), 127);
        assert_eq!(super::start_code("exec: \"/etc\": permission denied"), 126);
        assert_eq!(super::start_code("exec: \"/etc\": is a directory"), 126);
        assert_eq!(super::start_code("disk full"), 125);
    }
}
