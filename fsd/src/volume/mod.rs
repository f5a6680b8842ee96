//! Volumes in the daemon: recovered at start, shown, measured, checked.

use std::collections::HashSet;

use fs_base::{Class, Result};
use fsd_api::Finding;
use serde_json::{Value, json};
use volumes::{ListFilter, Volume, Volumes};

use crate::app::App;
use crate::db::Db;

/// A volume as the API shows it.
pub fn shown(app: &App, volume: &Volume) -> Result<Value> {
    let created = jiff::Timestamp::from_second(volume.created).map_or_else(|_| String::new(), |time| time.to_string());
    Ok(json!({
        "CreatedAt": created, "Driver": volume.driver, "Labels": volume.labels, "Mountpoint": app.volumes.mountpoint(volume)?,
        "Name": volume.name, "Options": volume.options, "Scope": app.volumes.scope(volume)?,
    }))
}

/// The volumes whose data is in the store, each with what it takes and how many containers use it. One that can't
/// be measured has -1, as Docker says it.
pub fn usage(app: &App) -> Result<Vec<Value>> {
    let mut measured = Vec::new();
    for (volume, users) in app.volumes.list(&ListFilter::default())? {
        let size = match app.volumes.usage(&volume) {
            Ok(None) => continue,
            Ok(Some(usage)) => i64::try_from(usage.bytes).unwrap_or(i64::MAX),
            Err(error) => {
                tracing::warn!(volume = %volume.name, %error, "a volume can't be measured");
                -1
            }
        };
        let mut value = shown(app, &volume)?;
        value["UsageData"] = json!({"Size": size, "RefCount": users});
        measured.push(value);
    }
    Ok(measured)
}

/// How many volumes there are, and what is wrong with them.
pub fn check(db: &Db, volumes: &Volumes) -> Result<(u64, Vec<Finding>)> {
    let count = volumes.list(&ListFilter::default())?.len() as u64;
    let known: HashSet<_> = volumes::Catalog::list(db)?.into_iter().map(|volume| volume.name).collect();
    let findings = volumes.check()?.into_iter().map(|finding| Finding {
        object: format!("volume {}", finding.volume),
        kind: if known.contains(&finding.volume) { "missing" } else { "orphan" }.to_owned(),
        message: finding.message,
        remedy: Some(finding.remedy),
        repaired: None,
        only_by_force: None,
    });
    Ok((count, findings.collect()))
}

/// At start, before anybody asks: rows and bytes are put together again.
pub fn recover(app: &App) -> Result<()> {
    let containers = app.db.container_ids()?;
    // Which of them run on is not known yet; each may, so what one of them uses stays mounted until it ends.
    let exists = |id: &_| containers.contains(id);
    if let Err(error) = app.volumes.recover(&exists, &exists) {
        // One volume in disorder keeps no other from being used; a check names it.
        tracing::error!(%error, "volumes could not be wholly recovered");
    }
    for name in app.db.passing_volumes()? {
        match app.volumes.remove(name.as_str(), true) {
            Ok(()) => tracing::info!(volume = %name, "removed with its container"),
            // Another container took it.
            Err(error) if error.class() == Class::Busy => app.db.keep_volume(&name)?,
            Err(error) => tracing::warn!(volume = %name, %error, "a volume should have gone with its container"),
        }
    }
    Ok(())
}
