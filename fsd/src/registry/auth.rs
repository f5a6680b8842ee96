//! Who we are to a registry. Source: distribution spec, "token authentication"; Docker's `X-Registry-Auth` header.

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use fs_base::{Error, Result};
use serde::Deserialize;

/// What the client gave us to log in with.
#[derive(Clone, Default, Deserialize)]
pub struct Credentials {
    /// The account.
    #[serde(default)]
    pub username: String,
    /// Its password or personal token.
    #[serde(default)]
    pub password: String,
    /// A bearer token to use as it is.
    #[serde(default, rename = "registrytoken")]
    pub registry_token: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl Credentials {
    /// From the header's value; an empty object means none.
    pub fn from_header(value: &str) -> Result<Option<Credentials>> {
        let bad = || Error::invalid("invalid X-Registry-Auth header");
        let engine: &GeneralPurpose = if value.contains('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
        let bytes = engine.decode(value).map_err(|_| bad())?;
        let credentials: Credentials = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if !credentials.identity_token.is_empty() {
            return Err(Error::unsupported("logging in with an identity token is not supported")
                .with_hint("log in with a user name and a password or personal access token"));
        }
        let given = !credentials.username.is_empty() || !credentials.registry_token.is_empty();
        Ok(given.then_some(credentials))
    }
}

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from another place.
    Bearer {
        /// Where.
        realm: String,
        /// `service` and `scope` as they stand there.
        parameters: Vec<(String, String)>,
    },
}

impl Challenge {
    /// Reads the header; `None` for a scheme that we don't know.
    pub fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut parameters, mut rest) = (None, Vec::new(), rest.trim());
        while let Some((key, tail)) = rest.split_once("=\"") {
            let (value, tail) = tail.split_once('"')?;
            match key.trim_matches([',', ' ']) {
                "realm" => realm = Some(value.to_owned()),
                key @ ("service" | "scope") => parameters.push((key.to_owned(), value.to_owned())),
                _ => {}
            }
            rest = tail;
        }
        Some(Challenge::Bearer { realm: realm?, parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_their_values() {
        let header = r#"Bearer realm="https://auth.x/token",service="registry.x",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer { realm, parameters }) = Challenge::parse(header) else { panic!() };
        assert_eq!(realm, "https://auth.x/token");
        assert_eq!(parameters[1], ("scope".to_owned(), "repository:a/b:pull,push".to_owned()));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn the_header_of_nobody_is_nobody() {
        assert!(Credentials::from_header("e30=").unwrap().is_none());
        assert!(Credentials::from_header("!").is_err());
    }
}
