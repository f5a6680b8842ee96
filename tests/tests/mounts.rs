//! Images mounted on the host by a real daemon, over its death and rebirth.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;

use fs_base::sys::mount;
use serde_json::{Value, json};
use system_tests::{Daemon, can, images};

/// A daemon with a two-layer image `shown:1`; `None`, and loudly, where this host lets us mount nothing.
fn with_image() -> Option<Daemon> {
    let daemon = Daemon::start();
    let layers = [images::layer(&[("etc/a", "below"), ("etc/b", "below")]), images::layer(&[("etc/b", "above")])];
    let image = images::docker_archive("shown:1", &[&layers[0], &layers[1]]);
    let (status, answer) = daemon.send("POST", "/images/load", &image).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let (_, info) = daemon.ask("GET", "/fsd/v1/info", None);
    can(&format!("mounts of images: {}", info["probes"]), info["driver"] != "none").then_some(daemon)
}

fn mount_at(daemon: &Daemon, target: Option<&Path>) -> (u16, Value) {
    daemon.ask("POST", "/fsd/v1/images/shown%3A1/mount", Some(&json!({"target": target})))
}

fn unmount(daemon: &Daemon, id: &Value, query: &str) -> (u16, Value) {
    daemon.ask("DELETE", &format!("/fsd/v1/mounts/{}{query}", id.as_str().unwrap_or_default().replace('/', "%2F")), None)
}

fn list(daemon: &Daemon) -> Vec<Value> {
    daemon.ask("GET", "/fsd/v1/mounts", None).1.as_array().cloned().unwrap_or_default()
}

fn mounted_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let dir = dir.canonicalize().unwrap_or_default();
    let table = mount::mount_table().unwrap_or_default();
    table.into_iter().map(|mount| mount.target).filter(|target| target.starts_with(&dir)).collect()
}

#[test]
fn a_mount_outlives_the_daemon_and_is_adopted() {
    let Some(mut daemon) = with_image() else { return };
    let (status, mounted) = mount_at(&daemon, None);
    assert_eq!(status, 201, "{mounted}");
    let target = mounted["target"].as_str().unwrap().to_owned();
    assert!(target.starts_with(daemon.dir().join("run/mnt").to_str().unwrap()));
    let read = || std::fs::read_to_string(Path::new(&target).join("etc/b")).unwrap();
    assert_eq!(read(), "above");
    assert!(std::fs::write(Path::new(&target).join("new"), "").is_err(), "it is read-only");

    daemon.kill();
    assert_eq!(read(), "above");
    daemon.restart();
    assert_eq!(read(), "above");
    let row = &list(&daemon)[0];
    assert_eq!((&row["id"], &row["state"], &row["object"]), (&mounted["id"], &json!("mounted"), &json!("shown:1")));
    let (status, refused) = daemon.ask("DELETE", "/images/shown:1?force=1", None);
    assert_eq!(status, 409, "a mounted image is kept: {refused}");

    assert_eq!(unmount(&daemon, &mounted["target"], "").0, 204);
    assert!(!Path::new(&target).exists());
    assert!(list(&daemon).is_empty() && mounted_below(daemon.dir()).is_empty());
}

#[test]
fn a_busy_mount_is_refused_and_may_be_detached() {
    let Some(daemon) = with_image() else { return };
    let wanted = daemon.dir().join("here");
    std::fs::create_dir(&wanted).unwrap();
    let (status, mounted) = mount_at(&daemon, Some(&wanted));
    assert_eq!(status, 201, "{mounted}");
    let open = std::fs::File::open(wanted.join("etc/a")).unwrap();
    let (status, refused) = unmount(&daemon, &mounted["id"], "");
    assert_eq!(status, 409, "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("--lazy"));
    assert_eq!(unmount(&daemon, &mounted["id"], "?lazy=true").0, 204);
    assert_eq!(std::io::read_to_string(&open).unwrap(), "below", "who has it open reads on");
    assert!(mounted_below(daemon.dir()).is_empty() && wanted.is_dir(), "a folder that was there stays");
    assert_eq!(unmount(&daemon, &mounted["id"], "").0, 404);
}

#[test]
fn what_must_not_be_covered_is_refused() {
    let Some(daemon) = with_image() else { return };
    let dir = daemon.dir();
    std::fs::create_dir(dir.join("full")).unwrap();
    std::fs::write(dir.join("full/file"), "").unwrap();
    std::os::unix::fs::symlink(dir.join("root"), dir.join("alias")).unwrap();
    let targets = ["full", "full/file", "root", "root/layers/new", "alias/new", "alias", "run/new"].map(|name| dir.join(name));
    let elsewhere = ["/", "/..", "relative", "/proc"].map(Into::into);
    for target in targets.iter().chain(&elsewhere) {
        let (status, refused) = mount_at(&daemon, Some(target));
        assert!((400..500).contains(&status), "{}: {status} {refused}", target.display());
    }
    let new = dir.join("new");
    let (status, mounted) = mount_at(&daemon, Some(&new));
    assert_eq!(status, 201, "{mounted}");
    let (status, refused) = mount_at(&daemon, Some(&new));
    assert_eq!(status, 409, "{refused}");
    assert_eq!(list(&daemon).len(), 1);
    assert_eq!(unmount(&daemon, &mounted["id"], "").0, 204);
    assert!(!new.exists() && dir.join("full/file").exists());
    assert!(mounted_below(dir).is_empty());
}

#[test]
fn what_others_unmounted_is_gone_and_forgotten_at_the_next_start() {
    let Some(mut daemon) = with_image() else { return };
    let (_, mounted) = mount_at(&daemon, None);
    mount::unmount(Path::new(mounted["target"].as_str().unwrap()), false).unwrap();
    assert_eq!(list(&daemon)[0]["state"], "gone");
    daemon.kill();
    std::fs::create_dir(daemon.dir().join("run/mnt/made-before-its-row")).unwrap();
    daemon.restart();
    assert!(list(&daemon).is_empty());
    assert_eq!(std::fs::read_dir(daemon.dir().join("run/mnt")).map_or(0, Iterator::count), 0);
}

/// Killed between any two steps of mounting and unmounting, nothing is left that has no row, and no row without
/// its mount.
#[test]
fn a_kill_between_intent_and_mark_leaves_no_stray_mount() {
    let Some(mut daemon) = with_image() else { return };
    for round in 0..10u64 {
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                while let Some((_, mounted)) = daemon.send("POST", "/fsd/v1/images/shown%3A1/mount", b"") {
                    let id = mounted["id"].as_str().unwrap_or_default();
                    if daemon.send("DELETE", &format!("/fsd/v1/mounts/{id}"), b"").is_none() {
                        return;
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(2 + round * 11 % 30));
            daemon.kill_now();
            working.join().unwrap();
        });
        daemon.kill();
        daemon.restart();
        let list = list(&daemon);
        assert!(list.iter().all(|row| row["state"] == "mounted"), "{list:?}");
        let mut rows: Vec<_> = list.iter().map(|row| Path::new(row["target"].as_str().unwrap()).to_owned()).collect();
        let mut there = mounted_below(daemon.dir());
        rows.sort();
        there.sort();
        assert_eq!(rows, there);
        let folders = std::fs::read_dir(daemon.dir().join("run/mnt")).map_or(0, Iterator::count);
        assert_eq!(folders, rows.len(), "folders without a mount");
        for row in &list {
            assert_eq!(unmount(&daemon, &row["id"], "").0, 204);
        }
    }
    assert!(mounted_below(daemon.dir()).is_empty());
}
