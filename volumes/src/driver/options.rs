//! The `type`, `device` and `o` of a local volume, as `mount(8)` would take them.
//!
//! Source: moby `volume/local/local_unix.go` (which options there are, which need which).

use std::path::{Path, PathBuf};

use fs_base::units::{BINARY, parse_size};
use fs_base::{Error, Result};

use super::Options;
use crate::parse::{Tmpfs, clean};

/// What a local volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A directory of the store.
    Directory,
    /// A host directory that is somebody else's (`type=none,o=bind,device=/path`).
    Bind { device: PathBuf, read_only: bool },
    /// Memory, shared by the containers that use the volume at one time (`type=tmpfs`).
    Tmpfs(Tmpfs),
}

const KNOWN: [&str; 4] = ["type", "o", "device", "size"];

impl Source {
    /// Reads the options, refusing by name what is unknown or not supported.
    pub(super) fn parse(options: Option<&Options>) -> Result<Source> {
        let Some(options) = options.filter(|options| !options.is_empty()) else {
            return Ok(Source::Directory);
        };
        if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(Error::invalid(format!("invalid option: {unknown:?}")));
        }
        if let Some(size) = options.get("size")
            && parse_size(size, BINARY)? > 0
        {
            return Err(Error::invalid("quota size requested but no quota support"));
        }
        // No size at all is what every volume has.
        if options.len() == 1 && options.contains_key("size") {
            return Ok(Source::Directory);
        }
        for key in ["device", "type"] {
            if !options.contains_key(key) {
                return Err(Error::invalid(format!("missing required option: {key:?}")));
            }
        }
        let flags = options.get("o").map_or("", String::as_str);
        match options["type"].as_str() {
            "tmpfs" => Ok(Source::Tmpfs(Tmpfs::parse([], flags)?)),
            "none" | "bind" | "" => bind(&options["device"], flags),
            other => Err(Error::unsupported(format!("volume type {other:?} is not supported")).with_hint(
                "the local driver takes type=none with o=bind, and type=tmpfs; mount anything else on the host and bind that",
            )),
        }
    }
}

fn bind(device: &str, flags: &str) -> Result<Source> {
    let mut is_bind = false;
    let mut read_only = false;
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "bind" | "rbind" => is_bind = true,
            "ro" | "rw" => read_only = flag == "ro",
            "defaults" | "private" | "rprivate" => {}
            other => return Err(Error::unsupported(format!("mount option {other:?} of a bind volume is not supported"))),
        }
    }
    if !is_bind {
        return Err(Error::invalid("type=none needs o=bind"));
    }
    if !Path::new(device).is_absolute() {
        return Err(Error::invalid(format!("device {device:?} is not an absolute path")));
    }
    Ok(Source::Bind { device: clean(device), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_base::Class;

    fn parse(pairs: &[(&str, &str)]) -> Result<Source> {
        Source::parse(Some(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()))
    }

    #[test]
    fn directories_binds_and_memory() {
        assert_eq!(Source::parse(None).unwrap(), Source::Directory);
        assert_eq!(parse(&[]).unwrap(), Source::Directory);
        assert_eq!(parse(&[("size", "0")]).unwrap(), Source::Directory);
        let bind = parse(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv/./x")]).unwrap();
        assert_eq!(bind, Source::Bind { device: "/srv/x".into(), read_only: true });
        let Source::Tmpfs(tmpfs) = parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=7")]).unwrap() else {
            panic!()
        };
        assert_eq!((tmpfs.size, tmpfs.options), (Some(1 << 20), vec!["uid=7".to_owned()]));
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        for (pairs, class, want) in [
            (&[("foo", "bar")][..], Class::Invalid, r#"invalid option: "foo""#),
            (&[("type", "tmpfs")], Class::Invalid, r#"missing required option: "device""#),
            (&[("o", "bind")], Class::Invalid, r#"missing required option: "device""#),
            (&[("device", "/x")], Class::Invalid, r#"missing required option: "type""#),
            (&[("size", "1g")], Class::Invalid, "quota size requested but no quota support"),
            (&[("size", "bad")], Class::Invalid, "invalid size: 'bad'"),
            (&[("size", "1x")], Class::Invalid, "invalid suffix: 'x'"),
            (&[("size", "0"), ("type", "tmpfs")], Class::Invalid, r#"missing required option: "device""#),
            (&[("type", "nfs"), ("device", ":/x")], Class::Unsupported, r#"volume type "nfs" is not supported"#),
            (&[("type", "none"), ("device", "/x")], Class::Invalid, "type=none needs o=bind"),
            (&[("type", "none"), ("device", "x"), ("o", "bind")], Class::Invalid, r#"device "x" is not an absolute path"#),
            (
                &[("type", "none"), ("device", "/x"), ("o", "bind,noexec")],
                Class::Unsupported,
                r#"mount option "noexec" of a bind volume is not supported"#,
            ),
        ] {
            let error = parse(pairs).unwrap_err();
            assert_eq!((error.class(), error.to_string().as_str()), (class, want));
        }
    }
}
