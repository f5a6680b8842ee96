//! Layers that the store holds.

use fs_base::{LayerId, Result};
use rusqlite::{OptionalExtension, params};

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

    /// Takes the rows of layers that no image refers to, apart from `pinned`, and returns them: their bytes may go.
    pub fn take_unreferenced_layers(&self, pinned: &[LayerId]) -> Result<Vec<LayerRow>> {
        self.write(|t| {
            let mut rows: Vec<LayerRow> = t
                .prepare_cached(
                    "SELECT id, data_size, index_size, file_bytes, entries FROM layer
                     WHERE NOT EXISTS (SELECT 1 FROM image_layer WHERE image_layer.layer = layer.id)",
                )?
                .query_map([], layer_row)?
                .collect::<rusqlite::Result<_>>()?;
            rows.retain(|row| !pinned.contains(&row.id));
            for row in &rows {
                t.prepare_cached("DELETE FROM layer WHERE id = ?")?.execute([row.id.to_string()])?;
            }
            Ok(rows)
        })
    }
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
