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

impl Map {
    /// How many of its pages are in memory now, and how many it has. The kernel tells who owns the file, or may write
    /// to it. Source: mincore(2).
    pub fn resident(&self) -> Result<(usize, usize)> {
        // SAFETY: sysconf takes a number and returns one.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let mut pages = vec![0u8; self.0.len().div_ceil(page)];
        // SAFETY: the range is this mapping, and `pages` has a byte for each of its pages.
        if unsafe { libc::mincore(self.0.as_ptr().cast_mut().cast(), self.0.len(), pages.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error()).at("look for pages of", "mapping");
        }
        Ok((pages.iter().filter(|&&page| page & 1 == 1).count(), pages.len()))
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
