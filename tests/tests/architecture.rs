//! The rules that hold the code together, checked on the code itself.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};

/// Lines of production code in one file at most.
const MOST_LINES: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of a crate's own folder, without nested crates.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut todo = vec![root().join(dir).join("src")];
    let mut files = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "{dir} has no sources");
    files
}

/// The part of a file before its tests.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

#[test]
fn dependencies_point_down_only() {
    let siblings = ["layerfs", "volumes", "engine"];
    for (krate, forbidden) in [
        ("layerfs/base", vec!["layerfs", "volumes", "engine", "fsd-api"]),
        ("layerfs", vec!["volumes", "engine", "fsd-api"]),
        ("volumes", vec!["layerfs", "engine", "fsd-api"]),
        ("engine", vec!["layerfs", "volumes", "fsd-api"]),
        ("fsd/api", [&siblings[..], &["fs-base"]].concat()),
        ("ctl", [&siblings[..], &["fs-base"]].concat()),
    ] {
        let manifest = std::fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        let own = manifest.split("[dev-dependencies]").next().unwrap();
        for name in forbidden {
            assert!(!own.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name)), "{krate} depends on {name}");
        }
    }
}

#[test]
fn unsafe_code_is_in_fs_base_only() {
    for krate in ["layerfs", "volumes", "engine", "fsd", "fsd/api", "ctl", "benches", "tests"] {
        let manifest = std::fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{krate} does not take the workspace's lints");
        for (path, text) in sources(krate) {
            assert!(!text.contains("allow(unsafe_code)"), "{} allows unsafe code", path.display());
        }
    }
}

#[test]
fn syncs_and_renames_are_in_the_durable_module_only() {
    // ctl and the tests hold nothing that has to survive.
    for krate in ["layerfs", "layerfs/base", "volumes", "engine", "fsd"] {
        for (path, text) in sources(krate) {
            if path.ends_with("durable.rs") || path.components().any(|c| c.as_os_str() == "durable") {
                continue;
            }
            for call in ["fs::fsync", "fs::fdatasync", "fs::syncfs", ".sync_all()", ".sync_data()", "fs::rename(", "fs::renameat"]
            {
                assert!(!production(&text).contains(call), "{} calls {call}: that belongs into fs_base::durable", path.display());
            }
        }
    }
}

#[test]
fn drivers_are_named_in_their_registry_only() {
    for (path, text) in sources("layerfs").into_iter().chain(sources("fsd")) {
        let own = path.components().any(|c| c.as_os_str() == "driver");
        for name in ["Erofs::", "erofs::Erofs", "overlay::Overlay"] {
            assert!(own || !production(&text).contains(name), "{} names a driver", path.display());
        }
    }
}

#[test]
fn no_file_is_a_monster() {
    for krate in ["layerfs", "layerfs/base", "volumes", "engine", "fsd", "fsd/api", "ctl", "benches", "tests"] {
        for (path, text) in sources(krate) {
            let lines = production(&text).lines().count();
            assert!(lines <= MOST_LINES, "{} has {lines} lines of production code", path.display());
        }
    }
}
