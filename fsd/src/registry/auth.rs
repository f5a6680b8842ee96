//! Who we are to a registry. Source: distribution spec, "token authentication"; Docker's `X-Registry-Auth` header.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use fs_base::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

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
        decoded::<Credentials>("X-Registry-Auth", value)?.usable()
    }

    fn usable(self) -> Result<Option<Credentials>> {
        if !self.identity_token.is_empty() {
            return Err(Error::unsupported("logging in with an identity token is not supported")
                .with_hint("log in with a user name and a password or personal access token"));
        }
        let given = !self.username.is_empty() || !self.registry_token.is_empty();
        Ok(given.then_some(self))
    }
}

/// What the client gave us for several registries, by server.
#[derive(Clone, Default)]
pub struct Logins(BTreeMap<String, Credentials>);

impl Logins {
    /// From the value of the header `X-Registry-Config`.
    pub fn from_header(value: &str) -> Result<Logins> {
        decoded("X-Registry-Config", value).map(Logins)
    }

    /// Those for a registry as image names have it. A server may be given as an address: Docker Hub's is.
    pub fn of(&self, registry: &str) -> Result<Option<Credentials>> {
        let host = |server: &str| {
            let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
            match host.split('/').next() {
                Some("index.docker.io" | "registry-1.docker.io") => "docker.io".to_owned(),
                host => host.unwrap_or_default().to_owned(),
            }
        };
        self.0.iter().find(|(server, _)| host(server) == registry).map_or(Ok(None), |(_, found)| found.clone().usable())
    }
}

fn decoded<T: DeserializeOwned>(header: &str, value: &str) -> Result<T> {
    let bad = || Error::invalid(format!("invalid {header} header"));
    let engine: &GeneralPurpose = if value.contains('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
    let bytes = engine.decode(value).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
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

    #[test]
    fn each_registry_has_its_own_login() {
        let text = r#"{"https://index.docker.io/v1/": {"username": "hub"}, "r.example.com:5000": {"username": "r"},
            "token.example.com": {"identitytoken": "x"}, "nobody.example.com": {}}"#;
        let logins = Logins::from_header(&URL_SAFE.encode(text)).unwrap();
        let user = |registry: &str| logins.of(registry).unwrap().map(|credentials| credentials.username);
        assert_eq!((user("docker.io").as_deref(), user("r.example.com:5000").as_deref()), (Some("hub"), Some("r")));
        assert_eq!((user("r.example.com"), user("nobody.example.com")), (None, None));
        assert!(logins.of("token.example.com").is_err_and(|error| error.to_string().contains("identity token")));
        assert!(Logins::from_header("e30=").unwrap().of("docker.io").unwrap().is_none());
    }
}
