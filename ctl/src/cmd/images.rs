//! `images`, `tag`, `rmi`, `history`, `push`, `search`: images by name.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::client::query::{Filters, escape_name};
use crate::client::{Client, Query, whole};
use crate::failure::Several;
use crate::format::json::{list, number, text};
use crate::format::list::{Columns, Style, print, row};
use crate::format::names::{Reference, ellipsis, short_id};
use crate::format::{time, units};
use crate::out;
use crate::progress::{self, To};

/// The columns of a list of images.
pub const COLUMNS: Columns = Columns {
    titles: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "ID",
};

const WITH_DIGEST: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// List images
#[derive(Debug, Args)]
pub struct Images {
    /// Show all images (default hides intermediate images)
    #[arg(short = 'a', long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

impl Images {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let mut filters = Filters::parse(&self.filter)?;
        if let Some(repository) = &self.repository {
            filters.add("reference", repository);
        }
        let path = Query::new("/images/json").flag("all", self.all).filters(&filters).build();
        let images = client.get(&path).await?;
        let digest = self.digests || self.format.as_deref().is_some_and(|format| format.contains(".Digest"));
        let rows: Vec<Value> =
            images.as_array().into_iter().flatten().flat_map(|image| image_rows(image, !self.no_trunc, digest)).collect();
        let mut columns = COLUMNS;
        if self.digests {
            columns.table = WITH_DIGEST;
        }
        print(&columns, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })
    }
}

/// An image's rows: one for each tag, or one for what has none.
pub fn image_rows(image: &Value, short: bool, digest: bool) -> Vec<Value> {
    let named = |key: &str| -> Vec<&str> {
        list(image, key).iter().filter_map(Value::as_str).filter(|name| !name.starts_with("<none>")).collect()
    };
    let (tags, digests) = (named("RepoTags"), named("RepoDigests"));
    if tags.is_empty() && digests.is_empty() {
        return vec![image_row(image, short, "<none>", "<none>", "<none>")];
    }
    let digests: Vec<Reference<'_>> = digests.into_iter().map(Reference::parse).collect();
    let mut rows = Vec::new();
    for tag in tags.iter().map(|tag| Reference::parse(tag)) {
        let name = tag.tag.unwrap_or("<none>");
        let of_tag: Vec<&str> =
            digests.iter().filter(|other| digest && other.name == tag.name).filter_map(|other| other.digest).collect();
        if of_tag.is_empty() {
            rows.push(image_row(image, short, tag.name, name, "<none>"));
        }
        rows.extend(of_tag.into_iter().map(|digest| image_row(image, short, tag.name, name, digest)));
    }
    for other in digests.iter().filter(|other| !tags.iter().any(|tag| Reference::parse(tag).name == other.name)) {
        rows.push(image_row(image, short, other.name, "<none>", other.digest.unwrap_or("<none>")));
    }
    rows
}

/// One row.
pub fn image_row(image: &Value, short: bool, repository: &str, tag: &str, digest: &str) -> Value {
    let (id, created, size, shared) =
        (text(image, "Id"), number(image, "Created"), number(image, "Size"), image["SharedSize"].as_i64().unwrap_or(-1));
    let known = |number: i64, shown: String| if number == -1 { "N/A".to_owned() } else { shown };
    let containers = image["Containers"].as_i64().unwrap_or(-1);
    row([
        ("ID", if short { short_id(id) } else { id }.into()),
        ("Repository", repository.into()),
        ("Tag", tag.into()),
        ("Digest", digest.into()),
        ("CreatedSince", time::ago(created).into()),
        ("CreatedAt", time::local(created).into()),
        ("Size", units::size3(size as f64).into()),
        ("Containers", known(containers, containers.to_string()).into()),
        ("VirtualSize", units::size(size as f64).into()),
        ("SharedSize", known(shared, units::size(shared as f64)).into()),
        ("UniqueSize", known(shared.min(size), units::size((size - shared) as f64)).into()),
    ])
}

/// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The name to give it
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl Tag {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let target = Reference::parse(&self.target);
        if target.digest.is_some() {
            bail!("refusing to create a tag with a digest reference");
        }
        if target.name.is_empty() || target.tag == Some("") || target.name.chars().any(|c| c.is_uppercase() || c.is_whitespace())
        {
            let why = if target.name.chars().any(char::is_uppercase) {
                format!(": repository name ({}) must be lowercase", target.canonical_name().trim_start_matches("docker.io/"))
            } else {
                String::new()
            };
            bail!("Error parsing reference: {:?} is not a valid repository/tag: invalid reference format{why}", self.target);
        }
        let path = Query::new(format!("/images/{}/tag", escape_name(&self.source)))
            .with("repo", target.canonical_name())
            .with("tag", target.tag.unwrap_or("latest"));
        client.post(&path.build(), None).await.map(drop)
    }
}

/// Remove one or more images
#[derive(Debug, Args)]
pub struct Rmi {
    /// Force removal of the image
    #[arg(short = 'f', long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rmi {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let mut several = Several::default();
        for image in &self.images {
            let path =
                Query::new(format!("/images/{}", escape_name(image))).flag("force", self.force).flag("noprune", self.no_prune);
            let removed = client.delete(&path.build()).await;
            if self.force && removed.as_ref().is_err_and(|error| crate::failure::status_of(error) == Some(404)) {
                if let Err(error) = removed {
                    out::error_line(error.to_string());
                }
                continue;
            }
            for line in several.note(removed).iter().flat_map(|answer| answer.as_array().into_iter().flatten()) {
                match line["Deleted"].as_str().filter(|id| !id.is_empty()) {
                    Some(deleted) => out::line(format!("Deleted: {deleted}")),
                    None => out::line(format!("Untagged: {}", text(line, "Untagged"))),
                }
            }
        }
        several.finish()
    }
}

/// Show the history of an image
#[derive(Debug, Args)]
pub struct History {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, value_name = "bool", default_value = "true", hide_default_value = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = super::flags::go_bool)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    image: String,
}

impl History {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let mut columns = Columns {
            titles: &[
                ("ID", "IMAGE"),
                ("CreatedSince", "CREATED"),
                ("CreatedAt", "CREATED AT"),
                ("CreatedBy", "CREATED BY"),
                ("Size", "SIZE"),
                ("Comment", "COMMENT"),
            ],
            table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
            quiet: "ID",
        };
        if !self.human {
            columns.table = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
        }
        let history = client.get(&format!("/images/{}/history", escape_name(&self.image))).await?;
        let rows: Vec<Value> = history.as_array().into_iter().flatten().map(|step| self.row(step)).collect();
        print(&columns, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })
    }

    fn row(&self, step: &Value) -> Value {
        let (id, created, size) = (text(step, "Id"), number(step, "Created"), number(step, "Size"));
        let by = text(step, "CreatedBy").replace('\t', " ");
        let at =
            jiff::Timestamp::from_second(created).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
        let by = if self.no_trunc { by } else { ellipsis(&by, 45) };
        row([
            ("ID", if self.no_trunc { id } else { short_id(id) }.into()),
            ("CreatedSince", if created <= 0 { "N/A".to_owned() } else { time::ago(created) }.into()),
            ("CreatedAt", at.into()),
            ("CreatedBy", by.into()),
            ("Size", if self.human { units::size3(size as f64) } else { size.to_string() }.into()),
            ("Comment", text(step, "Comment").into()),
        ])
    }
}

/// Remove unused images
#[derive(Debug, Args)]
pub struct PruneImages {
    /// Remove all unused images, not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    #[command(flatten)]
    common: PruneFlags,
}

/// What every `prune` takes.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    pub force: bool,
}

impl PruneFlags {
    /// Asks, unless that was waived; false: the person said no.
    pub fn agreed(&self, warning: &str) -> Result<bool> {
        if self.force { Ok(true) } else { confirm(warning) }
    }
}

/// Warns and asks, in Docker's words; false: the person said no.
pub fn confirm(warning: &str) -> Result<bool> {
    out::bytes(format!("{warning}\nAre you sure you want to continue? [y/N] ").as_bytes());
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !crate::client::stream::stdin_is_terminal() {
        out::line("");
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

impl PruneImages {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let warning = if self.all {
            "WARNING! This will remove all images without at least one container associated to them."
        } else {
            "WARNING! This will remove all dangling images."
        };
        if !self.common.agreed(warning)? {
            return Err(crate::failure::Exit::with(1, "image prune has been cancelled"));
        }
        let (report, bytes) = prune_images(client, self.all, &self.common.filter).await?;
        out::bytes(report.as_bytes());
        out::line(format!("Total reclaimed space: {}", units::size(bytes as f64)));
        Ok(())
    }
}

/// Prunes images; what was removed as text, and the bytes that it gave back.
pub async fn prune_images(client: &Client, all: bool, given: &[String]) -> Result<(String, i64)> {
    let mut filters = Filters::parse(given)?;
    filters.add("dangling", if all { "false" } else { "true" });
    let answer = client.post(&Query::new("/images/prune").filters(&filters).build(), None).await?;
    let mut report = String::new();
    for line in list(&answer, "ImagesDeleted") {
        match line["Untagged"].as_str().filter(|name| !name.is_empty()) {
            Some(name) => drop(writeln!(report, "untagged: {name}")),
            None => drop(writeln!(report, "deleted: {}", text(line, "Deleted"))),
        }
    }
    if !report.is_empty() {
        report = format!("Deleted Images:\n{report}\n");
    }
    Ok((report, number(&answer, "SpaceReclaimed")))
}

/// Upload an image to a registry
#[derive(Debug, Args)]
pub struct Push {
    /// Suppress verbose output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

impl Push {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let reference = Reference::parse(&self.image);
        let path = Query::new(format!("/images/{}/push", escape_name(&reference.canonical_name())))
            .with("tag", reference.tag.unwrap_or("latest"))
            .build();
        let response = client.send(Method::POST, &path, None, whole("")).await?;
        progress::show(response.into_body(), if self.quiet { To::Nowhere } else { To::Stdout }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "docker.io/library/a:2"], "RepoDigests": ["a@sha256:d", "b@sha256:e"],
            "Created": 0, "Size": 4_861_602, "SharedSize": -1, "Containers": -1});
        let names = |rows: &[Value]| {
            rows.iter()
                .map(|row| {
                    format!(
                        "{}:{}@{}",
                        row["Repository"].as_str().unwrap(),
                        row["Tag"].as_str().unwrap(),
                        row["Digest"].as_str().unwrap()
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&image_rows(&image, true, false)), ["a:1@<none>", "a:2@<none>", "b:<none>@sha256:e"]);
        assert_eq!(names(&image_rows(&image, true, true)), ["a:1@sha256:d", "a:2@sha256:d", "b:<none>@sha256:e"]);
        let bare = json!({"Id": "sha256:1", "RepoTags": [], "RepoDigests": []});
        assert_eq!(names(&image_rows(&bare, true, false)), ["<none>:<none>@<none>"]);
        assert_eq!(image_rows(&image, true, false)[0]["Size"], "4.86MB");
        assert_eq!(image_rows(&image, true, false)[0]["SharedSize"], "N/A");
    }
}
