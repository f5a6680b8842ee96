//! Logs whose disk takes nothing.
#![allow(clippy::unwrap_used)] // a failed step fails the test

#[path = "common/mod.rs"]
mod common;

use std::path::Path;
use std::process::Command;

use common::{Box, able};
use engine::log::{DROPPED, Query, Reader, Record};

/// A file system of its own in a file, frozen or not; thawed and unmounted at the end, whatever happens.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let made = run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image));
        if !made || !run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at)) {
            println!("SKIPPED: a disk that stalls: needs mke2fs and loop devices");
            return None;
        }
        Some(Disk { dir })
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    fn freeze(&self, flag: &str) -> bool {
        run(Command::new("fsfreeze").arg(flag).arg(self.path()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.freeze("-u");
        let gone = (0..15_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            run(Command::new("umount").arg(self.path()))
        });
        assert!(gone || std::thread::panicking(), "the disk is still in use");
    }
}

fn run(command: &mut Command) -> bool {
    command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

fn records(path: &Path) -> Vec<Record> {
    let all = Query { stdout: true, stderr: true, ..Query::default() };
    let mut reader = Reader::open(path, all).unwrap();
    std::iter::from_fn(|| reader.read().unwrap()).collect()
}

#[test]
fn a_disk_that_stalls_holds_up_no_container_whose_log_may_lose_lines() {
    const LINES: u64 = 20_000;
    if !able() {
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let log = disk.path().join("log");
    let script = format!("echo begun; i=0; while [ $i -lt {LINES} ]; do echo line-number-$i-of-many; i=$((i+1)); done");
    let mut container = Box::new(&["sh", "-c", &script]);
    let options = container.options.log.as_mut().unwrap();
    (options.path, options.buffer) = (log.clone(), Some(64 << 10));
    container.launch().unwrap();
    let client = container.client();
    assert!(disk.freeze("-f"));
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.wait())
    };
    client.start().unwrap();
    // It waits for nobody: neither for its lines, nor for its end to be told.
    let exit = waiting.join().unwrap().or_else(|_| client.exit_record().map(Option::unwrap)).unwrap();
    assert_eq!(exit.code, 0);
    assert!(exit.unlogged > LINES / 2, "{}", exit.unlogged);
    assert!(disk.freeze("-u"));
    container.ended();
    let records = records(&log);
    assert_eq!(records[0].line, "begun\n", "the oldest lines are kept");
    assert_eq!(records.len() as u64 + exit.unlogged, LINES + 1, "each line is in the log, or counted");
}

#[test]
fn what_a_full_disk_does_not_take_is_counted_at_the_end() {
    const LINES: u64 = 5000;
    if !able() {
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let log = disk.path().join("log");
    let script = format!("i=0; while [ $i -lt {LINES} ]; do echo line-number-$i-of-many; i=$((i+1)); done");
    let mut container = Box::new(&["sh", "-c", &script]);
    let options = container.options.log.as_mut().unwrap();
    // All of it finds room in memory.
    (options.path, options.buffer) = (log.clone(), Some(4 << 20));
    container.launch().unwrap();
    let mut filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    for size in [1 << 20, 4096] {
        while std::io::Write::write_all(&mut filler, &vec![0; size]).and_then(|()| filler.sync_data()).is_ok() {}
    }
    let client = container.client();
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.wait())
    };
    client.start().unwrap();
    let exit = waiting.join().unwrap().or_else(|_| client.exit_record().map(Option::unwrap)).unwrap();
    container.ended();
    assert!(exit.unlogged > LINES / 2, "{}", exit.unlogged);
    assert_eq!(records(&log).len() as u64 + exit.unlogged, LINES, "each line is in the log, or counted");
}

#[test]
fn what_found_no_room_is_counted_by_the_line_after_it() {
    const LINES: u64 = 20_000;
    if !able() {
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let log = disk.path().join("log");
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo line-number-$i-of-many; i=$((i+1)); done; touch /tmp/said; \
         n=0; while [ ! -e /tmp/go ]; do sleep 0.05; n=$((n+1)); echo tick; done; echo last $n"
    );
    let mut container = Box::new(&["sh", "-c", &script]);
    let options = container.options.log.as_mut().unwrap();
    (options.path, options.buffer) = (log.clone(), Some(64 << 10));
    options.attributes.insert("tier".to_owned(), "front".to_owned());
    container.launch().unwrap();
    assert!(disk.freeze("-f"));
    let client = container.client();
    client.start().unwrap();
    let until = |done: &dyn Fn() -> bool| {
        let start = std::time::Instant::now();
        while !done() {
            assert!(start.elapsed() < std::time::Duration::from_secs(300), "it hangs: {}", container.shim_log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    let tree = container.tree();
    until(&|| tree.join("tmp/said").exists());
    assert!(disk.freeze("-u"));
    until(&|| records(&log).last().is_some_and(|last| last.line == "tick\n"));
    std::fs::write(tree.join("tmp/go"), "").unwrap();
    container.ended();
    let records = records(&log);
    let last = records.last().unwrap();
    assert_eq!(last.attributes["tier"], "front");
    let ticks: u64 = last.line.strip_prefix("last ").unwrap().trim().parse().unwrap();
    let dropped: u64 =
        records.iter().filter_map(|record| record.attributes.get(DROPPED)).map(|n| n.parse::<u64>().unwrap()).sum();
    assert!(dropped > LINES / 2, "{dropped}");
    assert_eq!(records.len() as u64 + dropped, LINES + 1 + ticks);
}
