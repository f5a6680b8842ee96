//! How many files a process may have open.
//!
//! Each mounted layer is a descriptor, so a daemon with hundreds of images mounted needs more than the 1024 that a
//! process gets by custom; its children shall find the custom all the same, as select(2) can't take more.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::{IoContext, Result};

/// What the limit was before it was raised.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises this process's limit to the most that it may have.
pub fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let _ = BEFORE.set(limit);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).at("raise", "limit of open files")
}

/// Gives a child the limit that this process had before it was raised; none is changed if none was raised.
pub fn give_custom_open_files(child: &std::process::Child) -> Result<()> {
    let Some(limit) = BEFORE.get() else { return Ok(()) };
    prlimit(Some(Pid::from_child(child)), Resource::Nofile, *limit).at("set", "limit of open files").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_gets_what_was_before() {
        let before = getrlimit(Resource::Nofile);
        raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        give_custom_open_files(&child).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let shown = before.current.map_or("unlimited".to_owned(), |number| number.to_string());
        assert_eq!(line.split_whitespace().nth(3), Some(&*shown));
    }
}
