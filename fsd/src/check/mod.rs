//! Whether the store holds what its rows say, and putting right what does not.
//!
//! The way of a check: the database itself, then layers (row against files, index against tar, tar against diffID),
//! what lies around, images, containers, volumes. Each finding is told as it comes, repaired if that was asked for and
//! takes nothing from anybody. What an image or container needs is removed by force only.

mod images;
mod layers;
mod offline;

use fs_base::sys::priority::IdleIo;
use fs_base::{Error, Result};
use fsd_api::{CheckEvent, CheckProgress, CheckQuery, CheckSummary, Finding};
use layerfs::store::Store;
use volumes::Volumes;

use crate::app::App;
use crate::config::Config;
use crate::db::Db;
use crate::mounts::scratch;
use crate::registry::Logins;
use crate::volume;
pub use offline::run as run_offline;

/// A store: that of a daemon that serves it, or one that no daemon serves.
pub struct Scope<'a> {
    db: &'a Db,
    store: &'a Store,
    volumes: &'a Volumes,
    config: &'a Config,
    /// The daemon, if it is its store.
    app: Option<&'a App>,
    /// What registries are told when a layer has to be fetched again.
    logins: Logins,
}

impl<'a> Scope<'a> {
    /// The store that this process serves.
    pub fn of(app: &'a App, logins: Logins) -> Scope<'a> {
        Scope { db: &app.db, store: &app.store, volumes: &app.volumes, config: &app.config, app: Some(app), logins }
    }

    /// Removes layers that nothing refers to.
    fn collect(&self) -> Result<()> {
        if let Some(app) = self.app {
            return app.collect();
        }
        self.store.collect(|pinned| Ok(self.db.take_unreferenced_layers(None, pinned)?.0))?;
        self.store.sweep()
    }
}

/// Looks at everything in the store; with `data` reads every byte of its layers, when nobody else wants the disk. Each
/// event is sent as it comes; a `send` that answers `false` ends the check.
pub fn run(scope: &Scope<'_>, options: &CheckQuery, send: &mut dyn FnMut(&CheckEvent) -> bool) -> Result<()> {
    let _idle = options.data.then(IdleIo::enter);
    let mut run = Run { scope, options, send, summary: CheckSummary::default(), gone: false };
    match run.all() {
        Err(_) if run.gone => Ok(()),
        result => result,
    }
}

struct Run<'a> {
    scope: &'a Scope<'a>,
    options: &'a CheckQuery,
    send: &'a mut dyn FnMut(&CheckEvent) -> bool,
    summary: CheckSummary,
    /// Nobody listens any more.
    gone: bool,
}

/// What becomes of something that is wrong.
enum Outcome {
    /// It is left.
    Left,
    /// It was put right, in these words.
    Repaired(String),
    /// Only force would put an end to it, in these words.
    OnlyByForce(String),
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        self.database()?;
        self.lost()?;
        self.layers()?;
        self.leftovers()?;
        self.images()?;
        self.containers()?;
        self.scratch()?;
        let (volumes, findings) = volume::check(self.scope.db, self.scope.volumes)?;
        self.summary.volumes = volumes;
        for finding in findings {
            self.tell(finding)?;
        }
        let summary = self.summary.clone();
        self.event(&CheckEvent::Summary(summary))
    }

    fn event(&mut self, event: &CheckEvent) -> Result<()> {
        if (self.send)(event) {
            return Ok(());
        }
        self.gone = true;
        Err(Error::unavailable("nobody listens to the check any more"))
    }

    fn progress(&mut self, object: &str, done: u64, total: u64) -> Result<()> {
        self.event(&CheckEvent::Progress(CheckProgress { object: object.to_owned(), done, total }))
    }

    fn tell(&mut self, finding: Finding) -> Result<()> {
        self.summary.findings += 1;
        self.summary.repaired += u64::from(finding.repaired.is_some());
        self.summary.only_by_force += u64::from(finding.only_by_force.is_some());
        self.event(&CheckEvent::Finding(finding))
    }

    /// Tells what is wrong with `object`; `repair` is tried if that was asked for. One that fails is told of too.
    fn find(
        &mut self,
        (object, kind): (&str, &str),
        message: String,
        remedy: String,
        repair: impl FnOnce(&mut Self) -> Result<Outcome>,
    ) -> Result<()> {
        let mut finding = Finding {
            object: object.to_owned(),
            kind: kind.to_owned(),
            message,
            remedy: Some(remedy),
            repaired: None,
            only_by_force: None,
        };
        if self.options.repair {
            match repair(self) {
                Ok(Outcome::Left) => {}
                Ok(Outcome::Repaired(how)) => finding.repaired = Some(how),
                Ok(Outcome::OnlyByForce(what)) => finding.only_by_force = Some(what),
                Err(error) => finding.message = format!("{}; it can't be repaired: {error}", finding.message),
            }
        }
        self.tell(finding)
    }

    fn database(&mut self) -> Result<()> {
        for line in self.scope.db.damage()? {
            let remedy = "stop the daemon, keep a copy of the store, and bring meta.db back from a backup".to_owned();
            self.find(("database", "corrupt"), line, remedy, |_| Ok(Outcome::Left))?;
        }
        Ok(())
    }

    /// What was written to mounts that are forgotten.
    fn scratch(&mut self) -> Result<()> {
        let root = &self.scope.config.root;
        for path in scratch::orphans(root, self.scope.db)? {
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let message = format!("{} has {} bytes and belongs to no mount", path.display(), scratch::bytes(&path));
            if scratch::stands_on(&self.scope.config.run, &path) {
                let remedy = format!("unmount it where it is mounted, then {REPAIR}");
                let message = format!("{message} that is known, and is mounted somewhere");
                self.find((&format!("mount {id}"), "orphan"), message, remedy, |_| Ok(Outcome::Left))?;
                continue;
            }
            self.find((&format!("mount {id}"), "orphan"), message, REPAIR.to_owned(), |_| {
                scratch::remove_orphan(root, &path)?;
                Ok(Outcome::Repaired("what was written to it was removed".to_owned()))
            })?;
        }
        Ok(())
    }

    /// Rows of containers against their folders.
    fn containers(&mut self) -> Result<()> {
        let root = self.scope.config.root.join("containers");
        let rows = self.scope.db.containers()?;
        for row in &rows {
            self.summary.containers += 1;
            if !root.join(row.id.as_str()).is_dir() {
                let object = format!("container {}", row.name);
                let message = "its folder is gone, and with it all that it wrote".to_owned();
                self.find((&object, "missing"), message, format!("remove it: ctl rm {}", row.name), |_| Ok(Outcome::Left))?;
            }
        }
        let known: std::collections::HashSet<String> =
            self.scope.db.container_ids()?.iter().map(|id| id.as_str().to_owned()).collect();
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A container that is being made has its folder before its row, and nothing in it.
            let in_the_making = || std::fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_none());
            if known.contains(&name) || self.scope.app.is_some() && in_the_making() {
                continue;
            }
            let message = format!("{} belongs to no container", entry.path().display());
            self.find((&format!("container {name}"), "orphan"), message, REPAIR.to_owned(), |run| {
                fs_base::trash::Trash::open(run.scope.config.root.join("trash"))?.discard(&entry.path())?;
                run.scope.store.sweep()?;
                Ok(Outcome::Repaired("its folder was removed".to_owned()))
            })?;
        }
        Ok(())
    }
}

/// What to do about what a repair puts right.
const REPAIR: &str = "run `ctl system check --repair`";
