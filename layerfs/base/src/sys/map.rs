//! Files mapped for reading.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::{IoContext, Result};

/// A file's bytes, mapped.
///
/// Only for files of our own store: they are published whole and never written again, which is what makes the
/// bytes stable. A file that is truncated behind our back raises SIGBUS.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps all of `file`; `path` is for the error.
    pub fn of(file: &File, path: &Path) -> Result<Map> {
        // SAFETY: by this type's contract the file is immutable once it is published.
        unsafe { memmap2::Mmap::map(file) }.map(Map).at("map", path)
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
