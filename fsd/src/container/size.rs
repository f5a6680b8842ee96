//! What containers take on the disk.

use fs_base::ContainerId;

use super::ContainerRow;
use super::show::Size;
use crate::app::App;

/// Bytes on the disk of a container's own folder: what it wrote, its log, its files. One that can't be measured, or
/// goes meanwhile, takes nothing.
pub fn own(app: &App, id: &ContainerId) -> u64 {
    volumes::usage::of(&app.container_dir(id)).map_or(0, |usage| usage.bytes)
}

/// That, and its image's files.
pub fn of(app: &App, row: &ContainerRow) -> Size {
    let own = own(app, &row.id);
    let image = app.db.image(&row.image).ok().flatten().map_or(0, |image| image.size);
    Size { own, all: own + image }
}
