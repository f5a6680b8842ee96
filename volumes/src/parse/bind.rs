//! `-v` strings: `[SOURCE:]TARGET[:MODE]`.

use fs_base::{Error, Result};

use super::{BindPropagation, Kind, Request, VolumeRequest, absolute, clean, target};

/// The words of a mode, each kind at most once.
#[derive(Default)]
struct Mode {
    read_only: bool,
    propagation: Option<BindPropagation>,
    no_copy: bool,
}

/// Parses one entry of `HostConfig.Binds`. `volume_driver` is `HostConfig.VolumeDriver`, which counts for named
/// volumes that have to be made.
///
/// `z` and `Z` are words of the mode: whether they change SELinux labels is up to who mounts, see [`crate::relabel`].
/// `consistent`, `cached` and `delegated` are Docker Desktop's and do nothing on Linux.
pub fn bind(raw: &str, volume_driver: Option<&str>) -> Result<Request> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{raw}'"));
    let parts: Vec<&str> = raw.split(':').collect();
    if parts[0].is_empty() {
        return Err(invalid());
    }
    let (source, destination, mode) = match parts[..] {
        [target] => ("", target, ""),
        // `/x:ro` is neither a target with a mode (there is no such form) nor a relative target.
        [_, word] if parse_mode(word).is_some() => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid()),
    };
    let words = parse_mode(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    build(source, destination, mode, &words, volume_driver)
        .map_err(|(kind, error)| invalid_config(raw, kind, &error).with_class(error.class()))
}

fn invalid_config(raw: &str, kind: &str, error: &Error) -> Error {
    Error::invalid(format!("invalid volume specification: '{raw}': invalid mount config for type \"{kind}\": {error}"))
}

fn build(
    source: &str,
    destination: &str,
    mode: &str,
    words: &Mode,
    volume_driver: Option<&str>,
) -> Result<Request, (&'static str, Error)> {
    let kind_word = if source.starts_with('/') { "bind" } else { "volume" };
    let fail = |error| (kind_word, error);
    if destination.is_empty() {
        return Err(fail(Error::invalid("field Target must not be empty")));
    }
    let target = target(destination).map_err(fail)?;
    let kind = if kind_word == "bind" {
        if words.no_copy {
            return Err(fail(Error::invalid("field VolumeOptions must not be specified")));
        }
        absolute(source).map_err(fail)?;
        Kind::Bind { source: clean(source), propagation: words.propagation, create_source: true, recursive: true }
    } else {
        if words.propagation.is_some() {
            return Err(fail(Error::invalid("field BindOptions must not be specified")));
        }
        Kind::Volume(VolumeRequest {
            name: Some(source.to_owned()).filter(|name| !name.is_empty()),
            driver: volume_driver.filter(|driver| !driver.is_empty()).map(str::to_owned),
            copy: !words.no_copy,
            ..VolumeRequest::default()
        })
    };
    Ok(Request { target, kind, read_only: words.read_only, mode: mode.to_owned() })
}

/// A volume without a name at `path`: `-v /data`, `Config.Volumes`, an image's `VOLUME`.
///
/// A relative path, which images may hold, counts from `/`.
pub fn anonymous(path: &str, volume_driver: Option<&str>) -> Result<Request> {
    let rooted = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let volume = VolumeRequest { driver: volume_driver.map(str::to_owned), copy: true, ..VolumeRequest::default() };
    Ok(Request { target: target(&rooted)?, kind: Kind::Volume(volume), read_only: false, mode: String::new() })
}

/// Parses `--volumes-from`: a container, and whether its mounts are taken read-only (`:ro`).
pub fn volumes_from(spec: &str) -> Result<(&str, bool)> {
    if spec.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let (container, mode) = spec.split_once(':').unwrap_or((spec, ""));
    match parse_mode(mode) {
        Some(words) if words.propagation.is_none() && !words.no_copy => Ok((container, words.read_only)),
        _ => Err(Error::invalid(format!("invalid mode: {mode}"))),
    }
}

/// `None` if a word is unknown or a kind of word comes twice. An empty mode is a mode.
fn parse_mode(mode: &str) -> Option<Mode> {
    let mut words = Mode::default();
    if mode.is_empty() {
        return Some(words);
    }
    let (mut access, mut label, mut propagation, mut copy, mut consistency) = (0, 0, 0, 0, 0);
    for word in mode.split(',') {
        match word {
            "ro" | "rw" => {
                words.read_only = word == "ro";
                access += 1;
            }
            "z" | "Z" => label += 1,
            "nocopy" => {
                words.no_copy = true;
                copy += 1;
            }
            "consistent" | "cached" | "delegated" => consistency += 1,
            _ => {
                words.propagation = Some(BindPropagation::parse(word)?);
                propagation += 1;
            }
        }
    }
    [access, label, propagation, copy, consistency].iter().all(|&count| count <= 1).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn binds_volumes_and_anonymous_volumes_are_told_apart() {
        let request = bind("/host/./dir:/in/../data:ro,Z,rslave", None).unwrap();
        assert_eq!((request.target.as_path(), request.read_only), (Path::new("/data"), true));
        assert_eq!(request.mode, "ro,Z,rslave");
        let Kind::Bind { source, propagation, create_source: true, recursive: true } = request.kind else { panic!() };
        assert_eq!((source.as_path(), propagation), (Path::new("/host/dir"), Some(BindPropagation::RSlave)));

        let request = bind("data:/var/lib/x:nocopy", Some("local")).unwrap();
        let Kind::Volume(volume) = request.kind else { panic!() };
        assert_eq!((volume.name.as_deref(), volume.driver.as_deref(), volume.copy), (Some("data"), Some("local"), false));

        let Kind::Volume(volume) = bind("/data", None).unwrap().kind else { panic!() };
        assert_eq!((volume.name, volume.copy), (None, true));
    }

    #[test]
    fn what_docker_takes_is_taken() {
        for raw in [
            "/home",
            "/home:/something/else",
            "/with space:/with space",
            "relative:/absolute-path",
            "/rw:/ro",
            "/h:/c:shared",
            "/h:/c:Z,ro,slave",
            "/h:/c:ro,Z,rprivate",
            "/h:/c:ro,cached",
            "name:/c:rw,z,nocopy,delegated",
            "/h:/c:",
        ] {
            bind(raw, None).unwrap_or_else(|error| panic!("{raw}: {error}"));
        }
    }

    /// Texts as dockerd 20.10 gave them for these very strings.
    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        for (raw, want) in [
            ("", "invalid volume specification: ''"),
            (":/x", "invalid volume specification: ':/x'"),
            ("/x:rw", "invalid volume specification: '/x:rw'"),
            ("name:nocopy", "invalid volume specification: 'name:nocopy'"),
            ("/tmp:", "invalid volume specification: '/tmp:'"),
            ("/a:/b:c:d", "invalid volume specification: '/a:/b:c:d'"),
            ("/x:/y:zz", "invalid mode: zz"),
            ("/x:/y:ro,ro", "invalid mode: ro,ro"),
            ("/x:/y:ro,rw", "invalid mode: ro,rw"),
            ("/x:/y:ro,rshared,rslave", "invalid mode: ro,rshared,rslave"),
            ("/x:/y:ro,", "invalid mode: ro,"),
            (
                "a:b",
                "invalid volume specification: 'a:b': invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
            ),
            (
                "./",
                "invalid volume specification: './': invalid mount config for type \"volume\": invalid mount path: './' mount path must be absolute",
            ),
            (
                "/x:/",
                "invalid volume specification: '/x:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "/x:/y/..",
                "invalid volume specification: '/x:/y/..': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "vv:/y:shared",
                "invalid volume specification: 'vv:/y:shared': invalid mount config for type \"volume\": field BindOptions must not be specified",
            ),
            (
                "/tmp:/y:nocopy",
                "invalid volume specification: '/tmp:/y:nocopy': invalid mount config for type \"bind\": field VolumeOptions must not be specified",
            ),
        ] {
            assert_eq!(bind(raw, None).unwrap_err().to_string(), want, "{raw}");
        }
    }

    #[test]
    fn an_images_volume_may_be_relative_but_not_the_root() {
        assert_eq!(anonymous("data/x", None).unwrap().target, Path::new("/data/x"));
        assert_eq!(anonymous("/a:/b", None).unwrap().target, Path::new("/a:/b"));
        for root in ["/", "", ".", "/a/.."] {
            let error = anonymous(root, None).unwrap_err();
            assert_eq!(error.to_string(), "invalid specification: destination can't be '/'", "{root:?}");
        }
    }

    #[test]
    fn volumes_from_takes_a_container_and_an_access_mode() {
        assert_eq!(volumes_from("db").unwrap(), ("db", false));
        assert_eq!(volumes_from("db:ro,z").unwrap(), ("db", true));
        for bad in ["db:zz", "db:nocopy", "db:rslave"] {
            assert!(volumes_from(bad).unwrap_err().to_string().starts_with("invalid mode: "), "{bad}");
        }
    }
}
