//! Volumes over the socket of a real daemon, which is killed in between.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{Daemon, can, fails, has, may_mount, ok, sh};

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
                    let made = daemon.send("POST", "/volumes/create", named(&name).to_string().as_bytes());
                    if made.is_some() {
                        // What is half removed must be told from what is somebody's data.
                        let _ = std::fs::write(daemon.dir().join("root/volumes").join(&name).join("_data/f"), "1");
                    }
                    let gone = daemon.send("DELETE", &format!("/volumes/{name}"), b"");
                    if made.is_none() || gone.is_none() {
                        return;
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(3 + round * 7 % 40));
            daemon.kill_now();
            working.join().unwrap();
        });
        daemon.kill();
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

#[test]
fn the_docker_cli_works_on_volumes() {
    if has("docker") {
        let daemon = Daemon::start();
        walk(&daemon, |line| daemon.docker(&line.split(' ').collect::<Vec<_>>()));
    }
}

#[test]
fn ctl_works_on_volumes() {
    let daemon = Daemon::start();
    walk(&daemon, |line| daemon.ctl(&line.split(' ').collect::<Vec<_>>()));
}

/// What a person does with volumes in a shell.
fn walk(daemon: &Daemon, docker: impl Fn(&str) -> std::process::Output) {
    assert_eq!(ok(&docker("volume create --label a=b data")), "data\n");
    assert_eq!(ok(&docker("volume create data")), "data\n");
    assert_eq!(ok(&docker("volume create")).trim().len(), 64);
    assert_eq!(ok(&docker("volume ls -q -f label=a=b")), "data\n");
    assert_eq!(ok(&docker("volume ls -f name=^dat --format {{.Driver}}/{{.Name}}")), "local/data\n");
    let mountpoint = ok(&docker("volume inspect -f {{.Mountpoint}} data"));
    assert_eq!(Path::new(mountpoint.trim()), daemon.dir().join("root/volumes/data/_data"));
    let bytes = "head -c 100000 /dev/zero > root/volumes/data/_data/f && du -s -B1 root/volumes/data | cut -f1";
    let taken: u64 = sh(daemon.dir(), bytes).trim().parse().unwrap();
    let (_, usage) = daemon.ask("GET", "/v1.47/system/df", None);
    let data = usage["Volumes"].as_array().unwrap().iter().find(|volume| volume["Name"] == "data").unwrap().clone();
    assert_eq!(data["UsageData"], json!({"Size": taken, "RefCount": 0}), "as du counts it");
    let (_, only) = daemon.ask("GET", "/v1.47/system/df?type=volume", None);
    assert!(only["Volumes"] == usage["Volumes"] && only.get("Images").is_none(), "{only}");
    assert_eq!(daemon.ask("GET", "/v1.47/system/df?type=x", None).0, 400);
    assert!(ok(&docker("system df")).contains("Local Volumes   2         0"));
    for (line, want) in [
        ("volume rm nosuch", "get nosuch: no such volume"),
        ("volume inspect nosuch", "get nosuch: no such volume"),
        ("volume create x", "create x: volume name is too short, names should be at least two alphanumeric characters"),
        ("volume create -d nope w1", "create w1: error looking up volume plugin nope: plugin \"nope\" not found"),
        ("volume create -o foo=bar w2", "create w2: invalid option: \"foo\""),
        ("volume ls -f foo=x", "invalid filter 'foo'"),
        ("volume prune -f --filter dangling=true", "invalid filter 'dangling'"),
    ] {
        let error = fails(&docker(line));
        assert!(error.contains(&format!("Error response from daemon: {want}")), "{line}: {error}");
    }
    assert!(ok(&docker("volume prune -f")).contains("Deleted Volumes:"));
    assert_eq!(ok(&docker("volume ls -q")), "data\n");
    assert!(ok(&docker("volume prune -af")).contains("data"));
    assert_eq!(ok(&docker("volume ls -q")), "");
    daemon.checks_clean();
}

/// On a full disk a volume is refused with a word on what to do, and nothing of it is left.
#[test]
fn a_full_disk_makes_no_half_volume() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    sh(dir.path(), "mount -t tmpfs -o size=2m,nr_inodes=60 tmpfs root");
    let daemon = Daemon::start_in(dir, &[]);
    let mut made = 0;
    let refused = loop {
        let (status, answer) = daemon.ask("POST", "/volumes/create", Some(&named(&format!("v{made:03}"))));
        if status != 201 {
            break (status, answer);
        }
        made += 1;
    };
    assert_eq!(refused.0, 503, "{}", refused.1);
    assert!(refused.1["hint"].as_str().unwrap().contains("free some space"), "{}", refused.1);
    assert!(can("a tmpfs with few inodes", made > 5));
    assert_eq!(names(&daemon).len(), made);
    daemon.checks_clean();
    assert_eq!(daemon.ask("DELETE", "/volumes/v000", None).0, 204);
    assert_eq!(daemon.ask("POST", "/volumes/create", Some(&named("again"))).0, 201);
}
