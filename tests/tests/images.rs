//! Images through the daemon: loaded, listed, looked into, mounted, compared, checked, removed.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;

use serde_json::Value;
use system_tests::images::{archive, config, digest, docker_archive, gzip, layer, made, oci_archive};
use system_tests::{Daemon, fails, has, may_mount, mounts_below, ok, sh, swept};

/// Two layers: a file changed, one removed, one added.
fn two_layers() -> (Vec<u8>, Vec<u8>) {
    (
        layer(&[("etc/one", "1"), ("etc/two", "22"), ("big", &"x".repeat(5000))]),
        layer(&[("etc/one", "changed"), ("etc/.wh.two", ""), ("new/file", "new")]),
    )
}

fn put(daemon: &Daemon, name: &str, bytes: &[u8]) -> String {
    let path = daemon.dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn load(daemon: &Daemon, bytes: &[u8]) -> Value {
    let file = put(daemon, "archive.tar", bytes);
    let answer = ok(&daemon.curl(&["-T", &file, "-X", "POST", "http://d/images/load"]));
    serde_json::from_str(answer.lines().next().unwrap_or("null")).unwrap_or(Value::Null)
}

fn get(daemon: &Daemon, path: &str) -> Value {
    serde_json::from_str(&ok(&daemon.curl(&[&format!("http://d{path}")]))).unwrap()
}

fn store_is_empty(daemon: &Daemon) {
    swept(daemon);
    for folder in ["layers", "tmp", "trash"] {
        let left = std::fs::read_dir(daemon.dir().join("root").join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder} is not empty");
    }
}

fn check(daemon: &Daemon) -> u64 {
    let events = ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/check?data=true"]));
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    last["summary"]["findings"].as_u64().unwrap_or_else(|| panic!("{events}"))
}

#[test]
fn the_docker_cli_works_with_images() {
    if !has("docker") {
        return;
    }
    let daemon = Daemon::start();
    let (a, b) = two_layers();
    let file = put(&daemon, "i.tar", &docker_archive("app:1", &[&a, &b]));
    assert_eq!(ok(&daemon.docker(&["load", "-i", &file])), "Loaded image: app:1\n");
    assert_eq!(ok(&daemon.docker(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"])), "app:1 5.01kB\n");
    ok(&daemon.docker(&["tag", "app:1", "localhost:5000/team/app:2"]));
    assert!(fails(&daemon.docker(&["tag", "app:1", "sha256:1"])).contains("ambiguous"));
    ok(&daemon.docker(&["tag", "app:1", "localhost:5000/team/sha256:1"]));
    ok(&daemon.docker(&["rmi", "localhost:5000/team/sha256:1"]));
    let id = ok(&daemon.docker(&["images", "-q", "--no-trunc", "app:1"])).trim().to_owned();
    assert_eq!(id, digest(&config(&[&a, &b])));
    for name in [&id, &id[7..19], "app:1", "docker.io/library/app:1", "localhost:5000/team/app:2"] {
        assert_eq!(ok(&daemon.docker(&["inspect", "-f", "{{.Id}} {{.Config.Labels.k}}", name])), format!("{id} v\n"), "{name}");
    }
    assert_eq!(ok(&daemon.docker(&["history", "-q", "app:1"])).lines().count(), 2);
    assert_eq!(ok(&daemon.docker(&["images", "-q", "--filter", "label=k=v"])).lines().count(), 2);
    assert_eq!(ok(&daemon.docker(&["images", "-q", "--filter", "label=k=other"])), "");
    assert!(ok(&daemon.docker(&["version"])).contains("Engine"));
    assert!(ok(&daemon.docker(&["info", "--format", "{{.Images}}"])).contains('1'));
    let used: Value = serde_json::from_str(&ok(&daemon.curl(&["http://d/system/df"]))).unwrap();
    let files = std::fs::read_dir(daemon.dir().join("root/layers"))
        .unwrap()
        .flat_map(|layer| ["data", "index"].map(|name| layer.as_ref().unwrap().path().join(name)));
    assert_eq!(used["LayersSize"].as_u64().unwrap(), files.map(|file| file.metadata().unwrap().len()).sum::<u64>());
    let refused = fails(&daemon.docker(&["rmi", &id]));
    assert!(refused.contains("must be forced") && refused.contains("multiple repositories"), "{refused}");
    assert_eq!(ok(&daemon.docker(&["rmi", "app:1"])), "Untagged: app:1\n");
    let gone = ok(&daemon.docker(&["rmi", "localhost:5000/team/app:2"]));
    assert_eq!(gone.lines().filter(|line| line.starts_with("Deleted: ")).count(), 3, "{gone}");
    assert!(fails(&daemon.docker(&["inspect", "--type", "image", "app:1"])).contains("No such image: app:1"));
    assert!(fails(&daemon.docker(&["rmi", "nosuch"])).contains("No such image: nosuch:latest"));
    store_is_empty(&daemon);
}

/// An archive of one image that was made in this year, with this label.
fn made_in(year: u32, label: &str) -> Vec<u8> {
    let one = layer(&[("year", &year.to_string())]);
    let mut config: Value = serde_json::from_slice(&config(&[&one])).unwrap();
    config["created"] = format!("{year}-06-01T00:00:00Z").into();
    config["config"]["Labels"] = serde_json::json!({ label: "" });
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["of:{year}"],"Layers":["a.tar"]}}]"#);
    archive(&[("manifest.json", manifest.as_bytes()), ("c.json", config.to_string().as_bytes()), ("a.tar", &one)])
}

#[test]
fn images_are_chosen_by_age_and_label() {
    if !has("docker") {
        return;
    }
    let daemon = Daemon::start();
    for (year, label) in [(2020, "keep"), (2021, "old"), (2022, "old")] {
        load(&daemon, &made_in(year, label));
    }
    let listed = |filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let words = [&["images", "--format", "{{.Tag}}"], &filters[..]].concat();
        ok(&daemon.docker(&words)).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["2022", "2021", "2020"]);
    assert_eq!(listed(&["before=of:2022"]), ["2021", "2020"]);
    assert_eq!(listed(&["since=of:2020"]), ["2022", "2021"]);
    assert_eq!(listed(&["since=of:2020", "before=of:2022"]), ["2021"]);
    assert_eq!(listed(&["label=keep"]), ["2020"]);
    assert!(fails(&daemon.docker(&["images", "--filter", "before=of:1999"])).contains("No such image: of:1999"));
    let two = fails(&daemon.docker(&["image", "prune", "-af", "--filter", "until=1h", "--filter", "until=2h"]));
    assert!(two.contains("more than one until filter specified"), "{two}");
    let prune = |filter: &str| {
        ok(&daemon.docker(&["image", "prune", "-af", "--filter", filter]));
        listed(&[])
    };
    assert_eq!(prune("until=2021-01-01T00:00:00Z"), ["2022", "2021"], "older ones only");
    assert_eq!(prune("label=keep"), ["2022", "2021"]);
    assert_eq!(prune("label!=old"), ["2022", "2021"]);
    assert_eq!(prune("label=old"), [""; 0]);
    store_is_empty(&daemon);
}

#[test]
fn every_archive_format_gives_the_same_image() {
    let daemon = Daemon::start();
    let (a, b) = two_layers();
    let id = digest(&config(&[&a, &b]));
    let plain = docker_archive("app:1", &[&a, &b]);
    for (what, bytes) in [
        ("docker-archive", plain.clone()),
        ("compressed", gzip(&plain)),
        ("zstd", zstd::encode_all(&plain[..], 1).unwrap()),
        ("compressed layers", docker_archive_of_gzip(&a, &b)),
        ("OCI with an index of platforms", oci_archive("app:1", &[&a, &b])),
    ] {
        let line = load(&daemon, &bytes);
        assert_eq!(line["stream"], "Loaded image: app:1\n", "{what}");
        assert_eq!(get(&daemon, "/images/app:1/json")["Id"], id.as_str(), "{what}");
        ok(&daemon.curl(&["-X", "DELETE", "http://d/images/app:1"]));
        store_is_empty(&daemon);
    }
}

fn docker_archive_of_gzip(a: &[u8], b: &[u8]) -> Vec<u8> {
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["a.tar","b.tar"]}]"#;
    archive(&[("manifest.json", manifest), ("c.json", &config(&[a, b])), ("b.tar", &gzip(b)), ("a.tar", &gzip(a))])
}

#[test]
fn an_image_is_looked_into_without_a_mount() {
    let daemon = Daemon::start();
    let (a, b) = two_layers();
    load(&daemon, &docker_archive("app:1", &[&a, &b]));
    load(&daemon, &docker_archive("app:0", &[&a]));
    let tree = get(&daemon, "/fsd/v1/images/app%3A1/tree?path=/&recursive=true");
    let names: Vec<_> =
        tree.as_array().unwrap().iter().map(|e| format!("{} {}", e["path"].as_str().unwrap(), e["layer"])).collect();
    assert_eq!(names, ["/big 0", "/etc 1", "/etc/one 1", "/new 1", "/new/file 1"]);
    assert_eq!(ok(&daemon.curl(&["http://d/fsd/v1/images/app%3A1/file?path=/etc/one"])), "changed");
    let stat = ok(&daemon.curl(&["-I", "http://d/fsd/v1/images/app%3A1/archive?path=/etc/one"]));
    assert!(stat.to_lowercase().contains("x-docker-container-path-stat: ey"), "{stat}");
    let copied = daemon.dir().join("copied");
    ok(&daemon.ctl(&["image", "cp", "app:1:/etc", copied.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(copied.join("one")).unwrap(), "changed");
    assert!(!copied.join("two").exists());
    let missing = get(&daemon, "/fsd/v1/images/app%3A1/file?path=/etc/two");
    assert_eq!(missing["message"], "/etc/two: no such file in image app:1");
    let diff = get(&daemon, "/fsd/v1/diff?from=image:app:0&to=image:app:1");
    let lines: Vec<_> = diff
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {} {}", c["kind"].as_str().unwrap(), c["path"].as_str().unwrap(), c["size"]))
        .collect();
    assert_eq!(lines, ["modified /etc 0", "modified /etc/one 6", "deleted /etc/two -2", "added /new 0", "added /new/file 3"]);
    assert_eq!(check(&daemon), 0);
}

#[test]
fn a_mount_on_the_host_outlives_the_daemon() {
    if !may_mount() {
        return;
    }
    let mut daemon = Daemon::start();
    let (a, b) = two_layers();
    load(&daemon, &docker_archive("app:1", &[&a, &b]));
    let target = daemon.dir().join("seen");
    let body = format!("{{\"target\":{:?}}}", target.to_str().unwrap());
    let mounted: Value = serde_json::from_str(&ok(&daemon.curl(&["-d", &body, "http://d/fsd/v1/images/app%3A1/mount"]))).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("etc/one")).unwrap(), "changed");
    assert!(!target.join("etc/two").exists());
    assert!(std::fs::write(target.join("x"), "x").is_err(), "read-only");
    for (body, text) in
        [(body.as_str(), "already mounted"), ("{\"target\":\"/\"}", "over /"), ("{\"target\":\"/etc\"}", "not empty")]
    {
        let refused: Value =
            serde_json::from_str(&ok(&daemon.curl(&["-d", body, "http://d/fsd/v1/images/app%3A1/mount"]))).unwrap();
        assert!(refused["message"].as_str().unwrap().contains(text), "{refused}");
    }
    let refused: Value = serde_json::from_str(&ok(&daemon.curl(&["-X", "DELETE", "http://d/images/app:1?force=1"]))).unwrap();
    assert!(refused["message"].as_str().unwrap().contains("image is mounted at"), "{refused}");
    daemon.kill();
    assert_eq!(std::fs::read_to_string(target.join("new/file")).unwrap(), "new");
    daemon.restart();
    let list = get(&daemon, "/fsd/v1/mounts");
    assert_eq!((list[0]["id"].clone(), list[0]["state"].as_str()), (mounted["id"].clone(), Some("mounted")));
    let held = std::fs::File::open(target.join("big")).unwrap();
    let which = format!("http://d/fsd/v1/mounts/{}", mounted["id"].as_str().unwrap());
    let busy: Value = serde_json::from_str(&ok(&daemon.curl(&["-X", "DELETE", &which]))).unwrap();
    assert!(busy["message"].as_str().unwrap().contains("in use"), "{busy}");
    drop(held);
    assert_eq!(ok(&daemon.curl(&["-X", "DELETE", &which])), "");
    assert!(!target.exists(), "the folder that was made is removed");
    assert_eq!(mounts_below(daemon.dir()), 0);
    daemon.stop();
}

#[test]
fn a_real_debian_image_is_what_gnu_tar_unpacks() {
    let (Some(image), Some(rootfs)) = (made("debian.tar"), made("debian-rootfs.tar")) else { return };
    if !may_mount() {
        return;
    }
    let daemon = Daemon::start();
    ok(&daemon.curl(&["-T", image.to_str().unwrap(), "-X", "POST", "http://d/images/load"]));
    let target = daemon.dir().join("seen");
    let body = format!("{{\"target\":{:?}}}", target.to_str().unwrap());
    ok(&daemon.curl(&["-d", &body, "http://d/fsd/v1/images/debian%3A12/mount"]));
    let list = "find . -printf '%p %y %m %U %G %T@ %l ' \\( -type f -printf '%s %n' -o -type d -printf - -o -printf '%n' \\) -printf '\\n' | sort";
    let script = format!(
        "mkdir out; tar -C out --xattrs --xattrs-include='*' -xpf {}; (cd out; {list}) > a; (cd seen; {list}) > b; cmp a b; wc -l < a",
        rootfs.display()
    );
    let count: usize = sh(daemon.dir(), &script).trim().parse().unwrap();
    assert!(count > 5000, "{count}");
    let sums = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
    sh(daemon.dir(), &format!("cmp <(cd out; {sums}) <(cd seen; {sums})"));
    let tree = get(&daemon, "/fsd/v1/images/debian%3A12/tree?path=/&recursive=true");
    assert_eq!(tree.as_array().unwrap().len() + 1, count, "the tree in user space has the same entries");
    assert_eq!(
        ok(&daemon.curl(&["-X", "DELETE", &format!("http://d/fsd/v1/mounts/{}", target.to_str().unwrap().replace('/', "%2F"))])),
        ""
    );
}

#[test]
fn bad_archives_are_refused_by_name_and_leave_nothing() {
    let daemon = Daemon::start();
    let (a, b) = two_layers();
    let good = docker_archive("app:1", &[&a, &b]);
    let mut wrong_bytes = a.clone();
    wrong_bytes[520] ^= 1;
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["a.tar"]}]"#;
    let escape = escaping_layer();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no archive", b"hello, this is no tar".repeat(100), "not an image archive"),
        ("empty", Vec::new(), "not an image archive"),
        ("truncated", good[..good.len() / 2].to_vec(), "truncated"),
        ("corrupt gzip", gzip(&good)[..700].to_vec(), "archive"),
        ("a tar of something else", layer(&[("etc/passwd", "root")]), "neither manifest.json nor index.json"),
        (
            "wrong diffID",
            archive(&[("a.tar", &wrong_bytes), ("c.json", &config(&[&a])), ("manifest.json", manifest)]),
            "invalid diffID",
        ),
        ("missing layer", archive(&[("c.json", &config(&[&a])), ("manifest.json", manifest)]), "names the layer \"a.tar\""),
        ("missing config", archive(&[("a.tar", &a), ("manifest.json", manifest)]), "names the config \"c.json\""),
        ("bad manifest", archive(&[("manifest.json", b"{")]), "manifest.json can't be read"),
        ("layer that leaves its root", docker_archive("x:1", &[&escape]), "leaves the layer's root"),
    ];
    for (what, bytes, text) in cases {
        let file = put(&daemon, "bad.tar", &bytes);
        let answer = ok(&daemon.curl(&["-T", &file, "-X", "POST", "http://d/images/load"]));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["message"].as_str().unwrap().contains(text), "{what}: {answer}");
        assert_eq!(get(&daemon, "/images/json"), serde_json::json!([]), "{what}");
        assert_eq!(std::fs::read_dir(daemon.dir().join("root/tmp")).unwrap().count(), 0, "{what}");
    }
    load(&daemon, &good);
    ok(&daemon.curl(&["-X", "DELETE", "http://d/images/app:1"]));
    store_is_empty(&daemon);
}

/// A layer with `../../etc/passwd`, which no library writes.
fn escaping_layer() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let name = b"../../etc/passwd";
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// 200 MB of zeros in 200 KB.
fn bomb() -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()));
    let mut header = tar::Header::new_gnu();
    header.set_size(200 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, "zeros", std::io::Read::take(std::io::repeat(0), 200 << 20)).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_bomb_stops_at_the_configured_limit() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[limits]\nbytes = 50000000\n").unwrap();
    let daemon = Daemon::start_in(dir, &["--config", config.to_str().unwrap()]);
    let file = put(&daemon, "bomb.tar", &archive(&[("a.tar", &bomb())]));
    let answer: Value = serde_json::from_str(&ok(&daemon.curl(&["-T", &file, "-X", "POST", "http://d/images/load"]))).unwrap();
    let (message, hint) = (answer["message"].as_str().unwrap(), answer["hint"].as_str().unwrap());
    assert!(message.contains("limit `bytes`: more than 50000000 bytes") && hint.contains("`limits`"), "{answer}");
    store_is_empty(&daemon);
}

#[test]
fn killed_fifty_times_while_loading_the_store_checks_clean() {
    let mut daemon = Daemon::start();
    let layers: Vec<Vec<u8>> = (0..4).map(|n| layer(&[(&format!("f{n}"), &format!("{n}").repeat(600_000))])).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let file = put(&daemon, "i.tar", &docker_archive("app:1", &layers));
    let mut seed = 7u64;
    for round in 0..50 {
        let socket = daemon.socket();
        let upload = std::process::Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                "--unix-socket",
                socket.to_str().unwrap(),
                "-T",
                &file,
                "-X",
                "POST",
                "http://d/images/load",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        std::thread::sleep(std::time::Duration::from_micros(seed >> 33 & 0x7fff));
        daemon.kill();
        upload.unwrap().wait().unwrap();
        daemon.restart();
        assert_eq!(check(&daemon), 0, "round {round}");
        let images = get(&daemon, "/images/json").as_array().unwrap().len();
        if images == 0 {
            store_is_empty(&daemon);
        } else {
            ok(&daemon.curl(&["-X", "DELETE", "http://d/images/app:1"]));
        }
    }
    ok(&daemon.curl(&["-T", &file, "-X", "POST", "http://d/images/load"]));
    assert_eq!(get(&daemon, "/images/app:1/json")["RootFS"]["Layers"].as_array().unwrap().len(), 4);
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    sh(dir.path(), "mount -t tmpfs -o size=12m fsd-test root");
    let daemon = Daemon::start_in(dir, &[]);
    let small = layer(&[("small", "s")]);
    load(&daemon, &docker_archive("small:1", &[&small]));
    let large = layer(&[("large", &"L".repeat(30 << 20))]);
    let file = put(&daemon, "large.tar", &docker_archive("large:1", &[&large]));
    let answer: Value = serde_json::from_str(&ok(&daemon.curl(&["-T", &file, "-X", "POST", "http://d/images/load"]))).unwrap();
    assert!(answer["message"].as_str().unwrap().contains("no space left on device"), "{answer}");
    assert!(answer["hint"].as_str().unwrap().contains("free some space"), "{answer}");
    assert_eq!(get(&daemon, "/images/json").as_array().unwrap().len(), 1);
    assert_eq!(check(&daemon), 0);
    assert_eq!(std::fs::read_dir(daemon.dir().join("root/tmp")).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_can_do_all_that_needs_no_mount() {
    if !may_mount() || !has("setpriv") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        &format!("cp {} . && chmod 755 . && mkdir home && chown 65534:65534 home", system_tests::program("fsd").display()),
    );
    let home = dir.path().join("home");
    let mut child = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs"])
        .arg(dir.path().join("fsd"))
        .args(["--root", home.join("root").to_str().unwrap(), "--run", home.join("run").to_str().unwrap()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let socket = home.join("run/fsd.sock");
    let curl = |arguments: &[&str]| {
        ok(&std::process::Command::new("curl")
            .args(["-sS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--unix-socket"])
            .arg(&socket)
            .args(arguments)
            .output()
            .unwrap())
    };
    while !socket.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the daemon ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (a, b) = two_layers();
    let file = dir.path().join("i.tar");
    std::fs::write(&file, docker_archive("app:1", &[&a, &b])).unwrap();
    assert!(curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"]).contains("Loaded image: app:1"));
    assert_eq!(curl(&["http://d/fsd/v1/images/app%3A1/file?path=/etc/one"]), "changed");
    assert!(curl(&["-X", "POST", "http://d/fsd/v1/check?data=true"]).contains("\"findings\":0"));
    let refused = curl(&["-X", "POST", "http://d/fsd/v1/images/app%3A1/mount"]);
    assert!(refused.contains("can't mount images") && refused.contains("CAP_SYS_ADMIN"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_of_an_image_is_left_when_it_is_gone() {
    let mut daemon = Daemon::start();
    let files = |dir: &Path| sh(dir, "find root -type f | grep -v meta.db | sort");
    let before = files(daemon.dir());
    let (a, b) = two_layers();
    for _ in 0..3 {
        load(&daemon, &docker_archive("app:1", &[&a, &b]));
        if may_mount() {
            let mounted: Value =
                serde_json::from_str(&ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/images/app%3A1/mount"]))).unwrap();
            ok(&daemon.curl(&["-X", "DELETE", &format!("http://d/fsd/v1/mounts/{}", mounted["id"].as_str().unwrap())]));
        }
        ok(&daemon.curl(&["-X", "POST", "http://d/images/prune?filters={%22dangling%22:{%22false%22:true}}"]));
    }
    swept(&daemon);
    assert_eq!(files(daemon.dir()), before);
    assert_eq!(mounts_below(daemon.dir()), 0);
    daemon.stop();
}
