//! `/networks…`

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use fs_base::Error;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::containers::before;
use super::error::Failure;
use super::images::filters;
use super::json_body::JsonBody;
use super::query::Query;
use super::{blocking, flag};
use crate::app::App;
use crate::network::{self, Asked, Network, NewNetwork, connect, remove, show};

type Answer = Result<Response, Failure>;
type Filters = HashMap<String, Vec<String>>;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(delete))
        .route("/networks/{name}/connect", post(connect_container))
        .route("/networks/{name}/disconnect", post(disconnect_container))
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> fs_base::Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
}

#[derive(Deserialize)]
struct FilterQuery {
    filters: Option<String>,
}

async fn list(State(app): State<Arc<App>>, Query(query): Query<FilterQuery>) -> Answer {
    let filters = filters(query.filters.as_deref(), &["id", "name", "driver", "type", "label", "scope", "dangling"])?;
    let listed = blocking(move || {
        let used = app.db.endpoints()?;
        let in_use = |network: &Network| used.iter().any(|endpoint| endpoint.network == network.id);
        let mut shown = Vec::new();
        for network in app.db.networks()? {
            if wanted(&network, &filters, in_use(&network))? {
                shown.push(show::network(&app, &network, false)?);
            }
        }
        Ok(shown)
    })
    .await?;
    Ok(Json(listed).into_response())
}

fn wanted(network: &Network, filters: &Filters, in_use: bool) -> fs_base::Result<bool> {
    for (key, values) in filters {
        let fits = |value: &String| {
            Ok(match (key.as_str(), value.as_str()) {
                ("id", id) => network.id.starts_with(id),
                ("name", name) => network.name.contains(name),
                ("driver", driver) => network.spec.driver == driver,
                ("scope", scope) => scope == "local",
                ("type", "builtin") => network.is_predefined(),
                ("type", "custom") => !network.is_predefined(),
                ("dangling", "true" | "1") => !network.is_predefined() && !in_use,
                ("dangling", "false" | "0") => network.is_predefined() || in_use,
                ("label", _) => true,
                (key, value) => return Err(Error::invalid(format!("invalid filter '{key}={value}'"))),
            })
        };
        let all = values.iter().map(fits).collect::<fs_base::Result<Vec<_>>>()?;
        if !all.is_empty() && !all.contains(&true) {
            return Ok(false);
        }
    }
    Ok(labelled(network, filters))
}

fn labelled(network: &Network, filters: &Filters) -> bool {
    let has = |label: &String| match label.split_once('=') {
        Some((key, value)) => network.spec.labels.get(key).is_some_and(|own| own == value),
        None => network.spec.labels.contains_key(label),
    };
    filters.get("label").into_iter().flatten().all(has) && !filters.get("label!").into_iter().flatten().any(has)
}

async fn create(State(app): State<Arc<App>>, JsonBody(body): JsonBody) -> Answer {
    let new: NewNetwork = decode(&body)?;
    let made = blocking(move || network::create::create(&app, new)).await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": made.id, "Warning": ""}))).into_response())
}

#[derive(Deserialize)]
struct InspectQuery {
    scope: Option<String>,
    verbose: Option<String>,
}

async fn inspect(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<InspectQuery>) -> Answer {
    // It tells more of swarms' networks only.
    let _ = flag(query.verbose.as_deref());
    let elsewhere = query.scope.is_some_and(|scope| !matches!(scope.as_str(), "" | "local"));
    let shown = blocking(move || {
        if elsewhere {
            return Err(Error::not_found(format!("network {name} not found")));
        }
        show::network(&app, &app.db.find_network(&name)?, true)
    })
    .await?;
    Ok(Json(shown).into_response())
}

async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    blocking(move || remove::remove(&app, &app.db.find_network(&name)?)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn prune(State(app): State<Arc<App>>, Query(query): Query<FilterQuery>) -> Answer {
    let filters = filters(query.filters.as_deref(), &["until", "label", "label!"])?;
    let before = before(&filters)?;
    let wanted = move |network: &Network| before.is_none_or(|before| network.created < before) && labelled(network, &filters);
    let removed = blocking(move || remove::prune(&app, &wanted)).await?;
    let deleted = if removed.is_empty() { json!(null) } else { json!(removed) };
    Ok(Json(json!({"NetworksDeleted": deleted})).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConnectBody {
    container: String,
    endpoint_config: Option<Asked>,
}

async fn connect_container(State(app): State<Arc<App>>, Path(name): Path<String>, JsonBody(body): JsonBody) -> Answer {
    let body: ConnectBody = decode(&body)?;
    let asked = body.endpoint_config.unwrap_or_default();
    blocking(move || connect::connect(&app, &app.db.find_network(&name)?, &body.container, &asked)).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DisconnectBody {
    container: String,
}

/// `Force` is about containers of other nodes, which there are not.
async fn disconnect_container(State(app): State<Arc<App>>, Path(name): Path<String>, JsonBody(body): JsonBody) -> Answer {
    let body: DisconnectBody = decode(&body)?;
    blocking(move || connect::disconnect(&app, &app.db.find_network(&name)?, &body.container)).await?;
    Ok(StatusCode::OK.into_response())
}
