//! Paths and queries of requests, escaped.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Map, Value, json};

/// A path with its query under way.
#[derive(Debug, Clone)]
pub struct Query {
    text: String,
    any: bool,
}

impl Query {
    /// Starts from a path, escaped already.
    pub fn new(path: impl Into<String>) -> Query {
        Query { text: path.into(), any: false }
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl AsRef<str>) -> Query {
        self.text.push(if self.any { '&' } else { '?' });
        self.any = true;
        let _ = write!(self.text, "{key}={}", escape(value.as_ref()));
        self
    }

    /// Adds `key=1` if it is so.
    #[must_use]
    pub fn flag(self, key: &str, on: bool) -> Query {
        if on { self.with(key, "1") } else { self }
    }

    /// Adds `key=value` if there is one.
    #[must_use]
    pub fn maybe(self, key: &str, value: Option<impl AsRef<str>>) -> Query {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds Docker's `filters` if there are any.
    #[must_use]
    pub fn filters(self, filters: &Filters) -> Query {
        if filters.0.is_empty() { self } else { self.with("filters", filters.to_json().to_string()) }
    }

    /// The whole of it.
    pub fn build(self) -> String {
        self.text
    }
}

/// Percent-encodes everything but what RFC 3986 leaves unreserved.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(byte as char);
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The same for a name in a path of Docker's: an image's slashes and colons stay.
pub fn escape_name(name: &str) -> String {
    escape(name).replace("%2F", "/").replace("%3A", ":").replace("%40", "@")
}

/// Docker's `--filter key=value`s.
#[derive(Debug, Clone, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads what was given on the command line.
    pub fn parse(given: &[String]) -> Result<Filters> {
        let mut filters = Filters::default();
        for filter in given.iter().filter(|filter| !filter.is_empty()) {
            let Some((key, value)) = filter.split_once('=') else {
                let text = format!(
                    "invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                );
                return Err(crate::failure::Exit::with(125, text));
            };
            filters.add(key.trim().to_lowercase(), value.trim());
        }
        Ok(filters)
    }

    /// Adds one.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().push(value.into());
    }

    /// Whether something is asked of this key.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn to_json(&self) -> Value {
        let object: Map<String, Value> = self
            .0
            .iter()
            .map(|(key, values)| {
                (key.clone(), values.iter().map(|value| (value.clone(), json!(true))).collect::<Map<_, _>>().into())
            })
            .collect();
        object.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_filters_are_dockers() {
        let filters = Filters::parse(&["label=a=b".into(), "status=exited".into()]).unwrap();
        let path = Query::new("/containers/json").flag("all", true).flag("size", false).filters(&filters).build();
        assert_eq!(
            path,
            "/containers/json?all=1&filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%2C%22status%22%3A%7B%22exited%22%3Atrue%7D%7D"
        );
        assert!(Filters::parse(&["status".into()]).is_err());
        assert_eq!(escape_name("localhost:5000/a b@sha256:1"), "localhost:5000/a%20b@sha256:1");
    }
}
