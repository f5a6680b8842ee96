//! Copying bytes between files without bringing them through the process, holes kept.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::{IoContext, Result};

/// One copy_file_range or read is at most this long, so that a copy can be interrupted between two.
const STEP: u64 = 64 << 20;

/// Up to this size a file without holes is copied through memory, which takes two calls in place of five.
const SMALL: u64 = 64 << 10;

/// Copies the data of `from` (`length` bytes) over the start of the empty file `to`: a reflink where the file
/// system can, else the ranges that hold data, by `copy_file_range` or through memory. Holes stay holes.
pub fn copy_file(from: &File, to: &File, length: u64, path: &Path) -> Result<()> {
    if length == 0 {
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    if length <= SMALL && rustix::fs::fstat(from).is_ok_and(|stat| stat.st_blocks as u64 * 512 >= length) {
        let mut bytes = vec![0; length as usize];
        let got = read_up_to(from, &mut bytes).at("read", path)?;
        to.write_all_at(&bytes[..got], 0).at("write", path)?;
        // Else it is shorter than it was: the rest reads as zeros.
        return if got == bytes.len() { Ok(()) } else { rustix::fs::ftruncate(to, length).at("set size of", path) };
    }
    let mut offset = 0;
    while let Some((start, end)) = next_data(from, offset, length) {
        copy_range(from, start, to, start, end - start, path)?;
        offset = end;
    }
    rustix::fs::ftruncate(to, length).at("set size of", path)
}

/// Reads from the start; fewer bytes than there is room for only if there are no more.
fn read_up_to(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The next range of `file` from `offset` that holds data, up to `length`. All of it where holes can't be asked for.
pub fn next_data(file: &File, offset: u64, length: u64) -> Option<(u64, u64)> {
    if offset >= length {
        return None;
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) if start >= length => None,
        Ok(start) => {
            let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length).min(length);
            Some((start, end))
        }
        Err(Errno::NXIO) => None,
        Err(_) => Some((offset, length)),
    }
}

/// Copies `length` bytes of `from` at `in_offset` to `to` at `out_offset`, without bringing them through the process
/// where the file systems can. `path` is for the error.
pub fn copy_range(from: &File, in_offset: u64, to: &File, out_offset: u64, length: u64, path: &Path) -> Result<()> {
    let (mut from_at, mut to_at, end) = (in_offset, out_offset, in_offset + length);
    while from_at < end {
        let step = (end - from_at).min(STEP) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), step) {
            // The file is shorter than it was: the rest reads as zeros, which is what `ftruncate` makes.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_memory(from, from_at, to, to_at, end - from_at, path);
            }
            Err(error) => return Err(error).at("copy to", path),
        }
    }
    Ok(())
}

fn copy_by_memory(from: &File, in_offset: u64, to: &File, out_offset: u64, length: u64, path: &Path) -> Result<()> {
    let mut buffer = vec![0u8; 256 << 10];
    let mut done = 0;
    while done < length {
        let want = (length - done).min(buffer.len() as u64) as usize;
        let got = from.read_at(&mut buffer[..want], in_offset + done).at("read", path)?;
        if got == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..got], out_offset + done).at("write", path)?;
        done += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let from = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        from.write_all_at(b"end", 8 << 20).unwrap();
        let to = File::options().create_new(true).read(true).write(true).open(dir.path().join("b")).unwrap();
        copy_file(&from, &to, (8 << 20) + 3, &path).unwrap();
        assert_eq!(to.metadata().unwrap().len(), (8 << 20) + 3);
        assert!(to.metadata().unwrap().blocks() < 64);
        let mut end = [0; 3];
        to.read_exact_at(&mut end, 8 << 20).unwrap();
        assert_eq!(&end, b"end");
    }
}
