//! `/volumes…`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use fs_base::Error;
use fsd_api::ObjectKind;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use volumes::{Filters, ListFilter, NewVolume, PruneFilter};

use super::error::Failure;
use super::json_body::JsonBody;
use super::query::Query;
use super::{Version, blocking, flag, images};
use crate::app::App;
use crate::volume;

type Answer = Result<Response, Failure>;

/// Until this version a prune took named volumes too. Source: Docker Engine API history, 1.42.
const PRUNE_SPARES_NAMED: Version = Version(1, 42);

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

#[derive(Deserialize)]
struct FilterQuery {
    filters: Option<String>,
}

impl FilterQuery {
    /// Which keys are filters, the volumes say.
    fn decode(&self) -> fs_base::Result<Filters> {
        Ok(images::any_filters(self.filters.as_deref())?.into_iter().collect())
    }
}

async fn list(State(app): State<Arc<App>>, Query(query): Query<FilterQuery>) -> Answer {
    let filter = ListFilter::parse(&query.decode()?)?;
    let listed = blocking(move || {
        app.volumes.list(&filter)?.iter().map(|(row, _)| volume::shown(&app, row)).collect::<fs_base::Result<Vec<_>>>()
    })
    .await?;
    Ok(Json(json!({"Volumes": listed, "Warnings": null})).into_response())
}

/// Docker's `VolumeCreateOptions`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<serde_json::Value>,
}

async fn create(State(app): State<Arc<App>>, JsonBody(body): JsonBody) -> Answer {
    let body: CreateBody = serde_json::from_slice(&body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))?;
    if body.cluster_volume_spec.is_some_and(|spec| !spec.is_null()) {
        return Err(Error::unsupported("ClusterVolumeSpec is not supported: this daemon is no swarm node").into());
    }
    let new = NewVolume { name: body.name, driver: body.driver, options: body.driver_opts, labels: body.labels };
    let made = blocking(move || {
        let (volume, new) = app.volumes.create(new)?;
        if new {
            if volume.is_anonymous() {
                app.db.keep_volume(&volume.name)?;
            }
            app.events.object("volume", "create", volume.name.as_str(), &[("driver", &volume.driver)]);
        }
        volume::shown(&app, &volume)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn inspect(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    Ok(Json(blocking(move || volume::shown(&app, &app.volumes.get(&name)?)).await?).into_response())
}

#[derive(Deserialize)]
struct RemoveQuery {
    force: Option<String>,
}

async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<RemoveQuery>) -> Answer {
    let force = flag(query.force.as_deref());
    blocking(move || {
        let volume = app.volumes.get(&name).ok();
        let mounted = crate::mounts::release(&app, ObjectKind::Volume, &name, force);
        mounted.map_err(|error| error.context(format!("remove {name}")))?;
        app.volumes.remove(&name, force)?;
        // With `force` there may have been none.
        if let Some(volume) = volume {
            app.events.object("volume", "destroy", &name, &[("driver", &volume.driver)]);
        }
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn prune(State(app): State<Arc<App>>, Extension(version): Extension<Version>, Query(query): Query<FilterQuery>) -> Answer {
    let mut filter = PruneFilter::parse(&query.decode()?)?;
    if version < PRUNE_SPARES_NAMED {
        filter = filter.including_named();
    }
    let pruned = blocking(move || {
        let before = app.volumes.list(&ListFilter::default())?;
        let pruned = app.volumes.prune(&filter)?;
        for name in &pruned.deleted {
            let driver = before.iter().find(|(volume, _)| volume.name == *name).map_or("", |(volume, _)| &volume.driver);
            app.events.object("volume", "destroy", name.as_str(), &[("driver", driver)]);
        }
        app.events.pruned("volume", pruned.reclaimed);
        Ok(pruned)
    })
    .await?;
    Ok(Json(json!({"VolumesDeleted": pruned.deleted, "SpaceReclaimed": pruned.reclaimed})).into_response())
}
