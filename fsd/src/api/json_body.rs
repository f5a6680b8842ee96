//! A request's body that has to be JSON, and to say so.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use fs_base::{Error, Result};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::error::Failure;

/// The bytes of a body whose sender calls it JSON, or of an empty one. What the form of a web page sends is so not taken
/// for a request.
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> std::result::Result<JsonBody, Failure> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| Error::invalid(format!("request body: {}", rejection.body_text())))?;
        check(&headers, &body)?;
        Ok(JsonBody(body))
    }
}

/// Whether this may be read as JSON. Source: moby `api/server/httputils`, `CheckForJSON`, whose texts these are.
pub fn check(headers: &HeaderMap, body: &Bytes) -> Result<()> {
    let given = headers.get(CONTENT_TYPE).map_or_else(Default::default, |value| String::from_utf8_lossy(value.as_bytes()));
    if given.is_empty() && body.is_empty() {
        return Ok(());
    }
    let media =
        media_type(&given).map_err(|why| Error::invalid(format!("malformed Content-Type header ({given}): mime: {why}")))?;
    if media == "application/json" {
        return Ok(());
    }
    Err(Error::invalid(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
}

/// The media type without its parameters, or what Go's `mime.ParseMediaType` says is wrong with it.
fn media_type(given: &str) -> std::result::Result<String, &'static str> {
    let (media, parameters) = given.split_once(';').map_or((given, None), |(media, rest)| (media, Some(rest)));
    let media = media.trim().to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/').map_or((media.as_str(), None), |(kind, subtype)| (kind, Some(subtype)));
    match (kind, subtype) {
        (kind, _) if token(kind).is_empty() => return Err("no media type"),
        (kind, _) if token(kind) != kind => return Err("expected slash after first token"),
        (_, Some(subtype)) if token(subtype).is_empty() => return Err("expected token after slash"),
        (_, Some(subtype)) if token(subtype) != subtype => return Err("unexpected content after media subtype"),
        _ => {}
    }
    let mut rest = parameters.unwrap_or_default().trim_start();
    while !rest.is_empty() {
        rest = after_parameter(rest).ok_or("invalid media parameter")?;
    }
    Ok(media)
}

/// What comes behind one `NAME=VALUE` and its semicolon.
fn after_parameter(text: &str) -> Option<&str> {
    let name = token(text);
    if name.is_empty() {
        return None;
    }
    let value = text[name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let rest = match value.strip_prefix('"') {
        Some(quoted) => {
            let mut is_escaped = false;
            let end = quoted.find(|c| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            })?;
            &quoted[end + 1..]
        }
        None if token(value).is_empty() => return None,
        None => &value[token(value).len()..],
    };
    let rest = rest.trim_start();
    match rest.strip_prefix(';') {
        Some(rest) => Some(rest.trim_start()),
        None => rest.is_empty().then_some(rest),
    }
}

/// The token that a text begins with. Source: RFC 2045, section 5.1.
fn token(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_graphic() && !r#"()<>@,;:\"/[]?="#.contains(c);
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(given: &str, body: &'static str) -> std::result::Result<(), String> {
        let mut headers = HeaderMap::new();
        if !given.is_empty() {
            headers.insert(CONTENT_TYPE, given.parse().unwrap());
        }
        check(&headers, &Bytes::from_static(body.as_bytes())).map_err(|error| error.to_string())
    }

    #[test]
    fn json_may_come_with_parameters_and_nothing_without_a_type() {
        assert_eq!(checked("", ""), Ok(()));
        for given in ["application/json", "Application/JSON", " application/json ; charset=utf-8", "application/json;"] {
            assert_eq!(checked(given, "{}"), Ok(()), "{given}");
        }
        assert_eq!(checked(r#"application/json; a="b;\" c"; d=e"#, "{}"), Ok(()));
    }

    #[test]
    fn the_rest_is_refused_in_dockers_words() {
        for (given, want) in [
            ("", "malformed Content-Type header (): mime: no media type"),
            ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
            ("dockerapplication/json", "unsupported Content-Type header (dockerapplication/json): must be 'application/json'"),
            ("json", "unsupported Content-Type header (json): must be 'application/json'"),
            ("foo;;;bar", "malformed Content-Type header (foo;;;bar): mime: invalid media parameter"),
            ("application/json; x", "malformed Content-Type header (application/json; x): mime: invalid media parameter"),
            ("a/", "malformed Content-Type header (a/): mime: expected token after slash"),
            ("a b", "malformed Content-Type header (a b): mime: expected slash after first token"),
            ("a/b c", "malformed Content-Type header (a/b c): mime: unexpected content after media subtype"),
        ] {
            assert_eq!(checked(given, "{}").unwrap_err(), want);
        }
        assert!(checked("text/plain", "").is_err(), "a type that is told counts");
    }
}
