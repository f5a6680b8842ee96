//! What of a container can change after its creation.

use fs_base::{ContainerId, Result};
use rusqlite::params;

use super::Db;
use super::volumes::to_json;
use crate::container::Definition;

impl Db {
    /// Records what a container is from now on.
    pub fn set_container_definition(&self, id: &ContainerId, definition: &Definition) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("UPDATE container SET spec = ? WHERE id = ?")?.execute(params![to_json(definition)?, id.as_str()])
        })
        .map(drop)
    }
}
