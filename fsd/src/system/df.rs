//! Where the disk went.

use std::collections::{HashMap, HashSet};

use fs_base::{Error, Result};
use fsd_api::UsedMount;
use serde_json::Value;

use crate::app::App;
use crate::container::{show, size};
use crate::db::images::ImageRow;
use crate::mounts;
use crate::network::show::Shown;
use crate::volume;

/// Which kinds of object are asked about: all, unless some are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    images: bool,
    containers: bool,
    volumes: bool,
    build_cache: bool,
    mounts: bool,
}

impl Wanted {
    /// From the API's names for the kinds.
    pub fn parse<'a>(types: impl IntoIterator<Item = &'a str>) -> Result<Wanted> {
        let all = Wanted { images: true, containers: true, volumes: true, build_cache: true, mounts: true };
        let mut named = Wanted { images: false, containers: false, volumes: false, build_cache: false, mounts: false };
        for name in types {
            match name {
                "image" => named.images = true,
                "container" => named.containers = true,
                "volume" => named.volumes = true,
                "build-cache" => named.build_cache = true,
                "mount" => named.mounts = true,
                other => return Err(Error::invalid(format!("unknown object type: {other}"))),
            }
        }
        let none = !(named.images || named.containers || named.volumes || named.build_cache || named.mounts);
        Ok(if none { all } else { named })
    }
}

/// What was asked for; `None` for what was not.
#[derive(Debug)]
pub struct Used {
    /// Bytes that all layers take on the disk, each layer once, with its index.
    pub layers: u64,
    /// The images.
    pub images: Option<Vec<UsedImage>>,
    /// The containers, as a list shows them.
    pub containers: Option<Vec<Value>>,
    /// The volumes, as a list shows them, with their usage.
    pub volumes: Option<Vec<Value>>,
    /// There is no builder yet, so nothing is cached.
    pub build_cache: Option<Vec<Value>>,
    /// What is written to mounts on the host; Docker has no such thing.
    pub mounts: Option<Vec<UsedMount>>,
}

/// An image and what removing it would not give back.
#[derive(Debug)]
pub struct UsedImage {
    /// The image.
    pub row: ImageRow,
    /// Bytes in layers that other images have too.
    pub shared: u64,
    /// Containers that were made from it.
    pub containers: usize,
}

/// What the store is used for. Images and layers come from their rows, nothing of them is walked; volumes are.
pub fn usage(app: &App, wanted: Wanted) -> Result<Used> {
    let layers = app.db.layers()?;
    let on_disk = layers.iter().map(|row| row.data_size + row.index_size).sum();
    let sizes: HashMap<_, _> = layers.into_iter().map(|row| (row.id, row.file_bytes)).collect();
    Ok(Used {
        layers: if wanted.images { on_disk } else { 0 },
        images: if wanted.images { Some(images(app, &sizes)?) } else { None },
        containers: if wanted.containers { Some(containers(app)?) } else { None },
        volumes: if wanted.volumes { Some(volume::usage(app)?) } else { None },
        build_cache: wanted.build_cache.then(Vec::new),
        mounts: if wanted.mounts { Some(mounts::scratch::usage(app)?) } else { None },
    })
}

fn containers(app: &App) -> Result<Vec<Value>> {
    let now = crate::db::now();
    let networks = Shown::all(app)?;
    Ok(app.db.containers()?.iter().map(|row| show::summary(row, &networks, now, Some(size::of(app, row)))).collect())
}

fn images(app: &App, sizes: &HashMap<fs_base::LayerId, u64>) -> Result<Vec<UsedImage>> {
    let rows = app.db.images()?;
    let mut users: HashMap<_, u32> = HashMap::new();
    for layer in rows.iter().flat_map(|row| row.layers.iter().collect::<HashSet<_>>()) {
        *users.entry(*layer).or_default() += 1;
    }
    rows.into_iter()
        .map(|row| {
            let in_others = row.layers.iter().filter(|id| users[*id] > 1);
            let shared = in_others.filter_map(|id| sizes.get(id)).sum();
            let containers = app.db.containers_of_image(&row.id)?.len();
            Ok(UsedImage { row, shared, containers })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_is_every_type_and_an_unknown_one_is_refused() {
        let all = Wanted { images: true, containers: true, volumes: true, build_cache: true, mounts: true };
        assert_eq!(Wanted::parse([]).unwrap(), all);
        assert_eq!(Wanted::parse(["image", "container", "volume", "build-cache", "mount"]).unwrap(), all);
        assert!(!Wanted::parse(["volume"]).unwrap().images);
        assert_eq!(Wanted::parse(["x"]).unwrap_err().to_string(), "unknown object type: x");
    }
}
