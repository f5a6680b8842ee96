//! What images have in common by content, as people ask for it.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use serde_json::Value;
use system_tests::images::{docker_archive, layer};
use system_tests::{Daemon, fails, ok};

fn load(daemon: &Daemon, name: &str, layers: &[&[u8]]) {
    let file = daemon.dir().join("archive.tar");
    std::fs::write(&file, docker_archive(name, layers)).unwrap();
    ok(&daemon.ctl(&["load", "-q", "-i", file.to_str().unwrap()]));
}

#[test]
fn what_two_images_have_in_common_is_told_to_the_byte() {
    let daemon = Daemon::start();
    let (big, small) = ("b".repeat(100_000), "s".repeat(3_000));
    let base = layer(&[("base", "of both"), ("lib/one", &big), ("lib/two", &small)]);
    let first = layer(&[("copy/of-one", &big), ("own", "mine"), ("own2", "mine")]);
    let second = layer(&[("other/of-one", &big), ("other/two", &small), ("third", "is unlike any other")]);
    load(&daemon, "a:1", &[&base, &first]);
    load(&daemon, "b:1", &[&base, &second]);

    let table = ok(&daemon.ctl(&["image", "duplicates", "-b", "a:1", "b:1"]));
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["AGAIN", "BYTES", "CONTENTS", "FILES", "LAYERS"]);
    assert_eq!(rows[1], ["200000", "100000", "1", "3", "a:1#0", "(+1),", "a:1#1,", "b:1#1"]);
    assert_eq!(rows[2], ["3000", "3000", "1", "2", "a:1#0", "(+1),", "b:1#1"]);
    assert_eq!(rows[3], ["4", "4", "1", "2", "a:1#1"]);
    let total = table.lines().last().unwrap();
    assert_eq!(total, "Total: 9 files of 306034 in 3 layers; 203004 of that are copies of what is there already");
    let all = ok(&daemon.ctl(&["image", "dedup", "-b"]));
    assert_eq!(all.lines().last().unwrap(), total, "without a name: all images");

    let files = ok(&daemon.ctl(&["image", "duplicates", "--files=2", "--format", "{{.Layer}} {{.Path}}", "b:1"]));
    assert_eq!(files, "b:1#0 /lib/one\nb:1#1 /other/of-one\nb:1#0 /lib/two\nb:1#1 /other/two\n");
    let answer: Value = serde_json::from_str(&ok(&daemon.curl(&["http://d/fsd/v1/duplicates?images=b:1,b:1&files=1"]))).unwrap();
    assert_eq!((&answer["again"], &answer["contents"][0]["size"]), (&103_000.into(), &100_000.into()));
    assert_eq!(answer["layers"][0]["images"], serde_json::json!([{"image": "b:1", "layer": 0}]));
    assert!(fails(&daemon.ctl(&["image", "duplicates", "nosuch"])).contains("No such image: nosuch:latest"));
    let none = ok(&daemon.ctl(&["image", "rm", "-f", "a:1", "b:1"]));
    assert!(none.contains("Deleted"), "{none}");
    assert!(ok(&daemon.ctl(&["image", "duplicates"])).contains("Total: 0 files of 0B in 0 layers; 0B of that"));
}
