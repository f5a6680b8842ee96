//! Go templates over JSON, with Docker's functions.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use gtmpl_ng::{Context, Func, FuncError, Template, Value as Go};
use serde_json::Value;

/// Fields whose keys people choose: a key that isn't there is no mistake.
const OPEN_MAPS: &[&str] = &[
    "Labels",
    "Networks",
    "Ports",
    "PortBindings",
    "ExposedPorts",
    "Volumes",
    "Options",
    "LogOpts",
    "Config.Config",
    "Sysctls",
    "Annotations",
    "Tmpfs",
    "Attributes",
    "Data",
    "Metadata",
    "DriverOpts",
    "Runtimes",
    "LabelMap",
];

/// A parsed template.
pub struct Format {
    source: String,
    header: bool,
    /// Text and fields in turn, if the template is no more than that.
    simple: Option<Vec<Piece>>,
}

/// A part of a simple template.
enum Piece {
    Text(String),
    /// A path of fields, without its first dot.
    Field(String),
}

/// Marks the place of a whole value that is written as JSON in the daemon's own order.
const MARK: char = '\u{1}';

impl Format {
    /// Parses; `header` gives functions that leave column titles as they are.
    pub fn parse(text: &str, header: bool) -> Result<Format> {
        let source = text.replace("\\t", "\t").replace("\\n", "\n").replace(".Label \"", "label . \"");
        let simple = simple(&source);
        let format = Format { source, header, simple };
        if format.simple.is_none() {
            format.engine()?;
        }
        Ok(format)
    }

    /// Fills in a value.
    pub fn render(&self, value: &Value) -> Result<String> {
        match self.simple.as_ref().and_then(|pieces| fill(pieces, value)) {
            Some(text) => Ok(text),
            None => self.render_by_engine(value),
        }
    }

    /// The template engine, which takes a thread for each template that it reads: not for what `simple` can do.
    fn engine(&self) -> Result<(Template, Vec<String>)> {
        let (text, plain) = if self.header { (self.source.clone(), Vec::new()) } else { lift_json(&self.source) };
        let mut template = Template::default();
        let functions: &[(&str, Func)] = if self.header { &HEADER_FUNCTIONS } else { &FUNCTIONS };
        for (name, function) in functions {
            template.add_func(name, *function);
        }
        template.parse(text).map_err(|error| anyhow!("template parsing error: {error}"))?;
        Ok((template, plain))
    }

    fn render_by_engine(&self, value: &Value) -> Result<String> {
        let (template, plain) = self.engine()?;
        let context = Context::from(to_go(value, true));
        let mut text = template.render(&context).map_err(|error| self.explain(&error.to_string()))?;
        for (number, path) in plain.iter().enumerate() {
            let marker = format!("{MARK}{number}{MARK}");
            if text.contains(&marker) {
                text = text.replace(&marker, &serde_json::to_string(lookup(value, path)?)?);
            }
        }
        Ok(text)
    }
}

/// The template in pieces, if every action is a field.
fn simple(source: &str) -> Option<Vec<Piece>> {
    let (mut pieces, mut rest) = (Vec::new(), source);
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}")?;
        let field = action.trim().strip_prefix('.')?;
        let named = field.split('.').all(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        if !named {
            return None;
        }
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(Piece::Field(field.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Some(pieces)
}

/// Fills in fields; `None` where one is missing, or no string, number or boolean: the engine knows what to do then.
fn fill(pieces: &[Piece], value: &Value) -> Option<String> {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Field(path) => match path.split('.').try_fold(value, |value, name| value.get(name))? {
                Value::String(text) => out.push_str(text),
                Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
                Value::Number(number) if number.is_i64() || number.is_u64() => drop(write!(out, "{number}")),
                _ => return None,
            },
        }
    }
    Some(out)
}

impl Format {
    /// A template's failure in Go's words, where it is a field that isn't there; the engine's own shows the whole value.
    fn explain(&self, error: &str) -> anyhow::Error {
        let missing = error.split_once("no field `").and_then(|(_, rest)| rest.split_once('`')).map(|(field, _)| field);
        match missing {
            Some(field) => {
                let column = self.source.find(&format!(".{field}")).unwrap_or(0);
                let at = format!("template: :1:{column}: executing \"\" at <.{field}>");
                anyhow!("template parsing error: {at}: map has no entry for key {field:?}")
            }
            None => anyhow!("template parsing error: {}", error.lines().next().unwrap_or_default()),
        }
    }
}

/// `{{json .A.B}}` outside of blocks needs no template engine, and so keeps the order of the fields.
fn lift_json(text: &str) -> (String, Vec<String>) {
    let (mut out, mut paths, mut rest) = (String::new(), Vec::new(), text);
    if ["range", "with ", "define", "template", "block"].iter().any(|word| text.contains(word)) {
        return (text.to_owned(), paths);
    }
    while let Some(start) = rest.find("{{") {
        let Some(length) = rest[start..].find("}}") else { break };
        let action = rest[start + 2..start + length].trim();
        out.push_str(&rest[..start]);
        let path = action
            .strip_prefix("json")
            .map(str::trim)
            .filter(|path| path.starts_with('.') && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_'));
        if let Some(path) = path {
            let _ = write!(out, "{MARK}{}{MARK}", paths.len());
            paths.push(path.to_owned());
        } else {
            out.push_str(&rest[start..start + length + 2]);
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    (out, paths)
}

fn lookup<'a>(value: &'a Value, path: &str) -> Result<&'a Value> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(value, |value, name| {
        value.get(name).ok_or_else(|| {
            anyhow!("template parsing error: template: :1: executing \"\" at <{path}>: map has no entry for key {name:?}")
        })
    })
}

/// JSON as the template engine's value. `strict`: a field that isn't there is a mistake.
fn to_go(value: &Value, strict: bool) -> Go {
    match value {
        Value::Null => Go::Nil,
        Value::Bool(yes) => Go::Bool(*yes),
        Value::String(text) => Go::String(text.clone()),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Go::from(number),
            (_, Some(number)) => Go::from(number),
            _ => Go::from(number.as_f64().unwrap_or_default()),
        },
        Value::Array(items) => Go::Array(items.iter().map(|item| to_go(item, true)).collect()),
        Value::Object(object) => {
            let fields: HashMap<String, Go> =
                object.iter().map(|(key, value)| (key.clone(), to_go(value, !OPEN_MAPS.contains(&key.as_str())))).collect();
            if strict { Go::Object(fields) } else { Go::Map(fields) }
        }
    }
}

fn to_json(value: &Go) -> Value {
    match value {
        Go::NoValue | Go::Nil | Go::Function(_) => Value::Null,
        Go::Bool(yes) => Value::Bool(*yes),
        Go::String(text) => Value::String(text.clone()),
        Go::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (_, Some(number), _) => number.into(),
            (_, _, Some(number)) => number.into(),
            _ => Value::Null,
        },
        Go::Array(items) => items.iter().map(to_json).collect(),
        Go::Object(fields) | Go::Map(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|key| (key.clone(), to_json(&fields[key]))).collect())
        }
    }
}

type Answer = Result<Go, FuncError>;

fn argument<'a>(args: &'a [Go], at: usize, function: &str) -> Result<&'a Go, FuncError> {
    args.get(at).ok_or_else(|| FuncError::AtLeastXArgs(function.to_owned(), at + 1))
}

fn text(args: &[Go], at: usize, function: &str) -> Result<String, FuncError> {
    Ok(match argument(args, at, function)? {
        Go::String(text) => text.clone(),
        Go::Nil | Go::NoValue => String::new(),
        other => other.to_string(),
    })
}

fn count(args: &[Go], at: usize, function: &str) -> Result<usize, FuncError> {
    match argument(args, at, function)? {
        Go::Number(number) => Ok(number.as_u64().unwrap_or(0).min(4096) as usize),
        _ => Err(FuncError::Generic(format!("{function}: argument {} must be a number", at + 1))),
    }
}

fn json(args: &[Go]) -> Answer {
    let value = to_json(argument(args, 0, "json")?);
    serde_json::to_string(&value).map(Go::String).map_err(|error| FuncError::Generic(error.to_string()))
}

fn join(args: &[Go]) -> Answer {
    let separator = text(args, 1, "join")?;
    match argument(args, 0, "join")? {
        Go::Array(items) => Ok(Go::String(items.iter().map(ToString::to_string).collect::<Vec<_>>().join(&separator))),
        Go::Nil | Go::NoValue => Ok(Go::String(String::new())),
        _ => Err(FuncError::Generic("join: its first argument must be a list".to_owned())),
    }
}

fn split(args: &[Go]) -> Answer {
    let (subject, separator) = (text(args, 0, "split")?, text(args, 1, "split")?);
    Ok(Go::Array(subject.split(&separator).map(|part| Go::String(part.to_owned())).collect()))
}

fn lower(args: &[Go]) -> Answer {
    Ok(Go::String(text(args, 0, "lower")?.to_lowercase()))
}

fn upper(args: &[Go]) -> Answer {
    Ok(Go::String(text(args, 0, "upper")?.to_uppercase()))
}

fn title(args: &[Go]) -> Answer {
    let subject = text(args, 0, "title")?;
    let mut start = true;
    let titled = subject.chars().flat_map(|c| {
        let letter: Vec<char> = if start { c.to_uppercase().collect() } else { vec![c] };
        start = !c.is_alphanumeric() && c != '_' && c != '\'';
        letter
    });
    Ok(Go::String(titled.collect()))
}

fn truncate(args: &[Go]) -> Answer {
    let length = count(args, 1, "truncate")?;
    Ok(Go::String(text(args, 0, "truncate")?.chars().take(length).collect()))
}

fn pad(args: &[Go]) -> Answer {
    let subject = text(args, 0, "pad")?;
    if subject.is_empty() {
        return Ok(Go::String(subject));
    }
    Ok(Go::String(format!("{}{subject}{}", " ".repeat(count(args, 1, "pad")?), " ".repeat(count(args, 2, "pad")?))))
}

fn label(args: &[Go]) -> Answer {
    let key = text(args, 1, "Label")?;
    let (Go::Object(row) | Go::Map(row)) = argument(args, 0, "Label")? else { return Ok(Go::String(String::new())) };
    let found = match row.get("LabelMap") {
        Some(Go::Object(labels) | Go::Map(labels)) => labels.get(&key).cloned(),
        _ => None,
    };
    Ok(found.unwrap_or_else(|| Go::String(String::new())))
}

/// In the header `.Label "com.example.k_x"` is titled by the label's own name.
fn label_header(args: &[Go]) -> Answer {
    let key = text(args, 1, "Label")?;
    let name = key.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ");
    Ok(Go::String(name))
}

fn same(args: &[Go]) -> Answer {
    argument(args, 0, "format").cloned()
}

static FUNCTIONS: [(&str, Func); 9] = [
    ("json", json),
    ("join", join),
    ("split", split),
    ("lower", lower),
    ("upper", upper),
    ("title", title),
    ("truncate", truncate),
    ("pad", pad),
    ("label", label),
];

static HEADER_FUNCTIONS: [(&str, Func); 9] = [
    ("json", same),
    ("join", same),
    ("split", same),
    ("lower", same),
    ("upper", same),
    ("title", same),
    ("truncate", same),
    ("pad", pad),
    ("label", label_header),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, value: &Value) -> String {
        Format::parse(template, false).unwrap().render(value).unwrap()
    }

    #[test]
    fn dockers_templates_render() {
        let value = json!({
            "Id": "sha256:abc", "State": {"Running": true, "Pid": 42, "Z": null}, "Args": ["-c", "true"],
            "Config": {"Labels": {"b": "2", "a": "1"}, "Image": "x"},
            "NetworkSettings": {"Networks": {"none": {"IPAddress": ""}}}
        });
        assert_eq!(render("{{.Id}} {{.State.Running}} {{.State.Pid}}", &value), "sha256:abc true 42");
        assert_eq!(render("{{json .State}}", &value), r#"{"Running":true,"Pid":42,"Z":null}"#);
        assert_eq!(render("{{join .Args \" \"}}|{{upper .Config.Image}}", &value), "-c true|X");
        assert_eq!(render("{{range .Args}}[{{json .}}]{{end}}", &value), "[\"-c\"][\"true\"]");
        assert_eq!(render("{{.Config.Labels.nosuch}}", &value), "<no value>");
        assert_eq!(render("{{index .Config.Labels \"a\"}}", &value), "1");
        assert_eq!(render("{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}", &value), "none");
        assert_eq!(render("{{if .State.Running}}up{{else}}down{{end}}", &value), "up");
        assert_eq!(render("{{truncate .Id 3}}{{pad .Config.Image 1 2}}{{title \"ab cd\"}}\\t", &value), "sha x  Ab Cd\t");
        assert_eq!(render("{{println .Id}}", &value), "sha256:abc\n");
        assert_eq!(render("{{len .Args}} {{(index (split .Id \":\") 1)}}", &value), "2 abc");
        assert!(Format::parse("{{.Nope}}", false).unwrap().render(&value).is_err());
        assert!(Format::parse("{{json .Nope}}", false).unwrap().render(&value).is_err());
        assert!(Format::parse("{{.Id", false).is_err());
    }

    #[test]
    fn labels_by_key() {
        let row = json!({"LabelMap": {"com.x.env": "prod"}});
        assert_eq!(render("{{.Label \"com.x.env\"}}", &row), "prod");
    }
}
