//! The instructions of a Dockerfile that change an image's config and nothing else, as `commit -c` and `import -c`
//! take them. Source: Dockerfile reference; moby `builder/dockerfile`, `BuildFromConfig`.

use fs_base::{Error, Result};
use serde_json::{Map, Value, json};

/// The instructions that change nothing but the config.
const KNOWN: &[&str] = &[
    "CMD",
    "ENTRYPOINT",
    "SHELL",
    "ENV",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "USER",
    "STOPSIGNAL",
    "WORKDIR",
    "ONBUILD",
    "HEALTHCHECK",
];

/// `80`, `80/udp` or `8000-8010/tcp`. Source: docker/go-connections, `ParsePortSpec`.
fn check_port(text: &str) -> Result<()> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let bad = || Error::invalid(format!("Invalid containerPort: {text}"));
    if !matches!(protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("Invalid proto: {protocol}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last { Err(bad()) } else { Ok(()) }
}

/// Source: moby, `dispatchOnbuild`.
fn check_trigger(text: &str) -> Result<()> {
    let trigger = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match trigger.as_str() {
        "ONBUILD" => Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "MAINTAINER" | "FROM" => Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger"))),
        _ => Ok(()),
    }
}

/// Applies one instruction to a config.
pub fn apply(config: &mut Map<String, Value>, line: &str) -> Result<()> {
    let line = line.trim();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
    let bad = |why: &str| Error::invalid(format!("{name} {why}"));
    if !KNOWN.contains(&name.as_str()) {
        return Err(Error::invalid(format!("{} is not a valid change command", name.to_lowercase())));
    }
    if rest.is_empty() {
        let exactly = matches!(name.as_str(), "USER" | "WORKDIR" | "STOPSIGNAL");
        return Err(bad(if exactly { "requires exactly one argument" } else { "requires at least one argument" }));
    }
    let shell = || {
        let words = config.get("Shell").and_then(Value::as_array).filter(|words| !words.is_empty()).cloned();
        words.unwrap_or_else(|| vec![json!("/bin/sh"), json!("-c")])
    };
    match name.as_str() {
        "CMD" | "ENTRYPOINT" => {
            let words = words_of(rest).unwrap_or_else(|| [shell(), vec![json!(rest)]].concat());
            let key = if name == "CMD" { "Cmd" } else { "Entrypoint" };
            config.insert(key.to_owned(), Value::Array(words));
        }
        "SHELL" => {
            let words = words_of(rest).ok_or_else(|| bad("requires the arguments to be in JSON form"))?;
            config.insert("Shell".to_owned(), Value::Array(words));
        }
        "ENV" => pairs(&name, rest)?.into_iter().for_each(|(key, value)| set_env(config, &key, &value)),
        "LABEL" => pairs(&name, rest)?.into_iter().for_each(|(key, value)| drop(map(config, "Labels").insert(key, json!(value)))),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                check_port(port)?;
                let key = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                map(config, "ExposedPorts").insert(key, json!({}));
            }
        }
        "VOLUME" => {
            let words = words_of(rest).unwrap_or_else(|| rest.split_whitespace().map(|word| json!(word)).collect());
            for word in words.iter().filter_map(Value::as_str) {
                map(config, "Volumes").insert(word.to_owned(), json!({}));
            }
        }
        "USER" | "STOPSIGNAL" => {
            if name == "STOPSIGNAL" {
                crate::container::signal::parse(rest)?;
            }
            let key = if name == "USER" { "User" } else { "StopSignal" };
            config.insert(key.to_owned(), json!(rest));
        }
        "WORKDIR" => {
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/").to_owned();
            let place = if rest.starts_with('/') { rest.to_owned() } else { format!("{}/{rest}", before.trim_end_matches('/')) };
            config.insert("WorkingDir".to_owned(), json!(place));
        }
        "ONBUILD" => {
            check_trigger(rest)?;
            let list = config.entry("OnBuild").or_insert_with(|| json!([]));
            if !list.is_array() {
                *list = json!([]);
            }
            list.as_array_mut().into_iter().for_each(|list| list.push(json!(rest)));
        }
        "HEALTHCHECK" => {
            let check = healthcheck(rest, &shell())?;
            config.insert("Healthcheck".to_owned(), check);
        }
        // Nothing else is known.
        _ => {}
    }
    Ok(())
}

/// `["a", "b"]`; `None` if it is no JSON list of texts.
fn words_of(text: &str) -> Option<Vec<Value>> {
    let list: Vec<String> = serde_json::from_str(text).ok()?;
    Some(list.into_iter().map(Value::String).collect())
}

fn map<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        // It was made one just now.
        _ => unreachable!(),
    }
}

fn set_env(config: &mut Map<String, Value>, key: &str, value: &str) {
    let pair = json!(format!("{key}={value}"));
    let list = config.entry("Env").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let same = |old: &Value| old.as_str().and_then(|old| old.split('=').next()) == Some(key);
    match list.iter().position(same) {
        Some(place) => list[place] = pair,
        None => list.push(pair),
    }
}

/// `KEY=value KEY2="a b"`, or the old form `KEY the rest`.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>> {
    let words = split(text)?;
    if !words[0].contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if value.is_empty() {
            return Err(Error::invalid(format!("{name} must have two arguments")));
        }
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::invalid(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"))),
        })
        .collect()
}

/// Words with a shell's quotes and backslashes taken away.
fn split(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match (c, quote) {
            ('\\', None | Some('"')) => word.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, _) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(format!("unexpected end of statement while looking for matching quote: {text}")));
    }
    words.extend(word);
    Ok(words)
}

/// `NONE`, or `[--interval=…] CMD command`.
fn healthcheck(text: &str, shell: &[Value]) -> Result<Value> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (key, value) = flag.split_once('=').ok_or_else(|| Error::invalid(format!("Missing a value on flag: {flag}")))?;
        let field = match key {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                let count: u32 = value.parse().map_err(|_| Error::invalid(format!("--retries is invalid: {value}")))?;
                check.insert("Retries".to_owned(), json!(count));
                continue;
            }
            _ => return Err(Error::invalid(format!("Unknown flag: {key}"))),
        };
        let nanos = nanoseconds(value).ok_or_else(|| Error::invalid(format!("invalid duration {value:?}")))?;
        check.insert(field.to_owned(), json!(nanos));
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    let test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => json!(["NONE"]),
        "CMD" if !command.is_empty() => match words_of(command) {
            Some(words) => Value::Array([vec![json!("CMD")], words].concat()),
            None if shell == [json!("/bin/sh"), json!("-c")] => json!(["CMD-SHELL", command]),
            None => Value::Array([vec![json!("CMD")], shell.to_vec(), vec![json!(command)]].concat()),
        },
        "CMD" => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        other => return Err(Error::invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"))),
    };
    check.insert("Test".to_owned(), test);
    Ok(Value::Object(check))
}

/// Go's durations: `1m30s`, `500ms`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |end| digits + end);
        total += number
            * match &rest[digits..unit_end] {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(lines: &[&str]) -> Value {
        let mut config = Map::new();
        config.insert("Env".to_owned(), json!(["A=1", "B=2"]));
        config.insert("WorkingDir".to_owned(), json!("/w"));
        for line in lines {
            apply(&mut config, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        Value::Object(config)
    }

    #[test]
    fn every_instruction_changes_its_field() {
        let config = applied(&[
            "CMD [\"ls\", \"-l\"]",
            "entrypoint run me",
            "ENV A=x C='a b' D=\"c\\\"d\"",
            "ENV E the rest",
            "LABEL k=v \"two words\"=x",
            "EXPOSE 80 53/udp",
            "VOLUME /a /b",
            "VOLUME [\"/c\"]",
            "USER app",
            "WORKDIR sub",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 --timeout=500ms CMD test -e /x",
        ]);
        assert_eq!(config["Cmd"], json!(["ls", "-l"]));
        assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "run me"]));
        assert_eq!(config["Env"], json!(["A=x", "B=2", "C=a b", "D=c\"d", "E=the rest"]));
        assert_eq!(config["Labels"], json!({"k": "v", "two words": "x"}));
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(config["Volumes"], json!({"/a": {}, "/b": {}, "/c": {}}));
        assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("app"), &json!("/w/sub")));
        assert_eq!((&config["StopSignal"], &config["OnBuild"]), (&json!("SIGINT"), &json!(["RUN x"])));
        let check = &config["Healthcheck"];
        assert_eq!(check["Test"], json!(["CMD-SHELL", "test -e /x"]));
        assert_eq!(
            (&check["Interval"], &check["Timeout"], &check["Retries"]),
            (&json!(90_000_000_000_i64), &json!(500_000_000), &json!(2))
        );
        assert_eq!(applied(&["HEALTHCHECK NONE"])["Healthcheck"]["Test"], json!(["NONE"]));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (line, text) in [
            ("RUN make", "run is not a valid change command"),
            ("CMD", "CMD requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV A=b c", "Syntax error - can't find = in \"c\""),
            ("LABEL a='b", "unexpected end of statement"),
            ("HEALTHCHECK --interval=x CMD true", "invalid duration \"x\""),
        ] {
            let error = apply(&mut Map::new(), line).unwrap_err().to_string();
            assert!(error.starts_with(text), "{line}: {error}");
        }
    }
}
