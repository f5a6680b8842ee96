//! Images from registries: a real one, and one that misbehaves.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use serde_json::Value;
use system_tests::images::{config, digest, docker_archive, layer, made};
use system_tests::registry::{Fault, Faulty, Registry};
use system_tests::{Daemon, fails, has, ok, sh, told};

/// A layer that does not compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    let text: String = (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + (state >> 58) as u8)
        })
        .collect();
    layer(&[(&format!("noise{seed}"), &text)])
}

fn pull(daemon: &Daemon, name: &str) -> Vec<Value> {
    let answer = ok(&daemon.curl(&["-X", "POST", &format!("http://d/images/create?fromImage={name}&tag=1")]));
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn id_of(daemon: &Daemon, name: &str) -> Option<String> {
    let image: Value = serde_json::from_str(&ok(&daemon.curl(&[&format!("http://d/images/{name}/json")]))).unwrap();
    image["Id"].as_str().map(str::to_owned)
}

#[test]
fn the_docker_cli_pulls_from_a_real_registry() {
    if !has("docker-registry") || !has("skopeo") || !has("docker") {
        return;
    }
    let (registry, daemon) = (Registry::start(), Daemon::start());
    let layers = [noise(1, 300_000), noise(2, 200_000), noise(3, 100_000), layer(&[("small", "s")])];
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    std::fs::write(daemon.dir().join("i.tar"), docker_archive("app:1", &layers)).unwrap();
    let name = format!("{}/team/app:1", registry.address);
    sh(daemon.dir(), &format!("skopeo copy -q --dest-tls-verify=false docker-archive:i.tar docker://{name}"));
    let first = ok(&daemon.docker(&["pull", &name]));
    assert!(first.contains(&format!("Status: Downloaded newer image for {name}")), "{first}");
    assert_eq!(first.matches("Pull complete").count(), 4, "{first}");
    assert_eq!(id_of(&daemon, &name), Some(digest(&config(&layers))));
    let again = ok(&daemon.docker(&["pull", &name]));
    assert!(again.contains("Status: Image is up to date"), "{again}");
    let by_digest = ok(&daemon.docker(&["inspect", "-f", "{{index .RepoDigests 0}}", &name])).trim().to_owned();
    ok(&daemon.docker(&["rmi", &name]));
    assert!(ok(&daemon.docker(&["pull", &by_digest])).contains("Downloaded newer image"));
    assert_eq!(id_of(&daemon, &by_digest), Some(digest(&config(&layers))));
    ok(&daemon.docker(&["pull", &name]));
    assert_eq!(ok(&daemon.docker(&["rmi", &by_digest])), format!("Untagged: {by_digest}\n"));
    assert_eq!(id_of(&daemon, &name), Some(digest(&config(&layers))), "the tag was not named, and stays");
    assert_eq!(id_of(&daemon, &by_digest), None);
    let pulled = told(&daemon, &["--filter", "event=pull"], "{{.ID}}", |events| events.len() >= 4);
    assert_eq!(pulled, [&*name, &*name, &*by_digest, &*name]);
    let missing = fails(&daemon.docker(&["pull", &format!("{}/team/app:2", registry.address)]));
    assert!(missing.contains("not found") && missing.contains("manifest unknown"), "{missing}");
}

#[test]
fn a_real_debian_image_is_pulled() {
    let Some(image) = made("debian.tar") else { return };
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let (registry, daemon) = (Registry::start(), Daemon::start());
    sh(
        daemon.dir(),
        &format!(
            "skopeo copy -q --dest-tls-verify=false docker-archive:{} docker://{}/debian:1",
            image.display(),
            registry.address
        ),
    );
    let lines = pull(&daemon, &format!("{}/debian", registry.address));
    assert!(lines.last().unwrap()["status"].as_str().unwrap().contains("Downloaded newer"), "{lines:?}");
    assert!(lines.iter().any(|line| line["progressDetail"]["current"].as_u64() > Some(1_000_000)), "progress is told");
    let summary = ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/check?data=true"]));
    assert!(summary.contains("\"findings\":0"), "{summary}");
}

#[test]
fn tokens_broken_connections_and_registries_without_ranges_are_coped_with() {
    let layers = [noise(4, 150_000), noise(5, 120_000)];
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    for fault in [Fault::None, Fault::Token, Fault::Cut, Fault::CutWithoutRanges] {
        let (registry, daemon) = (Faulty::start(&layers, fault), Daemon::start());
        let name = format!("{}/app", registry.address);
        let lines = pull(&daemon, &name);
        let requests = registry.requests.lock().unwrap().join("\n");
        assert_eq!(id_of(&daemon, &format!("{name}:1")), Some(digest(&config(&layers))), "{fault:?}: {lines:?}\n{requests}");
        assert_eq!(requests.contains("bytes="), matches!(fault, Fault::Cut | Fault::CutWithoutRanges), "{fault:?}: {requests}");
    }
}

#[test]
fn wrong_bytes_and_a_registry_that_hangs_up_are_told_and_nothing_is_seen() {
    let layers = [noise(6, 50_000)];
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    for (fault, text) in [(Fault::WrongBytes, "damaged"), (Fault::HangUp, "can't reach the registry")] {
        let (registry, daemon) = (Faulty::start(&layers, fault), Daemon::start());
        let name = format!("{}/app", registry.address);
        let lines = pull(&daemon, &name);
        let error = lines.last().unwrap()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(text) && error.contains("layer sha256:"), "{fault:?}: {lines:?}");
        assert_eq!(id_of(&daemon, &format!("{name}:1")), None);
        assert_eq!(std::fs::read_dir(daemon.dir().join("root/tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(daemon.dir().join("root/layers")).unwrap().count(), 0);
    }
    let daemon = Daemon::start();
    let lines = pull(&daemon, "127.0.0.1:1/app");
    assert!(lines[0]["message"].as_str().unwrap().contains("can't reach the registry at http://127.0.0.1:1"), "{lines:?}");
}

#[test]
fn a_layer_that_may_not_be_handed_on_is_refused_before_anything_is_fetched() {
    let layers = [noise(7, 50_000), noise(8, 1_000)];
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let (registry, daemon) = (Faulty::start(&layers, Fault::Foreign), Daemon::start());
    let lines = pull(&daemon, &format!("{}/app", registry.address));
    let error = lines.last().unwrap()["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("nondistributable.v1.tar+gzip can't be fetched: their licence"), "{lines:?}");
    assert!(error.contains("layer sha256:"), "{lines:?}");
    assert_eq!(std::fs::read_dir(daemon.dir().join("root/layers")).unwrap().count(), 0);
    assert_eq!(registry.requests.lock().unwrap().iter().filter(|request| request.contains("/blobs/")).count(), 1, "the config");
}

#[test]
fn a_root_filesystem_is_imported() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("root.tar");
    std::fs::write(&file, layer(&[("etc/x", "imported")])).unwrap();
    let answer =
        ok(&daemon.curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/create?fromSrc=-&repo=imp&tag=1"]));
    assert!(answer.contains("\"status\":\"sha256:"), "{answer}");
    assert_eq!(ok(&daemon.curl(&["http://d/fsd/v1/images/imp%3A1/file?path=/etc/x"])), "imported");
    let refused = ok(&daemon.curl(&["-X", "POST", "-d", "", "http://d/images/create?fromSrc=-&repo=imp&changes=CMD+x"]));
    assert!(refused.contains("not supported"), "{refused}");
}
