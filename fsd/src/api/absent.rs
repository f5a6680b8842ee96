//! What Docker's API has and this daemon does not, each by its name: nothing of it is a page that was not found.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use fs_base::Error;
use serde_json::{Value, json};

use crate::app::App;

/// Lists that are empty because there is nothing that could be in them.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/plugins", get(|| async { Json::<Vec<Value>>(Vec::new()) })).route(
        "/plugins/{name}/json",
        get(|axum::extract::Path(name): axum::extract::Path<String>| async move {
            super::error::Failure(Error::not_found(format!("plugin {} not found", json!(name))))
        }),
    )
}

/// The error for a path that nothing is at.
pub fn page(path: &str) -> Error {
    let unsupported = |what: &str, why: &str| Error::unsupported(format!("{what} is not supported: {why}"));
    match path.split('/').nth(1).unwrap_or_default() {
        "swarm" if path != "/swarm" => unsupported("swarm", "this daemon serves one machine"),
        // Clients know by these words and this status that there is no swarm.
        "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs" => {
            Error::unavailable("This node is not a swarm manager: swarm is not supported")
        }
        "plugins" => unsupported("plugin", "managed plugins can't be installed, plugins for volumes are found by their sockets"),
        "auth" => unsupported("login", "registries are asked when an image is pulled")
            .with_hint("write the credentials into the client's config.json, or use a credential helper"),
        "distribution" => unsupported("distribution", "ask the registry itself"),
        "session" | "grpc" => unsupported("BuildKit", "build with another tool and load the image"),
        _ => Error::not_found(format!("page not found: {path}")),
    }
}

#[cfg(test)]
mod tests {
    use fs_base::Class;

    use super::page;

    #[test]
    fn what_there_is_not_is_told_by_its_name() {
        assert_eq!(page("/swarm/init").to_string(), "swarm is not supported: this daemon serves one machine");
        assert_eq!(page("/nodes").class(), Class::Unavailable);
        assert_eq!(page("/auth").class(), Class::Unsupported);
        assert_eq!((page("/no").class(), page("/no").to_string().as_str()), (Class::NotFound, "page not found: /no"));
    }
}
