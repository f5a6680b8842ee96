//! Where a mount goes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_base::sys::mount::mount_table;
use fs_base::sys::place;
use fs_base::sys::user::{User, as_user};
use fs_base::{Error, IoContext, Result};

use crate::app::App;

/// A directory to be covered.
#[derive(Debug)]
pub struct Target {
    /// Without symlinks, absolute.
    pub path: PathBuf,
    /// We made it, so we take it away.
    pub made: bool,
}

/// The directory that was asked for, or one under the run folder. What is made is the user's, and made with that user's
/// rights.
pub fn find(app: &App, id: &str, wanted: Option<&str>, user: &User) -> Result<Target> {
    match wanted {
        None => own(app, id, user),
        Some(path) if user.is_root() || user.uid == User::own().uid => {
            let path = checked(app, Path::new(path))?;
            let made = made(&path)?;
            Ok(Target { path, made })
        }
        Some(path) => of_user(app, Path::new(path), user),
    }
}

fn own(app: &App, id: &str, user: &User) -> Result<Target> {
    let dir = app.mount_dir();
    std::fs::create_dir_all(&dir).at("make directory", &dir)?;
    let path = dir.canonicalize().at("find", &dir)?.join(id);
    std::fs::create_dir(&path).at("make directory", &path)?;
    if *user != User::own() {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).at("set mode of", &path)?;
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).at("set owner of", &path)?;
    }
    Ok(Target { path, made: true })
}

fn of_user(app: &App, path: &Path, user: &User) -> Result<Target> {
    if !path.is_absolute() {
        return Err(not_absolute(path));
    }
    let (path, made) = place::find_or_make(path, user)?;
    let checked = coverable(app, &path, &path).and_then(|()| {
        place::Place::of_user(&path, user)?;
        as_user(user, || empty(&path))
    });
    if let (Err(_), true) = (&checked, made) {
        let _ = as_user(user, || std::fs::remove_dir(&path).at("remove", &path));
    }
    checked.map(|()| Target { path, made })
}

fn not_absolute(path: &Path) -> Error {
    Error::invalid(format!("mount target {:?} is not an absolute path", path.display()))
}

/// A folder that a person may have covered: no root, no store, nothing mounted.
fn checked(app: &App, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(not_absolute(path));
    }
    let parent = path.parent().ok_or_else(|| Error::invalid("refusing to mount over /"))?;
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("mount target {:?} has no name", path.display())))?;
    let full = parent.canonicalize().at("find", parent)?.join(name);
    let ends_at = full.canonicalize().unwrap_or_else(|_| full.clone());
    coverable(app, &full, &ends_at)?;
    Ok(full)
}

fn coverable(app: &App, full: &Path, ends_at: &Path) -> Result<()> {
    // Our own folders may have been named through a symlink; the target has none by now, but for its last name.
    let real = |path: &Path| path.canonicalize().at("find", path);
    let (root, run) = (real(&app.config.root)?, real(&app.config.run)?);
    if full.parent().is_none() {
        return Err(Error::invalid("refusing to mount over /"));
    }
    if [full, ends_at].iter().any(|path| path.starts_with(&root) || path.starts_with(&run)) {
        return Err(Error::invalid(format!("refusing to mount over {}: it belongs to the daemon", full.display())));
    }
    if mount_table()?.iter().any(|mount| mount.target == full) {
        return Err(Error::conflict(format!("something is already mounted at {}", full.display()))
            .with_hint(format!("choose another folder, or `ctl umount {}` first", full.display())));
    }
    Ok(())
}

/// Whether the folder had to be made. One that is there must be empty, and a folder.
fn made(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(_) => std::fs::create_dir_all(path).at("make directory", path).map(|()| true),
        Ok(metadata) if !metadata.is_dir() => Err(Error::invalid(format!("mount target {} is not a directory", path.display()))),
        Ok(_) => empty(path).map(|()| false),
    }
}

fn empty(path: &Path) -> Result<()> {
    match std::fs::read_dir(path).at("read directory", path)?.next() {
        Some(_) => Err(Error::conflict(format!("mount target {} is not empty", path.display()))
            .with_hint("choose an empty folder, or a name that is not there yet")),
        None => Ok(()),
    }
}
