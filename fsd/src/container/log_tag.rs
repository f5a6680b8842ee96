//! `--log-opt tag`: what every line of a container is said to be from, as a Go template. Source: moby,
//! `daemon/logger/loginfo.go`.

use fs_base::{Error, Result};

use super::ContainerRow;

/// What a template may name.
const FIELDS: &[&str] = &["ID", "FullID", "Name", "Command", "ImageID", "ImageFullID", "ImageName", "Hostname", "DaemonName"];
/// Digits of a short id.
const SHORT: usize = 12;

enum Piece<'a> {
    Text(&'a str),
    Field(&'a str),
}

/// Whether it is a template of fields that there are.
pub fn check(template: &str) -> Result<()> {
    pieces(template).map(drop)
}

/// The tag of a container.
pub fn of(template: &str, row: &ContainerRow) -> Result<String> {
    let mut tag = String::new();
    for piece in pieces(template)? {
        match piece {
            Piece::Text(text) => tag.push_str(text),
            Piece::Field(name) => tag.push_str(&field(name, row)),
        }
    }
    Ok(tag)
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>> {
    let bad = |why: String| Error::invalid(format!("template: log-tag: {why}"));
    let (mut all, mut rest) = (Vec::new(), template);
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, behind) = after.split_once("}}").ok_or_else(|| bad("unclosed action".to_owned()))?;
        let name = action.trim();
        let known = name.strip_prefix('.').filter(|name| FIELDS.contains(name));
        let known = known.ok_or_else(|| {
            bad(format!("{{{{{name}}}}} is not supported")).with_hint(format!("it can name {}", FIELDS.join(", ")))
        })?;
        all.extend([Piece::Text(text), Piece::Field(known)]);
        rest = behind;
    }
    all.push(Piece::Text(rest));
    Ok(all)
}

fn field(name: &str, row: &ContainerRow) -> String {
    let short = |id: &str| id.rsplit(':').next().unwrap_or_default().chars().take(SHORT).collect();
    let image = row.image.to_string();
    match name {
        "ID" => short(row.id.as_str()),
        "FullID" => row.id.to_string(),
        "Name" => row.name.clone(),
        "Command" => row.definition.command().join(" "),
        "ImageID" => short(&image),
        "ImageFullID" => image,
        "ImageName" => row.image_name.clone(),
        "Hostname" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ => "fsd".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::{Definition, State};

    #[test]
    fn a_tag_names_what_docker_can_name() {
        let config = json!({"Entrypoint": ["sh"], "Cmd": ["-c", "x"]});
        let row = ContainerRow {
            id: "a".repeat(64).parse().unwrap(),
            name: "web".to_owned(),
            image: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
            image_name: "i:1".to_owned(),
            created: 0,
            definition: Definition { config, host_config: json!({}), mounts: Vec::new(), labels: None },
            state: State::created(),
        };
        let tag = of("{{.ImageName}}/{{ .Name }}/{{.ID}}/{{.ImageID}} {{.Command}}", &row).unwrap();
        assert_eq!(tag, "i:1/web/aaaaaaaaaaaa/111111111111 sh -c x");
        for bad in ["{{.Name", "{{.Nobody}}", "{{join .Name}}"] {
            assert!(check(bad).unwrap_err().to_string().starts_with("template: log-tag: "), "{bad}");
        }
    }
}
