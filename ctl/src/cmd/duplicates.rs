//! `image duplicates`: which bytes of images' layers are the same files.

use anyhow::Result;
use clap::Args;
use fsd_api::{ComparedLayer, DuplicateContent, DuplicateGroup, Duplicates as Found};
use serde_json::Value;

use super::look::printable;
use crate::client::{Client, Query};
use crate::format::list::{Columns, Style, print, row};
use crate::format::units::size;
use crate::out;

/// Show which files of images are the same by content, and the bytes that are stored again for it
///
/// Compares the layers of the images, of all images if none is named: each layer once, however many images share it, and
/// with itself too. Each row is a set of layers, and what just those have in common: so many different contents in so many
/// files, the bytes of one copy of each, and the bytes of all further copies. Bytes are those that are stored: holes are none.
/// A hard link is no copy.
#[derive(Debug, Args)]
pub struct Duplicates {
    /// Name the files instead: of so many contents, those first that take the most bytes again
    #[arg(long, value_name = "int", num_args = 0..=1, require_equals = true, default_missing_value = "100")]
    files: Option<usize>,
    /// Bytes as plain numbers
    #[arg(short = 'b', long)]
    bytes: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// The images
    image: Vec<String>,
}

const GROUPS: Columns = Columns {
    titles: &[("Again", "AGAIN"), ("Bytes", "BYTES"), ("Contents", "CONTENTS"), ("Files", "FILES"), ("Layers", "LAYERS")],
    table: "{{.Again}}\t{{.Bytes}}\t{{.Contents}}\t{{.Files}}\t{{.Layers}}",
    quiet: "Layers",
};

const FILES: Columns = Columns {
    titles: &[("Again", "AGAIN"), ("Bytes", "BYTES"), ("Copies", "COPIES"), ("Layer", "LAYER"), ("Path", "PATH")],
    table: "{{.Again}}\t{{.Bytes}}\t{{.Copies}}\t{{.Layer}}\t{{.Path}}",
    quiet: "Path",
};

impl Duplicates {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let query = Query::new("/fsd/v1/duplicates".to_owned())
            .with("images", self.image.join(","))
            .with("files", self.files.unwrap_or_default().to_string());
        let found: Found = serde_json::from_slice(&client.get_bytes(&query.build()).await?)?;
        let style = Style { format: self.format.as_deref(), quiet: false };
        if self.files.is_some() {
            let rows: Vec<Value> = found.contents.iter().flat_map(|content| self.file_rows(content, &found.layers)).collect();
            return print(&FILES, &rows, style);
        }
        let rows: Vec<Value> = found.groups.iter().map(|group| self.group_row(group, &found.layers)).collect();
        print(&GROUPS, &rows, style)?;
        if self.format.is_none() {
            out::line(self.total(&found));
        }
        Ok(())
    }

    fn shown(&self, bytes: u64) -> String {
        if self.bytes { bytes.to_string() } else { size(bytes as f64) }
    }

    fn total(&self, found: &Found) -> String {
        let (all, again) = (self.shown(found.bytes), self.shown(found.again));
        let (layers, files) = (found.layers.len(), found.files);
        format!("\nTotal: {files} files of {all} in {layers} layers; {again} of that are copies of what is there already")
    }

    fn group_row(&self, group: &DuplicateGroup, layers: &[ComparedLayer]) -> Value {
        let names: Vec<String> = group.layers.iter().map(|layer| name(*layer, layers)).collect();
        row([
            ("Again", self.shown(group.again).into()),
            ("Bytes", self.shown(group.bytes).into()),
            ("Contents", group.contents.to_string().into()),
            ("Files", group.files.to_string().into()),
            ("Layers", names.join(", ").into()),
        ])
    }

    fn file_rows(&self, content: &DuplicateContent, layers: &[ComparedLayer]) -> Vec<Value> {
        let file = |file: &fsd_api::DuplicateFile| {
            row([
                ("Again", self.shown(content.again).into()),
                ("Bytes", self.shown(content.bytes).into()),
                ("Copies", content.copies.len().to_string().into()),
                ("Layer", name(file.layer, layers).into()),
                ("Path", printable(&file.path).into()),
            ])
        };
        content.copies.iter().map(file).collect()
    }
}

/// A layer as a person finds it again: the image and the layer's number there, the bottom being 0, as in `image ls-tree -l`.
fn name(layer: usize, layers: &[ComparedLayer]) -> String {
    let Some(layer) = layers.get(layer) else { return String::new() };
    let id = layer.id.strip_prefix("sha256:").unwrap_or(&layer.id);
    match layer.images.as_slice() {
        [] => id.get(..12).unwrap_or(id).to_owned(),
        [place] => format!("{}#{}", place.image, place.layer),
        [place, others @ ..] => format!("{}#{} (+{})", place.image, place.layer, others.len()),
    }
}

#[cfg(test)]
mod tests {
    use fsd_api::{DuplicateFile, LayerPlace};

    use super::*;
    use crate::format::list::render;

    #[test]
    fn groups_files_and_the_total() {
        let place = |image: &str, layer| LayerPlace { image: image.to_owned(), layer };
        let found = Found {
            layers: vec![
                ComparedLayer { id: "sha256:11".into(), images: vec![place("a:1", 0), place("b:1", 0)] },
                ComparedLayer { id: "sha256:22".into(), images: vec![place("b:1", 1)] },
            ],
            files: 10,
            bytes: 5_000_000,
            again: 1_500_000,
            groups: vec![DuplicateGroup { layers: vec![0, 1], contents: 2, files: 5, bytes: 700_000, again: 1_500_000 }],
            contents: vec![DuplicateContent {
                size: 4_000,
                bytes: 3_000,
                again: 3_000,
                copies: vec![
                    DuplicateFile { layer: 0, path: "/bin/a".into(), path_base64: None },
                    DuplicateFile { layer: 1, path: "/b\u{1b}".into(), path_base64: None },
                ],
            }],
        };
        let verb = |bytes| Duplicates { files: None, bytes, format: None, image: Vec::new() };
        let group = verb(false).group_row(&found.groups[0], &found.layers);
        insta::assert_snapshot!(render(&GROUPS, &[group], Style::default()).unwrap(), @r"
        AGAIN     BYTES     CONTENTS   FILES     LAYERS
        1.5MB     700kB     2          5         a:1#0 (+1), b:1#1
        ");
        let files = verb(true).file_rows(&found.contents[0], &found.layers);
        insta::assert_snapshot!(render(&FILES, &files, Style::default()).unwrap(), @r"
        AGAIN     BYTES     COPIES    LAYER        PATH
        3000      3000      2         a:1#0 (+1)   /bin/a
        3000      3000      2         b:1#1        /b?
        ");
        insta::assert_snapshot!(verb(false).total(&found).trim(), @"Total: 10 files of 5MB in 2 layers; 1.5MB of that are copies of what is there already");
    }
}
