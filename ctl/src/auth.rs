//! Who we are to registries: what `docker login` has stored, in the file itself or with a credential helper.
//!
//! Source: Docker's `config.json` (`auths`, `credHelpers`, `credsStore`), the protocol of docker-credential-helpers, and
//! the headers `X-Registry-Auth` (one registry) and `X-Registry-Config` (all of them) of the Engine API.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

/// Docker Hub's name in the file.
const HUB: &str = "https://index.docker.io/v1/";

/// What is stored, as far as it has been read.
#[derive(Debug, Default)]
pub struct Logins {
    auths: Map<String, Value>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

impl Logins {
    /// Those of this user; none if there is no file, or it can't be read, as with `docker`.
    pub fn of_user() -> Logins {
        let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = dir.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
        dir.and_then(|dir| std::fs::read(dir.join("config.json")).ok()).map(|bytes| Logins::read(&bytes)).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Logins {
        let config: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let helpers = config["credHelpers"].as_object().into_iter().flatten();
        Logins {
            auths: config["auths"].as_object().cloned().unwrap_or_default(),
            helpers: helpers.filter_map(|(host, name)| Some((host.clone(), text(name)?))).collect(),
            store: text(&config["credsStore"]),
        }
    }

    /// The header of a request that concerns the registry of `image`, a name without a tag.
    pub fn for_image(&self, image: &str) -> Option<String> {
        self.of(registry_of(image)).map(|login| encoded(&login))
    }

    /// The header of a request that may concern any registry.
    pub fn all(&self) -> Option<String> {
        let mut all = Map::new();
        let stored = self.store.iter().flat_map(|store| listed(store));
        for server in self.auths.keys().cloned().chain(self.helpers.keys().cloned()).chain(stored) {
            if let Some(login) = self.of(host_of(&server)) {
                all.insert(server, login);
            }
        }
        (!all.is_empty()).then(|| encoded(&Value::Object(all)))
    }

    fn of(&self, registry: &str) -> Option<Value> {
        let is_it = |server: &&String| host_of(server) == registry;
        let key = self.auths.keys().find(is_it).or_else(|| self.helpers.keys().find(is_it)).cloned();
        let key = key.unwrap_or_else(|| if registry == "docker.io" { HUB.to_owned() } else { registry.to_owned() });
        let helper = self.helpers.iter().find(|(server, _)| host_of(server) == registry).map(|(_, helper)| helper);
        match helper.or(self.store.as_ref()) {
            Some(helper) => asked(helper, &key),
            None => self.auths.get(&key).and_then(|stored| in_file(stored, &key)),
        }
    }
}

/// The registry of an image's name: what stands before the first slash, if it can be a host.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host_of(host),
        _ => "docker.io",
    }
}

/// The host of a server as it stands in the file, which may be an address.
fn host_of(server: &str) -> &str {
    let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    match host.split('/').next().unwrap_or(host) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

fn encoded(value: &Value) -> String {
    URL_SAFE.encode(value.to_string())
}

/// What the file itself has: `auth` is user and password with a colon between.
fn in_file(stored: &Value, server: &str) -> Option<Value> {
    let text = |key: &str| stored[key].as_str().unwrap_or_default();
    let auth = STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let (user, password) = auth.split_once(':').unwrap_or((text("username"), text("password")));
    let login = json!({
        "username": user, "password": password.trim_end_matches('\0'), "serveraddress": server,
        "identitytoken": text("identitytoken"), "registrytoken": text("registrytoken"),
    });
    let has_any = ["username", "identitytoken", "registrytoken"].iter().any(|key| login[key] != "");
    has_any.then_some(login)
}

/// What a helper has; nothing if it fails, as with `docker`.
fn asked(helper: &str, server: &str) -> Option<Value> {
    let answer: Value = serde_json::from_slice(&run(helper, "get", server)?).ok()?;
    let (user, secret) = (answer["Username"].as_str()?, answer["Secret"].as_str()?);
    Some(match user {
        "<token>" => json!({"identitytoken": secret, "serveraddress": server}),
        _ => json!({"username": user, "password": secret, "serveraddress": server}),
    })
}

/// The servers that a helper has something for.
fn listed(helper: &str) -> Vec<String> {
    let servers: Option<BTreeMap<String, String>> = run(helper, "list", "").and_then(|bytes| serde_json::from_slice(&bytes).ok());
    servers.unwrap_or_default().into_keys().collect()
}

fn run(helper: &str, verb: &str, input: &str) -> Option<Vec<u8>> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It may end without having read it.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().ok()?;
    output.status.success().then_some(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(header: Option<String>) -> Value {
        header.map(|header| serde_json::from_slice(&URL_SAFE.decode(header).unwrap()).unwrap()).unwrap_or_default()
    }

    #[test]
    fn each_registry_is_told_its_own() {
        let config = json!({"auths": {
            HUB: {"auth": STANDARD.encode("hub:one:two")},
            "https://r.example.com/v1/": {"auth": STANDARD.encode("me:secret")},
            "127.0.0.1:5000": {"username": "u", "password": "p"},
            "empty.example.com": {},
        }});
        let logins = Logins::read(config.to_string().as_bytes());
        for (image, user, password) in [
            ("debian", "hub", "one:two"),
            ("library/debian", "hub", "one:two"),
            ("docker.io/library/debian", "hub", "one:two"),
            ("r.example.com/team/app", "me", "secret"),
            ("127.0.0.1:5000/app", "u", "p"),
        ] {
            let told = decoded(logins.for_image(image));
            assert_eq!((&told["username"], &told["password"]), (&json!(user), &json!(password)), "{image}");
        }
        for image in ["other.example.com/app", "empty.example.com/app", "localhost/app"] {
            assert_eq!(logins.for_image(image), None, "{image}");
        }
        let all = decoded(logins.all());
        assert_eq!(all.as_object().unwrap().len(), 3, "{all}");
        assert_eq!(all[HUB]["username"], "hub");
        assert!(Logins::read(b"no json").all().is_none() && Logins::read(b"{}").for_image("x").is_none());
    }

    #[test]
    fn a_helper_that_is_not_there_has_nothing() {
        let logins = Logins::read(br#"{"credsStore": "is-not-there", "auths": {"r.example.com": {}}}"#);
        assert!(logins.for_image("r.example.com/app").is_none() && logins.all().is_none());
    }
}
