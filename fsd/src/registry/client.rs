//! Requests to one repository of one registry.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_base::{Class, Digest, Error, Result};
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde::Deserialize;

use super::auth::{Challenge, Credentials};
use crate::image::load::digest_of;

/// Manifests and configs are read up to this size. Source: the distribution spec asks registries to take 4 MiB.
const SMALL: u64 = 4 << 20;
/// How often a request is sent again after the registry was out of reach or overloaded.
const TRIES: u32 = 4;
/// Nothing heard for this long is a broken connection.
const SILENCE: Duration = Duration::from_secs(60);
/// The media types that we can use.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Hosts that are spoken to in plain HTTP.
    pub insecure: Vec<String>,
    /// Base addresses that are asked first for what is on docker.io.
    pub mirrors: Vec<String>,
}

/// One repository.
pub struct Repository {
    http: Client,
    base: String,
    name: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<Authorization>>,
}

#[derive(Clone)]
enum Authorization {
    Basic(String, String),
    Bearer(String),
}

/// A manifest as it came.
pub struct Fetched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

/// The base addresses to try for a registry, best first.
pub fn bases(registry: &str, settings: &Settings) -> Vec<String> {
    if registry == "docker.io" {
        let mirrors = settings.mirrors.iter().map(|mirror| mirror.trim_end_matches('/').to_owned());
        return mirrors.chain(["https://registry-1.docker.io".to_owned()]).collect();
    }
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
    let plain = local || settings.insecure.iter().any(|insecure| insecure == registry || insecure == host);
    vec![format!("{}://{registry}", if plain { "http" } else { "https" })]
}

impl Repository {
    /// The repository `name` at `base`.
    pub fn new(base: String, name: &str, credentials: Option<Credentials>) -> Result<Repository> {
        let http = Client::builder()
            .user_agent(concat!("fsd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .timeout(None)
            .build()
            .map_err(|e| Error::internal("can't make an HTTP client").with_source(e))?;
        let authorization = credentials
            .as_ref()
            .filter(|c| !c.registry_token.is_empty())
            .map(|c| Authorization::Bearer(c.registry_token.clone()));
        Ok(Repository { http, base, name: name.to_owned(), credentials, authorization: Mutex::new(authorization) })
    }

    /// A manifest by tag or digest.
    pub fn manifest(&self, reference: &str) -> Result<Fetched> {
        let path = format!("manifests/{reference}");
        let response = self.get(&path, &[("accept", MANIFESTS)])?;
        let bytes = self.small(response)?;
        let digest = digest_of(&bytes);
        if reference.parse::<Digest>().is_ok_and(|wanted| wanted != digest) {
            return Err(Error::corrupt(format!("{}: the registry answered for manifest {reference} with {digest}", self.name)));
        }
        Ok(Fetched { bytes, digest })
    }

    /// A small blob, verified.
    pub fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = self.small(self.get(&format!("blobs/{digest}"), &[])?)?;
        let found = digest_of(&bytes);
        if found != *digest {
            return Err(Error::corrupt(format!("{}: the registry answered for blob {digest} with {found}", self.name)));
        }
        Ok(bytes)
    }

    /// A blob from `offset` on, and whether the registry honoured the offset.
    pub fn blob_from(&self, digest: &Digest, offset: u64) -> Result<(Response, bool)> {
        let range = format!("bytes={offset}-");
        let headers: &[(&str, &str)] = if offset > 0 { &[("range", &range)] } else { &[] };
        let response = self.get(&format!("blobs/{digest}"), headers)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((response, partial))
    }

    fn small(&self, response: Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let unreadable =
            |e: std::io::Error| Error::unavailable(format!("{}: the registry broke off its answer", self.name)).with_source(e);
        response.take(SMALL + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > SMALL {
            return Err(Error::invalid(format!(
                "{}: the registry answered with more than {SMALL} bytes for a manifest or config",
                self.name
            )));
        }
        Ok(bytes)
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let mut authenticated = false;
        let mut pause = Duration::from_millis(200);
        let mut tries = 1;
        loop {
            let mut request = self.http.get(format!("{}/v2/{}/{path}", self.base, self.name));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let error = match self.authorized(request).send() {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authenticated => {
                    authenticated = true;
                    self.log_in(&response)?;
                    continue;
                }
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => self.refusal(path, response),
                Err(error) => Error::unavailable(format!("can't reach the registry at {}", self.base)).with_source(cause(&error)),
            };
            if error.class() != Class::Unavailable || tries == TRIES {
                return Err(error);
            }
            tries += 1;
            std::thread::sleep(pause);
            pause *= 2;
        }
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(Authorization::Basic(user, password)) => request.basic_auth(user, Some(password)),
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Answers a registry's challenge.
    fn log_in(&self, response: &Response) -> Result<()> {
        let header = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let denied = || {
            Error::denied(format!("{}: the registry denies access", self.name))
                .with_hint("log in first, or check the image's name")
        };
        let authorization = match (Challenge::parse(header), &self.credentials) {
            (Some(Challenge::Basic), Some(c)) => Authorization::Basic(c.username.clone(), c.password.clone()),
            (Some(Challenge::Bearer { realm, parameters }), _) => Authorization::Bearer(self.token(&realm, &parameters)?),
            _ => return Err(denied()),
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    fn token(&self, realm: &str, parameters: &[(String, String)]) -> Result<String> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut request = self.http.get(realm).query(parameters).timeout(SILENCE);
        if let Some(credentials) = &self.credentials {
            if realm.starts_with("http:") && !self.base.starts_with("http:") {
                return Err(Error::denied(format!("refusing to send a password to {realm} in plain text")));
            }
            request = request.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let failed = |why: String| {
            Error::denied(format!("{}: no token from {realm}: {why}", self.name))
                .with_hint("log in first, or check the image's name")
        };
        let response = request.send().map_err(|e| Error::unavailable(format!("can't reach {realm}")).with_source(cause(&e)))?;
        if !response.status().is_success() {
            return Err(failed(response.status().to_string()));
        }
        let token: Token = serde_json::from_slice(&self.small(response)?).map_err(|e| failed(e.to_string()))?;
        token.token.or(token.access_token).ok_or_else(|| failed("the answer has none".to_owned()))
    }

    fn refusal(&self, path: &str, response: Response) -> Error {
        let status = response.status();
        let text = self.small(response).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = said["errors"][0]["message"].as_str().unwrap_or_else(|| status.canonical_reason().unwrap_or("refused"));
        let class = match status.as_u16() {
            404 => Class::NotFound,
            401 | 403 => Class::Denied,
            429 | 500..=599 => Class::Unavailable,
            _ => Class::Invalid,
        };
        Error::new(class, format!("{} {path}: the registry at {} answered {}: {message}", self.name, self.base, status.as_u16()))
    }
}

/// The innermost cause of a client error: what is around it repeats the address.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
