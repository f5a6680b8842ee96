//! Rows of images: what they say of themselves, and of their layers.

use fs_base::{LayerId, Result};

use super::{Outcome, REPAIR, Run};
use crate::image::{Config, load::digest_of, name_of};

impl Run<'_> {
    pub(super) fn images(&mut self) -> Result<()> {
        for image in self.scope.db.images()? {
            self.summary.images += 1;
            let object = format!("image {}", name_of(&image));
            let found = digest_of(&image.config);
            let named = Config::parse(&image.config).map(|config| config.rootfs.diff_ids).unwrap_or_default();
            let agrees = named == image.layers;
            if found != image.id || !agrees {
                let message = "its config in the database is not what its id and layers say".to_owned();
                let remedy = "remove the image and load or pull it again".to_owned();
                let image = &image;
                self.find((&object, "corrupt"), message, remedy, |run| {
                    // A config that has its digest is the image: the rest follows from it.
                    if found == image.id && run.all_have_rows(&named)? {
                        run.scope.db.set_image_layers(&image.id, &named)?;
                        return Ok(Outcome::Repaired("its layers were restored from its config".to_owned()));
                    }
                    if run.user_of(std::slice::from_ref(image))?.is_some() {
                        return Ok(Outcome::Left);
                    }
                    if !run.options.force {
                        return Ok(Outcome::OnlyByForce("removes the image, which nothing uses".to_owned()));
                    }
                    run.scope.db.remove_image(&image.id)?;
                    run.scope.collect()?;
                    Ok(Outcome::Repaired("the image was removed".to_owned()))
                })?;
            }
            let size = self.scope.db.image_size(&image.id)?;
            if size != image.size && self.scope.db.image(&image.id)?.is_some() {
                let message = format!("the database says that it takes {} bytes, its layers take {size}", image.size);
                self.find((&object, "mismatch"), message, REPAIR.to_owned(), |run| {
                    run.scope.db.set_image_size(&image.id, size)?;
                    Ok(Outcome::Repaired("the database was corrected".to_owned()))
                })?;
            }
        }
        Ok(())
    }

    fn all_have_rows(&self, layers: &[LayerId]) -> Result<bool> {
        for id in layers {
            if self.scope.db.layer(id)?.is_none() {
                return Ok(false);
            }
        }
        Ok(!layers.is_empty())
    }
}
