//! JSON as Go's `encoding/json` lays it out, and values read from it without fuss.

use serde_json::Value;

/// Indents JSON text by four spaces without touching its strings, numbers or order.
pub fn indent(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len() * 2);
    let (mut depth, mut in_string, mut escaped, mut fresh) = (0usize, false, false, false);
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str("    "));
    };
    for c in raw.chars() {
        if in_string {
            out.push(c);
            (in_string, escaped) = (escaped || c != '"', c == '\\' && !escaped);
            continue;
        }
        if c.is_whitespace() {
            continue;
        }
        if fresh && !matches!(c, '}' | ']') {
            newline(&mut out, depth);
        }
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !fresh {
                    newline(&mut out, depth);
                }
            }
            '"' => in_string = true,
            _ => {}
        }
        out.push(c);
        fresh = matches!(c, '{' | '[');
        match c {
            ',' => newline(&mut out, depth),
            ':' => out.push(' '),
            _ => {}
        }
    }
    out
}

/// A field's text; empty if it isn't there.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A field's number; 0 if it isn't there.
pub fn number(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or_default()
}

/// A field's list; empty if it isn't there.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `k=v,…` of a field that is an object of strings, sorted.
pub fn labels(value: &Value) -> String {
    let mut pairs: Vec<String> = value
        .as_object()
        .map(|object| object.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect())
        .unwrap_or_default();
    pairs.sort();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn indents_like_go() {
        assert_eq!(
            super::indent(r#"[{"a":"x\"{\u003c","b":[],"c":{},"d":[1,2]}]"#),
            "[\n    {\n        \"a\": \"x\\\"{\\u003c\",\n        \"b\": [],\n        \"c\": {},\n        \"d\": [\n            1,\n            2\n        ]\n    }\n]"
        );
        assert_eq!(super::indent("[]"), "[]");
    }
}
