//! The daemon itself: its socket, its store, its settings.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use system_tests::{Daemon, PATIENCE_SECONDS, fails, ok, program};

fn fsd(arguments: &[&str]) -> std::process::Output {
    Command::new("timeout").arg(PATIENCE_SECONDS).arg(program("fsd")).args(arguments).output().unwrap()
}

#[test]
fn two_daemons_live_side_by_side() {
    let (a, b) = (Daemon::start(), Daemon::start());
    assert_ne!(a.pid(), b.pid());
    assert_eq!(ok(&a.curl(&["http://d/_ping"])), ok(&b.curl(&["http://d/v1.41/_ping"])));
}

#[test]
fn a_live_socket_is_refused_and_a_dead_one_taken_over() {
    let mut daemon = Daemon::start();
    let other = tempfile::tempdir().unwrap();
    let root = other.path().join("root");
    let address = format!("unix://{}", daemon.socket().display());
    let error = fails(&fsd(&["--root", root.to_str().unwrap(), "--run", other.path().to_str().unwrap(), "-H", &address]));
    assert!(error.contains("already listening") && error.contains("hint:"), "{error}");
    daemon.kill();
    assert!(daemon.socket().exists(), "a killed daemon leaves its socket");
    daemon.restart();
    let mode = daemon.socket().metadata().unwrap().permissions().mode() & 0o777;
    assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
    daemon.stop();
    assert!(!daemon.socket().exists(), "a stopped one does not");
}

#[test]
fn a_store_has_one_daemon() {
    let daemon = Daemon::start();
    let other = tempfile::tempdir().unwrap();
    let root = daemon.dir().join("root");
    let error = fails(&fsd(&["--root", root.to_str().unwrap(), "--run", other.path().to_str().unwrap()]));
    assert!(error.contains(&format!("in use by process {}", daemon.pid())), "{error}");
    let left: Vec<_> = std::fs::read_dir(other.path()).unwrap().map(|e| e.unwrap().file_name()).filter(|n| n != "mnt").collect();
    assert!(left.is_empty(), "a daemon that did not start left {left:?}");
}

#[test]
fn a_file_in_the_sockets_place_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    let address = format!("unix://{}", file.display());
    let error =
        fails(&fsd(&["--root", dir.path().join("r").to_str().unwrap(), "--run", dir.path().to_str().unwrap(), "-H", &address]));
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
}

#[test]
fn settings_are_checked_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        fsd(&["config", "check", "--config", file.to_str().unwrap()])
    };
    assert!(ok(&check("root = '/srv/x'\n[limits]\nratio = 7\n")).contains("/srv/x"));
    assert!(fails(&check("rooot = '/srv/x'\n")).contains("rooot"));
    assert!(fails(&check("host = 'tcp://0.0.0.0:2375'\n")).contains("TCP is not offered"));
    assert!(fails(&check("log = 'loud'\n")).contains("\"loud\""));
    assert!(fails(&fsd(&["--config", "/nonexistent.toml"])).contains("/nonexistent.toml"));
    assert!(fails(&check("storage-opts = ['dm.size=1g']\n")).contains("dm.size"));
    assert!(fails(&check("storage-opts = ['merge-above=0']\n")).contains("merge-above=0"));
    assert!(ok(&check("storage-driver = 'overlay'\nstorage-opts = ['stacking=options']\n")).contains("overlay"));
    let root = dir.path().join("root");
    let error =
        fails(&fsd(&["--storage-driver", "zfs", "--root", root.to_str().unwrap(), "--run", dir.path().to_str().unwrap()]));
    assert!(error.contains("\"zfs\"") && error.contains("erofs"), "{error}");
}

#[test]
fn a_newer_store_is_refused() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let [root, run] = ["root", "run"].map(|name| daemon.dir().join(name).to_str().unwrap().to_owned());
    for (format, named) in [
        ("fsd-store 99\n", "fsd-store 99"),
        ("fsd-store 1\nfeature holograms\n", "holograms"),
        ("fsd-store 1\ndriver zfs\n", "\"zfs\""),
    ] {
        std::fs::write(daemon.dir().join("root/FORMAT"), format).unwrap();
        let error = fails(&fsd(&["--root", &root, "--run", &run]));
        assert!(error.contains(named) && error.contains("hint:"), "{error}");
    }
    std::fs::write(daemon.dir().join("root/FORMAT"), "fsd-store 1\n").unwrap();
    daemon.restart();
    let (_, info) = daemon.ask("GET", "/fsd/v1/info", None);
    let format = std::fs::read_to_string(daemon.dir().join("root/FORMAT")).unwrap();
    let driver = info["driver"].as_str().unwrap();
    assert!(driver == "none" || format.contains(&format!("driver {driver}\n")), "{format}");
}

#[test]
fn what_serves_layers_can_be_asked_for_and_is_told() {
    if !system_tests::may_mount() {
        return;
    }
    for (driver, stacking) in [("overlay", "options"), ("erofs", "paths"), ("erofs-loop", "descriptors")] {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start_in(dir, &["--storage-driver", driver, "--storage-opt", &format!("stacking={stacking}")]);
        let (_, docker) = daemon.ask("GET", "/info", None);
        let (_, own) = daemon.ask("GET", "/fsd/v1/info", None);
        assert_eq!((&docker["Driver"], &own["driver"]), (&driver.into(), &driver.into()));
        let status = docker["DriverStatus"].as_array().unwrap();
        let said = |name: &str| status.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned());
        assert_eq!(said(&format!("driver {driver}")).as_deref(), Some("in use"), "{status:?}");
        assert_eq!(said(&format!("stacking {stacking}")).as_deref(), Some("in use"), "{status:?}");
        let other = if driver == "erofs" { "overlay" } else { "erofs" };
        let why = said(&format!("driver {other}")).unwrap();
        assert_eq!(why, format!("not tried: the configuration names {driver}"));
        let probes = own["probes"].as_array().unwrap();
        assert_eq!(probes.iter().filter(|probe| probe["answer"] == "supported").count(), 2, "{probes:?}");
    }
}

#[test]
fn versions_are_negotiated() {
    let daemon = Daemon::start();
    let body = |path: &str| ok(&daemon.curl(&[&format!("http://d{path}")]));
    assert!(body("/v1.99/info").contains("client version 1.99 is too new. Maximum supported API version is 1.47"));
    assert!(body("/v1.12/info").contains("client version 1.12 is too old"));
    assert!(body("/v1.30/nosuch").contains("page not found"));
    let head = ok(&daemon.curl(&["-I", "http://d/_ping"])).to_lowercase();
    assert!(head.contains("api-version: 1.47") && head.contains("ostype: linux"), "{head}");
}
