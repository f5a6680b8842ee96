//! The rules of the code that a reader can rely on, checked on the text of the tree itself.
//!
//! The text is what rustfmt leaves: a function ends at the first line that holds only a brace at its own indent.
//! Code under test is not counted: a file's production code ends where its `#[cfg(test)]` module begins.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};

/// The crates whose code runs at the user's.
const CRATES: [&str; 7] = ["fsd", "fsd/api", "layerfs", "layerfs/base", "volumes", "engine", "ctl"];
const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

struct Source {
    name: String,
    lines: Vec<String>,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a file is a test module of its own (`tests.rs`, `…_tests.rs`, `tests/…`), not production code.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/")
}

/// The production code below these crates' `src` folders.
fn sources(crates: &[&str]) -> Vec<Source> {
    let top = top();
    let mut paths = Vec::new();
    for name in crates {
        collect(&top.join(name).join("src"), &mut paths);
    }
    assert!(paths.len() > crates.len(), "the tree has moved: {} files", paths.len());
    paths
        .iter()
        .map(|path| Source { name: path.strip_prefix(&top).unwrap().display().to_string(), lines: production(path) })
        .filter(|source| !is_test(&source.name))
        .collect()
}

fn production(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().take_while(|line| *line != "#[cfg(test)]").map(str::to_owned).collect()
}

/// A line without its comment.
fn code(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or_default() }
}

/// Whether a line has this name as a word of its own.
fn calls(line: &str, name: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        !before.is_some_and(inside) && !after.starts_with(inside)
    })
}

fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Lines of code that satisfy a condition, as `file:line: code`.
fn lines_where(sources: &[Source], broken: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.lines.iter().enumerate() {
            if broken(&source.name, code(line)) {
                found.push(format!("{}:{}: {}", source.name, number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn siblings_do_not_know_each_other() {
    let may = |name: &str| -> &[&str] {
        match name {
            "fsd" => &["fsd-api", "fs-base", "layerfs", "volumes", "engine"],
            "layerfs" | "volumes" | "engine" => &["fs-base"],
            "ctl" => &["fsd-api", "fs-base"],
            _ => &[],
        }
    };
    let ours = ["fsd", "fsd-api", "fs-base", "layerfs", "volumes", "engine", "ctl"];
    let mut found = Vec::new();
    for name in CRATES {
        let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).unwrap();
        let tables = manifest.lines().skip_while(|line| !line.contains("dependencies]"));
        for line in tables {
            let word = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if ours.contains(&word) && !may(name).contains(&word) {
                found.push(format!("{name}/Cargo.toml: {line}"));
            }
        }
    }
    none("edges point down only, and none joins siblings", &found);
}

#[test]
fn unsafe_is_in_one_crate() {
    let found = lines_where(&sources(&CRATES), |name, line| {
        !name.starts_with("layerfs/base/") && calls(line, "unsafe") && !line.contains("\"unsafe")
    });
    none("`unsafe` is in fs-base only", &found);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for name in CRATES.iter().chain(&["benches", "tests"]) {
        let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).unwrap();
        // fs-base, where `unsafe` lives, has a list of its own.
        let own = *name == "layerfs/base" && manifest.contains("[lints");
        assert!(own || manifest.contains("[lints]\nworkspace = true"), "{name} does not take the workspace's lints");
    }
    let found =
        lines_where(&sources(&CRATES), |name, line| !name.starts_with("layerfs/base/") && line.contains("allow(unsafe_code)"));
    none("the lint on `unsafe` is lifted in fs-base only", &found);
}

#[test]
fn what_must_be_durable_is_made_so_in_one_module() {
    // `ctl` is left out: the files that it writes are the user's, on the user's side of the socket.
    let daemon = ["fsd", "layerfs", "layerfs/base", "volumes", "engine"];
    let system_calls = [
        "fs::rename",
        "fs::hard_link",
        "fs::renameat",
        "fs::renameat_with",
        "fs::link",
        "fs::linkat",
        "fs::fsync",
        "fs::fdatasync",
        "fs::syncfs",
        "libc::rename",
        "libc::link",
        "libc::fsync",
        "sync_all",
        "sync_data",
    ];
    let found = lines_where(&sources(&daemon), |name, line| {
        name != "layerfs/base/src/durable.rs" && system_calls.iter().any(|call| calls(line, call))
    });
    none("fsync, rename and link are called in fs_base::durable only", &found);
}

#[test]
fn drivers_are_named_in_one_place() {
    let sources: Vec<Source> = sources(&["layerfs"]).into_iter().filter(|source| !source.name.contains("/erofs/")).collect();
    let named: Vec<(String, String)> = sources
        .iter()
        .flat_map(|source| source.lines.iter().map(|line| (source.name.clone(), line)))
        .filter_map(|(name, line)| Some((name, line.strip_prefix("impl Driver for ")?.split(' ').next()?.to_owned())))
        .collect();
    assert!(named.len() >= 2, "the drivers are elsewhere now: {named:?}");
    let mut found = Vec::new();
    for (own, driver) in &named {
        found.extend(lines_where(&sources, |name, line| {
            name != own && name != "layerfs/src/driver/registry.rs" && calls(line, driver)
        }));
    }
    none("a driver is named in its own file and in the registry", &found);
}

#[test]
fn no_file_is_long() {
    let found: Vec<String> = sources(&[&CRATES[..], &["benches", "tests"]].concat())
        .iter()
        .filter(|source| source.lines.len() > FILE_LINES)
        .map(|source| format!("{}: {} lines", source.name, source.lines.len()))
        .collect();
    none(&format!("no file has over {FILE_LINES} lines of production code"), &found);
}

#[test]
fn no_function_is_long() {
    let mut found = Vec::new();
    for source in sources(&CRATES) {
        for (start, line) in source.lines.iter().enumerate() {
            let length = function_length(&source.lines[start..], line);
            if length > FUNCTION_LINES {
                found.push(format!("{}:{}: {length} lines: {}", source.name, start + 1, line.trim()));
            }
        }
    }
    none(&format!("no function has over {FUNCTION_LINES} lines"), &found);
}

/// The lines of the function that begins here; 0 if none does.
fn function_length(rest: &[String], first: &str) -> usize {
    let head = code(first);
    let indent = &first[..first.len() - first.trim_start().len()];
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    if head.split(' ').find(|word| !words.contains(word)) != Some("fn") || head.ends_with('}') || head.ends_with(';') {
        return 0;
    }
    let end = format!("{indent}}}");
    let declared = format!("{indent});");
    rest.iter().position(|line| *line == end || line.starts_with(&declared)).map_or(0, |last| last + 1)
}

#[test]
fn the_rules_see_what_they_forbid() {
    assert!(calls("    unsafe { f() }", "unsafe"));
    assert!(!calls("#![deny(unsafe_code)]", "unsafe"));
    assert!(calls("std::fs::rename(a, b)", "fs::rename"));
    assert!(!calls("rustix::fs::unlinkat(a, b)", "fs::linkat"));
    assert_eq!(code("    // unsafe"), "");
    let long: Vec<String> = ["    pub fn f() {", "        g();", "    }"].map(String::from).to_vec();
    assert_eq!(function_length(&long, &long[0]), 3);
    assert_eq!(function_length(&long[1..], &long[1]), 0);
}
