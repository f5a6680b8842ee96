//! The check of a store that no daemon serves: `fsd check`.

use std::sync::Arc;

use fs_base::lock::Lock;
use fs_base::{Class, Error, Result};
use fsd_api::{CheckEvent, CheckQuery, CheckSummary};
use layerfs::store::Store;
use volumes::Volumes;

use super::Scope;
use crate::config::Config;
use crate::db::Db;
use crate::registry::Logins;
use crate::{format, reserve};

/// Checks the store alone, and changes nothing unless `options` ask for a repair. `tell` is given each event.
pub fn run(config: &Config, options: &CheckQuery, tell: &mut dyn FnMut(&CheckEvent)) -> Result<CheckSummary> {
    let root = &config.root;
    if !root.join("FORMAT").exists() || !root.join("meta.db").exists() {
        return Err(Error::not_found(format!("there is no store in {}", root.display())).with_hint("name it by --root"));
    }
    let _lock = Lock::take(&root.join("lock")).map_err(|error| match error.class() {
        Class::Busy => error.context("a daemon serves this store").with_hint("ask it: ctl system check; or stop it first"),
        _ => error,
    })?;
    format::check(&root.join("FORMAT"))?;
    let _lent = reserve::lend(root);
    let db = Db::open(&root.join("meta.db"))?;
    let store = Store::open(root)?;
    let volumes = Volumes::open(root, Arc::new(db.clone()))?;
    let scope = Scope { db: &db, store: &store, volumes: &volumes, config, app: None, logins: Logins::default() };
    let mut summary = None;
    super::run(&scope, options, &mut |event| {
        if let CheckEvent::Summary(end) = event {
            summary = Some(end.clone());
        }
        tell(event);
        true
    })?;
    summary.ok_or_else(|| Error::internal("the check has no end"))
}
