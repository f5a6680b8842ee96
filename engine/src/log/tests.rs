use super::*;
use std::collections::BTreeMap;
use std::path::Path;

const NEVER: Options = Options { max_size: None, max_files: 1, compress: false, attributes: BTreeMap::new() };
const ALL: Query = Query { tail: None, since: None, until: None, stdout: true, stderr: true };

fn lines(path: &Path, query: Query) -> Vec<String> {
    let mut reader = Reader::open(path, query).unwrap();
    std::iter::from_fn(|| reader.read().unwrap()).map(|record| record.line).collect()
}

#[test]
fn lines_come_back_by_stream_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    writer.write(Stream::Stdout, b"one\ntw").unwrap();
    writer.write(Stream::Stderr, b"oops \"quoted\" \xff\n").unwrap();
    writer.write(Stream::Stdout, b"o\nthree").unwrap();
    writer.flush_partial().unwrap();
    assert_eq!(lines(&path, ALL), ["one\n", "oops \"quoted\" \u{fffd}\n", "two\n", "three"]);
    assert_eq!(lines(&path, Query { stderr: false, ..ALL }), ["one\n", "two\n", "three"]);
    let text = std::fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(r#"{"log":"one\n","stream":"stdout","time":"2"#) && first.ends_with("Z\"}"), "{first}");
    assert_eq!(first.len(), r#"{"log":"one\n","stream":"stdout","time":"2026-11-21T06:00:00.123456789Z"}"#.len());
}

#[test]
fn a_long_line_is_logged_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let long = "x".repeat(40_000);
    Writer::open(&path, NEVER).unwrap().write(Stream::Stdout, format!("{long}\n").as_bytes()).unwrap();
    let pieces = lines(&path, ALL);
    assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [16384, 16384, 40_001 - 2 * 16384]);
    assert_eq!(pieces.concat(), format!("{long}\n"));
}

#[test]
fn the_tail_is_found_from_the_end_whatever_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    for number in 0..3000 {
        let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
        writer.write(stream, format!("line {number} {}\n", "y".repeat(number % 97)).as_bytes()).unwrap();
    }
    let all = lines(&path, ALL);
    for tail in [0, 1, 2, 10, 999, 2999, 3000, 5000] {
        let want = &all[all.len().saturating_sub(tail)..];
        assert_eq!(lines(&path, Query { tail: Some(tail as u64), ..ALL }), want, "{tail}");
    }
    let errors = lines(&path, Query { stdout: false, ..ALL });
    assert_eq!(lines(&path, Query { stdout: false, tail: Some(5), ..ALL }), errors[errors.len() - 5..]);
}

#[test]
fn a_rotated_log_is_read_whole_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, Options { max_size: Some(2000), max_files: 4, ..NEVER }).unwrap();
    let mut follower = Reader::open(&path, ALL).unwrap();
    let mut followed = Vec::new();
    let mut written = Vec::new();
    for number in 0..60 {
        let line = format!("line {number}\n");
        writer.write(Stream::Stdout, line.as_bytes()).unwrap();
        written.push(line);
        while let Some(record) = follower.read().unwrap() {
            followed.push(record.line);
        }
    }
    assert_eq!(followed, written);
    assert!(rotated(&path, 2).exists() && !rotated(&path, 4).exists());
    let kept = lines(&path, ALL);
    assert_eq!(kept, written[written.len() - kept.len()..]);
    assert!(kept.len() > 20);
    assert_eq!(lines(&path, Query { tail: Some(30), ..ALL }), written[30..]);
}

#[test]
fn a_log_as_it_is_ends_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let as_it_is = |tail| Reader::open_as_it_is(&path, Query { tail, ..ALL }).unwrap();
    let mut before = as_it_is(None);
    let mut writer = Writer::open(&path, Options { max_size: Some(1000), max_files: 4, ..NEVER }).unwrap();
    let mut write = |number: u32| writer.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
    (0..25).for_each(&mut write);
    let (mut whole, mut last, mut none) = (as_it_is(None), as_it_is(Some(12)), as_it_is(Some(0)));
    // Every line that is read, one more is written, and files are rotated.
    let mut next = 25..;
    let mut all = |reader: &mut Reader| -> Vec<String> {
        let one_more = || {
            next.by_ref().take(1).for_each(&mut write);
            reader.read().unwrap().map(|record| record.line)
        };
        std::iter::from_fn(one_more).take(1000).collect()
    };
    assert_eq!(all(&mut before), [""; 0]);
    let expected: Vec<String> = (0..25).map(|number| format!("line {number}\n")).collect();
    assert_eq!(all(&mut whole), expected);
    assert_eq!(all(&mut last), expected[13..]);
    assert_eq!(all(&mut none), [""; 0]);
}

#[test]
fn a_torn_line_is_skipped_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    Writer::open(&path, NEVER).unwrap().write(Stream::Stdout, b"before\n").unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
    Writer::open(&path, NEVER).unwrap().write(Stream::Stdout, b"after\n").unwrap();
    assert_eq!(lines(&path, ALL), ["before\n", "after\n"]);
    assert_eq!(lines(&path, Query { tail: Some(1), ..ALL }), ["after\n"]);
}

#[test]
fn times_bound_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    writer.write(Stream::Stdout, b"early\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let between = jiff::Timestamp::now().as_nanosecond() as i64;
    std::thread::sleep(std::time::Duration::from_millis(5));
    writer.write(Stream::Stdout, b"late\n").unwrap();
    assert_eq!(lines(&path, Query { since: Some(between), ..ALL }), ["late\n"]);
    assert_eq!(lines(&path, Query { until: Some(between), ..ALL }), ["early\n"]);
}

#[test]
fn several_rotations_between_two_reads_lose_nothing() {
    for max_files in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, Options { max_size: Some(500), max_files, ..NEVER }).unwrap();
        let mut follower = Reader::open(&path, ALL).unwrap();
        let (mut followed, mut written) = (Vec::new(), Vec::new());
        // As many files as are kept are filled between two reads, and then some.
        for round in 0..30 {
            for number in 0..(5 * max_files.min(3)) {
                let line = format!("round {round} line {number}\n");
                writer.write(Stream::Stdout, line.as_bytes()).unwrap();
                written.push(line);
            }
            while let Some(record) = follower.read().unwrap() {
                followed.push(record.line);
            }
        }
        assert_eq!(followed, written, "{max_files}");
        assert!(!rotated(&path, max_files).exists());
    }
}

#[test]
fn a_log_that_is_cut_by_hand_is_followed_from_its_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    writer.write(Stream::Stdout, b"before one\nbefore two\n").unwrap();
    let mut follower = Reader::open(&path, ALL).unwrap();
    while follower.read().unwrap().is_some() {}
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert!(follower.read().unwrap().is_none());
    writer.write(Stream::Stdout, b"after\n").unwrap();
    assert_eq!(follower.read().unwrap().unwrap().line, "after\n");
}

#[test]
fn a_rotation_in_progress_hides_no_older_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, Options { max_size: Some(100), max_files: 5, ..NEVER }).unwrap();
    for number in 0..8 {
        writer.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
    }
    let all = lines(&path, ALL);
    // The moments in which each name is free.
    let aside = dir.path().join("aside");
    for free in [path.clone(), rotated(&path, 1), rotated(&path, 2)] {
        let own = lines_of_one(&free);
        durable_rename(&free, &aside);
        let expected: Vec<_> = all.iter().filter(|line| !own.contains(line)).cloned().collect();
        assert_eq!(lines(&path, ALL), expected, "{}", free.display());
        durable_rename(&aside, &free);
    }
}

fn durable_rename(from: &Path, to: &Path) {
    fs_base::durable::replace(from, to).unwrap();
}

fn lines_of_one(path: &Path) -> Vec<String> {
    let entries = std::fs::read_to_string(path).unwrap();
    entries.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().into()).collect()
}

#[test]
fn bytes_are_escaped_as_docker_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    writer.write(Stream::Stdout, b"<a>&\t\x1b[1m\"\\\r \xe2\x82 \xff\xfe \xe2\x80\xa8 \xf0\x9f\x8d\x8e\n").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let expected = r#"{"log":"\u003ca\u003e\u0026\u0009\u001b[1m\"\\\r \ufffd\ufffd \ufffd\ufffd \u2028 🍎\n","stream":"#;
    assert!(text.starts_with(expected), "{text}");
    // Whatever bytes come: one line of JSON, and what a decoder makes of it is the same text.
    let mut seed = 7_u64;
    for length in 0..200 {
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        let bytes: Vec<u8> = (0..length).map(|_| random()).filter(|byte| *byte != b'\n').collect();
        std::fs::write(&path, "").unwrap();
        writer.write(Stream::Stderr, &[&bytes[..], b"\n"].concat()).unwrap();
        let expected: String = bytes
            .utf8_chunks()
            .map(|chunk| format!("{}{}", chunk.valid(), "\u{fffd}".repeat(chunk.invalid().len())))
            .chain(["\n".to_owned()])
            .collect();
        assert_eq!(lines(&path, ALL), [expected]);
    }
}

#[test]
fn however_output_is_cut_the_lines_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let output: Vec<u8> =
        (0..400).flat_map(|n| format!("{n} {}\n", "é".repeat(n * 7 % 90)).into_bytes()).chain(*b"end").collect();
    let whole = dir.path().join("whole");
    let mut writer = Writer::open(&whole, NEVER).unwrap();
    writer.write(Stream::Stdout, &output).unwrap();
    writer.flush_partial().unwrap();
    let expected = lines(&whole, ALL);
    assert_eq!(expected.concat().as_bytes(), output);
    for size in [1, 2, 7, 100, 4096] {
        let path = dir.path().join(size.to_string());
        let mut writer = Writer::open(&path, Options { max_size: Some(9000), max_files: 100, ..NEVER }).unwrap();
        output.chunks(size).for_each(|piece| writer.write(Stream::Stdout, piece).unwrap());
        writer.flush_partial().unwrap();
        assert_eq!(lines(&path, ALL), expected, "{size}");
        assert_eq!(lines(&path, Query { tail: Some(37), ..ALL }), expected[expected.len() - 37..], "{size}");
    }
}

#[test]
fn a_corrupt_file_is_read_in_little_memory_and_hides_nothing_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, vec![b'x'; 5 << 20]).unwrap();
    let mut writer = Writer::open(&path, NEVER).unwrap();
    writer.write(Stream::Stdout, b"after\n").unwrap();
    let mut reader = Reader::open(&path, ALL).unwrap();
    assert_eq!(reader.read().unwrap().unwrap().line, "after\n");
    assert!(reader.buffered() < 2 << 20);
    assert_eq!(lines(&path, Query { tail: Some(3), ..ALL }), ["after\n"]);
}

#[test]
fn a_full_disk_costs_lines_but_tears_none_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "log-test"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: mount: needs root and a tmpfs");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, Options { max_size: Some(40_000), max_files: 3, ..NEVER }).unwrap();
        let line = format!("{}\n", "z".repeat(900));
        let refused = (0..200).filter(|_| writer.write(Stream::Stdout, line.as_bytes()).is_err()).count() as u64;
        assert!(refused > 100, "{refused}");
        assert!(writer.lost() > 100 && writer.lost() <= refused, "{} {refused}", writer.lost());
        std::fs::remove_file(rotated(&path, 1)).unwrap();
        writer.write(Stream::Stdout, b"room\n").unwrap();
        let all = lines(&path, ALL);
        assert_eq!(all.last().unwrap(), "room\n");
        let mut reader = Reader::open(&path, ALL).unwrap();
        let told: Vec<String> =
            std::iter::from_fn(|| reader.read().unwrap()).filter_map(|mut line| line.attributes.remove(DROPPED)).collect();
        assert_eq!(told.last().unwrap(), &writer.lost().to_string(), "the next line tells how many were lost");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    });
    std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    outcome.unwrap();
}

/// Run by hand: `cargo test --release -p engine log::tests::how_fast -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_fast() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(&path, NEVER).unwrap();
    let line = format!("{}\n", "a".repeat(99));
    let batch = line.repeat(160);
    let start = std::time::Instant::now();
    for _ in 0..4000 {
        writer.write(Stream::Stdout, batch.as_bytes()).unwrap();
    }
    let mib = (4000 * batch.len()) as f64 / (1 << 20) as f64;
    println!("16 KB at a time: {:.0} MiB/s of output", mib / start.elapsed().as_secs_f64());
    let start = std::time::Instant::now();
    for _ in 0..100_000 {
        writer.write(Stream::Stdout, line.as_bytes()).unwrap();
    }
    println!("a line at a time: {:.2} us each", start.elapsed().as_secs_f64() * 10.0);
    let size = std::fs::metadata(&path).unwrap().len() >> 20;
    let start = std::time::Instant::now();
    assert_eq!(lines(&path, Query { tail: Some(10), ..ALL }).len(), 10);
    println!("tail 10 of {size} MiB: {:.3} ms", start.elapsed().as_secs_f64() * 1000.0);
    let start = std::time::Instant::now();
    let count = lines(&path, ALL).len();
    println!("{count} lines read: {:.0} MiB/s of file", size as f64 / start.elapsed().as_secs_f64());
}
