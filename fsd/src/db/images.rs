//! Images, their tags, and the digests that registries know them by.

use fs_base::{Digest, LayerId, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::layers::take_unreferenced;
use super::{Db, now, parsed};

/// An image as stored.
#[derive(Debug, Clone)]
pub struct ImageRow {
    /// The digest of its config.
    pub id: Digest,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// Bytes of the regular files of all its layers.
    pub size: u64,
    /// When it came into this store, nanoseconds since the epoch.
    pub stored: i64,
    /// Its layers, bottom first.
    pub layers: Vec<LayerId>,
    /// `(repository, tag)`, canonical.
    pub tags: Vec<(String, String)>,
    /// `(repository, manifest digest)`.
    pub digests: Vec<(String, Digest)>,
}

/// Where an image was pulled from.
#[derive(Debug, Clone)]
pub struct PulledAs {
    /// Canonical repository.
    pub repository: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
}

impl Db {
    /// Records an image whose layers have rows, with its origin and the names it gets. Names move here from the
    /// images that had them. Recording an image again only adds names.
    pub fn add_image(
        &self,
        id: &Digest,
        config: &[u8],
        layers: &[LayerId],
        pulled: Option<&PulledAs>,
        tags: &[(String, String)],
    ) -> Result<()> {
        self.write(|t| {
            let mut size = 0u64;
            for layer in layers {
                size += t
                    .prepare_cached("SELECT file_bytes FROM layer WHERE id = ?")?
                    .query_row([layer.to_string()], |row| row.get::<_, u64>(0))?;
            }
            let new = t
                .prepare_cached("INSERT INTO image (id, config, size, created) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING")?
                .execute(params![id.to_string(), config, size, now()])?;
            if new == 1 {
                set_layers(t, id, layers)?;
            }
            if let Some(pulled) = pulled {
                t.prepare_cached(
                    "INSERT INTO repo_digest (repository, digest, image, manifest) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                )?
                .execute(params![
                    pulled.repository,
                    pulled.digest.to_string(),
                    id.to_string(),
                    pulled.manifest
                ])?;
            }
            tags.iter().try_for_each(|(repository, tag)| set_tag(t, repository, tag, id))
        })
    }

    /// Gives an image a name, taking it from the image that had it.
    pub fn tag_image(&self, repository: &str, tag: &str, id: &Digest) -> Result<()> {
        self.write(|t| set_tag(t, repository, tag, id))
    }

    /// Takes a name away; whether it was there.
    pub fn untag(&self, repository: &str, tag: &str) -> Result<bool> {
        self.write(|t| Ok(t.prepare_cached("DELETE FROM tag WHERE repository = ? AND tag = ?")?.execute([repository, tag])? == 1))
    }

    /// Forgets under which digest a registry's repository knows an image; whether it was known.
    pub fn forget_digest(&self, repository: &str, digest: &Digest) -> Result<bool> {
        self.write(|t| {
            let gone = t
                .prepare_cached("DELETE FROM repo_digest WHERE repository = ? AND digest = ?")?
                .execute([repository, &digest.to_string()])?;
            Ok(gone > 0)
        })
    }

    /// Removes an image with all its names, unless it is mounted; whether it did. Fails with a conflict while a container
    /// refers to it.
    pub fn remove_image(&self, id: &Digest) -> Result<bool> {
        self.write(|t| delete_image(t, id))
    }

    /// Like [`Db::remove_image`]; with it go the rows of the layers that only it had, which are returned. Those that are
    /// pinned stay; the last value says whether there are such. `None`: it was not removed.
    pub fn remove_image_and_layers(
        &self,
        image: &ImageRow,
        pinned: &dyn Fn(&LayerId) -> bool,
    ) -> Result<Option<(Vec<LayerId>, bool)>> {
        self.write(|t| {
            if delete_image(t, &image.id)? { take_unreferenced(t, Some(&image.layers), pinned).map(Some) } else { Ok(None) }
        })
    }

    /// What the layers of an image add up to, whatever its row says.
    pub fn image_size(&self, id: &Digest) -> Result<u64> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT coalesce(sum(file_bytes), 0) FROM image_layer JOIN layer ON layer.id = layer WHERE image = ?",
            )?
            .query_row([id.to_string()], |row| row.get(0))
        })
    }

    /// Corrects the layers of an image, which have rows, and its size.
    pub fn set_image_layers(&self, id: &Digest, layers: &[LayerId]) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("DELETE FROM image_layer WHERE image = ?")?.execute([id.to_string()])?;
            set_layers(t, id, layers)
        })
    }

    /// Corrects the size of an image.
    pub fn set_image_size(&self, id: &Digest, size: u64) -> Result<()> {
        self.write(|t| t.prepare_cached("UPDATE image SET size = ? WHERE id = ?")?.execute(params![size, id.to_string()]))
            .map(drop)
    }

    /// One image.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRow>> {
        self.read(|c| read_image(c, &id.to_string()))
    }

    /// The image that has this name.
    pub fn image_by_tag(&self, repository: &str, tag: &str) -> Result<Option<Digest>> {
        self.read(|c| {
            c.prepare_cached("SELECT image FROM tag WHERE repository = ? AND tag = ?")?
                .query_row([repository, tag], |row| parsed(row, 0))
                .optional()
        })
    }

    /// The image that this registry digest, or config digest, names in this repository.
    pub fn image_by_digest(&self, repository: &str, digest: &Digest) -> Result<Option<Digest>> {
        self.read(|c| {
            c.prepare_cached("SELECT image FROM repo_digest WHERE repository = ? AND digest = ?")?
                .query_row([repository, &digest.to_string()], |row| parsed(row, 0))
                .optional()
        })
    }

    /// The images whose id starts with these hex digits; at most two are looked for.
    pub fn images_by_prefix(&self, hex: &str) -> Result<Vec<Digest>> {
        self.read(|c| {
            c.prepare_cached("SELECT id FROM image WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2")?
                .query_map([format!("sha256:{hex}")], |row| parsed(row, 0))?
                .collect()
        })
    }

    /// All images, newest first by the time they came into the store.
    pub fn images(&self) -> Result<Vec<ImageRow>> {
        self.read(|c| {
            let ids: Vec<String> = c
                .prepare_cached("SELECT id FROM image ORDER BY created DESC")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut images = Vec::with_capacity(ids.len());
            for id in ids {
                images.extend(read_image(c, &id)?);
            }
            Ok(images)
        })
    }

    /// The ids of the containers that were made from an image.
    pub fn containers_of_image(&self, id: &Digest) -> Result<Vec<String>> {
        self.read(|c| {
            c.prepare_cached("SELECT id FROM container WHERE image = ? ORDER BY created")?
                .query_map([id.to_string()], |row| row.get(0))?
                .collect()
        })
    }
}

fn set_layers(t: &Transaction<'_>, id: &Digest, layers: &[LayerId]) -> rusqlite::Result<()> {
    for (position, layer) in layers.iter().enumerate() {
        t.prepare_cached("INSERT INTO image_layer (image, position, layer) VALUES (?, ?, ?)")?.execute(params![
            id.to_string(),
            position,
            layer.to_string()
        ])?;
    }
    Ok(())
}

fn delete_image(t: &Transaction<'_>, id: &Digest) -> rusqlite::Result<bool> {
    t.prepare_cached("DELETE FROM image WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM mount WHERE object = ?1)")?
        .execute([id.to_string()])
        .map(|removed| removed == 1)
}

fn set_tag(t: &Transaction<'_>, repository: &str, tag: &str, id: &Digest) -> rusqlite::Result<()> {
    t.prepare_cached(
        "INSERT INTO tag (repository, tag, image) VALUES (?, ?, ?) ON CONFLICT (repository, tag) DO UPDATE SET image = excluded.image",
    )?
    .execute([repository, tag, &id.to_string()])?;
    Ok(())
}

fn read_image(c: &Connection, id: &str) -> rusqlite::Result<Option<ImageRow>> {
    let head = c
        .prepare_cached("SELECT id, config, size, created FROM image WHERE id = ?")?
        .query_row([id], |row| Ok((parsed(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((digest, config, size, stored)) = head else { return Ok(None) };
    let layers = c
        .prepare_cached("SELECT layer FROM image_layer WHERE image = ? ORDER BY position")?
        .query_map([id], |row| parsed(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let tags = c
        .prepare_cached("SELECT repository, tag FROM tag WHERE image = ? ORDER BY repository, tag")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let digests = c
        .prepare_cached("SELECT repository, digest FROM repo_digest WHERE image = ? ORDER BY repository, digest")?
        .query_map([id], |row| Ok((row.get(0)?, parsed(row, 1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(ImageRow { id: digest, config, size, stored, layers, tags, digests }))
}
