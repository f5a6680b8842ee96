//! A whole daemon whose durable steps fail on purpose, each once, for good, or by killing it; the next daemon on the
//! same root finds the images of before or of after, every byte of them, and nothing else.

#![allow(clippy::unwrap_used)] // a failed step fails the test
#![cfg(debug_assertions)] // a release can't be made to fail

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::images::{docker_archive, layer};
use system_tests::{Daemon, PATIENCE, PATIENCE_SECONDS, ok, program, sh, swept};

/// More steps than any scenario has.
const MANY: usize = 120;

/// A daemon that is expected to fail.
struct Faulty {
    child: Child,
    dir: PathBuf,
    kills: bool,
}

impl Faulty {
    fn start(dir: &Path, plan: &str) -> Faulty {
        let log = std::fs::File::create(dir.join("faulty.log")).unwrap();
        let child = Command::new(program("fsd"))
            .env("FSD_FAULT", plan)
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--run")
            .arg(dir.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut faulty = Faulty { child, dir: dir.to_owned(), kills: plan.starts_with("kill") };
        let end = Instant::now() + PATIENCE;
        while faulty.child.try_wait().unwrap().is_none() && faulty.curl(&["http://d/_ping"]) != "OK" {
            assert!(Instant::now() < end, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        faulty
    }

    /// What it answers; nothing from one that is gone.
    fn curl(&self, arguments: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["-sSg", "--max-time", PATIENCE_SECONDS, "--unix-socket"])
            .arg(self.dir.join("run/fsd.sock"))
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends it. Returns whether the fault hit; one that kills has killed it then.
    fn end(mut self) -> bool {
        let hit = || std::fs::read_to_string(self.dir.join("faulty.log")).unwrap().contains("fault on purpose");
        // One that has said that it is being killed may take a moment; we are not in its way.
        if !(self.kills && hit()) {
            let _ = self.child.kill();
        }
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it says that it is killed, and goes on");
            std::thread::sleep(Duration::from_millis(1));
        };
        let hit = hit();
        assert!(!(self.kills && hit) || status.signal() == Some(9), "{status}");
        hit
    }
}

/// Waits until a daemon has swept what it threw away, or is not going to.
fn settle(dir: &Path) {
    let end = Instant::now() + PATIENCE;
    let swept = || std::fs::read_dir(dir.join("root/trash")).is_ok_and(|mut trash| trash.next().is_none());
    let hit = || std::fs::read_to_string(dir.join("faulty.log")).is_ok_and(|log| log.contains("fault on purpose"));
    while !swept() && !hit() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a daemon shows of its images, each of which can be looked into, and what lies on the disk for them.
fn state(daemon: &Daemon) -> String {
    let names: Vec<Value> = serde_json::from_str(&ok(&daemon.curl(&["http://d/images/json"]))).unwrap();
    for id in names.iter().map(|image| image["Id"].as_str().unwrap()) {
        let tree = ok(&daemon.curl(&[&format!("http://d/fsd/v1/images/{id}/tree?path=/&recursive=true")]));
        assert!(tree.contains("/base"), "{tree}");
    }
    let mut images: Vec<String> = serde_json::from_str::<Value>(&ok(&daemon.curl(&["http://d/images/json"])))
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|image| format!("{} {} {}", image["Id"], image["RepoTags"], image["Size"]))
        .collect();
    images.sort();
    let events = ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/check?data=true"]));
    assert!(events.contains("\"findings\":0"), "{events}");
    swept(daemon);
    format!("{}\n{}", images.join("\n"), sh(daemon.dir(), "cd root; find layers tmp trash | sort"))
}

/// Asks a daemon with curl's arguments, and gives its answer.
type Ask<'a> = &'a dyn Fn(&[&str]) -> String;

/// What is done to a daemon: its preparation, and what is done while steps fail.
struct Scenario {
    name: &'static str,
    prepare: fn(&Daemon),
    act: fn(Ask<'_>, &Path),
}

fn load(daemon: &Daemon, name: &str, files: &[(&str, &str)]) {
    let file = daemon.dir().join("prepare.tar");
    std::fs::write(&file, docker_archive(name, &[&layer(&[("base", "base")]), &layer(files)])).unwrap();
    assert!(ok(&daemon.curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"])).contains("Loaded"));
}

fn load_another(curl: Ask<'_>, dir: &Path) {
    let file = dir.join("new.tar");
    let large = "n".repeat(300_000);
    std::fs::write(&file, docker_archive("app:1", &[&layer(&[("base", "base")]), &layer(&[("new", &large)])])).unwrap();
    curl(&["-T", file.to_str().unwrap(), "-X", "POST", "http://d/images/load"]);
}

fn every_step(scenario: &Scenario) {
    let mut daemon = Daemon::start();
    (scenario.prepare)(&daemon);
    daemon.stop();
    let dir = daemon.dir().to_owned();
    sh(&dir, "cp -a root saved");
    daemon.restart();
    let before = state(&daemon);
    (scenario.act)(&|arguments| ok(&daemon.curl(arguments)), &dir);
    swept(&daemon);
    let after = state(&daemon);
    for fault in ["once", "for-good", "kill"] {
        let (mut hits, mut olds) = (0, 0);
        for at in 1..MANY {
            daemon.kill();
            sh(&dir, "rm -rf root run; cp -a saved root");
            let faulty = Faulty::start(&dir, &format!("{fault}@{at}"));
            (scenario.act)(&|arguments| faulty.curl(arguments), &dir);
            settle(&dir);
            let hit = faulty.end();
            daemon.restart();
            let found = state(&daemon);
            assert!(
                found == before || found == after,
                "{} {fault}@{at}: neither before nor after:\n{found}\nbefore: {before}\nafter: {after}",
                scenario.name
            );
            olds += usize::from(found == before);
            if !hit {
                assert_eq!(found, after, "{}: nothing failed", scenario.name);
                break;
            }
            hits = at;
        }
        assert!(hits > 0 && hits + 1 < MANY, "{}: {hits} steps", scenario.name);
        println!("{}: {fault}: {hits} steps, {olds} of them left it as it was", scenario.name);
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written_and_it_says_so() {
    let mut daemon = Daemon::start();
    load(&daemon, "old:1", &[("old", "o")]);
    daemon.stop();
    let (dir, mut refused) = (daemon.dir().to_owned(), 0);
    for at in 1.. {
        let faulty = Faulty::start(&dir, &format!("once@{at}"));
        load_another(&|arguments| faulty.curl(arguments), &dir);
        let log = std::fs::read_to_string(dir.join("faulty.log")).unwrap();
        let alive = faulty.curl(&["http://d/_ping"]) == "OK";
        if alive && log.contains("fault on purpose") && log.contains(": sync ") {
            for request in ["images/load", "images/old:1/tag?repo=again&tag=1", "volumes/create"] {
                let file = dir.join("new.tar");
                let body: &[&str] = match request {
                    "images/load" => &["-T", file.to_str().unwrap()],
                    "volumes/create" => &["-H", "Content-Type: application/json", "-d", "{}"],
                    _ => &[],
                };
                let answer = faulty.curl(&[body, &["-X", "POST", &format!("http://d/{request}")]].concat());
                assert!(answer.contains("the store refuses writes: an earlier sync to disk failed"), "{at} {request}: {answer}");
                assert!(answer.contains("check the disk, restart the daemon"), "{answer}");
            }
            assert!(faulty.curl(&["http://d/info"]).contains("the store refuses writes"));
            assert!(faulty.curl(&["http://d/images/json"]).contains("old:1"), "reading goes on");
            refused += 1;
        }
        faulty.end();
        daemon.restart();
        daemon.curl(&["-X", "DELETE", "http://d/images/app:1"]);
        daemon.stop();
        if !log.contains("fault on purpose") {
            break;
        }
    }
    assert!(refused >= 8, "{refused} syncs");
}

#[test]
fn an_image_is_loaded_or_it_is_not() {
    every_step(&Scenario { name: "load", prepare: |daemon| load(daemon, "old:1", &[("old", "o")]), act: load_another });
}

#[test]
fn an_image_is_removed_or_it_is_not() {
    every_step(&Scenario {
        name: "remove",
        prepare: |daemon| {
            load(daemon, "old:1", &[("old", "o")]);
            load(daemon, "app:1", &[("mine", "m")]);
        },
        act: |curl, _| drop(curl(&["-X", "DELETE", "http://d/images/app:1"])),
    });
}

#[test]
fn a_name_moves_or_stays() {
    every_step(&Scenario {
        name: "tag",
        prepare: |daemon| {
            load(daemon, "old:1", &[("old", "o")]);
            load(daemon, "app:1", &[("mine", "m")]);
        },
        act: |curl, _| drop(curl(&["-X", "POST", "http://d/images/old:1/tag?repo=app&tag=1"])),
    });
}

#[test]
fn what_nobody_names_is_collected_or_left() {
    every_step(&Scenario {
        name: "prune",
        prepare: |daemon| {
            load(daemon, "old:1", &[("old", "o")]);
            load(daemon, "app:1", &[("mine", "m")]);
            load(daemon, "app:1", &[("other", "m")]);
        },
        act: |curl, _| drop(curl(&["-X", "POST", "http://d/images/prune"])),
    });
}

#[test]
fn an_index_is_built_again_whatever_fails() {
    every_step(&Scenario {
        name: "rebuild",
        prepare: |daemon| {
            load(daemon, "old:1", &[("old", "o")]);
            // A daemon that starts finds what a crash of another left, too.
            sh(
                daemon.dir(),
                "mkdir -p root/tmp/left root/trash/left root/layers/$(printf 'a%.0s' {1..64}); echo > root/tmp/left/data",
            );
        },
        act: |curl, dir| {
            sh(dir, "rm root/layers/*/index");
            curl(&["http://d/fsd/v1/images/old%3A1/tree?path=/&recursive=true"]);
        },
    });
}
