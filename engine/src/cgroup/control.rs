//! Control files: one value in, lines out.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use fs_base::{Error, IoContext, Result};
use rustix::io::Errno;

/// One value for one control file, and what the user hears if this kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller that the file is of.
    pub(super) controller: &'static str,
    /// The file's name.
    pub(super) file: String,
    /// What to write.
    pub(super) value: String,
    /// The warning if it can't be done; such a setting is no error, as in Docker.
    pub(super) discarded: &'static str,
}

impl Setting {
    pub(super) fn new(
        controller: &'static str,
        file: impl Into<String>,
        value: impl std::fmt::Display,
        discarded: &'static str,
    ) -> Setting {
        Setting { controller, file: file.into(), value: value.to_string(), discarded }
    }

    /// Writes it into the controller's directory, if there is one.
    pub(super) fn write(&self, dir: Option<&Path>, warnings: &mut Vec<String>) -> Result<()> {
        let done = match dir.map(|dir| write_if_there(&dir.join(&self.file), &self.value)) {
            // The file is there, but not for this device: its scheduler knows no weights.
            Some(Err(error)) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => false,
            other => other.unwrap_or(Ok(false))?,
        };
        if !done {
            warn(warnings, self.discarded);
        }
        Ok(())
    }
}

/// Adds a warning once.
pub(super) fn warn(warnings: &mut Vec<String>, text: &str) {
    if !text.is_empty() && !warnings.iter().any(|known| known == text) {
        warnings.push(text.to_owned());
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // Never created: a file that is not there is a thing that this kernel can't do.
    OpenOptions::new().write(true).truncate(true).open(path)
}

/// Writes a value. The error names the file and the value.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    let mut file = open(path).at("open", path)?;
    file.write_all(value.as_bytes()).map_err(|error| Error::io(&format!("write {value:?} to"), path, error))
}

/// Writes a value; `false` if there is no such file.
pub(super) fn write_if_there(path: &Path, value: &str) -> Result<bool> {
    match write(path, value) {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
        other => other.map(|()| true),
    }
}

/// The text of a control file without the last line's end.
pub(super) fn read(path: &Path) -> Result<String> {
    let mut text = std::fs::read_to_string(path).at("read", path)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// As [`read`]; `None` if there is no such file, or its cgroup has just been removed.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether an error says that the cgroup, or the file, is not there.
pub(super) fn is_gone(error: &Error) -> bool {
    [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A number; `max` and what v1 says for "no limit" are `None`.
pub(super) fn limit(text: &str) -> Option<u64> {
    // v1 rounds its "no limit" down to a page: anything near i64::MAX is one.
    text.trim().parse().ok().filter(|value| *value < i64::MAX as u64 - 0xffff)
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    pairs(text).find_map(|(name, value)| (name == key).then_some(value))
}

/// The lines of a file of `key value` lines.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}
