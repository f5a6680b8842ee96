//! `/containers/{name}/archive`, `changes` and `export`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use fs_base::{Class, Error, Result};
use http::{HeaderName, StatusCode, header};
use layerfs::archive::{Extract, PathStat, TarOptions, extract, stat_in_root, tar_of_root};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::archive::{packer, stat_header};
use super::error::Failure;
use super::own::body_of;
use super::query::Query;
use super::{blocking, flag, reader_of};
use crate::app::App;
use crate::container::{copy, diff};

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveQuery {
    #[serde(default)]
    path: String,
    no_overwrite_dir_non_dir: Option<String>,
    #[serde(rename = "copyUIDGID")]
    copy_uid_gid: Option<String>,
}

impl ArchiveQuery {
    fn path(&self) -> Result<PathBuf> {
        if self.path.is_empty() {
            return Err(Error::invalid("bad parameter: path cannot be empty"));
        }
        // The API takes relative paths as from the root.
        Ok(std::path::Path::new("/").join(&self.path))
    }
}

/// `GET`; for `HEAD` nothing is packed. The head of the answer needs the path's status, which the same look into the
/// container gives as the packing that follows.
pub async fn read(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
    method: http::Method,
) -> Answer {
    let path = query.path()?;
    let row = app.db.find_container(&name)?;
    let missing = missing(&name, &query.path);
    let (tell, told) = oneshot::channel::<Result<PathStat>>();
    let (to, from) = mpsc::channel(4);
    let only_status = method == http::Method::HEAD;
    let event = (!only_status).then(|| (Arc::clone(&app), row.clone(), query.path.clone()));
    tokio::task::spawn_blocking(move || {
        let work = move |root: &fs_base::sys::root::Root| {
            let stat = stat_in_root(root, &path);
            let go_on = stat.is_ok() && !only_status;
            if tell.send(stat).is_err() || !go_on {
                return Ok(());
            }
            packer(&to, |out| tar_of_root(root, &path, out, TarOptions::default()).map(drop));
            Ok(())
        };
        // The sender is dropped with the work that was not done; the waiting side says so.
        if let Err(error) = copy::with_root(&app, &row, work) {
            tracing::warn!(container = %row.id, %error, "a container's tree could not be read");
        }
    });
    let stat = told.await.map_err(|_| Error::internal("the container's tree could not be read: see the daemon's log"))?;
    let stat = stat.map_err(|error| if error.class() == Class::NotFound { missing } else { error })?;
    if let Some((app, row, path)) = event {
        app.events.container("archive-path", &row, &[("path", path)]);
    }
    let headers = [
        (HeaderName::from_static("x-docker-container-path-stat"), stat_header(&stat)),
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
    ];
    Ok((headers, body_of(from)).into_response())
}

fn missing(name: &str, path: &str) -> Error {
    Error::not_found(format!("Could not find the file {path} in container {name}"))
}

pub async fn write(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
    body: Body,
) -> Answer {
    let path = query.path()?;
    let row = app.db.find_container(&name)?;
    let mut reader = reader_of(body);
    // `cp -a` asks to keep the owners of the archive, which is what is done anyway, as dockerd does.
    let _ = flag(query.copy_uid_gid.as_deref());
    let options = Extract {
        no_overwrite_dir_non_dir: flag(query.no_overwrite_dir_non_dir.as_deref()),
        owner: None,
        limits: app.config.limits,
    };
    let missing = missing(&name, &query.path);
    let read_only = row.definition.host_flag("ReadonlyRootfs");
    let done = {
        let (app, row) = (Arc::clone(&app), row.clone());
        let work = move |root: &fs_base::sys::root::Root| extract(root, &path, &mut reader, &options).map(drop);
        blocking(move || copy::with_root(&app, &row, work)).await
    };
    done.map_err(|Failure(error)| match error.class() {
        Class::NotFound => missing,
        Class::Denied if read_only => Error::denied("container rootfs is marked read-only"),
        _ => error,
    })?;
    app.events.container("extract-to-dir", &row, &[("path", query.path)]);
    Ok(StatusCode::OK.into_response())
}

pub async fn changes(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let changes = blocking(move || diff::changes(&app, &app.db.find_container(&name)?)).await?;
    let list: Vec<Value> =
        changes.iter().map(|change| json!({"Path": String::from_utf8_lossy(&change.path), "Kind": change.kind as u8})).collect();
    Ok(Json(if list.is_empty() { Value::Null } else { json!(list) }).into_response())
}

pub async fn export(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let row = app.db.find_container(&name)?;
    app.events.container("export", &row, &[]);
    let (to, from) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let options = TarOptions { contents_only: true, one_file_system: true, ..TarOptions::default() };
        let broken = to.clone();
        let work = move |root: &fs_base::sys::root::Root| {
            packer(&to, |out| tar_of_root(root, "/".as_ref(), out, options).map(drop));
            Ok(())
        };
        if let Err(error) = copy::with_root(&app, &row, work) {
            let _ = broken.blocking_send(Err(std::io::Error::other(error.to_string())));
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body_of(from)).into_response())
}
