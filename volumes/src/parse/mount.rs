//! `--mount` values, as `HostConfig.Mounts` carries them.

use std::collections::BTreeMap;

use fs_base::{Error, Result};
use serde::Deserialize;

use super::tmpfs::CONTAINER_DEFAULTS;
use super::{BindPropagation, Kind, Request, Tmpfs, VolumeRequest, absolute, clean, target};

/// A `Mount` of the Docker Engine API. Absent and null fields are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountValue {
    /// `bind`, `volume` or `tmpfs`; others are refused by name.
    #[serde(rename = "Type")]
    pub kind: Option<String>,
    /// Host path or volume name.
    pub source: Option<String>,
    /// Path in the container.
    pub target: Option<String>,
    /// Nothing can be written through it.
    pub read_only: Option<bool>,
    /// Docker Desktop's; has no meaning on Linux.
    pub consistency: Option<String>,
    /// For `bind`.
    pub bind_options: Option<BindOptions>,
    /// For `volume`.
    pub volume_options: Option<VolumeOptions>,
    /// For `tmpfs`.
    pub tmpfs_options: Option<TmpfsOptions>,
}

/// `BindOptions` of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// One of the six modes.
    pub propagation: Option<String>,
    /// Leave the mounts below the source behind.
    pub non_recursive: Option<bool>,
    /// Make a missing source.
    pub create_mountpoint: Option<bool>,
    /// Only the topmost mount is read-only.
    pub read_only_non_recursive: Option<bool>,
    /// All mounts below are read-only, or it is an error.
    pub read_only_force_recursive: Option<bool>,
}

/// `VolumeOptions` of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// Don't fill an empty volume from the image.
    pub no_copy: Option<bool>,
    /// Labels of a volume that has to be made.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver of a volume that has to be made.
    pub driver_config: Option<DriverConfig>,
    /// A path inside the volume.
    pub subpath: Option<String>,
}

/// A driver with its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverConfig {
    /// The driver.
    pub name: Option<String>,
    /// What it is told.
    pub options: Option<BTreeMap<String, String>>,
}

/// `TmpfsOptions` of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes at most.
    pub size_bytes: Option<i64>,
    /// Permission bits of its root.
    pub mode: Option<i64>,
    /// `["exec"]`, `["noexec"]`.
    pub options: Option<Vec<Vec<String>>>,
}

/// Checks one entry of `HostConfig.Mounts`. That a bind's source exists is checked when it is attached.
pub fn mount(value: &MountValue) -> Result<Request> {
    let kind = value.kind.as_deref().unwrap_or_default();
    checked(value, kind).map_err(|error| config_error(kind, &error))
}

/// Docker's frame around what is wrong with a mount.
pub(crate) fn config_error(kind: &str, error: &Error) -> Error {
    let framed = Error::new(error.class(), format!("invalid mount config for type \"{kind}\": {error}"));
    match error.hint() {
        Some(hint) => framed.with_hint(hint),
        None => framed,
    }
}

fn checked(value: &MountValue, kind: &str) -> Result<Request> {
    let text = value.target.as_deref().unwrap_or_default();
    if text.is_empty() {
        return Err(missing("Target"));
    }
    let target = target(text)?;
    let kind = match kind {
        "bind" => bind_kind(value)?,
        "volume" => volume_kind(value)?,
        "tmpfs" => tmpfs_kind(value)?,
        "image" | "cluster" => return Err(Error::unsupported(format!("mounts of type {kind} are not supported"))),
        _ => return Err(Error::invalid("mount type unknown")),
    };
    match value.consistency.as_deref().unwrap_or_default() {
        "" | "default" | "consistent" | "cached" | "delegated" => {}
        other => return Err(Error::invalid(format!("invalid consistency: {other}"))),
    }
    Ok(Request { target, kind, read_only: value.read_only == Some(true), mode: String::new() })
}

fn bind_kind(value: &MountValue) -> Result<Kind> {
    let source = value.source.as_deref().unwrap_or_default();
    if source.is_empty() {
        return Err(missing("Source"));
    }
    let options = value.bind_options.clone().unwrap_or_default();
    let propagation = match options.propagation.as_deref().unwrap_or_default() {
        "" => None,
        word => Some(BindPropagation::parse(word).ok_or_else(|| Error::invalid(format!("invalid propagation mode: {word}")))?),
    };
    refuse_extra(&[("VolumeOptions", value.volume_options.is_some()), ("TmpfsOptions", value.tmpfs_options.is_some())])?;
    absolute(source)?;
    if options.read_only_non_recursive == Some(true) {
        return Err(Error::unsupported("ReadOnlyNonRecursive is not supported: a read-only bind is read-only below too"));
    }
    if options.read_only_force_recursive == Some(true) && value.read_only != Some(true) {
        return Err(Error::invalid("ReadOnlyForceRecursive requires ReadOnly"));
    }
    Ok(Kind::Bind {
        source: clean(source),
        propagation,
        create_source: options.create_mountpoint == Some(true),
        recursive: options.non_recursive != Some(true),
    })
}

fn volume_kind(value: &MountValue) -> Result<Kind> {
    refuse_extra(&[("BindOptions", value.bind_options.is_some()), ("TmpfsOptions", value.tmpfs_options.is_some())])?;
    let name = value.source.clone().filter(|source| !source.is_empty());
    let options = value.volume_options.clone().unwrap_or_default();
    if options.subpath.is_some_and(|subpath| !subpath.is_empty()) {
        return Err(Error::unsupported("volume-subpath is not supported")
            .with_hint("mount the whole volume, or bind a directory of its mountpoint"));
    }
    if name.is_none() && value.read_only == Some(true) {
        return Err(Error::invalid("must not set ReadOnly mode when using anonymous volumes"));
    }
    let driver = options.driver_config.unwrap_or_default();
    Ok(Kind::Volume(VolumeRequest {
        name,
        driver: driver.name.filter(|name| !name.is_empty()),
        options: driver.options,
        labels: options.labels,
        copy: options.no_copy != Some(true),
    }))
}

fn tmpfs_kind(value: &MountValue) -> Result<Kind> {
    refuse_extra(&[
        ("BindOptions", value.bind_options.is_some()),
        ("VolumeOptions", value.volume_options.is_some()),
        ("Source", value.source.as_deref().is_some_and(|source| !source.is_empty())),
    ])?;
    let options = value.tmpfs_options.clone().unwrap_or_default();
    let mut words = Vec::new();
    for option in options.options.unwrap_or_default() {
        match option.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [flag @ ("exec" | "noexec")] => words.push(flag.to_owned()),
            [] => return Err(Error::invalid("invalid option array length")),
            [word, ..] => return Err(Error::invalid(format!("invalid option: {word}"))),
        }
    }
    let mut tmpfs = Tmpfs::parse(CONTAINER_DEFAULTS, &words.join(","))?;
    tmpfs.size = match options.size_bytes.unwrap_or(0) {
        0 => None,
        bytes => Some(u64::try_from(bytes).map_err(|_| Error::invalid(format!("invalid tmpfs size: {bytes}")))?),
    };
    tmpfs.mode = match options.mode.unwrap_or(0) {
        0 => None,
        mode @ 1..=0o7777 => Some(mode as u32),
        mode => return Err(Error::invalid(format!("invalid tmpfs mode: {mode:o}"))),
    };
    tmpfs.read_only = value.read_only == Some(true);
    Ok(Kind::Tmpfs { options: tmpfs, hidden: false })
}

fn refuse_extra(fields: &[(&str, bool)]) -> Result<()> {
    match fields.iter().find(|(_, there)| *there) {
        Some((name, _)) => Err(Error::invalid(format!("field {name} must not be specified"))),
        None => Ok(()),
    }
}

fn missing(field: &str) -> Error {
    Error::invalid(format!("field {field} must not be empty"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(json: serde_json::Value) -> Result<Request> {
        mount(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn each_type_is_read_with_its_options() {
        let request = parse(serde_json::json!({"Type": "bind", "Source": "/a/../b", "Target": "/x/", "ReadOnly": true,
            "BindOptions": {"Propagation": "rshared", "NonRecursive": true}}))
        .unwrap();
        assert_eq!((request.target.as_path(), request.read_only), (Path::new("/x"), true));
        let Kind::Bind { source, propagation, create_source: false, recursive: false } = request.kind else { panic!() };
        assert_eq!((source.as_path(), propagation), (Path::new("/b"), Some(BindPropagation::RShared)));

        let request = parse(serde_json::json!({"Type": "volume", "Source": "db", "Target": "/x",
            "VolumeOptions": {"NoCopy": true, "Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": {"o": "bind"}}}}))
        .unwrap();
        let Kind::Volume(volume) = request.kind else { panic!() };
        assert_eq!((volume.name.as_deref(), volume.driver.as_deref(), volume.copy), (Some("db"), Some("local"), false));
        assert_eq!(volume.labels.unwrap()["a"], "b");
        assert_eq!(volume.options.unwrap()["o"], "bind");

        let request = parse(serde_json::json!({"Type": "tmpfs", "Target": "/x", "Source": "",
            "TmpfsOptions": {"SizeBytes": 65536, "Mode": 448, "Options": [["exec"]]}}))
        .unwrap();
        let Kind::Tmpfs { options, hidden: false } = request.kind else { panic!() };
        assert_eq!((options.size, options.mode), (Some(65536), Some(0o700)));
        assert_eq!(options.options, ["nosuid", "nodev", "exec"]);
    }

    /// Texts as dockerd 20.10 gave them for these values, but for the fields that it does not know.
    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        for (json, want) in [
            (
                r#"{"Type":"bind","Source":"rel","Target":"/x"}"#,
                r#""bind": invalid mount path: 'rel' mount path must be absolute"#,
            ),
            (r#"{"Type":"bind","Source":"","Target":"/x"}"#, r#""bind": field Source must not be empty"#),
            (r#"{"Type":"bind","Source":"/tmp"}"#, r#""bind": field Target must not be empty"#),
            (r#"{"Type":"bind","Source":"/tmp","Target":"/"}"#, r#""bind": invalid specification: destination can't be '/'"#),
            (r#"{"Type":"bind","Source":"/tmp","Target":"x"}"#, r#""bind": invalid mount path: 'x' mount path must be absolute"#),
            (r#"{"Type":"npipe","Source":"/tmp","Target":"/x"}"#, r#""npipe": mount type unknown"#),
            (r#"{"Source":"/tmp","Target":"/x"}"#, r#""": mount type unknown"#),
            (
                r#"{"Type":"volume","Target":"/x","ReadOnly":true}"#,
                r#""volume": must not set ReadOnly mode when using anonymous volumes"#,
            ),
            (r#"{"Type":"tmpfs","Source":"s","Target":"/x"}"#, r#""tmpfs": field Source must not be specified"#),
            (
                r#"{"Type":"bind","Source":"/tmp","Target":"/x","BindOptions":{"Propagation":"foo"}}"#,
                r#""bind": invalid propagation mode: foo"#,
            ),
            (
                r#"{"Type":"bind","Source":"/tmp","Target":"/x","VolumeOptions":{}}"#,
                r#""bind": field VolumeOptions must not be specified"#,
            ),
            (
                r#"{"Type":"volume","Source":"v1","Target":"/x","VolumeOptions":{"Subpath":"a"}}"#,
                r#""volume": volume-subpath is not supported"#,
            ),
            (r#"{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"Options":[["suid"]]}}"#, r#""tmpfs": invalid option: suid"#),
            (r#"{"Type":"image","Source":"a","Target":"/x"}"#, r#""image": mounts of type image are not supported"#),
        ] {
            let error = parse(serde_json::from_str(json).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid mount config for type {want}"), "{json}");
        }
    }
}
