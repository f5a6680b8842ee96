//! Lists of things: a table, a template for each, JSON for each, or ids only.

use anyhow::Result;
use serde_json::{Map, Value};

use super::tabs;
use super::template::Format;
use crate::out;

/// What a kind of list has for columns.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Field and title.
    pub titles: &'static [(&'static str, &'static str)],
    /// The table's template without `table `.
    pub table: &'static str,
    /// The field that `-q` shows.
    pub quiet: &'static str,
}

/// How a list is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// `--format`.
    pub format: Option<&'a str>,
    /// `-q`.
    pub quiet: bool,
}

/// One row, its fields sorted by name as in `{{json .}}`.
pub fn row<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut fields: Vec<_> = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(fields.into_iter().collect())
}

/// Writes the list to standard output.
pub fn print(columns: &Columns, rows: &[Value], style: Style<'_>) -> Result<()> {
    let text = render(columns, rows, style)?;
    if !text.is_empty() {
        out::bytes(text.as_bytes());
    }
    Ok(())
}

/// The list as text.
pub fn render(columns: &Columns, rows: &[Value], style: Style<'_>) -> Result<String> {
    let format = style.format.filter(|format| !format.is_empty() && *format != "table");
    let quiet_format = format!("{{{{.{}}}}}", columns.quiet);
    let (table, template) = match format {
        Some("json" | "{{json .}}") => return lines_of_json(rows),
        Some(format) if format.starts_with("table ") => (true, format.trim_start_matches("table ").trim()),
        Some(format) => (false, format),
        None if style.quiet => (false, quiet_format.as_str()),
        None => (true, columns.table),
    };
    let body = Format::parse(template, false)?;
    let mut text = String::new();
    if table {
        let titles: Map<String, Value> =
            columns.titles.iter().map(|(field, title)| ((*field).to_owned(), (*title).into())).collect();
        text.push_str(&Format::parse(template, true)?.render(&Value::Object(titles))?);
        text.push('\n');
    }
    for row in rows {
        text.push_str(&body.render(row)?);
        text.push('\n');
    }
    Ok(if table { tabs::align(&text) } else { text })
}

fn lines_of_json(rows: &[Value]) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        let mut row = row.clone();
        if let Some(fields) = row.as_object_mut() {
            fields.shift_remove("LabelMap");
        }
        // Go escapes these in what marshals itself, as its rows do.
        let json = serde_json::to_string(&row)?;
        text.push_str(&json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"));
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns =
        Columns { titles: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")], table: "{{.Driver}}\t{{.Name}}", quiet: "Name" };

    fn shown(format: Option<&str>, quiet: bool) -> String {
        let rows = [row([("Name", "v1".into()), ("Driver", "local".into())])];
        render(&COLUMNS, &rows, Style { format, quiet }).unwrap()
    }

    #[test]
    fn a_list_in_every_style() {
        assert_eq!(shown(None, false), "DRIVER    VOLUME NAME\nlocal     v1\n");
        assert_eq!(shown(None, true), "v1\n");
        assert_eq!(shown(Some("json"), false), "{\"Driver\":\"local\",\"Name\":\"v1\"}\n");
        assert_eq!(shown(Some("{{json .}}"), false), "{\"Driver\":\"local\",\"Name\":\"v1\"}\n");
        assert_eq!(shown(Some("table {{.Name}}\\t{{upper .Driver}}"), false), "VOLUME NAME   DRIVER\nv1            LOCAL\n");
        assert_eq!(shown(Some("{{.Name}}={{.Driver}}"), false), "v1=local\n");
    }
}
