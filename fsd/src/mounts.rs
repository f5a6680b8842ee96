//! Images mounted on the host because a person asked to see them.
//!
//! A row says what is meant before it is done, and is marked when it is done; so after a crash it is known which
//! mounts are ours. A mount survives the daemon: the next one adopts it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use fs_base::sys::fuse::unmount;
use fs_base::sys::mount::{Mount, MountInfo, mount_table};
use fs_base::{Class, Error, IoContext, LayerId, Result, id};

use layerfs::driver::Lease;

use fsd_api::MountRequest;

use crate::app::App;
use crate::db::mounts::MountRow;
use crate::{fuse, image};

/// The driver of trees that a FUSE session serves.
const FUSE: &str = "fuse";

/// How a tree comes to its place.
enum Maker {
    /// The kernel has it already, without a place; and its layers, for others to stand on.
    Kernel(Mount, Lease, String),
    /// A session is to serve it, writable or not.
    Session { writable: bool },
}

impl Maker {
    /// By the kernel unless FUSE is asked for, or is all that works here.
    fn of(app: &App, name: &str, layers: &[LayerId], by_fuse: bool, writable: bool) -> Result<Maker> {
        if by_fuse || writable {
            return Ok(Maker::Session { writable });
        }
        let leased = app.mounter.lease(layers).and_then(|lease| Ok((app.mounter.image(layers)?, lease)));
        match leased {
            Ok((mount, lease)) => Ok(Maker::Kernel(mount, lease, app.mounter.driver_name().unwrap_or_default().to_owned())),
            Err(error) if matches!(error.class(), Class::Unsupported | Class::Denied) && app.config.fuse.exists() => {
                tracing::info!(image = name, why = %error, "mounting by FUSE");
                Ok(Maker::Session { writable })
            }
            Err(error) => Err(error.context(format!("mount image {name}"))),
        }
    }

    fn driver(&self) -> &str {
        match self {
            Maker::Kernel(_, _, driver) => driver,
            Maker::Session { .. } => FUSE,
        }
    }

    fn make(&self, app: &App, name: &str, layers: &[LayerId], target: &Path) -> Result<()> {
        match self {
            Maker::Kernel(mount, ..) => mount.attach(target),
            Maker::Session { writable } => fuse::start(app, name, layers, target, *writable),
        }
    }
}

/// Mounts an image at `request.target`, an empty folder or one to be made; under the run folder if there is none.
pub fn mount_image(app: &App, name: &str, request: &MountRequest) -> Result<MountRow> {
    let image = image::find(app, name)?;
    // Until the row is there, which keeps the image.
    let _pinned = image::pinned(app, &image)?;
    let maker = Maker::of(app, name, &image.layers, request.fuse, request.rw)?;
    let id = id::random_hex::<6>()?;
    let wanted = match request.target.as_deref() {
        Some(path) => check_target(app, Path::new(path))?,
        None => app.mount_dir().join(&id),
    };
    let made_target = make_target(&wanted)?;
    let row = MountRow {
        id,
        object: image.id.to_string(),
        name: name.to_owned(),
        target: text(&wanted)?,
        made_target,
        driver: maker.driver().to_owned(),
        mounted: true,
        created: crate::db::now(),
    };
    let intended = app.db.intend_mount(&row).and_then(|kept| if kept { Ok(()) } else { Err(image::no_such(name)) });
    let made = intended.and_then(|()| maker.make(app, name, &image.layers, &wanted));
    let attached = made.and_then(|()| app.db.mark_mounted(&row.id));
    if let Err(error) = attached {
        // Whatever of it was done is undone; what can't be is found at the next start.
        let _ = unmount(&wanted, true);
        clean_up(app, &row);
        return Err(error);
    }
    if let Maker::Kernel(_, lease, _) = maker {
        leases(app).insert(row.id.clone(), lease);
    }
    Ok(row)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid(format!("{}: the path is not UTF-8", path.display())))
}

/// A folder that a person may have covered: no root, no store, nothing mounted.
fn check_target(app: &App, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("mount target {:?} is not an absolute path", path.display())));
    }
    let parent = path.parent().ok_or_else(|| Error::invalid("refusing to mount over /"))?;
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("mount target {:?} has no name", path.display())))?;
    let full = parent.canonicalize().at("find", parent)?.join(name);
    // Our own folders may have been named through a symlink; the target has none by now, but for its last name.
    let real = |path: &Path| path.canonicalize().at("find", path);
    let (root, run) = (real(&app.config.root)?, real(&app.config.run)?);
    let ends_at = full.canonicalize().unwrap_or_else(|_| full.clone());
    if [&full, &ends_at].iter().any(|path| path.starts_with(&root) || path.starts_with(&run)) {
        return Err(Error::invalid(format!("refusing to mount over {}: it belongs to the daemon", full.display())));
    }
    if mount_table()?.iter().any(|mount| mount.target == full) {
        return Err(Error::conflict(format!("something is already mounted at {}", full.display()))
            .with_hint(format!("choose another folder, or `ctl umount {}` first", full.display())));
    }
    Ok(full)
}

/// Whether the folder had to be made. One that is there must be empty, and a folder.
fn make_target(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(_) => std::fs::create_dir_all(path).at("make directory", path).map(|()| true),
        Ok(metadata) if !metadata.is_dir() => Err(Error::invalid(format!("mount target {} is not a directory", path.display()))),
        Ok(_) => match std::fs::read_dir(path).at("read directory", path)?.next() {
            Some(_) => Err(Error::conflict(format!("mount target {} is not empty", path.display()))
                .with_hint("choose an empty folder, or a name that is not there yet")),
            None => Ok(false),
        },
    }
}

fn leases(app: &App) -> MutexGuard<'_, HashMap<String, Lease>> {
    app.image_leases.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up(app: &App, row: &MountRow) {
    leases(app).remove(&row.id);
    if row.made_target
        && let Err(error) = std::fs::remove_dir(&row.target)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(target = row.target, %error, "can't remove the folder of a mount");
    }
    if let Err(error) = app.db.remove_mount(&row.id) {
        tracing::warn!(mount = row.id, %error, "can't forget a mount");
    }
}

/// Whether the row's mount is there now. What a session that was killed left behind is taken away: nobody could use it.
fn is_there(row: &MountRow, table: &[MountInfo]) -> Result<bool> {
    let target = Path::new(&row.target);
    if !table.iter().any(|mount| mount.target == target) {
        return Ok(false);
    }
    if row.driver == FUSE && fuse::is_dead(target) {
        tracing::warn!(target = row.target, "a FUSE session was killed; unmounting what it left");
        unmount(target, true)?;
        return Ok(false);
    }
    Ok(true)
}

/// All mounts, and whether each is there. One whose FUSE session ended is forgotten, and the folder that was made for it
/// removed.
pub fn list(app: &App) -> Result<Vec<(MountRow, bool)>> {
    let rows = app.db.mounts()?;
    let table = mount_table()?;
    let mut list = Vec::with_capacity(rows.len());
    for row in rows {
        let there = is_there(&row, &table)?;
        if !there && row.driver == FUSE && row.mounted {
            clean_up(app, &row);
        } else {
            list.push((row, there));
        }
    }
    Ok(list)
}

/// Takes a mount away by its id, the start of its id, or its target.
pub fn unmount_image(app: &App, which: &str, lazy: bool) -> Result<()> {
    let by_path = Path::new(which).canonicalize().ok();
    let rows = app.db.mounts()?;
    let row = rows
        .iter()
        .find(|row| row.id == which || by_path.as_deref() == Some(Path::new(&row.target)) || row.target == which)
        .or_else(|| rows.iter().find(|row| which.len() >= 4 && row.id.starts_with(which)))
        .ok_or_else(|| {
            Error::not_found(format!("No such mount: {which}")).with_hint("`ctl mount ls` shows the mounts that the daemon made")
        })?;
    if is_there(row, &mount_table()?)? {
        unmount(Path::new(&row.target), lazy).map_err(|error| match error.class() {
            Class::Busy => Error::busy(format!("mount {} is in use", row.target))
                .with_hint("close what is open on it, or detach it with --lazy"),
            _ => error,
        })?;
    }
    clean_up(app, row);
    Ok(())
}

/// At start: mounts that were made are adopted; what was only begun, or has been unmounted by others, is undone.
pub fn recover(app: &App) -> Result<()> {
    let table = mount_table()?;
    for row in app.db.mounts()? {
        let there = is_there(&row, &table)?;
        if there && row.mounted {
            tracing::info!(target = row.target, image = row.name, "adopted a mount");
        } else {
            if there {
                unmount(Path::new(&row.target), true)?;
            }
            clean_up(app, &row);
        }
    }
    remove_stray_folders(app)
}

/// A folder is made before the row that names it; a crash between the two leaves the folder, which is empty.
fn remove_stray_folders(app: &App) -> Result<()> {
    let dir = app.mount_dir();
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(()) };
    let rows = app.db.mounts()?;
    for entry in entries {
        let path = entry.at("read directory", &dir)?.path();
        if rows.iter().all(|row| Path::new(&row.target) != path) {
            // One that is not empty is not ours to judge.
            let _ = std::fs::remove_dir(&path);
        }
    }
    Ok(())
}
