use super::*;
use std::path::Path;

const NEVER: Options = Options { max_size: None, max_files: 1 };
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
    let mut writer = Writer::open(&path, Options { max_size: Some(2000), max_files: 4 }).unwrap();
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
