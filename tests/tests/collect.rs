//! Layers that come and go at once: work that is done once, prunes that take nothing from a load, disks that are full,
//! and layers that are bad.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use system_tests::images::{config, digest, docker_archive, layer, oci_archive};
use system_tests::registry::{Fault, Faulty};
use system_tests::{Daemon, PATIENCE_SECONDS, may_mount, ok, sh, swept, until};

/// Text that does not compress, different for each seed.
fn noise(seed: u64, size: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + (state >> 58) as u8)
    };
    (0..size).map(|_| next()).collect()
}

fn layers(seed: u64, count: u64, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| layer(&[(&format!("file{n}"), &noise(seed + n, size))])).collect()
}

fn borrowed(layers: &[Vec<u8>]) -> Vec<&[u8]> {
    layers.iter().map(Vec::as_slice).collect()
}

/// An upload that takes its time.
fn slow_load(daemon: &Daemon, file: &Path, rate: &str) -> Child {
    Command::new("curl")
        .args(["-sS", "--max-time", PATIENCE_SECONDS, "--limit-rate", rate, "--unix-socket", daemon.socket().to_str().unwrap()])
        .args(["-X", "POST", "-T", file.to_str().unwrap(), "http://d/images/load"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn answer(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn load(daemon: &Daemon, name: &str, bytes: &[u8]) -> String {
    let file = daemon.dir().join(name);
    std::fs::write(&file, bytes).unwrap();
    ok(&daemon.curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"]))
}

fn talkative() -> Daemon {
    Daemon::start_in(tempfile::tempdir().unwrap(), &["--log", "debug"])
}

fn read_in(daemon: &Daemon) -> usize {
    daemon.log().matches("layer read in").count()
}

fn entries(daemon: &Daemon, folder: &str) -> usize {
    std::fs::read_dir(daemon.dir().join("root").join(folder)).unwrap().count()
}

#[test]
fn two_loads_of_an_image_at_once_read_each_layer_in_once() {
    let image = layers(1, 3, 400_000);
    let (plain, oci) = (docker_archive("app:1", &borrowed(&image)), oci_archive("docker.io/library/app:1", &borrowed(&image)));
    for (what, bytes) in [("docker", plain), ("oci, compressed", oci)] {
        let daemon = talkative();
        let file = daemon.dir().join("i.tar");
        std::fs::write(&file, bytes).unwrap();
        let loads: Vec<Child> = ["900k", "1100k", "2M"].map(|rate| slow_load(&daemon, &file, rate)).into();
        for load in loads {
            let answer = answer(load);
            assert!(answer.contains("Loaded image"), "{what}: {answer}");
        }
        assert_eq!(read_in(&daemon), 3, "{what}:\n{}", daemon.log());
        daemon.checks_clean();
    }
}

#[test]
fn what_only_looks_like_a_layer_under_way_is_read_in_for_itself() {
    let daemon = talkative();
    // The same names, sizes and first headers, and other bytes after a while.
    let (one, mut other) = (layers(10, 1, 600_000), layers(10, 1, 600_000));
    other[0][500_000] ^= 1;
    let files: Vec<_> = [("one:1", &one), ("other:1", &other)]
        .map(|(name, layers)| {
            let file = daemon.dir().join(name.replace(':', ""));
            std::fs::write(&file, docker_archive(name, &borrowed(layers))).unwrap();
            file
        })
        .into();
    let first = slow_load(&daemon, &files[0], "500k");
    std::thread::sleep(Duration::from_millis(200));
    let second = slow_load(&daemon, &files[1], "10M");
    assert!(answer(first).contains("Loaded image: one:1"));
    assert!(answer(second).contains("Loaded image: other:1"));
    assert_eq!(read_in(&daemon), 2);
    daemon.checks_clean();
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    let image = layers(20, 4, 200_000);
    let (registry, daemon) = (Faulty::start(&borrowed(&image), Fault::None), talkative());
    let url = format!("http://d/images/create?fromImage={}/app&tag=1", registry.address);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| ok(&daemon.curl(&["-X", "POST", &url])))).collect();
        for pull in pulls {
            let said = pull.join().unwrap();
            assert!(said.contains("Status: "), "{said}");
        }
    });
    assert_eq!(read_in(&daemon), 4);
    let config = digest(&config(&borrowed(&image)));
    let blobs =
        registry.requests.lock().unwrap().iter().filter(|line| line.contains("/blobs/") && !line.contains(&config)).count();
    assert_eq!(blobs, 4);
    daemon.checks_clean();
}

#[test]
fn a_load_that_is_given_up_gives_its_layers_back() {
    let daemon = Daemon::start();
    let image = [layers(30, 2, 400_000), layers(32, 1, 6_000_000)].concat();
    let archive = docker_archive("app:1", &borrowed(&image));
    // Two layers and so much of the third that the daemon has looked behind them, and then nothing more.
    let mut load = UnixStream::connect(daemon.socket()).unwrap();
    write!(load, "POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n", archive.len()).unwrap();
    load.write_all(&archive[..archive.len() - 2_000_000]).unwrap();
    until("layers come in", || entries(&daemon, "layers") == 2);
    // Held by the load: nothing refers to them, and a prune leaves them.
    ok(&daemon.curl(&["-X", "POST", "http://d/images/prune?filters={%22dangling%22:{%22false%22:true}}"]));
    assert_eq!(entries(&daemon, "layers"), 2);
    drop(load);
    until("layers of a load that is gone go too", || {
        entries(&daemon, "layers") + entries(&daemon, "tmp") + entries(&daemon, "trash") == 0
    });
    daemon.checks_clean();
}

#[test]
fn prunes_take_nothing_from_loads_and_readers() {
    let daemon = Daemon::start();
    // Three images that share a layer.
    let shared = layer(&[("shared", &noise(40, 50_000))]);
    let files: Vec<_> = (0..3)
        .map(|n| {
            let own = layer(&[("own", &noise(50 + n, 50_000))]);
            let file = daemon.dir().join(format!("i{n}"));
            std::fs::write(&file, docker_archive(&format!("app{n}:1"), &[&shared, &own])).unwrap();
            file
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loaders: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(n, file)| {
                let daemon = &daemon;
                scope.spawn(move || {
                    for round in 0..25 {
                        let answer = ok(&daemon.curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"]));
                        assert!(answer.contains("Loaded image"), "round {round}: {answer}");
                        let tree = ok(&daemon.curl(&[&format!("http://d/fsd/v1/images/app{n}%3A1/tree?path=/")]));
                        // Pruned by now, or whole.
                        assert!(tree.contains("No such image") || tree.contains("/shared"), "round {round}: {tree}");
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let answer =
                    ok(&daemon.curl(&["-X", "POST", "http://d/images/prune?filters={%22dangling%22:{%22false%22:true}}"]));
                assert!(answer.contains("SpaceReclaimed"), "{answer}");
            }
        });
        let results: Vec<_> = loaders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
    daemon.checks_clean();
    ok(&daemon.curl(&["-X", "POST", "http://d/images/prune?filters={%22dangling%22:{%22false%22:true}}"]));
    swept(&daemon);
    assert_eq!((entries(&daemon, "layers"), entries(&daemon, "tmp"), entries(&daemon, "trash")), (0, 0, 0));
}

/// Bytes in use on the file system of a folder.
fn used(dir: &Path) -> u64 {
    sh(dir, "stat -f -c '%b %f %S' root | awk '{ print ($1 - $2) * $3 }'").trim().parse().unwrap()
}

#[test]
fn a_disk_that_fills_up_in_any_layer_gives_back_what_the_load_took() {
    if !may_mount() {
        return;
    }
    let image = layers(60, 4, 3 << 20);
    for megabytes in [5, 8, 11] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        sh(dir.path(), &format!("mount -t tmpfs -o size={megabytes}m fsd-test root"));
        let daemon = Daemon::start_in(dir, &[]);
        load(&daemon, "small", &docker_archive("small:1", &[&layer(&[("small", "s")])]));
        let before = (used(daemon.dir()), sh(daemon.dir(), "find root/layers root/tmp root/trash | sort"));
        let said = load(&daemon, "large", &docker_archive("large:1", &borrowed(&image)));
        let error: Value = serde_json::from_str(&said).unwrap();
        let message = error["message"].as_str().unwrap_or_else(|| panic!("{megabytes}: {said}"));
        assert!(message.contains("no space left on device") && message.contains("layer "), "{megabytes}: {said}");
        let after = (used(daemon.dir()), sh(daemon.dir(), "find root/layers root/tmp root/trash | sort"));
        assert_eq!(after.1, before.1, "{megabytes}");
        // The write-ahead log of the database may have grown by a few rows.
        assert!(after.0 < before.0 + (300 << 10), "{megabytes}: {} bytes before, {} after", before.0, after.0);
        daemon.checks_clean();
        assert!(load(&daemon, "again", &docker_archive("again:1", &[&layer(&[("again", "a")])])).contains("Loaded"), "writable");
    }
}

#[test]
fn a_bad_layer_in_a_chain_names_itself() {
    let image = layers(70, 3, 100_000);
    let middle = digest(&image[1]);
    for (what, harm) in [
        ("its data is gone", "rm data"),
        ("its data is cut short", "truncate -s 40000 data"),
        ("its data is cut short and its index is gone", "truncate -s 40000 data; rm index"),
        ("it is gone", "rm data index"),
        ("nothing of it makes sense", "echo nonsense > data; rm index"),
    ] {
        let mut daemon = Daemon::start();
        load(&daemon, "i", &docker_archive("app:1", &borrowed(&image)));
        daemon.stop();
        sh(daemon.dir(), &format!("cd root/layers/{}; {harm}", &middle[7..]));
        daemon.restart();
        let mut requests = vec![daemon.curl(&["http://d/fsd/v1/images/app%3A1/tree?path=/"])];
        if may_mount() {
            requests.push(daemon.curl(&["-X", "POST", "http://d/fsd/v1/images/app%3A1/mount"]));
        }
        for request in &requests {
            let said: Value = serde_json::from_str(&ok(request)).unwrap();
            assert!(said["message"].as_str().unwrap().contains(&middle), "{what}: {said}");
            assert!(said["hint"].as_str().unwrap().contains("load or pull"), "{what}: {said}");
        }
        load(&daemon, "again", &docker_archive("app:1", &borrowed(&image)));
        daemon.checks_clean();
    }
}

#[test]
fn on_a_disk_with_little_or_nothing_left_loads_fail_cleanly_and_removals_work() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    sh(dir.path(), "mount -t tmpfs -o size=6m fsd-test root");
    let mut daemon = Daemon::start_in(dir, &[]);
    load(&daemon, "small", &docker_archive("small:1", &[&layer(&[("small", "s")])]));
    let image = layers(90, 3, 150_000);
    let bytes = docker_archive("app:1", &borrowed(&image));
    let listing = |daemon: &Daemon| sh(daemon.dir(), "find root/layers root/tmp root/trash | sort");
    let (before, mut loaded, mut refused) = (listing(&daemon), 0, 0);
    for kilobytes in (0..900).step_by(24) {
        // All but this much of the disk is taken by others.
        sh(
            daemon.dir(),
            &format!(
                "rm -f root/filler; free=$(stat -f -c '%f' root); head -c $((free * 4096 - {kilobytes} * 1024)) /dev/zero > root/filler"
            ),
        );
        let said = load(&daemon, "i", &bytes);
        if said.contains("Loaded image") {
            loaded += 1;
            let (status, answer) = daemon.ask("DELETE", "/images/app:1", None);
            assert_eq!(status, 200, "{kilobytes} KiB: {answer}");
        } else {
            refused += 1;
            let error: Value = serde_json::from_str(&said).unwrap();
            assert!(error["hint"].as_str().unwrap().contains("free some space"), "{kilobytes} KiB: {said}");
        }
        swept(&daemon);
        assert_eq!(listing(&daemon), before, "{kilobytes} KiB");
    }
    assert!(loaded > 3 && refused > 10, "{loaded} loaded, {refused} refused");
    // With nothing at all left: a restart, a check, and giving space back.
    sh(daemon.dir(), "rm -f root/filler; cat /dev/zero > root/filler || true");
    daemon.checks_clean();
    daemon.stop();
    sh(daemon.dir(), "cat /dev/zero >> root/filler || true");
    daemon.restart();
    let (status, answer) = daemon.ask("DELETE", "/images/small:1", None);
    assert_eq!(status, 200, "{answer}");
    sh(daemon.dir(), "rm root/filler");
    daemon.checks_clean();
}
