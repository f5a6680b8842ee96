//! Whatever is written for a mount, it is refused or comes out as a path that is safe to mount at.

use std::path::{Component, Path};

use proptest::prelude::*;
use volumes::parse::{self, Kind, MountValue, Request, Tmpfs};

/// Strings that are close to the grammar, and strings that are not.
fn near_spec() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("ro"),
        Just("rw"),
        Just("z"),
        Just("nocopy"),
        Just("rshared"),
        Just(""),
        Just("/"),
        Just("/a/../.."),
        Just("name"),
        Just("../x"),
        Just("/a//b/./c"),
        Just("."),
        Just("\0"),
        Just("é"),
        Just("size=1m"),
        Just("mode=7777"),
    ];
    let parts = prop::collection::vec(prop::collection::vec(word, 1..4).prop_map(|words| words.join(",")), 0..5);
    prop_oneof![parts.prop_map(|parts| parts.join(":")), ".*"]
}

fn is_safe(request: &Request) -> bool {
    let clean = |path: &Path| path.is_absolute() && path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    let source_is_clean = match &request.kind {
        Kind::Bind { source, .. } => clean(source),
        _ => true,
    };
    clean(&request.target) && request.target != Path::new("/") && source_is_clean
}

proptest! {
    #[test]
    fn a_bind_string(raw in near_spec()) {
        match parse::bind(&raw, None) {
            Ok(request) => prop_assert!(is_safe(&request), "{raw:?} → {request:?}"),
            Err(error) => prop_assert!(error.to_string().starts_with("invalid "), "{error}"),
        }
    }

    #[test]
    fn an_image_volume(path in near_spec()) {
        if let Ok(request) = parse::anonymous(&path, None) {
            prop_assert!(is_safe(&request), "{path:?} → {request:?}");
        }
    }

    #[test]
    fn a_mount_value(kind in "bind|volume|tmpfs|", source in near_spec(), target in near_spec(), read_only: bool) {
        let value = MountValue {
            kind: Some(kind), source: Some(source), target: Some(target), read_only: Some(read_only), ..MountValue::default()
        };
        if let Ok(request) = parse::mount(&value) {
            prop_assert!(is_safe(&request) && request.read_only == read_only, "{value:?} → {request:?}");
        }
    }

    /// What is kept of options says the same when it is parsed again.
    #[test]
    fn tmpfs_options(options in near_spec()) {
        let Ok(once) = Tmpfs::parse([], &options) else { return Ok(()) };
        let mut words = once.options.clone();
        words.extend(once.size.map(|size| format!("size={size}")));
        words.extend(once.mode.map(|mode| format!("mode={mode:o}")));
        words.extend(once.read_only.then(|| "ro".to_owned()));
        prop_assert_eq!(Tmpfs::parse([], &words.join(",")).unwrap(), once);
    }
}
