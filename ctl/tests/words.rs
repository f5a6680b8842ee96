//! What the program says when no daemon is asked or none answers: help, usage errors, completions, a missing daemon.

#![allow(clippy::unwrap_used)] // a test may panic

use std::process::{Command, Output};

fn ctl(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctl")).args(words).env_remove("FSD_HOST").env_remove("COLUMNS").output().unwrap()
}

/// Exit code, standard output and standard error, as one text.
fn said(words: &[&str]) -> String {
    let output = ctl(words);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    format!("exit {}\n--- out\n{out}--- err\n{err}", output.status.code().unwrap())
}

#[test]
fn help() {
    insta::assert_snapshot!("help", said(&["--help"]));
    insta::assert_snapshot!("help_run", said(&["run", "--help"]));
    insta::assert_snapshot!("help_cp", said(&["cp", "--help"]));
    insta::assert_snapshot!("help_image", said(&["image", "--help"]));
    insta::assert_snapshot!("help_ps", said(&["ps", "--help"]));
}

#[test]
fn usage_errors() {
    insta::assert_snapshot!("unknown_verb", said(&["bogus"]));
    insta::assert_snapshot!("unknown_flag", said(&["run", "--bogus", "image"]));
    insta::assert_snapshot!("missing_argument", said(&["rm"]));
    insta::assert_snapshot!("bad_filter", said(&["-H", "unix:///nonexistent/fsd.sock", "ps", "-f", "bad"]));
    insta::assert_snapshot!(
        "bad_mount",
        said(&["-H", "unix:///nonexistent/fsd.sock", "run", "--mount", "type=bind,dst=/a,colour=red", "image"])
    );
    insta::assert_snapshot!("bad_host", said(&["-H", "tcp://localhost:1", "ps"]));
}

#[test]
fn no_daemon() {
    insta::assert_snapshot!("no_daemon", said(&["-H", "unix:///nonexistent/fsd.sock", "ps"]));
    insta::assert_snapshot!("no_daemon_run", said(&["-H", "unix:///nonexistent/fsd.sock", "run", "image"]));
}

#[test]
fn options_after_the_image_belong_to_the_command() {
    let output = ctl(&["-H", "unix:///nonexistent/fsd.sock", "run", "image", "--bogus", "-it"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("Cannot connect"), "{error}");
}

#[test]
fn a_negative_number_is_the_value_of_the_flag_before_it() {
    let on = |words: &[&str]| {
        let output = ctl(&[&["-H", "unix:///nonexistent/fsd.sock"], words].concat());
        String::from_utf8(output.stderr).unwrap()
    };
    for flag in ["-c", "--cpu-shares", "--cpu-period", "--cpu-quota", "--pids-limit", "--memory-swap", "--cpus"] {
        for verb in [&["run", flag, "-1", "image"][..], &["update", flag, "-1", "c1"]] {
            assert!(on(verb).contains("Cannot connect"), "{verb:?}: {}", on(verb));
        }
    }
    for verb in
        [&["run", "--oom-score-adj", "-1", "image"][..], &["run", "--stop-timeout", "-1", "image"], &["logs", "-n", "-1", "c1"]]
    {
        assert!(on(verb).contains("Cannot connect"), "{verb:?}: {}", on(verb));
    }
    // What docker refuses is refused for what it is, not for its minus.
    for (words, said) in [
        (["run", "-m", "-1", "image"], "invalid size: '-1'"),
        (["run", "--shm-size", "-1k", "image"], "invalid size: '-1k'"),
        (["run", "--blkio-weight", "-1", "image"], "-1"),
    ] {
        assert!(on(&words).contains(said) && !on(&words).contains("unexpected argument"), "{words:?}: {}", on(&words));
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(ctl(&["completions", shell]).stdout.len() > 1000, "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(ctl(&["man", dir.path().to_str().unwrap()]).status.success());
    for page in ["ctl.1", "ctl-run.1", "ctl-image-mount.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}
