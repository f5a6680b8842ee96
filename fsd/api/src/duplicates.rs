//! Files of layers that are the same by content.

use serde::{Deserialize, Serialize};

/// The query of `GET /fsd/v1/duplicates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicatesQuery {
    /// Names or ids of images with commas between; without one, all images.
    #[serde(default)]
    pub images: String,
    /// How many contents to name, with where their copies are; the most bytes first.
    #[serde(default)]
    pub files: usize,
}

/// What of the images' layers is the same, and how many bytes are stored more than once. A layer that several images
/// share is stored once, and is compared once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// The layers that were compared.
    pub layers: Vec<ComparedLayer>,
    /// Regular files in them that are not empty, hard links once.
    pub files: u64,
    /// Bytes of those, holes left out.
    pub bytes: u64,
    /// Bytes that are stored again: all copies but one of each content.
    pub again: u64,
    /// The same by the layers that have it, the most bytes stored again first. Each content is in one group.
    pub groups: Vec<DuplicateGroup>,
    /// The contents that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<DuplicateContent>,
}

/// A layer that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedLayer {
    /// Its diffID.
    pub id: String,
    /// The images of the comparison that have it, as people name them, and its place in each, the bottom being 0.
    pub images: Vec<LayerPlace>,
}

/// Where an image has a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPlace {
    /// The image's first name, or its id.
    pub image: String,
    /// Counted from the bottom, which is 0.
    pub layer: u32,
}

/// What some layers, and no others, have in common; or what one layer has more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateGroup {
    /// Which of [`Duplicates::layers`].
    pub layers: Vec<usize>,
    /// Different contents.
    pub contents: u64,
    /// Files that have them.
    pub files: u64,
    /// Bytes of one copy of each.
    pub bytes: u64,
    /// Bytes of all further copies.
    pub again: u64,
}

/// One content, and the files that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateContent {
    /// The files' size, holes included.
    pub size: u64,
    /// Bytes of one copy.
    pub bytes: u64,
    /// Bytes of all further copies.
    pub again: u64,
    /// The files.
    pub copies: Vec<DuplicateFile>,
}

/// One of the files of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateFile {
    /// Which of [`Duplicates::layers`].
    pub layer: usize,
    /// Its path in the layer, absolute.
    pub path: String,
    /// The exact bytes of `path`, if they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}
