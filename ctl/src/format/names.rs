//! Names and ids, shortened as Docker does.

use std::fmt::Write as _;

/// `sha256:` off, the first twelve digits.
pub fn short_id(id: &str) -> &str {
    let bare = id.split_once(':').map_or(id, |(_, hex)| hex);
    bare.get(..12).unwrap_or(bare)
}

/// The first `length` characters, the last of them an ellipsis if there was more.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// An image reference in parts: the name as people say it, tag and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Without `docker.io/library/`.
    pub name: &'a str,
    /// After the colon.
    pub tag: Option<&'a str>,
    /// After the at sign.
    pub digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Takes a reference apart.
    pub fn parse(text: &'a str) -> Reference<'a> {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
            None => (rest, None),
        };
        let name = name.strip_prefix("docker.io/").map_or(name, |bare| bare.strip_prefix("library/").unwrap_or(bare));
        Reference { name, tag, digest }
    }

    /// With registry and `library/` written out, as a daemon is asked for it.
    pub fn canonical_name(&self) -> String {
        let first = self.name.split('/').next().unwrap_or_default();
        if !self.name.contains('/') {
            format!("docker.io/library/{}", self.name)
        } else if first.contains(['.', ':']) || first == "localhost" {
            self.name.to_owned()
        } else {
            format!("docker.io/{}", self.name)
        }
    }
}

/// Go's `strconv.Quote`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => drop(write!(quoted, "\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Orders names so that `v10` comes after `v2`.
pub fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let chunks = |text: &str| {
        let mut chunks: Vec<(bool, String)> = Vec::new();
        for c in text.chars() {
            match chunks.last_mut() {
                Some((digit, chunk)) if *digit == c.is_ascii_digit() => chunk.push(c),
                _ => chunks.push((c.is_ascii_digit(), c.to_string())),
            }
        }
        chunks
    };
    for ((a_digit, a_chunk), (b_digit, b_chunk)) in chunks(a).iter().zip(&chunks(b)) {
        let order = if *a_digit && *b_digit {
            let (a_number, b_number) = (a_chunk.trim_start_matches('0'), b_chunk.trim_start_matches('0'));
            a_number
                .len()
                .cmp(&b_number.len())
                .then_with(|| a_number.cmp(b_number))
                .then_with(|| a_chunk.len().cmp(&b_chunk.len()))
        } else {
            a_chunk.cmp(b_chunk)
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart() {
        let parse = Reference::parse;
        assert_eq!(parse("alpine"), Reference { name: "alpine", tag: None, digest: None });
        assert_eq!(parse("docker.io/library/alpine:3"), Reference { name: "alpine", tag: Some("3"), digest: None });
        assert_eq!(parse("localhost:5000/a/b").name, "localhost:5000/a/b");
        assert_eq!(parse("localhost:5000/a:1@sha256:x").digest, Some("sha256:x"));
        assert_eq!(parse("alpine").canonical_name(), "docker.io/library/alpine");
        assert_eq!(parse("me/app").canonical_name(), "docker.io/me/app");
        assert_eq!(parse("127.0.0.1:5000/x").canonical_name(), "127.0.0.1:5000/x");
    }

    #[test]
    fn text_is_shortened_and_quoted() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(ellipsis("sh -c 'while true; do sleep 1; done'", 20), "sh -c 'while true; …");
        let mut names = ["v10", "v2", "a", "v1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "v1", "v2", "v10"]);
        assert_eq!(quote("a \"b\"\n"), "\"a \\\"b\\\"\\n\"");
    }
}
