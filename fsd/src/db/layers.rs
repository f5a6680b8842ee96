//! Layers that the store holds.

use fs_base::{Digest, LayerId, Result};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Db, now};

/// What is known of a layer without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// Its diffID.
    pub id: LayerId,
    /// Bytes of the uncompressed tar.
    pub data_size: u64,
    /// Bytes of its index.
    pub index_size: u64,
    /// Bytes of its regular files.
    pub file_bytes: u64,
    /// Entries in its tar.
    pub entries: u64,
}

/// A registry that had a layer.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// Canonical repository.
    pub repository: String,
    /// The manifest that was pulled, or the index that it was chosen from.
    pub manifest: Vec<u8>,
    /// The image.
    pub image: Digest,
    /// Which of its layers; 0 is the bottom.
    pub position: usize,
}

impl Db {
    /// Records a layer whose bytes are durable. Recording it twice is no error.
    pub fn add_layer(&self, layer: &LayerRow) -> Result<()> {
        self.write(|t| {
            t.prepare_cached(
                "INSERT INTO layer (id, data_size, index_size, file_bytes, entries, created) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![
                layer.id.to_string(),
                layer.data_size,
                layer.index_size,
                layer.file_bytes,
                layer.entries,
                now()
            ])
        })?;
        Ok(())
    }

    /// One layer.
    pub fn layer(&self, id: &LayerId) -> Result<Option<LayerRow>> {
        self.read(|c| {
            c.prepare_cached("SELECT id, data_size, index_size, file_bytes, entries FROM layer WHERE id = ?")?
                .query_row([id.to_string()], layer_row)
                .optional()
        })
    }

    /// All layers.
    pub fn layers(&self) -> Result<Vec<LayerRow>> {
        self.read(|c| {
            c.prepare_cached("SELECT id, data_size, index_size, file_bytes, entries FROM layer ORDER BY id")?
                .query_map([], layer_row)?
                .collect()
        })
    }

    /// Corrects what is known of a layer.
    pub fn set_layer_sizes(&self, id: &LayerId, data: u64, index: u64, files: u64) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("UPDATE layer SET data_size = ?, index_size = ?, file_bytes = ? WHERE id = ?")?
                .execute(params![data, index, files, id.to_string()])
                .map(drop)
        })
    }

    /// Layers that images refer to, but that have no row: it was lost.
    pub fn lost_layers(&self) -> Result<Vec<LayerId>> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT DISTINCT layer FROM image_layer WHERE NOT EXISTS (SELECT 1 FROM layer WHERE layer.id = image_layer.layer)",
            )?
            .query_map([], |row| super::parsed(row, 0))?
            .collect()
        })
    }

    /// Where a layer was pulled from, and as which of the layers of which image.
    pub fn sources_of_layer(&self, id: &LayerId) -> Result<Vec<LayerSource>> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT repository, manifest, image_layer.image, position FROM image_layer
                 JOIN repo_digest ON repo_digest.image = image_layer.image
                 WHERE layer = ? AND manifest IS NOT NULL ORDER BY repository",
            )?
            .query_map([id.to_string()], |row| {
                Ok(LayerSource {
                    repository: row.get(0)?,
                    manifest: row.get(1)?,
                    image: super::parsed(row, 2)?,
                    position: row.get(3)?,
                })
            })?
            .collect()
        })
    }

    /// The images that have a layer.
    pub fn images_of_layer(&self, id: &LayerId) -> Result<Vec<Digest>> {
        self.read(|c| {
            c.prepare_cached("SELECT DISTINCT image FROM image_layer WHERE layer = ?")?
                .query_map([id.to_string()], |row| super::parsed(row, 0))?
                .collect()
        })
    }

    /// Takes the rows of layers that no image refers to, of `candidates` or of all, and returns the layers: their bytes
    /// may go. Those that are pinned stay; the second value says whether there are such.
    pub fn take_unreferenced_layers(
        &self,
        candidates: Option<&[LayerId]>,
        pinned: &dyn Fn(&LayerId) -> bool,
    ) -> Result<(Vec<LayerId>, bool)> {
        self.write(|t| take_unreferenced(t, candidates, pinned))
    }
}

/// See [`Db::take_unreferenced_layers`].
pub(super) fn take_unreferenced(
    t: &Transaction<'_>,
    candidates: Option<&[LayerId]>,
    pinned: &dyn Fn(&LayerId) -> bool,
) -> rusqlite::Result<(Vec<LayerId>, bool)> {
    const UNREFERENCED: &str = "NOT EXISTS (SELECT 1 FROM image_layer WHERE image_layer.layer = layer.id)";
    let mut ids: Vec<LayerId> = Vec::new();
    match candidates {
        None => {
            let mut all = t.prepare_cached(&format!("SELECT id FROM layer WHERE {UNREFERENCED}"))?;
            ids.extend(all.query_map([], |row| super::parsed(row, 0))?.collect::<rusqlite::Result<Vec<LayerId>>>()?);
        }
        Some(candidates) => {
            let mut one = t.prepare_cached(&format!("SELECT id FROM layer WHERE id = ? AND {UNREFERENCED}"))?;
            for id in candidates {
                ids.extend(one.query_row([id.to_string()], |row| super::parsed::<LayerId>(row, 0)).optional()?);
            }
            // A chain may have a layer twice.
            ids.sort();
            ids.dedup();
        }
    }
    let (left, gone): (Vec<LayerId>, Vec<LayerId>) = ids.into_iter().partition(pinned);
    for id in &gone {
        t.prepare_cached("DELETE FROM layer WHERE id = ?")?.execute([id.to_string()])?;
    }
    Ok((gone, !left.is_empty()))
}

fn layer_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<LayerRow> {
    Ok(LayerRow {
        id: super::parsed(row, 0)?,
        data_size: row.get(1)?,
        index_size: row.get(2)?,
        file_bytes: row.get(3)?,
        entries: row.get(4)?,
    })
}
