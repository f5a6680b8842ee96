//! What a mount shows: an image, a container or a volume.

use std::path::PathBuf;

use fs_base::{Error, LayerId, Result};
use fsd_api::ObjectKind;

use crate::app::{App, Pinned};
use crate::container::{ContainerRow, files};
use crate::db::mounts::MountRow;
use crate::image;

/// A tree that can be mounted.
#[derive(Debug)]
pub struct Subject {
    /// What it is.
    pub kind: ObjectKind,
    /// The image's or container's id, the volume's name.
    pub object: String,
    /// Its name as it was given.
    pub name: String,
    /// Its layers, bottom first.
    pub layers: Vec<LayerId>,
    /// What lies over the layers, in overlayfs's format: a container's changes, or all of a volume.
    pub dir: Option<PathBuf>,
    /// It may change while it is looked at.
    pub lives: bool,
    /// The container, if it is one.
    pub container: Option<ContainerRow>,
}

impl Subject {
    /// The object of this name.
    pub fn find(app: &App, kind: ObjectKind, name: &str) -> Result<Subject> {
        match kind {
            ObjectKind::Image => {
                let image = image::find(app, name)?;
                let bare = Subject::new(kind, image.id.to_string(), name);
                Ok(Subject { layers: image.layers, ..bare })
            }
            ObjectKind::Container => {
                let row = app.db.find_container(name)?;
                let image = app.db.image(&row.image)?;
                let image = image.ok_or_else(|| Error::corrupt(format!("the image {} of the container is gone", row.image)))?;
                let upper = app.container_dir(&row.id).join(files::UPPER);
                let bare = Subject::new(kind, row.id.to_string(), name);
                let dir = Some(upper).filter(|upper| upper.exists());
                Ok(Subject { layers: image.layers, dir, lives: true, container: Some(row), ..bare })
            }
            ObjectKind::Volume => {
                let volume = app.volumes.get(name)?;
                let bare = Subject::new(kind, volume.name.to_string(), name);
                Ok(Subject { dir: Some(app.volumes.data(&volume)?), lives: true, ..bare })
            }
        }
    }

    /// The object of a mount.
    pub fn of(app: &App, row: &MountRow) -> Result<Subject> {
        let found = Subject::find(app, row.kind, &row.object)?;
        Ok(Subject { name: row.name.clone(), ..found })
    }

    fn new(kind: ObjectKind, object: String, name: &str) -> Subject {
        let name = name.to_owned();
        Subject { kind, object, name, layers: Vec::new(), dir: None, lives: false, container: None }
    }

    /// Keeps an image until there is a row that does. Containers and volumes are kept by their rows.
    pub fn pin<'a>(&self, app: &'a App) -> Pinned<'a> {
        app.pin(&self.layers)
    }

    /// As a person calls it.
    pub fn shown(&self) -> String {
        format!("{} {}", word(self.kind), self.name)
    }

    /// It was there a moment ago.
    pub fn gone(&self) -> Error {
        match self.kind {
            ObjectKind::Image => image::no_such(&self.name),
            ObjectKind::Container => Error::not_found(format!("No such container: {}", self.name)),
            ObjectKind::Volume => Error::not_found(format!("get {}: no such volume", self.name)),
        }
    }
}

/// What a kind of object is called.
pub fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Image => "image",
        ObjectKind::Container => "container",
        ObjectKind::Volume => "volume",
    }
}
