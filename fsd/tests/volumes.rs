//! Volumes over the socket of a real daemon, which is killed in between.

mod daemon;

use std::time::Duration;

use daemon::Daemon;
use serde_json::{Value, json};

fn names(daemon: &Daemon) -> Vec<String> {
    let (_, list) = daemon.ask("GET", "/v1.47/volumes", None);
    let list = list["Volumes"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|volume| volume["Name"].as_str().map(str::to_owned)).collect()
}

fn named(name: &str) -> Value {
    json!({"Name": name, "Driver": "local", "Labels": {"a": "b"}})
}

#[test]
fn the_shapes_are_dockers() {
    let daemon = Daemon::start();
    let (status, made) = daemon.ask("POST", "/v1.47/volumes/create", Some(&named("wv1")));
    let mountpoint = daemon.dir().join("root/volumes/wv1/_data");
    let created = made["CreatedAt"].as_str().unwrap();
    assert!(created.ends_with('Z') && created.len() == "2026-11-21T00:23:29Z".len(), "{created}");
    let want = json!({"CreatedAt": created, "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": mountpoint,
        "Name": "wv1", "Options": null, "Scope": "local"});
    assert_eq!((status, &made), (201, &want));
    assert_eq!(daemon.ask("GET", "/volumes/wv1", None), (200, want.clone()));
    let filter = "%7B%22dangling%22%3A%7B%22true%22%3Atrue%7D%7D";
    let listed = daemon.ask("GET", &format!("/v1.41/volumes?filters={filter}"), None);
    assert_eq!(listed, (200, json!({"Volumes": [want], "Warnings": null})));
    let (_, usage) = daemon.ask("GET", "/system/df", None);
    assert_eq!(usage["Volumes"][0]["UsageData"]["RefCount"], 0);
    let (status, refused) = daemon.ask("GET", "/v1.41/volumes/nosuch", None);
    assert_eq!((status, &refused["message"]), (404, &json!("get nosuch: no such volume")));
    let bad = daemon.ask("POST", "/volumes/create", Some(&json!({"Name": "a/b"})));
    assert_eq!(bad.0, 400);
    assert_eq!(daemon.ask("DELETE", "/v1.41/volumes/wv1", None).0, 204);
    assert!(names(&daemon).is_empty());
}

/// From API 1.42 on, a prune without `all` takes anonymous volumes only.
#[test]
fn a_prune_goes_by_the_version_that_asks() {
    let daemon = Daemon::start();
    let (_, anonymous) = daemon.ask("POST", "/volumes/create", Some(&json!({})));
    daemon.ask("POST", "/volumes/create", Some(&named("kept")));
    let (_, pruned) = daemon.ask("POST", "/v1.42/volumes/prune", None);
    assert_eq!(pruned["VolumesDeleted"], json!([anonymous["Name"]]));
    assert!(pruned["SpaceReclaimed"].as_u64().unwrap() > 0);
    let (_, pruned) = daemon.ask("POST", "/v1.41/volumes/prune", None);
    assert_eq!(pruned["VolumesDeleted"], json!(["kept"]));
}

/// Killed at any moment between making and removing, the daemon comes back with rows and bytes that agree, and
/// with every volume whose making was answered and whose removal was not begun.
#[test]
fn a_kill_in_the_middle_loses_and_leaves_nothing() {
    let mut daemon = Daemon::start();
    for round in 0..15u64 {
        let keeper = format!("keep{round}");
        assert_eq!(daemon.ask("POST", "/volumes/create", Some(&named(&keeper))).0, 201);
        std::fs::write(daemon.dir().join("root/volumes").join(&keeper).join("_data/f"), "1").unwrap();
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                for n in 0.. {
                    let name = format!("r{round}n{n}");
                    let made = daemon.call("POST", "/volumes/create", Some(&named(&name)));
                    let gone = daemon.call("DELETE", &format!("/volumes/{name}"), None);
                    if made.is_none() || gone.is_none() {
                        return;
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(3 + round * 7 % 40));
            daemon.kill_now();
            working.join().unwrap();
        });
        daemon.restart();
        daemon.checks_clean();
        let root = daemon.dir().join("root");
        assert!(root.join("volumes").join(&keeper).join("_data/f").exists());
        for dir in ["tmp", "trash"] {
            assert_eq!(std::fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
        }
        let mut folders: Vec<_> = std::fs::read_dir(root.join("volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        folders.sort();
        assert_eq!(folders, names(&daemon));
    }
}
