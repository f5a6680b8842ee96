use super::*;

/// A host whose kernel says what these files say, and whose parser notes what it is given.
fn host(enabled: &str, profiles: Option<&str>, has_parser: bool) -> (tempfile::TempDir, AppArmor) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("enabled"), enabled).unwrap();
    if let Some(profiles) = profiles {
        std::fs::write(path("profiles"), profiles).unwrap();
    }
    if has_parser {
        let script = format!("#!/bin/sh\ncat > {0}/given\necho \"{DEFAULT} (enforce)\" >> {0}/profiles\n", dir.path().display());
        write_program(&path("parser"), &script);
    }
    let apparmor = AppArmor { enabled: path("enabled"), profiles: path("profiles"), parsers: vec![path("no"), path("parser")] };
    (dir, apparmor)
}

/// By a process of its own: what this one has open for writing, others that are just being started have too, and as long
/// as anybody has it nobody can run it.
fn write_program(path: &std::path::Path, text: &str) {
    let script = "rm -f \"$1\"; printf %s \"$2\" > \"$1\"; chmod 755 \"$1\"";
    let status = std::process::Command::new("sh").args(["-ec", script, "sh"]).arg(path).arg(text).status().unwrap();
    assert!(status.success());
}

#[test]
fn without_apparmor_nothing_is_set_and_what_was_asked_for_is_refused() {
    let (_dir, off) = host("N\n", None, true);
    assert_eq!(off.choose(None, false).unwrap(), None);
    assert_eq!(off.choose(Some(UNCONFINED), false).unwrap(), None);
    for name in ["mine", DEFAULT, DOCKERS] {
        assert_eq!(off.choose(Some(name), false).unwrap_err().to_string(), "AppArmor is not enabled on this host", "{name}");
    }
    assert!(!off.confines() && off.missing().is_none());
}

#[test]
fn a_host_without_the_parser_warns_and_confines_by_what_is_loaded() {
    let (_dir, bare) = host("Y\n", Some("mine (enforce)\n/usr/bin/man (complain)\n"), false);
    assert_eq!(bare.missing(), Some("apparmor_parser is not installed"));
    assert_eq!(bare.choose(None, false).unwrap(), None);
    assert_eq!(bare.choose(Some("mine"), false).unwrap().as_deref(), Some("mine"));
    assert_eq!(bare.choose(Some("/usr/bin/man"), true).unwrap().as_deref(), Some("/usr/bin/man"));
    let said = bare.choose(Some("min"), false).unwrap_err();
    assert_eq!(said.to_string(), "AppArmor profile \"min\" is not loaded");
    assert!(bare.choose(Some(DEFAULT), false).is_err() && bare.choose(Some(DOCKERS), false).is_err());
    let (_dir, unmounted) = host("Y\n", None, true);
    assert_eq!(unmounted.missing(), Some("securityfs is not mounted at /sys/kernel/security"));
    assert_eq!(unmounted.choose(None, false).unwrap(), None);
}

#[test]
fn the_default_profile_is_loaded_once_and_again_when_it_is_gone() {
    let (dir, apparmor) = host("Y\n", Some("docker-default (enforce)\n"), true);
    let given = dir.path().join("given");
    assert_eq!(apparmor.choose(None, true).unwrap().as_deref(), Some(UNCONFINED));
    assert_eq!(apparmor.choose(Some(DOCKERS), false).unwrap().as_deref(), Some(DOCKERS), "dockerd's own");
    assert!(!given.exists(), "nobody has asked for it yet");
    assert_eq!(apparmor.choose(None, false).unwrap().as_deref(), Some(DEFAULT));
    assert!(std::fs::read_to_string(&given).unwrap().starts_with("profile fsd-default "));
    std::fs::remove_file(&given).unwrap();
    assert_eq!(apparmor.choose(None, false).unwrap().as_deref(), Some(DEFAULT));
    assert!(!given.exists(), "it is loaded");
    std::fs::write(dir.path().join("profiles"), "").unwrap();
    assert_eq!(apparmor.choose(Some(DOCKERS), false).unwrap().as_deref(), Some(DEFAULT), "without dockerd the name means ours");
    assert!(given.exists());
    std::fs::write(dir.path().join("profiles"), "").unwrap();
    write_program(&dir.path().join("parser"), "#!/bin/sh\ncat > /dev/null; echo syntax error >&2; exit 1\n");
    let said = apparmor.choose(None, false).unwrap_err().to_string();
    assert!(said.starts_with("AppArmor profile \"fsd-default\" could not be loaded") && said.ends_with("syntax error"), "{said}");
}

#[test]
fn the_default_profile_lets_the_daemons_signals_in() {
    assert!(profile::text(DEFAULT, Some("/usr/bin/fsd")).contains("signal (receive) peer=/usr/bin/fsd,\n"));
    assert!(!profile::text(DEFAULT, None).contains("/usr/bin/fsd"));
}
