//! What the layers of images have in common by content.

use std::sync::Arc;

use fs_base::{LayerId, Result};
use fsd_api::{ComparedLayer, DuplicateContent, DuplicateFile, DuplicateGroup, Duplicates, LayerPlace};
use layerfs::duplicates::{self, Same};
use layerfs::store::Layer;

use super::shown_tags;
use super::tree::{absolute, exact};
use crate::app::App;
use crate::db::images::ImageRow;

/// Compares the layers of the images that `names` means, with commas between; of all images if it is empty. Names the
/// files of the first `files` contents. `may_go_on` is asked now and then.
pub fn find(app: &App, names: &str, files: usize, may_go_on: &(dyn Fn() -> bool + Sync)) -> Result<Duplicates> {
    let images: Vec<ImageRow> = match names {
        "" => app.db.images()?,
        names => names.split(',').map(|name| super::find(app, name)).collect::<Result<_>>()?,
    };
    let (ids, compared) = layers_of(&images);
    // Whoever holds a layer open can read it to the end, also if it is removed meanwhile.
    let layers: Vec<Arc<Layer>> = ids.iter().map(|id| app.store.layer(id)).collect::<Result<_>>()?;
    let found = duplicates::find(&layers, may_go_on)?;
    let paths = found.paths(&layers, files)?;
    let groups = found.groups().into_iter().map(|group| DuplicateGroup {
        layers: group.layers,
        contents: group.contents,
        files: group.files,
        bytes: group.bytes,
        again: group.again,
    });
    Ok(Duplicates {
        layers: compared,
        files: found.files,
        bytes: found.bytes,
        again: found.again(),
        groups: groups.collect(),
        contents: found.same.iter().zip(paths).map(|(same, paths)| content(same, &paths)).collect(),
    })
}

/// The layers of the images, each once, in the order in which they are met.
fn layers_of(images: &[ImageRow]) -> (Vec<LayerId>, Vec<ComparedLayer>) {
    let (mut ids, mut compared) = (Vec::new(), Vec::<ComparedLayer>::new());
    for image in images {
        let name = shown_tags(image).into_iter().next().unwrap_or_else(|| image.id.to_string());
        for (number, id) in image.layers.iter().enumerate() {
            let place = LayerPlace { image: name.clone(), layer: number as u32 };
            if let Some(at) = ids.iter().position(|known| known == id) {
                // An image may be named twice.
                if !compared[at].images.contains(&place) {
                    compared[at].images.push(place);
                }
            } else {
                ids.push(*id);
                compared.push(ComparedLayer { id: id.to_string(), images: vec![place] });
            }
        }
    }
    (ids, compared)
}

fn content(same: &Same, paths: &[Vec<u8>]) -> DuplicateContent {
    let file = |((layer, _), path): (&(usize, _), &Vec<u8>)| DuplicateFile {
        layer: *layer,
        path: absolute(path),
        path_base64: exact(path),
    };
    let copies = same.copies.iter().zip(paths).map(file).collect();
    DuplicateContent { size: same.size, bytes: same.bytes, again: same.again, copies }
}
