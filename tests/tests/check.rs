//! A store that is harmed in every way we know: found, told with a remedy, put right, and nothing taken from anybody.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use system_tests::images::{digest, docker_archive, docker_archive_with, layer};
use system_tests::registry::{Fault, Faulty, Registry};
use system_tests::{Daemon, PATIENCE_SECONDS, fails, has, may_mount, ok, program, sh};

fn layers(seed: u8) -> Vec<Vec<u8>> {
    (0..3u8).map(|n| layer(&[(&format!("file{n}"), &char::from(b'a' + seed + n).to_string().repeat(30_000))])).collect()
}

fn borrowed(layers: &[Vec<u8>]) -> Vec<&[u8]> {
    layers.iter().map(Vec::as_slice).collect()
}

/// A daemon with the image app:1, and the folder of its middle layer.
fn with_image() -> (Daemon, PathBuf) {
    let (daemon, image) = (Daemon::start(), layers(0));
    load(&daemon, "app:1", &image);
    let dir = daemon.dir().join("root/layers").join(&digest(&image[1])[7..]);
    (daemon, dir)
}

fn load(daemon: &Daemon, name: &str, layers: &[Vec<u8>]) {
    let file = daemon.dir().join("i.tar");
    std::fs::write(&file, docker_archive(name, &borrowed(layers))).unwrap();
    assert!(ok(&daemon.curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"])).contains("Loaded"));
}

fn pull(daemon: &Daemon, registry: &Faulty) {
    let said = ok(&daemon.curl(&["-X", "POST", &format!("http://d/images/create?fromImage={}/app&tag=1", registry.address)]));
    assert!(said.contains("Status: "), "{said}");
}

struct Told {
    findings: Vec<Value>,
    summary: Value,
    progress: Vec<Value>,
}

fn parse(text: &str) -> Told {
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}"))).collect();
    let all = |key: &str| lines.iter().filter_map(|line| line.get(key).cloned()).collect::<Vec<_>>();
    let summary = lines.last().unwrap()["summary"].clone();
    assert!(summary.is_object(), "{text}");
    for finding in all("finding") {
        for key in ["object", "kind", "message", "remedy"] {
            assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {finding}");
        }
    }
    Told { findings: all("finding"), summary, progress: all("progress") }
}

fn check(daemon: &Daemon, query: &str) -> Told {
    parse(&ok(&daemon.curl(&["-X", "POST", &format!("http://d/fsd/v1/check?{query}")])))
}

/// One finding, of this kind and object, whose message has this in it.
fn one<'a>(told: &'a Told, kind: &str, object: &str, message: &str) -> &'a Value {
    assert_eq!(told.findings.len(), 1, "{:?}", told.findings);
    let found = &told.findings[0];
    assert!(found["kind"].as_str().unwrap().contains(kind), "{found}");
    assert!(found["object"].as_str().unwrap().contains(object), "{found}");
    assert!(found["message"].as_str().unwrap().contains(message), "{found}");
    found
}

fn is_clean(daemon: &Daemon) {
    let told = check(daemon, "data=true");
    assert_eq!(told.summary["findings"], 0, "{:?}", told.findings);
}

/// Changes the database of a store that nobody serves.
fn sql(daemon: &Daemon, statement: &str) {
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute(sys.argv[2])\nc.commit()";
    ok(&Command::new("python3").args(["-c", script]).arg(daemon.dir().join("root/meta.db")).arg(statement).output().unwrap());
}

fn offline(daemon: &Daemon, flags: &[&str]) -> Output {
    let dir = daemon.dir();
    Command::new(program("fsd"))
        .arg("check")
        .args(flags)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--run")
        .arg(dir.join("run"))
        .output()
        .unwrap()
}

#[test]
fn a_sound_store_is_clean_and_how_far_the_check_is_is_told() {
    let (daemon, _) = with_image();
    let told = check(&daemon, "data=true");
    assert_eq!(told.summary["layers"], 3);
    assert!(told.summary["bytes"].as_u64().unwrap() > 90_000);
    let done: Vec<u64> = told.progress.iter().map(|line| line["done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && done.len() >= 3 && told.progress.iter().all(|line| line["total"] == told.summary["bytes"]));
    assert_eq!(check(&daemon, "").summary["bytes"], 0, "only structure");
    assert_eq!(check(&daemon, "deep=true").summary["bytes"], told.summary["bytes"], "the older name");
    let text = ok(&daemon.ctl(&["system", "check", "--data"]));
    assert_eq!(text, "Checked 1 images, 3 layers, 0 containers, 0 volumes: clean (95.23kB read)\n");
}

#[test]
fn a_bad_index_is_built_again() {
    for harm in
        ["rm index", "rm index; echo damaged > index", "rm index; cp ../*/index . 2> /dev/null || true", "truncate -s 512 index"]
    {
        let (mut daemon, dir) = with_image();
        // Nobody has it mapped then.
        daemon.stop();
        sh(&dir, harm);
        daemon.restart();
        one(&check(&daemon, ""), "corrupt", "layer sha256:", "index");
        let told = check(&daemon, "repair=true");
        assert!(one(&told, "corrupt", "layer", "")["repaired"].as_str().unwrap().contains("built again"), "{harm}");
        assert_eq!((&told.summary["findings"], &told.summary["repaired"]), (&Value::from(1), &Value::from(1)));
        is_clean(&daemon);
    }
}

/// One byte in the middle of a file's content: no structure is hurt.
const FLIP: &str = "printf X | dd of=data bs=1 seek=9000 conv=notrunc status=none";

#[test]
fn a_bad_layer_that_was_pulled_is_fetched_again() {
    for (harm, query) in [(FLIP, "data=true&"), ("rm data", ""), ("truncate -s 1000 data", ""), ("rm -r ../$(basename $PWD)", "")]
    {
        let (image, daemon) = (layers(0), Daemon::start());
        let registry = Faulty::start(&borrowed(&image), Fault::None);
        pull(&daemon, &registry);
        sh(&daemon.dir().join("root/layers").join(&digest(&image[1])[7..]), harm);
        let told = check(&daemon, query);
        assert!(one(&told, "", "", "")["remedy"].as_str().unwrap().contains(&registry.address), "{:?}", told.findings);
        let before = registry.requests.lock().unwrap().len();
        let told = check(&daemon, &format!("{query}repair=true"));
        let repaired = one(&told, "", "", "")["repaired"].as_str().unwrap().to_owned();
        assert_eq!(repaired, format!("it was fetched again from {}/app", registry.address), "{harm}");
        assert_eq!(registry.requests.lock().unwrap().len(), before + 1, "that layer, and nothing else");
        is_clean(&daemon);
        let name = registry.address.replace(':', "%3A");
        let file = ok(&daemon.curl(&[&format!("http://d/fsd/v1/images/{name}%2Fapp%3A1/file?path=/file1")]));
        assert!(file.starts_with("bbb"), "{file}");
    }
}

/// ctl as somebody who has logged in to a registry with `docker login`.
fn ctl_of_alice(daemon: &Daemon, registry: &str, arguments: &[&str]) -> Output {
    let login = serde_json::json!({"auths": {registry: {"auth": "YWxpY2U6c2VjcmV0"}}});
    std::fs::create_dir_all(daemon.dir().join("alice")).unwrap();
    std::fs::write(daemon.dir().join("alice/config.json"), login.to_string()).unwrap();
    let mut ctl = Command::new("timeout");
    ctl.arg(PATIENCE_SECONDS).arg(program("ctl")).args(["-H", &format!("unix://{}", daemon.socket().display())]).args(arguments);
    ctl.env("DOCKER_CONFIG", daemon.dir().join("alice")).output().unwrap()
}

#[test]
fn a_bad_layer_of_a_registry_that_wants_a_login_is_fetched_with_the_login_of_who_asks() {
    let image = layers(1);
    let (mut daemon, registry) = (Daemon::start(), Faulty::start(&borrowed(&image), Fault::Login));
    let name = format!("{}/app:1", registry.address);
    assert!(fails(&daemon.ctl(&["pull", &name])).contains("no token from"), "a stranger gets nothing");
    ok(&ctl_of_alice(&daemon, &registry.address, &["pull", &name]));
    let dir = daemon.dir().join("root/layers").join(&digest(&image[1])[7..]);
    sh(&dir, FLIP);
    let told = check(&daemon, "data=true&repair=true");
    let found = one(&told, "corrupt", "layer", "digest");
    assert!(found["only_by_force"].as_str().unwrap().contains("no token from"), "{found}");
    let said = ok(&ctl_of_alice(&daemon, &registry.address, &["system", "check", "--data", "--repair"]));
    assert!(said.contains(&format!("fetched again from {}/app", registry.address)), "{said}");
    is_clean(&daemon);
    let bad = ok(&daemon.curl(&["-X", "POST", "-H", "X-Registry-Config: !", "http://d/fsd/v1/check?repair=true"]));
    assert!(bad.contains("invalid X-Registry-Config header"), "{bad}");
    // Without a daemon nobody brings a login, which is told.
    sh(&dir, FLIP);
    daemon.stop();
    let told = String::from_utf8(offline(&daemon, &["--data", "--repair"]).stdout).unwrap();
    assert!(told.contains("asked without a login (a daemon's `ctl system check --repair` uses"), "{told}");
    assert!(told.contains("no token from"), "{told}");
}

#[test]
fn a_bad_layer_that_came_by_an_index_of_platforms_is_fetched_again() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let (registry, daemon, image) = (Registry::start(), Daemon::start(), layers(2));
    // Of the other platform's image all is pushed too, and it comes first in the index.
    let here = docker_archive("app:1", &borrowed(&image));
    let other = docker_archive_with("app:1", &serde_json::json!({"Cmd": ["other"]}), &borrowed(&layers(3)));
    std::fs::write(daemon.dir().join("here.tar"), here).unwrap();
    std::fs::write(daemon.dir().join("other.tar"), other).unwrap();
    let script = r#"describe() { skopeo inspect --raw --tls-verify=false docker://$R/app:$1 > $1.json
            printf '{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","size":%d,"digest":"sha256:%s","platform":{"os":"linux","architecture":"%s"}}'                 $(stat -c %s $1.json) $(sha256sum $1.json | cut -d ' ' -f 1) $2; }
        for tag in here other; do skopeo copy -q --dest-tls-verify=false docker-archive:$tag.tar docker://$R/app:$tag; done
        printf '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[%s,%s]}'             "$(describe other s390x)" "$(describe here amd64)" > list.json
        curl -sSf -X PUT -H 'Content-Type: application/vnd.docker.distribution.manifest.list.v2+json' --data-binary @list.json http://$R/v2/app/manifests/1"#;
    sh(daemon.dir(), &format!("R={}; {script}", registry.address));
    let name = format!("{}/app:1", registry.address);
    ok(&daemon.ctl(&["pull", "--platform", "linux/amd64", &name]));
    let dir = daemon.dir().join("root/layers").join(&digest(&image[1])[7..]);
    for (harm, query) in [(FLIP, "data=true&repair=true"), ("rm data", "repair=true")] {
        sh(&dir, harm);
        let told = check(&daemon, query);
        let how = one(&told, "", "layer", "")["repaired"].as_str().unwrap_or_default().to_owned();
        assert!(how.contains(&format!("fetched again from {}/app", registry.address)), "{:?}", told.findings);
        is_clean(&daemon);
    }
    drop(registry);
    sh(&dir, FLIP);
    let told = check(&daemon, "data=true&repair=true");
    assert!(one(&told, "corrupt", "layer", "")["only_by_force"].as_str().unwrap().contains("can't reach the registry"));
}

#[test]
fn a_bad_layer_that_nothing_has_costs_its_image_only_by_force() {
    let (daemon, dir) = with_image();
    load(&daemon, "other:1", &layers(10));
    sh(&dir, FLIP);
    assert_eq!(check(&daemon, "").summary["findings"], 0, "only reading every byte finds it");
    let told = check(&daemon, "data=true");
    assert!(one(&told, "corrupt", "layer", "its data has the digest")["remedy"].as_str().unwrap().contains("load an image"));
    let told = check(&daemon, "data=true&repair=true");
    assert_eq!(one(&told, "corrupt", "layer", "")["only_by_force"], "removes image app:1, which nothing uses");
    assert_eq!(ok(&daemon.curl(&["http://d/images/json"])).matches("\"Id\"").count(), 2, "nothing is removed unasked");
    let text = daemon.ctl(&["system", "check", "--data", "--repair"]);
    assert!(fails(&text).is_empty());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("  --repair --force: removes image app:1, which nothing uses\n"), "{text}");
    // Loading it again is the other way out.
    load(&daemon, "app:1", &layers(0));
    is_clean(&daemon);
    sh(&dir, FLIP);
    let told = check(&daemon, "data=true&repair=true&force=true");
    assert_eq!(one(&told, "corrupt", "layer", "")["repaired"], "image app:1 was removed");
    assert_eq!(ok(&daemon.curl(&["http://d/images/json"])).matches("\"Id\"").count(), 1);
    assert_eq!(std::fs::read_dir(daemon.dir().join("root/layers")).unwrap().count(), 3, "its layers are gone too");
    is_clean(&daemon);
}

#[test]
fn what_a_container_needs_is_not_removed_by_force_either() {
    let (daemon, dir) = with_image();
    let (status, answer) =
        daemon.ask("POST", "/containers/create?name=c1", Some(&serde_json::json!({"Image": "app:1", "Cmd": ["x"]})));
    assert_eq!(status, 201, "{answer}");
    sh(&dir, FLIP);
    let told = check(&daemon, "data=true&repair=true&force=true");
    let found = one(&told, "corrupt", "layer", "can't be repaired: container c1 needs image app:1");
    assert!(found["repaired"].is_null() && found["only_by_force"].is_null(), "{found}");
    assert_eq!(ok(&daemon.curl(&["http://d/images/json"])).matches("\"Id\"").count(), 1);
    assert!(dir.join("data").exists());
    ok(&daemon.curl(&["-X", "DELETE", "http://d/containers/c1"]));
    if may_mount() {
        ok(&daemon.ctl(&["image", "mount", "app:1", daemon.dir().join("seen").to_str().unwrap()]));
        let told = check(&daemon, "data=true&repair=true&force=true");
        one(&told, "corrupt", "layer", "/seen needs image app:1");
        ok(&daemon.ctl(&["umount", daemon.dir().join("seen").to_str().unwrap()]));
    }
    assert_eq!(check(&daemon, "data=true&repair=true&force=true").summary["repaired"], 1);
    is_clean(&daemon);
}

#[test]
fn a_bad_unpacked_copy_is_made_again_when_nothing_stands_on_it() {
    if !may_mount() {
        return;
    }
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), &["--storage-driver", "overlay"]);
    let image = layers(0);
    load(&daemon, "app:1", &image);
    let dir = daemon.dir().join("root/layers").join(&digest(&image[1])[7..]);
    let seen = daemon.dir().join("seen");
    ok(&daemon.ctl(&["image", "mount", "app:1", seen.to_str().unwrap()]));
    is_clean(&daemon);
    sh(&dir, "chmod 600 fs/file1");
    let told = check(&daemon, "repair=true");
    let found = one(&told, "corrupt", "layer", "it is mounted at");
    assert!(found["repaired"].is_null() && dir.join("fs").exists(), "{found}");
    ok(&daemon.ctl(&["umount", seen.to_str().unwrap()]));
    let found = ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/check"]));
    assert!(found.contains("/file1: its mode is 600, not 644") && found.contains("unpacked again"), "{found}");
    let told = check(&daemon, "repair=true");
    assert_eq!(one(&told, "corrupt", "layer", "unpacked copy")["repaired"], "it was unpacked again from its data");
    is_clean(&daemon);
    // A damaged byte is found where bytes are read, without a daemon too.
    sh(
        &dir,
        "touch -r fs/file1 time; printf X | dd of=fs/file1 bs=1 seek=9000 conv=notrunc status=none; touch -r time fs/file1; rm time",
    );
    assert_eq!(check(&daemon, "").summary["findings"], 0);
    drop(offline_of(daemon, "/file1: its content differs at 9000"));
}

/// Stops the daemon; what was harmed is found and repaired without one.
fn offline_of(mut daemon: Daemon, said: &str) -> Daemon {
    daemon.stop();
    assert!(String::from_utf8_lossy(&offline(&daemon, &["--data"]).stdout).contains(said));
    assert!(String::from_utf8_lossy(&offline(&daemon, &["--data", "--repair"]).stdout).contains("1 finding, 1 repaired"));
    ok(&offline(&daemon, &["--data"]));
    daemon
}

#[test]
fn what_nobody_knows_is_named_and_only_what_is_surely_ours_is_removed() {
    let (daemon, dir) = with_image();
    let root = daemon.dir().join("root");
    let orphan = "e".repeat(64);
    sh(&root, &format!("mkdir layers/{orphan}; echo x > layers/{orphan}/data"));
    assert!(one(&check(&daemon, ""), "orphan", &orphan, "no row knows it")["remedy"].as_str().unwrap().contains("--repair"));
    assert_eq!(check(&daemon, "repair=true").summary["repaired"], 1);
    assert!(!root.join("layers").join(&orphan).exists());
    for (harm, path) in [("echo mine > layers/notes", root.join("layers/notes")), ("echo mine > $LAYER/notes", dir.join("notes"))]
    {
        sh(&root, &format!("LAYER={}; {harm}", dir.display()));
        one(&check(&daemon, ""), "orphan", "", "");
        assert!(one(&check(&daemon, "repair=true"), "orphan", "", "")["only_by_force"].as_str().unwrap().starts_with("removes"));
        assert!(path.exists(), "it may be somebody's");
        assert_eq!(check(&daemon, "repair=true&force=true").summary["repaired"], 1);
        assert!(!path.exists());
    }
    sh(&root, "mkdir -p containers/$(printf 'f%.0s' {1..64})/upper");
    one(&check(&daemon, ""), "orphan", "container ffff", "belongs to no container");
    assert_eq!(check(&daemon, "repair=true").summary["repaired"], 1);
    is_clean(&daemon);
}

#[test]
fn totals_are_restored() {
    if !has("python3") {
        return;
    }
    let (mut daemon, _) = with_image();
    let df = |daemon: &Daemon| ok(&daemon.curl(&["http://d/system/df"]));
    let before = df(&daemon);
    for (statement, object) in [
        ("UPDATE layer SET data_size = 1", "layer"),
        ("UPDATE layer SET index_size = 1", "layer"),
        ("UPDATE layer SET file_bytes = 1", "layer"),
        ("UPDATE image SET size = 1", "image app:1"),
    ] {
        daemon.stop();
        sql(&daemon, statement);
        daemon.restart();
        assert!(df(&daemon) != before || statement.contains("file_bytes"), "{statement}");
        let told = check(&daemon, "");
        assert!(told.findings.iter().all(|finding| finding["kind"] == "mismatch"), "{:?}", told.findings);
        assert!(
            told.findings.iter().any(|finding| finding["object"].as_str().unwrap().starts_with(object)),
            "{:?}",
            told.findings
        );
        let told = check(&daemon, "repair=true");
        assert_eq!(told.summary["findings"], told.summary["repaired"]);
        assert_eq!(df(&daemon), before, "{statement}");
        is_clean(&daemon);
    }
}

#[test]
fn a_damaged_config_and_a_container_without_its_folder_are_told() {
    if !has("python3") {
        return;
    }
    let (mut daemon, _) = with_image();
    let (status, _) =
        daemon.ask("POST", "/containers/create?name=c1", Some(&serde_json::json!({"Image": "app:1", "Cmd": ["x"]})));
    assert_eq!(status, 201);
    sh(daemon.dir(), "rm -r root/containers/*");
    one(&check(&daemon, "repair=true&force=true"), "missing", "container c1", "its folder is gone");
    ok(&daemon.curl(&["-X", "DELETE", "http://d/containers/c1"]));
    daemon.stop();
    sql(&daemon, "UPDATE image SET config = CAST('{\"rootfs\":{}}' AS BLOB)");
    daemon.restart();
    let told = check(&daemon, "repair=true");
    assert_eq!(one(&told, "corrupt", "image app:1", "not what its id")["only_by_force"], "removes the image, which nothing uses");
    assert_eq!(check(&daemon, "repair=true&force=true").summary["repaired"], 1);
    is_clean(&daemon);
}

#[test]
fn rows_that_were_lost_are_restored_and_what_images_need_stays() {
    if !has("python3") {
        return;
    }
    for (statement, kind, repaired) in [
        ("DELETE FROM layer", "missing", "its row was restored from its files"),
        ("DELETE FROM image_layer WHERE position = 1", "corrupt", "its layers were restored from its config"),
    ] {
        let (mut daemon, _) = with_image();
        let before = ok(&daemon.curl(&["http://d/system/df"]));
        daemon.stop();
        sql(&daemon, statement);
        // No daemon has started since, which collects what no row refers to.
        let output = offline(&daemon, &["--format", "json"]);
        let told = parse(&String::from_utf8(output.stdout).unwrap());
        assert!(!told.findings.is_empty() && told.findings.iter().any(|finding| finding["kind"] == kind), "{:?}", told.findings);
        if statement == "DELETE FROM layer" {
            daemon.restart();
            assert_eq!(std::fs::read_dir(daemon.dir().join("root/layers")).unwrap().count(), 3, "an image needs them");
            daemon.stop();
        }
        let text = ok(&offline(&daemon, &["--repair"]));
        assert!(text.contains(repaired), "{text}");
        daemon.restart();
        is_clean(&daemon);
        assert_eq!(ok(&daemon.curl(&["http://d/system/df"])), before, "{statement}");
    }
}

#[test]
fn a_store_is_checked_without_a_daemon_and_only_then() {
    let (mut daemon, dir) = with_image();
    let refused = fails(&offline(&daemon, &[]));
    assert!(refused.contains("a daemon serves this store") && refused.contains("ctl system check"), "{refused}");
    assert!(refused.contains(&daemon.pid().to_string()), "{refused}");
    daemon.stop();
    assert_eq!(ok(&offline(&daemon, &["--data"])), "Checked 1 images, 3 layers, 0 containers, 0 volumes: clean\n");
    sh(&dir, FLIP);
    let root = daemon.dir().join("root");
    sh(&root, "rm -f $(ls -d layers/*/index | tail -1); mkdir tmp/left; echo x > trash/left");
    let everything =
        |what: &str| sh(&root, &format!("find . -name 'meta.db*' -prune -o -name lock -o -type f {what} -print | sort"));
    let before = everything("-exec sha256sum {} +");
    let output = offline(&daemon, &["--data", "--format", "json"]);
    let told = parse(&String::from_utf8(output.stdout.clone()).unwrap());
    assert!(!output.status.success());
    assert_eq!((told.findings.len(), everything("-exec sha256sum {} +")), (4, before), "{:?}", told.findings);
    let text = String::from_utf8(offline(&daemon, &["--data", "--repair"]).stdout).unwrap();
    assert!(text.contains("4 findings, 3 repaired") && text.contains("removes image app:1"), "{text}");
    let text = ok(&offline(&daemon, &["--data", "--repair", "--force"]));
    assert!(text.contains("1 finding, 1 repaired"), "{text}");
    assert_eq!(ok(&offline(&daemon, &["--data"])), "Checked 0 images, 0 layers, 0 containers, 0 volumes: clean\n");
    assert!(fails(&offline(&daemon, &["--force"])).contains("--repair"));
    daemon.restart();
    is_clean(&daemon);
    let nowhere = Command::new(program("fsd")).args(["check", "--root", "/nonexistent/x"]).output().unwrap();
    assert!(fails(&nowhere).contains("there is no store in /nonexistent/x"));
    assert!(!std::path::Path::new("/nonexistent").exists());
}

#[test]
fn at_a_terminal_it_asks_before_it_removes() {
    if !has("script") {
        return;
    }
    for (answer, left) in [("n", 1), ("y", 0)] {
        let (daemon, dir) = with_image();
        sh(&dir, FLIP);
        let ctl = program("ctl");
        let socket = daemon.socket();
        // The answer comes once it is asked for, and the input ends with the program.
        let said = sh(
            daemon.dir(),
            &format!(
                "mkfifo input; script -qec '{} -H unix://{} system check --data --repair' /dev/null < input > said & \
                 exec 7> input; until grep -q 'y/N' said; do sleep 0.05; done; echo {answer} >&7; wait $! || true; cat said",
                ctl.display(),
                socket.display()
            ),
        );
        assert!(said.contains("removes image app:1") && said.contains("Are you sure you want to continue? [y/N]"), "{said}");
        assert_eq!(ok(&daemon.curl(&["http://d/images/json"])).matches("\"Id\"").count(), left, "{answer}: {said}");
    }
}
