//! A request's query, whose errors are answered as all others are.

use axum::extract::FromRequestParts;
use fs_base::Error;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::Failure;

/// What stands behind the `?`, read as a `T`.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<T>, Failure> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(query) => Ok(Query(query.0)),
            Err(rejection) => {
                let text = rejection.body_text();
                let why = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, why)| why);
                Err(Failure(Error::invalid(format!("bad parameter: {why}"))))
            }
        }
    }
}
