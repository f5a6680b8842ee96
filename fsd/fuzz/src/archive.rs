//! libFuzzer's way into the target of this name. The daemon is a program and no library: its files are taken in here.
#![no_main]
#![allow(dead_code)] // what the target does not reach

mod image;
#[path = "../../src/reference.rs"]
mod reference;
#[path = "../targets/archive.rs"]
mod target;

// `scripts/fuzz` gives a folder in memory.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::run(bytes, &std::env::temp_dir()));
