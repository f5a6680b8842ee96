//! Filling a new volume with what the image has at its target, in a way that a crash can't leave half done.
//!
//! The contents are prepared in a folder beside the data (`.new`), synced, and given their name by one rename:
//! from then on they are complete, and what is left (moving the entries into the volume, one rename each) is
//! done again by [`crate::Volumes::recover`] until it is finished. A volume is filled only while it is empty.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_base::sys::xattr;
use fs_base::trash::Trash;
use fs_base::{Class, IoContext, Result, durable};

use crate::driver::FillPlaces;
use crate::locks::NameLock;

/// A volume that is about to be filled. Dropped without [`Filling::publish`], it leaves the volume empty.
#[must_use = "a filling that is not published is thrown away"]
#[derive(Debug)]
pub struct Filling {
    places: FillPlaces,
    trash: Trash,
    _lock: NameLock,
}

impl Filling {
    /// `None` if the volume has contents already.
    pub(crate) fn begin(places: FillPlaces, trash: Trash, lock: NameLock) -> Result<Option<Filling>> {
        recover(&places, &trash)?;
        if !is_empty(&places.data)? {
            return Ok(None);
        }
        let dir = unfinished(&places.staging);
        std::fs::DirBuilder::new().mode(0o700).create(&dir).at("make directory", &dir)?;
        let filling = Filling { places, trash, _lock: lock };
        Attributes::of(&filling.places.data)?.give_to(&dir)?;
        Ok(Some(filling))
    }

    /// The empty directory to be filled. Its own owner, mode and attributes become the volume's.
    pub fn dir(&self) -> PathBuf {
        unfinished(&self.places.staging)
    }

    /// Makes what is in [`Filling::dir`] the contents of the volume, durably.
    pub fn publish(self) -> Result<()> {
        let dir = self.dir();
        if is_empty(&dir)? {
            // Nothing that could be half there: spare the sync of a whole file system.
            Attributes::of(&dir)?.give_to(&self.places.data)?;
            return durable::sync_dir(&self.places.data);
        }
        durable::sync_file_system(&dir)?;
        durable::publish(&dir, &self.places.staging)?;
        finish(&self.places, &self.trash)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = discard(&self.dir(), &self.trash);
    }
}

/// Finishes or throws away what a crash interrupted. No error if there is nothing.
pub(crate) fn recover(places: &FillPlaces, trash: &Trash) -> Result<()> {
    discard(&unfinished(&places.staging), trash)?;
    if places.staging.is_dir() { finish(places, trash) } else { Ok(()) }
}

fn unfinished(staging: &Path) -> PathBuf {
    let mut name = OsString::from(staging);
    name.push(".new");
    name.into()
}

fn is_empty(dir: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(dir).at("read directory", dir)?.next().is_none())
}

fn finish(places: &FillPlaces, trash: &Trash) -> Result<()> {
    let FillPlaces { data, staging } = places;
    // Before the moves, which change the directory's time. (After a crash between them it is the crash's time.)
    let attributes = Attributes::of(staging)?;
    for entry in std::fs::read_dir(staging).at("read directory", staging)? {
        let name = entry.at("read directory", staging)?.file_name();
        match durable::rename_new(&staging.join(&name), &data.join(&name)) {
            Ok(()) => {}
            // A container that had the volume mounted made the name meanwhile: its own stays.
            Err(error) if error.class() == Class::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    attributes.give_to(data)?;
    durable::sync_dir(data)?;
    discard(staging, trash)
}

/// Owner, mode, extended attributes and times of a directory.
struct Attributes {
    metadata: std::fs::Metadata,
    extended: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    fn of(dir: &Path) -> Result<Attributes> {
        let extended = xattr::list(fs_base::sys::mount::open_dir(dir)?)?;
        Ok(Attributes { metadata: dir.metadata().at("stat", dir)?, extended })
    }

    fn give_to(&self, dir: &Path) -> Result<()> {
        let (have, want) = (dir.metadata().at("stat", dir)?, &self.metadata);
        if (have.uid(), have.gid()) != (want.uid(), want.gid()) {
            std::os::unix::fs::chown(dir, Some(want.uid()), Some(want.gid())).at("set owner of", dir)?;
        }
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(want.mode() & 0o7777)).at("set mode of", dir)?;
        let fd = fs_base::sys::mount::open_dir(dir)?;
        for (name, value) in &self.extended {
            xattr::set(&fd, name, value)?;
        }
        let times = std::fs::FileTimes::new()
            .set_accessed(want.accessed().at("stat", dir)?)
            .set_modified(want.modified().at("stat", dir)?);
        std::fs::File::open(dir).and_then(|dir| dir.set_times(times)).at("set times of", dir)
    }
}

/// Out of sight by a rename where the trash is on the same file system, else removed on the spot.
fn discard(dir: &Path, trash: &Trash) -> Result<()> {
    match trash.discard(dir) {
        Err(_) => match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", dir),
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::Locks;
    use std::sync::Arc;

    struct Fixture {
        _root: tempfile::TempDir,
        places: FillPlaces,
        trash: Trash,
        locks: Arc<Locks>,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let places = FillPlaces { data: root.path().join("v/_data"), staging: root.path().join("v/_fill") };
        std::fs::create_dir_all(&places.data).unwrap();
        let trash = Trash::open(root.path().join("trash")).unwrap();
        Fixture { places, trash, locks: Arc::default(), _root: root }
    }

    fn begin(fixture: &Fixture) -> Option<Filling> {
        let lock = fixture.locks.lock(&"v1".parse().unwrap());
        Filling::begin(fixture.places.clone(), fixture.trash.clone(), lock).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put_contents(dir: &Path) {
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/file"), "1").unwrap();
        std::fs::write(dir.join("top"), "2").unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1750)).unwrap();
    }

    #[test]
    fn an_empty_volume_gets_contents_and_the_roots_own_attributes() {
        let fixture = fixture();
        let filling = begin(&fixture).unwrap();
        put_contents(&filling.dir());
        filling.publish().unwrap();
        assert_eq!(names(&fixture.places.data), ["sub", "top"]);
        assert_eq!(std::fs::metadata(&fixture.places.data).unwrap().mode() & 0o7777, 0o1750);
        assert_eq!(names(fixture.places.data.parent().unwrap()), ["_data"]);
        assert!(begin(&fixture).is_none(), "a volume with contents is filled again");
    }

    #[test]
    fn a_dropped_filling_leaves_the_volume_empty() {
        let fixture = fixture();
        put_contents(&begin(&fixture).unwrap().dir());
        drop(begin(&fixture).unwrap());
        assert!(names(&fixture.places.data).is_empty());
        assert_eq!(names(fixture.places.data.parent().unwrap()), ["_data"]);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_nothing_and_after_it_everything() {
        let before = fixture();
        let dir = unfinished(&before.places.staging);
        std::fs::create_dir(&dir).unwrap();
        put_contents(&dir);
        recover(&before.places, &before.trash).unwrap();
        assert!(names(&before.places.data).is_empty());
        assert!(begin(&before).is_some());

        let after = fixture();
        std::fs::create_dir(&after.places.staging).unwrap();
        put_contents(&after.places.staging);
        std::fs::rename(after.places.staging.join("top"), after.places.data.join("top")).unwrap();
        recover(&after.places, &after.trash).unwrap();
        recover(&after.places, &after.trash).unwrap();
        assert_eq!(names(&after.places.data), ["sub", "top"]);
        assert_eq!(std::fs::metadata(&after.places.data).unwrap().mode() & 0o7777, 0o1750);
        assert_eq!(names(after.places.data.parent().unwrap()), ["_data"]);
    }

    #[test]
    fn a_name_that_a_container_made_meanwhile_stays() {
        let fixture = fixture();
        let filling = begin(&fixture).unwrap();
        put_contents(&filling.dir());
        std::fs::write(fixture.places.data.join("top"), "the container's").unwrap();
        filling.publish().unwrap();
        assert_eq!(std::fs::read_to_string(fixture.places.data.join("top")).unwrap(), "the container's");
        assert_eq!(names(&fixture.places.data), ["sub", "top"]);
    }
}
