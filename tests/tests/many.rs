//! Many images on the host at once: their layers are mounted once each, and nothing of them stays.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;

use serde_json::Value;
use system_tests::{Daemon, can, images, mounts_below, until};

/// Images on the host at once.
const IMAGES: usize = 200;
/// Layers of each, half of them its own.
const LAYERS: usize = 10;
/// Layers that a daemon holds though nobody uses them, and other descriptors that come and go.
const SPARE: usize = 64 + 24;

fn load(daemon: &Daemon) {
    let shared: Vec<_> = (0..LAYERS / 2).map(|n| images::layer(&[(&*format!("shared/{n}"), "below")])).collect();
    for number in 0..IMAGES {
        let own: Vec<_> =
            (shared.len()..LAYERS).map(|n| images::layer(&[(&*format!("own/{n}"), &*format!("{number}.{n}"))])).collect();
        let chain: Vec<&[u8]> = shared.iter().chain(&own).map(Vec::as_slice).collect();
        let (status, answer) =
            daemon.send("POST", "/images/load", &images::docker_archive(&format!("many:{number}"), &chain)).expect("an answer");
        assert_eq!(status, 200, "{answer}");
    }
}

fn info(daemon: &Daemon) -> Value {
    daemon.ask("GET", "/fsd/v1/info", None).1
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

fn list(daemon: &Daemon) -> Vec<Value> {
    daemon.ask("GET", "/fsd/v1/mounts", None).1.as_array().cloned().unwrap()
}

fn unmount(daemon: &Daemon, mount: &Value, query: &str) -> (u16, Value) {
    daemon.ask("DELETE", &format!("/fsd/v1/mounts/{}{query}", mount["id"].as_str().unwrap()), None)
}

fn mount_all(daemon: &Daemon) -> Vec<Value> {
    let mount = |number| {
        let (status, mounted) = daemon.ask("POST", &format!("/fsd/v1/images/many:{number}/mount"), None);
        assert_eq!(status, 201, "image {number}: {mounted}");
        mounted
    };
    (0..IMAGES).map(mount).collect()
}

#[test]
fn two_hundred_images_of_ten_layers_are_mounted_at_once_and_nothing_stays() {
    let mut daemon = Daemon::start();
    if !can("mounts of images", info(&daemon)["driver"] != "none") {
        return;
    }
    load(&daemon);
    let before = descriptors(&daemon);
    let mounts = mount_all(&daemon);
    let layers = LAYERS / 2 + IMAGES * (LAYERS - LAYERS / 2);
    assert_eq!(info(&daemon)["layers_mounted"], layers, "each layer once");
    assert_eq!(mounts_below(daemon.dir()), IMAGES, "layers are in no mount table");
    for (number, mount) in mounts.iter().enumerate() {
        let target = Path::new(mount["target"].as_str().unwrap());
        assert_eq!(std::fs::read_to_string(target.join("own/9")).unwrap(), format!("{number}.9"));
        assert_eq!(std::fs::read_dir(target.join("shared")).unwrap().count(), LAYERS / 2);
    }
    // One is in use: refused, then let go of when asked.
    let busy = std::fs::File::open(Path::new(mounts[17]["target"].as_str().unwrap()).join("own/7")).unwrap();
    for (number, mount) in mounts.iter().enumerate().filter(|(number, _)| number % 2 == 1) {
        assert_eq!(unmount(&daemon, mount, "").0, if number == 17 { 409 } else { 204 });
    }
    assert_eq!(unmount(&daemon, &mounts[17], "?lazy=true").0, 204);
    assert_eq!(std::io::read_to_string(&busy).unwrap(), "17.7");
    assert_eq!((list(&daemon).len(), mounts_below(daemon.dir())), (IMAGES / 2, IMAGES / 2));
    // The rest outlives the daemon.
    daemon.kill();
    daemon.restart();
    let rest = list(&daemon);
    assert!(rest.len() == IMAGES / 2 && rest.iter().all(|mount| mount["state"] == "mounted"), "{}", rest.len());
    for mount in &rest {
        assert_eq!(unmount(&daemon, mount, "").0, 204);
    }
    assert_eq!((list(&daemon).len(), mounts_below(daemon.dir())), (0, 0));
    // Mounted and unmounted once more by one daemon, few layers are held.
    for mount in mount_all(&daemon) {
        assert_eq!(unmount(&daemon, &mount, "").0, 204);
    }
    until("few layers are held", || info(&daemon)["layers_mounted"].as_u64().unwrap() <= 64);
    until("descriptors are closed", || descriptors(&daemon) <= before + SPARE);
    assert_eq!(std::fs::read_dir(daemon.dir().join("run/mnt")).unwrap().count(), 0);
}
