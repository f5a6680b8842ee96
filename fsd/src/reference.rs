//! Image names: `[registry/]repository[:tag][@digest]`, made canonical as Docker does.
//! Source: distribution/reference, the grammar in its package comment.

use std::fmt;
use std::str::FromStr;

use fs_base::{Digest, Error, Result};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A checked image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Canonical: `docker.io/library/busybox`.
    pub repository: String,
    /// The tag as given.
    pub tag: Option<String>,
    /// The digest as given.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The tag, `latest` if none was given.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        let invalid = || Error::invalid(format!("invalid reference format: {text:?}"));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        // A colon behind the last slash starts the tag; one before it belongs to the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if names_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let tag_is_good = |tag: &str| {
            tag.len() <= 128
                && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        };
        if !path.split('/').all(is_component) || !is_registry(registry) || name.len() > 255 || !tag.is_none_or(tag_is_good) {
            if path.chars().any(char::is_uppercase) {
                return Err(Error::invalid(format!("invalid reference format: repository name ({path}) must be lowercase")));
            }
            return Err(invalid());
        }
        let namespace = if registry == DEFAULT_REGISTRY && !path.contains('/') { DEFAULT_NAMESPACE } else { "" };
        Ok(Reference { repository: format!("{registry}/{namespace}{path}"), tag: tag.map(str::to_owned), digest })
    }
}

/// Whether the first part of a name is a registry. Source: distribution/reference, `splitDockerDomain`.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn is_component(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let separators_are_good = !text.contains("..") && !text.contains("___") && !text.contains("._") && !text.contains("_.");
    edge(text.chars().next())
        && edge(text.chars().last())
        && separators_are_good
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
}

/// A host name or address, perhaps with a port. Source: distribution's reference grammar, `domain`.
fn is_registry(text: &str) -> bool {
    let (host_is_good, port) = if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port.strip_prefix(':').unwrap_or("0"))
    } else {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
        (host.split('.').all(is_label), port)
    };
    host_is_good && port.parse::<u16>().is_ok()
}

fn is_label(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The short form that people see: `docker.io/library/busybox` is `busybox`. A name that would be another registry's without
/// its own stays whole: `docker.io/ghcr.io/x` is not what `ghcr.io/x` is (Docker shows it so all the same).
pub fn familiar(repository: &str) -> &str {
    let is_path = |name: &&str| name.split_once('/').is_none_or(|(first, _)| !names_registry(first));
    let name = repository.strip_prefix("docker.io/").filter(is_path).unwrap_or(repository);
    match name.strip_prefix(DEFAULT_NAMESPACE) {
        Some(short) if name.len() != repository.len() && !short.contains('/') => short,
        _ => name,
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(familiar(&self.repository))?;
        match (&self.tag, &self.digest) {
            (Some(tag), None) => write!(f, ":{tag}"),
            (_, Some(digest)) => write!(f, "@{digest}"),
            (None, None) => write!(f, ":{DEFAULT_TAG}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_canonical_and_familiar_again() {
        for (text, repository, tag, shown) in [
            ("busybox", "docker.io/library/busybox", None, "busybox:latest"),
            ("a/b:1", "docker.io/a/b", Some("1"), "a/b:1"),
            ("docker.io/library/x:y", "docker.io/library/x", Some("y"), "x:y"),
            ("localhost/x", "localhost/x", None, "localhost/x:latest"),
            ("docker.io/ghcr.io/x", "docker.io/ghcr.io/x", None, "docker.io/ghcr.io/x:latest"),
            ("docker.io/localhost/x", "docker.io/localhost/x", None, "docker.io/localhost/x:latest"),
            ("docker.io/library/x.y", "docker.io/library/x.y", None, "x.y:latest"),
            ("[::1]:5000/x", "[::1]:5000/x", None, "[::1]:5000/x:latest"),
            ("127.0.0.1:5000/a/b-c__d:T.1", "127.0.0.1:5000/a/b-c__d", Some("T.1"), "127.0.0.1:5000/a/b-c__d:T.1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.repository.as_str(), reference.tag.as_deref(), reference.to_string().as_str()),
                (repository, tag, shown)
            );
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "a b", "UPPER", "a:", "a:-x", "-a", "a//b", "../x", "a@sha256:1", "a.b:x/y", "a/B"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!("Foo".parse::<Reference>().unwrap_err().to_string().contains("must be lowercase"));
    }
}
