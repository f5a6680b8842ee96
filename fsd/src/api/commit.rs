//! `/commit`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use fs_base::Error;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::error::Failure;
use super::json_body::JsonBody;
use super::{blocking, flag};
use crate::app::App;
use crate::container::commit::{self, Wanted};

/// `changes` may come several times, which is more than a typed query can say.
pub async fn commit(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    let query = query.unwrap_or_default();
    let all = |key: &str| -> Vec<String> {
        let of_key = |pair: &str| pair.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| decoded(value));
        query.split('&').filter_map(of_key).collect()
    };
    let one = |key: &str| all(key).into_iter().next().unwrap_or_default();
    let (repo, tag) = (one("repo"), one("tag"));
    let config: Map<String, Value> = if body.iter().all(u8::is_ascii_whitespace) {
        Map::new()
    } else {
        let config: Option<Map<String, Value>> =
            serde_json::from_slice(&body).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))?;
        config.unwrap_or_default()
    };
    let wanted = Wanted {
        name: if tag.is_empty() { repo } else { format!("{repo}:{tag}") },
        comment: one("comment"),
        author: one("author"),
        changes: all("changes")
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        config,
        pause: all("pause").first().is_none_or(|text| flag(Some(text))),
    };
    let container = one("container");
    let id = blocking(move || commit::commit(&app, &container, &wanted)).await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": id}))).into_response())
}

/// A value of a query: `+` is a space, `%XX` a byte.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = || after.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match hex() {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                None => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn values_are_decoded() {
        assert_eq!(decoded("CMD+%5B%22ls%22%5D"), "CMD [\"ls\"]");
        assert_eq!(decoded("100%+%zz%2"), "100% %zz%2");
    }
}
