//! `/images/…`

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fs_base::Error;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::archive::packer;
use super::error::Failure;
use super::own::body_of;
use super::query::Query;
use super::{blocking, flag, reader_of};
use crate::app::App;
use crate::db::images::ImageRow;
use crate::image::{self, Config, Removed, shown_digests, shown_tags};

type Answer = Result<Response, Failure>;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/load", post(load))
        .route("/images/get", get(save))
        .route("/images/prune", post(prune))
        .route("/images/{*rest}", get(read).post(change).delete(remove))
}

#[derive(Deserialize)]
struct ListQuery {
    filters: Option<String>,
}

/// Filters of which only `known` ones make sense.
pub(super) fn filters(text: Option<&str>, known: &[&str]) -> fs_base::Result<HashMap<String, Vec<String>>> {
    let filters = any_filters(text)?;
    match filters.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
        None => Ok(filters),
    }
}

/// Docker's filters: `{"key":{"value":true}}`, or `{"key":["value"]}` from older clients.
pub(super) fn any_filters(text: Option<&str>) -> fs_base::Result<HashMap<String, Vec<String>>> {
    let bad = || Error::invalid(format!("invalid filters: {}", text.unwrap_or_default()));
    let Some(parsed) = text.filter(|t| !t.is_empty()) else { return Ok(HashMap::new()) };
    let parsed: HashMap<String, Value> = serde_json::from_str(parsed).map_err(|_| bad())?;
    let mut filters = HashMap::new();
    for (key, values) in parsed {
        let values = match values {
            Value::Object(map) => map.into_iter().map(|(value, _)| value).collect(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => return Err(bad()),
        };
        filters.insert(key, values);
    }
    Ok(filters)
}

async fn list(State(app): State<Arc<App>>, Query(query): Query<ListQuery>) -> Answer {
    let filters = filters(query.filters.as_deref(), &["reference", "dangling", "label", "before", "since"])?;
    check_dangling(&filters)?;
    let images = blocking(move || {
        let moments = Moments::of(&app, &filters)?;
        let rows = app.db.images()?;
        let mut images = Vec::with_capacity(rows.len());
        for mut row in rows {
            let config = Config::parse(&row.config)?;
            if wanted(&row, &config, &filters) && moments.hold(&config) {
                // Who asks for names is shown only those.
                if let Some(patterns) = filters.get("reference") {
                    row.tags.retain(|tag| referred(tag, patterns));
                }
                images.push(summary(&row, &config));
            }
        }
        images.sort_by_key(|image| -image["Created"].as_i64().unwrap_or_default());
        Ok(images)
    })
    .await?;
    Ok(Json(images).into_response())
}

/// When the images were made that others are to be older or newer than.
struct Moments {
    before: Option<i64>,
    since: Option<i64>,
}

impl Moments {
    fn of(app: &App, filters: &HashMap<String, Vec<String>>) -> fs_base::Result<Moments> {
        let moment = |key: &str| -> fs_base::Result<Option<i64>> {
            filters
                .get(key)
                .into_iter()
                .flatten()
                .try_fold(None, |_, name| Ok(Some(Config::parse(&image::find(app, name)?.config)?.created_seconds())))
        };
        Ok(Moments { before: moment("before")?, since: moment("since")? })
    }

    fn hold(&self, config: &Config) -> bool {
        let created = config.created_seconds();
        self.before.is_none_or(|before| created < before) && self.since.is_none_or(|since| created > since)
    }
}

fn check_dangling(filters: &HashMap<String, Vec<String>>) -> fs_base::Result<()> {
    let known = ["true", "1", "false", "0"];
    match filters.get("dangling").into_iter().flatten().find(|value| !known.contains(&value.as_str())) {
        Some(bad) => Err(Error::invalid(format!("invalid filter 'dangling=[{bad}]'"))),
        None => Ok(()),
    }
}

fn wanted(row: &ImageRow, config: &Config, filters: &HashMap<String, Vec<String>>) -> bool {
    filters.iter().all(|(key, values)| match key.as_str() {
        "dangling" => values.iter().any(|v| (v == "true" || v == "1") == row.tags.is_empty()),
        "reference" => row.tags.iter().any(|tag| referred(tag, values)),
        "label" => values.iter().all(|want| labelled(config, want)),
        _ => true,
    })
}

/// Whether it has the label: `name`, or `name=value`.
fn labelled(config: &Config, want: &str) -> bool {
    let labels = config.labels();
    match want.split_once('=') {
        Some((name, value)) => labels.get(name).and_then(Value::as_str) == Some(value),
        None => labels.contains_key(want),
    }
}

/// Whether one of the patterns is the name, with its tag or without.
fn referred((repository, tag): &(String, String), patterns: &[String]) -> bool {
    let name = crate::reference::familiar(repository);
    let full = format!("{name}:{tag}");
    patterns.iter().any(|pattern| [name, repository, &full].iter().any(|text| glob(pattern.as_bytes(), text.as_bytes())))
}

/// `*` and `?` as in Go's `path.Match`: neither crosses a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(c, tail)| *c != b'/' && glob(pattern, tail))
        }
        (Some((b'?', rest)), Some((c, tail))) => *c != b'/' && glob(rest, tail),
        (Some((p, rest)), Some((c, tail))) => p == c && glob(rest, tail),
        _ => false,
    }
}

/// An image as lists show it.
pub(super) fn summary(row: &ImageRow, config: &Config) -> Value {
    json!({
        "Id": row.id, "ParentId": "", "RepoTags": shown_tags(row), "RepoDigests": shown_digests(row),
        "Created": config.created_seconds(), "Size": row.size, "VirtualSize": row.size, "SharedSize": -1,
        "Containers": -1, "Labels": config.labels(),
    })
}

#[derive(Deserialize)]
struct LoadQuery {
    #[serde(default)]
    platform: String,
}

async fn load(State(app): State<Arc<App>>, Query(query): Query<LoadQuery>, body: Body) -> Answer {
    if !query.platform.is_empty() {
        return Err(Failure(Error::unsupported("load with a platform is not supported: this host's is taken")));
    }
    let mut reader = reader_of(body);
    let images = blocking(move || image::load(&app, &mut reader)).await?;
    let lines: Vec<String> = images.iter().flat_map(load_lines).map(|line| json!({"stream": line}).to_string()).collect();
    let lines = lines.join("\r\n") + "\r\n";
    Ok(([(header::CONTENT_TYPE, "application/json")], lines).into_response())
}

/// What Docker says of an image that was loaded.
fn load_lines(loaded: &image::Loaded) -> Vec<String> {
    if loaded.tags.is_empty() {
        return vec![format!("Loaded image ID: {}\n", loaded.id)];
    }
    let name = |(repository, tag): &(String, String)| format!("Loaded image: {}:{tag}\n", crate::reference::familiar(repository));
    loaded.tags.iter().map(name).collect()
}

/// `?names=` may come several times.
async fn save(State(app): State<Arc<App>>, Query(pairs): Query<Vec<(String, String)>>) -> Answer {
    if let Some((key, _)) = pairs.iter().find(|(key, value)| key != "names" && !value.is_empty()) {
        return Err(Failure(Error::unsupported(format!("save with {key} is not supported"))));
    }
    save_names(app, pairs.into_iter().filter(|(key, _)| key == "names").map(|(_, name)| name).collect()).await
}

async fn save_names(app: Arc<App>, names: Vec<String>) -> Answer {
    let saved = blocking(move || image::save::open(&app, &names)).await?;
    let (to, from) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || packer(&to, |out| saved.write(out)));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body_of(from)).into_response())
}

async fn prune(State(app): State<Arc<App>>, Query(query): Query<ListQuery>) -> Answer {
    let filters = filters(query.filters.as_deref(), &["dangling", "until", "label", "label!"])?;
    check_dangling(&filters)?;
    let before = super::containers::before(&filters)?;
    let all = filters.get("dangling").is_some_and(|values| values.iter().any(|v| v == "false" || v == "0"));
    let wanted = move |row: &ImageRow| -> fs_base::Result<bool> {
        let config = Config::parse(&row.config)?;
        let old = before.is_none_or(|before| config.created_seconds().saturating_mul(1_000_000_000) < before);
        let has = |want: &String| labelled(&config, want);
        let without = filters.get("label!").into_iter().flatten().any(has);
        Ok(old && !without && filters.get("label").into_iter().flatten().all(has))
    };
    let (removed, bytes) = blocking(move || image::prune(&app, all, &wanted)).await?;
    Ok(Json(json!({"ImagesDeleted": removed_json(&removed), "SpaceReclaimed": bytes})).into_response())
}

fn removed_json(removed: &[Removed]) -> Vec<Value> {
    removed
        .iter()
        .map(|one| match one {
            Removed::Untagged(name) => json!({"Untagged": name}),
            Removed::Deleted(id) => json!({"Deleted": id}),
        })
        .collect()
}

fn not_found(rest: &str) -> Failure {
    Failure(Error::not_found(format!("page not found: /images/{rest}")))
}

async fn read(State(app): State<Arc<App>>, Path(rest): Path<String>) -> Answer {
    if let Some(name) = rest.strip_suffix("/json").map(str::to_owned) {
        return Ok(Json(blocking(move || inspect(&app, &name)).await?).into_response());
    }
    if let Some(name) = rest.strip_suffix("/get").map(str::to_owned) {
        return save_names(app, vec![name]).await;
    }
    if let Some(name) = rest.strip_suffix("/history").map(str::to_owned) {
        return Ok(Json(blocking(move || history(&app, &name)).await?).into_response());
    }
    if rest == "search" {
        return Err(Failure(Error::unsupported("search is not supported: ask the registry itself")));
    }
    Err(not_found(&rest))
}

fn inspect(app: &App, name: &str) -> fs_base::Result<Value> {
    let row = image::find(app, name)?;
    let config = Config::parse(&row.config)?;
    let stored = jiff::Timestamp::from_nanosecond(i128::from(row.stored)).map_or_else(|_| String::new(), |t| t.to_string());
    Ok(json!({
        "Id": row.id, "RepoTags": shown_tags(&row), "RepoDigests": shown_digests(&row), "Parent": "",
        "Comment": config.comment, "Created": config.created, "DockerVersion": config.docker_version, "Author": config.author,
        "Config": config.defaults, "Architecture": config.architecture, "Variant": config.variant, "Os": config.os,
        "Size": row.size, "VirtualSize": row.size,
        "GraphDriver": {"Name": app.mounter.driver_name().unwrap_or("none"), "Data": null},
        "RootFS": {"Type": "layers", "Layers": row.layers},
        "Metadata": {"LastTagTime": stored},
    }))
}

fn history(app: &App, name: &str) -> fs_base::Result<Vec<Value>> {
    let row = image::find(app, name)?;
    let config = Config::parse(&row.config)?;
    let mut sizes = Vec::new();
    for layer in &row.layers {
        sizes.push(app.db.layer(layer)?.map_or(0, |layer| layer.file_bytes));
    }
    let mut sizes = sizes.into_iter();
    let mut steps: Vec<Value> = config
        .history
        .iter()
        .map(|step| {
            let created = step.created.as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second);
            let size = if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
            json!({"Id": "<missing>", "Created": created, "CreatedBy": step.created_by, "Tags": null, "Size": size, "Comment": step.comment})
        })
        .collect();
    // An image need not tell its history; its layers are shown all the same.
    steps.extend(sizes.map(|size| json!({"Id": "<missing>", "Created": config.created_seconds(), "CreatedBy": "", "Tags": null, "Size": size, "Comment": ""})));
    steps.reverse();
    if let Some(top) = steps.first_mut() {
        top["Id"] = json!(row.id);
        top["Tags"] = json!(shown_tags(&row));
    }
    Ok(steps)
}

#[derive(Deserialize)]
struct TagQuery {
    #[serde(default)]
    repo: String,
    #[serde(default)]
    tag: String,
}

async fn change(State(app): State<Arc<App>>, Path(rest): Path<String>, Query(query): Query<TagQuery>) -> Answer {
    if rest.ends_with("/push") {
        return Err(Failure(Error::unsupported("push is not supported").with_hint(
            "save the image and have another tool push it: ctl save -o x.tar IMAGE; skopeo copy docker-archive:x.tar docker://…",
        )));
    }
    let Some(name) = rest.strip_suffix("/tag").map(str::to_owned) else { return Err(not_found(&rest)) };
    blocking(move || image::tag(&app, &name, &query.repo, &query.tag)).await?;
    Ok(StatusCode::CREATED.into_response())
}

#[derive(Deserialize)]
struct RemoveQuery {
    force: Option<String>,
    noprune: Option<String>,
}

async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>, Query(query): Query<RemoveQuery>) -> Answer {
    if flag(query.noprune.as_deref()) {
        return Err(Failure(Error::unsupported("--no-prune is not supported: an image's layers go with it")));
    }
    let force = flag(query.force.as_deref());
    let removed = blocking(move || image::remove(&app, &name, force)).await?;
    Ok(Json(removed_json(&removed)).into_response())
}
