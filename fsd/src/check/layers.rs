//! Rows of layers against their files, and files against rows.

use fs_base::{Class, Digest, Error, LayerId, Result};
use layerfs::store::{Checked, Finding, FindingKind};

use super::{Outcome, REPAIR, Run};
use crate::db::images::ImageRow;
use crate::db::layers::LayerRow;
use crate::image;
use crate::reference::familiar;
use crate::registry;

/// A check without a daemon has no logins: they are the caller's of `ctl`, which sends them.
const ANONYMOUS: &str = "asked without a login (a daemon's `ctl system check --repair` uses those of `docker login`)";

impl Run<'_> {
    pub(super) fn layers(&mut self) -> Result<()> {
        let rows = self.scope.db.layers()?;
        let total = if self.options.data { rows.iter().map(|row| row.data_size).sum() } else { rows.len() as u64 };
        let mut done = 0;
        for row in rows {
            // One that goes meanwhile is not missing.
            let _pinned = self.scope.app.map(|app| app.pin(&[row.id]));
            let Some(row) = self.scope.db.layer(&row.id)? else { continue };
            self.layer(&row, done, total)?;
            self.summary.layers += 1;
            self.summary.bytes += if self.options.data { row.data_size } else { 0 };
            done += if self.options.data { row.data_size } else { 1 };
        }
        Ok(())
    }

    fn layer(&mut self, row: &LayerRow, done: u64, total: u64) -> Result<()> {
        let object = format!("layer {}", row.id);
        self.progress(&object, done, total)?;
        let scope = self.scope;
        let checked = scope.store.check_with(&row.id, self.options.data, &mut |read| {
            self.progress(&object, (done + read).min(total), total).is_ok()
        })?;
        if checked.stopped {
            self.progress(&object, done, total)?;
        }
        self.files(&object, row, &checked)?;
        self.totals(&object, row, &checked)
    }

    fn files(&mut self, object: &str, row: &LayerRow, checked: &Checked) -> Result<()> {
        let is_bad = |kind: &FindingKind| matches!(kind, FindingKind::Missing | FindingKind::Data);
        let bad: Vec<&Finding> = checked.findings.iter().filter(|finding| is_bad(&finding.kind)).collect();
        if let Some(first) = bad.first() {
            let kind = if first.kind == FindingKind::Missing { "missing" } else { "corrupt" };
            let messages: Vec<&str> = bad.iter().map(|finding| finding.message.as_str()).collect();
            let remedy = self.where_from(&row.id)?;
            self.find((object, kind), messages.join("; "), remedy, |run| run.bring_back(row))?;
        }
        for finding in &checked.findings {
            let message = finding.message.clone();
            match &finding.kind {
                // With a bad tar the index comes anew with it.
                FindingKind::Index if bad.is_empty() => {
                    self.find((object, "corrupt"), message, finding.remedy.clone(), |run| {
                        run.scope.store.rebuild_index(&row.id)?;
                        run.let_go(&row.id);
                        Ok(Outcome::Repaired("its index was built again from its data".to_owned()))
                    })?;
                }
                FindingKind::Stray(name) => {
                    self.find((object, "orphan"), message, finding.remedy.clone(), |run| {
                        if !run.options.force {
                            return Ok(Outcome::OnlyByForce("removes that file".to_owned()));
                        }
                        run.scope.store.remove_stray(&row.id, name)?;
                        run.scope.store.sweep()?;
                        Ok(Outcome::Repaired("that file was removed".to_owned()))
                    })?;
                }
                FindingKind::Unpacked => {
                    self.find((object, "corrupt"), message, finding.remedy.clone(), |run| run.unpack_again(&row.id))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Unpacks a layer again, unless something stands on what was unpacked.
    fn unpack_again(&self, id: &LayerId) -> Result<Outcome> {
        self.must_be_unused(id)?;
        let again = || {
            // Asked once more: from here on nobody comes to stand on it.
            self.must_be_unused(id)?;
            self.scope.store.unpack_again(id)
        };
        match self.scope.app {
            Some(app) => app.mounter.alone(id, again)?,
            None => again()?,
        }
        Ok(Outcome::Repaired("it was unpacked again from its data".to_owned()))
    }

    /// Refuses if a container or a mount stands on a layer.
    fn must_be_unused(&self, id: &LayerId) -> Result<()> {
        let images = self.images_of(id)?;
        for container in self.scope.db.containers()? {
            let shim = engine::shim::Client::new(&self.scope.config.run.join("containers").join(container.id.as_str()));
            if images.iter().any(|image| image.id == container.image) && shim.state().is_ok() {
                return Err(Error::busy(format!("container {} runs on it: stop it first", container.name)));
            }
        }
        if let Some(mount) = self.mount_of(&images)? {
            return Err(Error::busy(format!("it is mounted at {mount}: unmount that first")));
        }
        Ok(())
    }

    /// Kept totals against what is there.
    fn totals(&mut self, object: &str, row: &LayerRow, checked: &Checked) -> Result<()> {
        let Some(sizes) = checked.sizes else { return Ok(()) };
        for (what, kept, found) in
            [("data", row.data_size, sizes.data), ("index", row.index_size, sizes.index), ("files", row.file_bytes, sizes.files)]
        {
            if kept != found {
                let message = format!("the database says that its {what} take {kept} bytes, they take {found}");
                return self.find((object, "mismatch"), message, REPAIR.to_owned(), |run| {
                    run.scope.db.set_layer_sizes(&row.id, sizes.data, sizes.index, sizes.files)?;
                    Ok(Outcome::Repaired("the database was corrected".to_owned()))
                });
            }
        }
        Ok(())
    }

    /// Mounts that are made from now on find what is on the disk now.
    fn let_go(&self, id: &LayerId) {
        if let Some(app) = self.scope.app {
            app.mounter.forget(id);
        }
    }

    fn where_from(&self, id: &LayerId) -> Result<String> {
        Ok(match &self.scope.db.sources_of_layer(id)?[..] {
            [] => "load an image that has the layer: that replaces it".to_owned(),
            [source, ..] => format!("{REPAIR}: it fetches it again from {}", familiar(&source.repository)),
        })
    }

    /// Fetches a layer again; where nothing has it, what stands on it can only be removed.
    fn bring_back(&mut self, row: &LayerRow) -> Result<Outcome> {
        let failed = match self.fetch(&row.id)? {
            Ok(how) => return Ok(Outcome::Repaired(how)),
            Err(failed) => failed,
        };
        let images = self.images_of(&row.id)?;
        let names: Vec<String> = images.iter().map(image::name_of).collect();
        let names = names.join(", ");
        if let Some(user) = self.user_of(&images)? {
            let error = failed.unwrap_or_else(|| Error::not_found("no registry is known to have it"));
            return Err(error.context(format!("{user} needs image {names}")));
        }
        if !self.options.force {
            let failed = failed.map(|error| format!(" ({error})")).unwrap_or_default();
            return Ok(Outcome::OnlyByForce(format!("removes image {names}, which nothing uses{failed}")));
        }
        for image in &images {
            if !self.scope.db.remove_image(&image.id)? {
                return Err(Error::new(Class::Conflict, format!("image {} was taken into use", image::name_of(image))));
            }
        }
        self.scope.collect()?;
        Ok(Outcome::Repaired(format!("image {names} was removed")))
    }

    /// Fetches a layer from where it came from, and says how; or why not, if there is such a place.
    fn fetch(&self, id: &LayerId) -> Result<std::result::Result<String, Option<Error>>> {
        let mut failed = None;
        for source in self.scope.db.sources_of_layer(id)? {
            match registry::fetch_again(self.scope.config, self.scope.store, &self.scope.logins, &source, id) {
                Ok(()) => {
                    self.let_go(id);
                    return Ok(Ok(format!("it was fetched again from {}", familiar(&source.repository))));
                }
                Err(error) if self.scope.app.is_none() => failed = Some(error.context(ANONYMOUS)),
                Err(error) => failed = Some(error),
            }
        }
        Ok(Err(failed))
    }

    /// Layers that images refer to, but of which the database has no row.
    pub(super) fn lost(&mut self) -> Result<()> {
        for id in self.scope.db.lost_layers()? {
            let message = "an image needs it, but the database has no row of it".to_owned();
            self.find((&format!("layer {id}"), "missing"), message, REPAIR.to_owned(), |run| {
                let sound = |run: &Self| Ok::<_, Error>(run.scope.store.check_with(&id, false, &mut |_| true)?.sizes);
                let mut how = "its row was restored from its files".to_owned();
                let sizes = match sound(run)? {
                    Some(sizes) => Some(sizes),
                    None => match run.fetch(&id)? {
                        Ok(fetched) => {
                            how = fetched;
                            sound(run)?
                        }
                        Err(failed) => return failed.map_or(Ok(Outcome::Left), Err),
                    },
                };
                let Some(sizes) = sizes else { return Ok(Outcome::Left) };
                let entries = run.scope.store.layer(&id)?.index.inodes();
                let (data_size, index_size, file_bytes) = (sizes.data, sizes.index, sizes.files);
                run.scope.db.add_layer(&LayerRow { id, data_size, index_size, file_bytes, entries })?;
                Ok(Outcome::Repaired(how))
            })?;
        }
        Ok(())
    }

    fn images_of(&self, id: &LayerId) -> Result<Vec<ImageRow>> {
        let ids: Vec<Digest> = self.scope.db.images_of_layer(id)?;
        let rows: Result<Vec<Option<ImageRow>>> = ids.iter().map(|id| self.scope.db.image(id)).collect();
        Ok(rows?.into_iter().flatten().collect())
    }

    /// Who needs one of these images.
    pub(super) fn user_of(&self, images: &[ImageRow]) -> Result<Option<String>> {
        let is_one = |id: &Digest| images.iter().any(|image| image.id == *id);
        if let Some(container) = self.scope.db.containers()?.iter().find(|row| is_one(&row.image)) {
            return Ok(Some(format!("container {}", container.name)));
        }
        Ok(self.mount_of(images)?.map(|target| format!("mount {target}")))
    }

    /// Where one of these images is mounted.
    fn mount_of(&self, images: &[ImageRow]) -> Result<Option<String>> {
        let is_one = |id: &Digest| images.iter().any(|image| image.id == *id);
        let mounts = self.scope.db.mounts()?;
        Ok(mounts.into_iter().find(|mount| mount.object.parse().is_ok_and(|id| is_one(&id))).map(|mount| mount.target))
    }

    /// Files that no row knows.
    pub(super) fn leftovers(&mut self) -> Result<()> {
        let lost = self.scope.db.lost_layers()?;
        let unreferenced = |run: &Self, id: &LayerId| Ok::<_, Error>(run.scope.db.layer(id)?.is_none() && !lost.contains(id));
        for id in self.scope.store.list()? {
            // Pinned by whoever brings it in: it has its row in a moment.
            if unreferenced(self, &id)? && !self.scope.store.is_pinned(&id) && unreferenced(self, &id)? {
                let message = "it is on the disk, but no row knows it".to_owned();
                self.find((&format!("layer {id}"), "orphan"), message, REPAIR.to_owned(), |run| {
                    let known = run.scope.db;
                    run.scope
                        .store
                        .collect(|pinned| Ok(if pinned(&id) || known.layer(&id)?.is_some() { Vec::new() } else { vec![id] }))?;
                    run.scope.store.sweep()?;
                    Ok(Outcome::Repaired("it was removed".to_owned()))
                })?;
            }
        }
        let left = self.scope.store.leftovers()?;
        for path in left.strangers {
            let remedy = "look at it, and move it out of the store".to_owned();
            self.find((&path.display().to_string(), "orphan"), "it is no layer".to_owned(), remedy, |run| {
                if !run.options.force {
                    return Ok(Outcome::OnlyByForce(format!("removes {}", path.display())));
                }
                run.scope.store.remove_stranger(&path)?;
                Ok(Outcome::Repaired("it was removed".to_owned()))
            })?;
        }
        // In a store that is served it is work under way.
        if self.scope.app.is_none() {
            for path in left.unfinished {
                let message = "unfinished work was left".to_owned();
                let remedy = "nothing: the daemon removes it when it starts".to_owned();
                self.find((&path.display().to_string(), "orphan"), message, remedy, |run| {
                    run.scope.store.clear_tmp()?;
                    Ok(Outcome::Repaired("it was removed".to_owned()))
                })?;
            }
        }
        Ok(())
    }
}
