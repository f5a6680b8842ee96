//! `/fsd/v1/…`: what Docker has no endpoint for.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use fs_base::{Error, Probe};
use fsd_api::{
    CheckQuery, DiffQuery, DuplicatesQuery, Info, MountRequest, Mounted, ObjectKind, PathQuery, ProbeAnswer, ProbeInfo,
    PrunedMounts, TreeQuery, UnmountQuery,
};
use http::{HeaderMap, StatusCode, header};
use tokio::sync::mpsc;

use super::error::Failure;
use super::peer::Peer;
use super::query::Query;
use super::{archive, blocking};
use layerfs::driver::Verdict;

use crate::app::App;
use crate::image::{duplicates, tree};
use crate::registry::Logins;
use crate::{check, mounts};

type Answer = Result<Response, Failure>;

/// Bytes of a file in one piece on its way out.
const PIECE: usize = 64 << 10;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/images/{name}/tree", get(list_tree))
        .route("/images/{name}/archive", get(archive::read))
        .route("/images/{name}/file", get(read_file))
        .route("/images/{name}/mount", post(mount_image))
        .route("/containers/{name}/mount", post(mount_container))
        .route("/volumes/{name}/mount", post(mount_volume))
        .route("/mounts", get(list_mounts))
        .route("/mounts/prune", post(prune_mounts))
        .route("/mounts/{which}", delete(unmount))
        .route("/mounts/{which}/changes", get(mount_changes))
        .route("/diff", get(diff))
        .route("/duplicates", get(find_duplicates))
        .route("/check", post(run_check))
        .route("/info", get(info))
}

async fn list_tree(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<TreeQuery>) -> Answer {
    Ok(Json(blocking(move || tree::list(&app, &name, &query.path, query.recursive)).await?).into_response())
}

async fn read_file(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<PathQuery>) -> Answer {
    let mut content = blocking(move || tree::open(&app, &name, &query.path)).await?;
    let size = content.size();
    let (to, from) = mpsc::channel::<std::io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let result = content.read(&mut piece).map(|got| {
                piece.truncate(got);
                Bytes::from(piece)
            });
            let last = result.as_ref().map_or(true, Bytes::is_empty);
            if result.as_ref().is_ok_and(Bytes::is_empty) || to.blocking_send(result).is_err() || last {
                return;
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    Ok((headers, body_of(from)).into_response())
}

/// A body of pieces as they come.
pub(super) fn body_of(from: mpsc::Receiver<std::io::Result<Bytes>>) -> Body {
    Body::from_stream(futures_util::stream::unfold(from, |mut from| async move { from.recv().await.map(|item| (item, from)) }))
}

async fn mount_image(State(app): State<Arc<App>>, peer: Peer, Path(name): Path<String>, body: Bytes) -> Answer {
    mount(app, ObjectKind::Image, name, peer, body).await
}

async fn mount_container(State(app): State<Arc<App>>, peer: Peer, Path(name): Path<String>, body: Bytes) -> Answer {
    mount(app, ObjectKind::Container, name, peer, body).await
}

async fn mount_volume(State(app): State<Arc<App>>, peer: Peer, Path(name): Path<String>, body: Bytes) -> Answer {
    mount(app, ObjectKind::Volume, name, peer, body).await
}

async fn mount(app: Arc<App>, kind: ObjectKind, name: String, peer: Peer, body: Bytes) -> Answer {
    let request: MountRequest = if body.is_empty() {
        MountRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| Error::invalid(format!("bad mount request: {e}")))?
    };
    let row = blocking(move || {
        peer.must_see_our_mounts()?;
        mounts::mount(&app, kind, &name, &request, &peer.user)
    });
    let row = row.await?;
    let mounted = Mounted { id: row.id, target: row.target, object: row.object, driver: row.driver };
    Ok((StatusCode::CREATED, Json(mounted)).into_response())
}

async fn list_mounts(State(app): State<Arc<App>>) -> Answer {
    let list = blocking(move || Ok(mounts::list(&app)?.into_iter().map(mounts::mount_info).collect::<Vec<_>>())).await?;
    Ok(Json(list).into_response())
}

async fn prune_mounts(State(app): State<Arc<App>>) -> Answer {
    let (gone, bytes) = blocking(move || mounts::scratch::prune(&app)).await?;
    Ok(Json(PrunedMounts { mounts_deleted: gone, space_reclaimed: bytes }).into_response())
}

async fn mount_changes(State(app): State<Arc<App>>, peer: Peer, Path(which): Path<String>) -> Answer {
    let list = blocking(move || {
        let changes = mounts::changes(&app, &which, &peer.user)?;
        Ok(changes.iter().map(tree::difference).collect::<Vec<_>>())
    });
    Ok(Json(list.await?).into_response())
}

async fn unmount(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path(which): Path<String>,
    Query(query): Query<UnmountQuery>,
) -> Answer {
    blocking(move || mounts::unmount_one(&app, &which, query.lazy, &peer.user)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn diff(State(app): State<Arc<App>>, Query(query): Query<DiffQuery>) -> Answer {
    Ok(Json(blocking(move || tree::compare(&app, &query.from, &query.to)).await?).into_response())
}

/// Says that nobody waits when the request that holds it is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn find_duplicates(State(app): State<Arc<App>>, Query(query): Query<DuplicatesQuery>) -> Answer {
    let waits = Arc::new(AtomicBool::new(true));
    let _waiting = Waiting(Arc::clone(&waits));
    let work = move || duplicates::find(&app, &query.images, query.files, &|| waits.load(Ordering::Relaxed));
    Ok(Json(blocking(work).await?).into_response())
}

async fn run_check(State(app): State<Arc<App>>, Query(query): Query<CheckQuery>, headers: HeaderMap) -> Answer {
    let given = headers.get("x-registry-config").and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let logins = given.map(Logins::from_header).transpose()?.unwrap_or_default();
    let (to, from) = mpsc::channel::<std::io::Result<Bytes>>(16);
    tokio::task::spawn_blocking(move || {
        let mut send = |event: &fsd_api::CheckEvent| {
            let line = serde_json::to_vec(event).map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            });
            // A client that has gone away stops the check.
            to.blocking_send(line.map_err(std::io::Error::other)).is_ok()
        };
        if let Err(error) = check::run(&check::Scope::of(&app, logins), &query, &mut send) {
            tracing::error!(%error, "check failed");
            let _ = to.blocking_send(Err(std::io::Error::other(error.to_string())));
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body_of(from)).into_response())
}

async fn info(State(app): State<Arc<App>>) -> Answer {
    let probes = app.mounter.probed().iter().map(|probed| {
        let answer = match &probed.verdict {
            Verdict::Taken => ProbeAnswer::Supported,
            Verdict::Passed(_) => ProbeAnswer::Passed,
            Verdict::Failed(Probe::Unknown(_)) => ProbeAnswer::Unknown,
            Verdict::Failed(_) => ProbeAnswer::Unsupported,
        };
        ProbeInfo { name: probed.to_string(), answer, why: probed.why().unwrap_or_default().to_owned() }
    });
    Ok(Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver: app.mounter.driver_name().unwrap_or("none").to_owned(),
        root: app.config.root.display().to_string(),
        run: app.config.run.display().to_string(),
        pid: std::process::id(),
        layers_mounted: app.mounter.mounted() as u64,
        probes: probes.collect(),
    })
    .into_response())
}
