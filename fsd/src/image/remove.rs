//! Taking images away, without taking them from a container.

use fs_base::{Class, Error, Result};

use super::{find, shown_digests, shown_tags};
use crate::app::App;
use crate::container::ContainerRow;
use crate::db::images::ImageRow;
use crate::reference::{Reference, familiar};

/// What removing an image did, in Docker's order and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or layer is gone.
    Deleted(String),
}

/// Removes a name, and with the last name the image. By id, an image with names in several repositories needs `force`.
///
/// An image that a stopped container was made from goes only by `force`, and then only its names do: the image itself
/// stays, without a name, because the container's tree stands on its layers.
pub fn remove(app: &App, name: &str, force: bool) -> Result<Vec<Removed>> {
    let image = find(app, name)?;
    let by_digest = name.parse::<Reference>().ok().filter(|reference| reference.digest.is_some());
    if let Some(reference) = by_digest.filter(|_| !image.tags.is_empty()) {
        return forget_digest(app, &image, &reference);
    }
    let by_name = match name.parse::<Reference>() {
        Ok(reference) => image
            .tags
            .iter()
            .find(|(repository, tag)| *repository == reference.repository && tag == reference.tag_or_latest())
            .cloned(),
        Err(_) => None,
    };
    if let Some(one) = by_name.as_ref().filter(|_| image.tags.len() > 1) {
        return untag(app, &image, std::slice::from_ref(one));
    }
    let repositories: std::collections::BTreeSet<_> = image.tags.iter().map(|(repository, _)| repository).collect();
    if by_name.is_none() && repositories.len() > 1 && !force {
        return Err(Error::conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id.short()
        )));
    }
    let mut users = users_of(app, &image)?;
    if users.is_empty() {
        match delete(app, &image) {
            // A container was made from it since the look above.
            Err(error) if error.class() == Class::Conflict => users = users_of(app, &image)?,
            done => return done,
        }
        if users.is_empty() {
            return delete(app, &image);
        }
    }
    refuse_used(&image, by_name.as_ref(), &users, force)?;
    untag(app, &image, &image.tags)
}

fn users_of(app: &App, image: &ImageRow) -> Result<Vec<ContainerRow>> {
    Ok(app.db.containers()?.into_iter().filter(|row| row.image == image.id).collect())
}

/// Removes an image with all its names and the layers that only it had. A conflict if a container needs it or it is
/// mounted; then nothing has changed.
fn delete(app: &App, image: &ImageRow) -> Result<Vec<Removed>> {
    refuse_mounted(app, image)?;
    if !app.remove_image(image)? {
        // Mounted since the look above, or somebody else has removed it.
        refuse_mounted(app, image)?;
        return Err(super::no_such(&image.id.to_string()));
    }
    let mut removed: Vec<Removed> = shown_tags(image).into_iter().map(Removed::Untagged).collect();
    removed.extend(shown_digests(image).into_iter().map(Removed::Untagged));
    removed.push(Removed::Deleted(image.id.to_string()));
    for layer in image.layers.iter().rev() {
        if app.db.layer(layer)?.is_none() {
            removed.push(Removed::Deleted(layer.to_string()));
        }
    }
    tell(app, image, &removed);
    Ok(removed)
}

/// An image that has tags loses nothing but this one digest: none of the tags was named.
fn forget_digest(app: &App, image: &ImageRow, reference: &Reference) -> Result<Vec<Removed>> {
    let Some(digest) = &reference.digest else { return Ok(Vec::new()) };
    app.db.forget_digest(&reference.repository, digest)?;
    let removed = vec![Removed::Untagged(format!("{}@{digest}", familiar(&reference.repository)))];
    tell(app, image, &removed);
    Ok(removed)
}

fn untag(app: &App, image: &ImageRow, tags: &[(String, String)]) -> Result<Vec<Removed>> {
    let mut removed = Vec::new();
    for (repository, tag) in tags {
        app.db.untag(repository, tag)?;
        removed.push(Removed::Untagged(format!("{}:{tag}", familiar(repository))));
    }
    tell(app, image, &removed);
    Ok(removed)
}

fn tell(app: &App, image: &ImageRow, removed: &[Removed]) {
    let id = image.id.to_string();
    for one in removed {
        match one {
            Removed::Untagged(name) => app.events.object("image", "untag", &id, &[("name", name)]),
            Removed::Deleted(what) if *what == id => app.events.object("image", "delete", &id, &[("name", &id)]),
            Removed::Deleted(_) => {}
        }
    }
}

fn refuse_used(image: &ImageRow, by_name: Option<&(String, String)>, users: &[ContainerRow], force: bool) -> Result<()> {
    let short = |row: &ContainerRow| row.id.as_str()[..12].to_owned();
    let running = users.iter().find(|row| row.state.is_up());
    if force && (by_name.is_some() || running.is_none()) {
        return Ok(());
    }
    let text = match (by_name, running) {
        (Some((repository, tag)), _) => format!(
            "conflict: unable to remove repository reference \"{}:{tag}\" (must force) - container {} is using its referenced image {}",
            familiar(repository),
            short(&users[0]),
            image.id.short()
        ),
        (None, Some(row)) => format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            image.id.short(),
            short(row)
        ),
        (None, None) => format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container {}",
            image.id.short(),
            short(&users[0])
        ),
    };
    Err(Error::conflict(text))
}

fn refuse_mounted(app: &App, image: &ImageRow) -> Result<()> {
    let Some(mount) = app.db.mounts()?.into_iter().find(|mount| mount.object == image.id.to_string()) else { return Ok(()) };
    Err(Error::conflict(format!(
        "conflict: unable to delete {} (cannot be forced) - image is mounted at {}",
        image.id.short(),
        mount.target
    ))
    .with_hint(format!("run `ctl umount {}` first", mount.target)))
}

/// Removes images without a name, or with `all` every image that nothing uses, if it is `wanted`. Returns what was removed
/// and the bytes given back.
pub fn prune(app: &App, all: bool, wanted: &dyn Fn(&ImageRow) -> Result<bool>) -> Result<(Vec<Removed>, u64)> {
    let before: u64 = app.db.layers()?.iter().map(|row| row.data_size + row.index_size).sum();
    let mounted: Vec<String> = app.db.mounts()?.into_iter().map(|mount| mount.object).collect();
    let mut removed = Vec::new();
    for image in app.db.images()? {
        let in_use = mounted.contains(&image.id.to_string()) || !app.db.containers_of_image(&image.id)?.is_empty();
        if in_use || !(all || image.tags.is_empty()) || !wanted(&image)? {
            continue;
        }
        match delete(app, &image) {
            Ok(gone) => removed.extend(gone),
            // Taken into use since the look above: it keeps its names too. Or gone.
            Err(error) if matches!(error.class(), Class::Conflict | Class::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let after: u64 = app.db.layers()?.iter().map(|row| row.data_size + row.index_size).sum();
    let freed = before.saturating_sub(after);
    app.events.pruned("image", freed);
    Ok((removed, freed))
}
