//! Trees that a person asked to see on the host. A reboot takes them all, so their rows need not outlast a power cut.

use fs_base::Result;
use rusqlite::params;

use super::{Db, now};

/// One such mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRow {
    /// Names it.
    pub id: String,
    /// The image's id.
    pub object: String,
    /// The image's name as it was given.
    pub name: String,
    /// Absolute path.
    pub target: String,
    /// We made the folder, so we take it away.
    pub made_target: bool,
    /// What made it.
    pub driver: String,
    /// Whether it was made; else it was only meant to be.
    pub mounted: bool,
    /// Nanoseconds since the epoch.
    pub created: i64,
}

impl Db {
    /// Records that a mount will be made, which keeps the image; whether the image is still there.
    pub fn intend_mount(&self, mount: &MountRow) -> Result<bool> {
        self.write_until_reboot(|t| {
            t.prepare_cached(
                "INSERT INTO mount (id, kind, object, name, target, made_target, driver, state, created)
                 SELECT ?1, 'image', ?2, ?3, ?4, ?5, ?6, 'intent', ?7 WHERE EXISTS (SELECT 1 FROM image WHERE id = ?2)",
            )?
            .execute(params![mount.id, mount.object, mount.name, mount.target, mount.made_target, mount.driver, now()])
            .map(|added| added == 1)
        })
    }

    /// Records that it was made.
    pub fn mark_mounted(&self, id: &str) -> Result<()> {
        self.write_until_reboot(|t| t.prepare_cached("UPDATE mount SET state = 'mounted' WHERE id = ?")?.execute([id]))?;
        Ok(())
    }

    /// Forgets a mount.
    pub fn remove_mount(&self, id: &str) -> Result<()> {
        self.write_until_reboot(|t| t.prepare_cached("DELETE FROM mount WHERE id = ?")?.execute([id]))?;
        Ok(())
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Result<Vec<MountRow>> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT id, object, name, target, made_target, driver, state = 'mounted', created FROM mount ORDER BY created",
            )?
            .query_map([], |row| {
                Ok(MountRow {
                    id: row.get(0)?,
                    object: row.get(1)?,
                    name: row.get(2)?,
                    target: row.get(3)?,
                    made_target: row.get(4)?,
                    driver: row.get(5)?,
                    mounted: row.get(6)?,
                    created: row.get(7)?,
                })
            })?
            .collect()
        })
    }
}
