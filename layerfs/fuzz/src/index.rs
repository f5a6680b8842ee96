//! libFuzzer's way into the target of this name.
#![no_main]

#[path = "../targets/index.rs"]
mod target;

// `scripts/fuzz` gives a folder in memory.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::run(bytes, &std::env::temp_dir()));
