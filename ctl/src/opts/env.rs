//! `-e`, `--env-file`, `-l`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// `KEY=VALUE`s, those of files first. `KEY` alone takes its value from `own`, and is left out if there is none.
pub fn environment(files: &[impl AsRef<Path>], given: &[String], own: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(file.as_ref())?);
    }
    all.extend(given.iter().cloned());
    let mut env: Vec<String> = Vec::new();
    for item in all {
        if item.is_empty() || item.starts_with('=') {
            bail!("invalid environment variable: {item}");
        }
        if item.contains('=') {
            env.push(item);
        } else if let Some(value) = own(&item) {
            env.push(format!("{item}={value}"));
        }
    }
    Ok(env)
}

fn lines(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("open {}", file.display()))?;
    let mut found = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim_start) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.is_empty() {
            bail!("invalid env file ({}): no variable name on line '{line}'", file.display());
        }
        if key.contains(char::is_whitespace) {
            bail!("invalid env file ({}): variable '{key}' contains whitespaces", file.display());
        }
        found.push(line.to_owned());
    }
    Ok(found)
}

/// `KEY=VALUE`s as an object; `KEY` alone has an empty value.
pub fn pairs(given: &[String]) -> Map<String, Value> {
    given
        .iter()
        .map(|item| {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            (key.to_owned(), value.into())
        })
        .collect()
}

/// The same from `--label-file`s too.
pub fn labels(files: &[impl AsRef<Path>], given: &[String]) -> Result<Map<String, Value>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(file.as_ref())?);
    }
    all.extend(given.iter().cloned());
    Ok(pairs(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# a comment\nA=1\n\n  B=x y\nHOME\nNOSUCH\n").unwrap();
        let own = |key: &str| (key == "HOME").then(|| "/root".to_owned());
        let env = environment(&[&file], &["C=3".into(), "HOME".into()], &own).unwrap();
        assert_eq!(env, ["A=1", "B=x y", "HOME=/root", "C=3", "HOME=/root"]);
        std::fs::write(&file, "A B=1\n").unwrap();
        assert!(environment(&[&file], &[], &own).unwrap_err().to_string().contains("contains whitespaces"));
        assert!(environment(&[] as &[&Path], &["=x".into()], &own).is_err());
    }
}
