//! Images, containers and volumes mounted on the host because a person asked to see them.
//!
//! A row says what is meant before it is done, and is marked when it is done; so after a crash it is known which
//! mounts are ours. A mount survives the daemon: the next one adopts it.
//!
//! What is mounted is only looked at, or written to a scratch directory that goes with the mount: nobody changes a
//! container or a volume this way. For root the kernel mounts it if it can. For other users a FUSE session serves it, as
//! that user: the tree is theirs, and nobody else's.

mod maker;
mod place;
pub mod scratch;
mod session;
mod subject;
mod target;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_base::sys::fuse::unmount;
use fs_base::sys::mount::{MountInfo, mount_table};
use fs_base::sys::user::User;
use fs_base::{Class, Error, Result, id};
use fsd_api::{MountInfo as MountShown, MountRequest, MountState, ObjectKind};
use layerfs::diff::Change;
use layerfs::driver::Lease;

pub use maker::container as container_tree;

use crate::app::App;
use crate::db::mounts::MountRow;
use maker::Maker;
use place::Place;
use session::FUSE;
use subject::{Subject, word};

/// Mounts an object for a user, at `request.target`, an empty folder or one to be made; under the run folder if there is
/// none.
pub fn mount(app: &App, kind: ObjectKind, name: &str, request: &MountRequest, user: &User) -> Result<MountRow> {
    let is_ours = user.is_root() || user.uid == User::own().uid;
    let user = if is_ours { &User::own() } else { user };
    let request = &MountRequest { fuse: request.fuse || !is_ours, ..request.clone() };
    let mut subject = Subject::find(app, kind, name)?;
    // Until the row is there, which keeps the image.
    let _pinned = subject.pin(app);
    let live = subject.container.as_ref().map(|row| app.containers.of(&row.id));
    let _alone = live.as_ref().map(|live| live.alone());
    if live.is_some() {
        // It may have started or ended while we waited.
        subject = Subject::find(app, kind, name)?;
    }
    if let Some(target) = &request.target {
        make_way(app, target)?;
    }
    let id = id::random_hex::<6>()?;
    let _making = scratch::Making::of(&id);
    let maker = Maker::of(app, &subject, request, &id).inspect_err(|_| _ = scratch::discard(app, &id))?;
    let place = target::find(app, &id, request.target.as_deref(), user).inspect_err(|_| _ = scratch::discard(app, &id))?;
    let row = MountRow {
        id,
        kind,
        object: subject.object.clone(),
        name: name.to_owned(),
        target: text(&place.path)?,
        made_target: place.made,
        driver: maker.driver().to_owned(),
        mounted: true,
        uid: user.uid,
        gid: user.gid,
        writable: request.rw,
        restart: request.restart,
        created: crate::db::now(),
    };
    let intended = app.db.intend_mount(&row).and_then(|kept| if kept { Ok(()) } else { Err(subject.gone()) });
    let made = intended.and_then(|()| maker.make(&place.path, || session::start(app, &subject, &row, user)));
    let noted = made.and_then(|()| if maker.is_a_tree() { place::note(app, &row) } else { Ok(()) });
    let attached = noted.and_then(|()| app.db.mark_mounted(&row.id));
    if let Err(error) = attached {
        // Whatever of it was done is undone; what can't be is found at the next start.
        let _ = unmount(&place.path, true);
        clean_up(app, &row);
        return Err(error);
    }
    if let Maker::Kernel(_, Some(lease), _) = maker {
        leases(app).insert(row.id.clone(), lease);
    }
    Ok(row)
}

/// A mount that somebody else unmounted keeps its place from no other, unless what was written to it is still there.
fn make_way(app: &App, target: &str) -> Result<()> {
    let path = Path::new(target);
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let Ok(place) = path.canonicalize().or_else(|_| parent.canonicalize().map(|parent| parent.join(name))) else { return Ok(()) };
    let alone = judging();
    let table = mount_table()?;
    for row in app.db.mounts()?.into_iter().filter(|row| row.mounted && Path::new(&row.target) == place) {
        let why = match now(app, &row, &table, &alone)? {
            Now::Gone if row.driver == FUSE || !row.writable => {
                clean_up(app, &row);
                continue;
            }
            // Refused with what is there.
            Now::There if place::of(app, &row, &table) == Place::Target => continue,
            Now::There => "the mount that was made there is in use elsewhere",
            Now::Soon => "the mount that was made there is about to come back",
            Now::Failed | Now::Gone => "what was written to the mount that was made there is kept",
        };
        return Err(Error::conflict(format!("{}: {why}", row.target))
            .with_hint(format!("`ctl umount {}` gives it up; or choose another folder", row.target)));
    }
    Ok(())
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid(format!("{}: the path is not UTF-8", path.display())))
}

fn leases(app: &App) -> MutexGuard<'_, HashMap<String, Lease>> {
    app.image_leases.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up(app: &App, row: &MountRow) {
    leases(app).remove(&row.id);
    if row.driver == FUSE {
        session::end(&app.config.run, &row.id);
        place::forget(app, &row.id);
    }
    let written = scratch::discard(app, &row.id);
    if written > 0 {
        tracing::info!(mount = row.id, target = row.target, bytes = written, "what was written to a mount is removed with it");
    }
    if row.made_target
        && let Err(error) = remove_target(row)
        && error.class() != Class::NotFound
    {
        tracing::warn!(target = row.target, %error, "can't remove the folder of a mount");
    }
    if let Err(error) = app.db.remove_mount(&row.id) {
        tracing::warn!(mount = row.id, %error, "can't forget a mount");
    }
}

/// With the rights of whose it is: somebody else may have put another folder there.
fn remove_target(row: &MountRow) -> Result<()> {
    use fs_base::IoContext;
    let remove = || std::fs::remove_dir(&row.target).at("remove", &row.target);
    let user = User { uid: row.uid, gid: row.gid, groups: Vec::new() };
    let in_ours = user.uid == User::own().uid || Path::new(&row.target).ends_with(&row.id);
    if in_ours { remove() } else { fs_base::sys::user::as_user(&user, remove) }
}

/// Held by who judges what became of mounts and acts on it: two who did so at once would serve a tree twice, or take away
/// what the other has just mounted.
static JUDGING: Mutex<()> = Mutex::new(());

fn judging() -> MutexGuard<'static, ()> {
    JUDGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a row's mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// It is there.
    There,
    /// It is not, but its session is about to mount it again.
    Soon,
    /// It is not, though it was to be mounted again: what was written to it is kept until somebody says otherwise.
    Failed,
    /// It is not.
    Gone,
}

impl Now {
    fn state(self) -> MountState {
        match self {
            Now::There => MountState::Mounted,
            Now::Soon => MountState::Restarting,
            Now::Failed | Now::Gone => MountState::Gone,
        }
    }
}

/// What there is of a row now; nothing is done about it.
fn seen(app: &App, row: &MountRow, table: &[MountInfo]) -> Now {
    let place = place::of(app, row, table);
    let (there, elsewhere) = (place == Place::Target, place == Place::Elsewhere);
    if session::is_one(&app.config.run, &row.id) {
        // One that lives is there, whatever the table says: its folder may have another name by now.
        return match session::lives(&app.config.run, &row.id) {
            true if row.restart && !there && !elsewhere => Now::Soon,
            true => Now::There,
            false if row.restart && row.mounted => Now::Failed,
            false => Now::Gone,
        };
    }
    let is_dead = || place::path_of(app, row, table).is_some_and(|path| session::is_dead(&path));
    let stands = (there || elsewhere) && !(row.driver == FUSE && is_dead());
    if stands || scratch::is_in_use(app, row) { Now::There } else { Now::Gone }
}

/// What there is of a row now. What a session that was killed left behind is taken away: nobody could use it. One that is
/// to be mounted again is, if nobody is left to do it but us.
fn now(app: &App, row: &MountRow, table: &[MountInfo], _alone: &MutexGuard<'_, ()>) -> Result<Now> {
    let mut seen = self::seen(app, row, table);
    if seen == Now::There
        && place::of(app, row, table) == Place::Nowhere
        && session::is_one(&app.config.run, &row.id)
        && session::ends(&app.config.run, &row.id)
    {
        seen = self::seen(app, row, table);
    }
    if row.driver != FUSE || !matches!(seen, Now::Failed | Now::Gone) {
        return Ok(seen);
    }
    // The table may be older than what was seen.
    let table = mount_table()?;
    if let Some(path) = place::path_of(app, row, &table)
        && place::is_on_top(&path, &table)
    {
        tracing::warn!(target = row.target, path = %path.display(), "a FUSE session was killed; unmounting what it left");
        unmount(&path, true)?;
    }
    Ok(if seen == Now::Failed && again(app, row) { Now::There } else { seen })
}

/// Whether a row's mount can be used.
fn is_there(app: &App, row: &MountRow) -> Result<bool> {
    let alone = judging();
    Ok(now(app, row, &mount_table()?, &alone)? == Now::There)
}

/// Serves a row's tree once more.
fn again(app: &App, row: &MountRow) -> bool {
    let user = User { uid: row.uid, gid: row.gid, groups: Vec::new() };
    let started = Subject::of(app, row).and_then(|subject| session::start(app, &subject, row, &user));
    match started {
        Ok(()) => {
            tracing::warn!(target = row.target, object = row.name, "a FUSE session and its guard were killed; mounted again");
            true
        }
        Err(error) => {
            tracing::error!(target = row.target, object = row.name, %error, "a FUSE session was killed, and can't be started again");
            false
        }
    }
}

/// A row as the API shows it.
pub fn mount_info((row, state): (MountRow, MountState)) -> MountShown {
    let created = jiff::Timestamp::from_nanosecond(i128::from(row.created)).map_or_else(|_| String::new(), |t| t.to_string());
    MountShown {
        id: row.id,
        kind: row.kind,
        object: row.name,
        target: row.target,
        driver: row.driver,
        rw: row.writable,
        uid: row.uid,
        created,
        state,
    }
}

/// All mounts, and what they are now. One whose FUSE session ended is forgotten, and the folder that was made for it
/// removed, unless it was to be mounted again.
pub fn list(app: &App) -> Result<Vec<(MountRow, MountState)>> {
    listed(app, &judging())
}

fn listed(app: &App, alone: &MutexGuard<'_, ()>) -> Result<Vec<(MountRow, MountState)>> {
    let rows = app.db.mounts()?;
    let table = mount_table()?;
    let mut list = Vec::with_capacity(rows.len());
    for row in rows {
        if !row.mounted {
            list.push((row, MountState::Pending));
            continue;
        }
        match now(app, &row, &table, alone)? {
            Now::Gone if row.driver == FUSE => clean_up(app, &row),
            now => list.push((row, now.state())),
        }
    }
    Ok(list)
}

/// All mounts as they are; nothing is done about those that ended.
fn looked_at(app: &App) -> Result<Vec<(MountRow, MountState)>> {
    let _alone = judging();
    let rows = app.db.mounts()?;
    let table = mount_table()?;
    let looked_at = |row: MountRow| {
        let state = if row.mounted { seen(app, &row, &table).state() } else { MountState::Pending };
        (row, state)
    };
    Ok(rows.into_iter().map(looked_at).collect())
}

/// Takes a mount away by its id, the start of its id, or its target, for a user, who must have asked for it or be root.
pub fn unmount_one(app: &App, which: &str, lazy: bool, user: &User) -> Result<()> {
    let alone = judging();
    take_away(app, &of_user(app, which, user)?, lazy, &alone)
}

/// What was changed in a mount that can be written to, of the user who asked for it or for root.
pub fn changes(app: &App, which: &str, user: &User) -> Result<Vec<Change>> {
    scratch::changes(app, &of_user(app, which, user)?)
}

/// The mount of an id, the start of one, or a target, if this user may say what becomes of it.
fn of_user(app: &App, which: &str, user: &User) -> Result<MountRow> {
    let by_path = Path::new(which).canonicalize().ok();
    let mut rows = app.db.mounts()?;
    let at = rows
        .iter()
        .position(|row| row.id == which || by_path.as_deref() == Some(Path::new(&row.target)) || row.target == which)
        .or_else(|| rows.iter().position(|row| which.len() >= 4 && row.id.starts_with(which)))
        .ok_or_else(|| {
            Error::not_found(format!("No such mount: {which}")).with_hint("`ctl mount ls` shows the mounts that the daemon made")
        })?;
    let row = rows.swap_remove(at);
    if !user.is_root() && user.uid != User::own().uid && user.uid != row.uid {
        return Err(Error::denied(format!("mount {} belongs to another user", row.target)));
    }
    Ok(row)
}

fn take_away(app: &App, row: &MountRow, lazy: bool, _alone: &MutexGuard<'_, ()>) -> Result<()> {
    let target = Path::new(&row.target);
    let place = || Ok::<_, Error>(place::of(app, row, &mount_table()?));
    let (now, run) = (place()?, &app.config.run);
    // A session that was killed where it had been moved to is in nobody's way.
    let is_elsewhere = now == Place::Elsewhere && (!session::is_one(run, &row.id) || session::lives(run, &row.id));
    if now == Place::Target {
        unmount(target, lazy).map_err(|error| match error.class() {
            Class::Busy => Error::busy(format!("mount {} is in use", row.target))
                .with_hint("close what is open on it, or detach it with --lazy"),
            _ => error,
        })?;
    } else if !lazy && (is_elsewhere || scratch::is_in_use(app, row)) {
        return Err(Error::busy(format!("mount {} is in use, but not there any more", row.target))
            .with_hint("unmount it where it is now, or give up what was written to it with --lazy"));
    }
    clean_up(app, row);
    // A session that was just about to mount it again sees only now that it must not.
    if row.restart && place()? == Place::Target {
        unmount(target, true)?;
    }
    Ok(())
}

/// An object is about to be removed: refuses if it is mounted, or by `force` takes its mounts away.
pub fn release(app: &App, kind: ObjectKind, object: &str, force: bool) -> Result<()> {
    let alone = judging();
    for row in app.db.mounts_of(kind, object)? {
        // One that somebody else unmounted, or that died, keeps nothing.
        let there = row.mounted && now(app, &row, &mount_table()?, &alone)? != Now::Gone;
        if there && !force {
            return Err(Error::conflict(format!("{} {} is mounted at {}", word(kind), row.name, row.target))
                .with_hint(format!("unmount it first, `ctl umount {}`, or remove it by force", row.target)));
        }
        take_away(app, &row, true, &alone)?;
    }
    Ok(())
}

/// At start: mounts that were made are adopted; what was only begun, or has been unmounted by others, is undone.
pub fn recover(app: &App) -> Result<()> {
    let (alone, table) = (judging(), mount_table()?);
    for row in app.db.mounts()? {
        let now = if row.mounted { now(app, &row, &table, &alone)? } else { Now::Gone };
        if now == Now::Gone {
            if place::of(app, &row, &table) == Place::Target {
                // Dead ones are gone by now.
                let _ = unmount(Path::new(&row.target), true);
            }
            clean_up(app, &row);
        } else if now == Now::Failed {
            tracing::warn!(
                target = row.target,
                object = row.name,
                "a mount could not be made again; what was written to it is kept"
            );
        } else {
            tracing::info!(target = row.target, object = row.name, "adopted a mount");
        }
    }
    remove_strays(app)
}

/// A folder is made before the row that names it; a crash between the two leaves the folder, which is empty, or has a
/// scratch directory in it that nobody will write to.
fn remove_strays(app: &App) -> Result<()> {
    let rows = app.db.mounts()?;
    let known = |name: &std::ffi::OsStr| rows.iter().any(|row| name.to_str() == Some(&row.id));
    for entry in std::fs::read_dir(app.mount_dir()).into_iter().flatten().flatten() {
        if !known(&entry.file_name()) {
            // One that is not empty is not ours to judge.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    for path in scratch::orphans(&app.config.root, &app.db)? {
        if scratch::stands_on(&app.config.run, &path) {
            tracing::warn!(path = %path.display(), "this belongs to no mount that is known, and is mounted somewhere; it stays");
            continue;
        }
        tracing::warn!(path = %path.display(), bytes = scratch::bytes(&path), "this was written to a mount that is gone; removing it");
        app.trash.discard(&path)?;
    }
    app.trash.sweep()
}
