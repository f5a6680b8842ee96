//! Files with holes, as GNU tar writes them in PAX archives, format 1.0: the `tar` crate gives their bytes as they are
//! stored, a map of the data first. Source: the GNU tar manual, "Storing Sparse Files".

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use tar::Entry;

const BLOCK: usize = 512;
/// Pieces of data in one file that we take; a map is the daemon's word only.
const MAX_SEGMENTS: usize = 1 << 20;

/// What an entry says of itself when it is a file with holes.
#[derive(Debug, PartialEq, Eq)]
pub struct Sparse {
    /// Its real name.
    pub name: Vec<u8>,
    /// Its real length.
    pub size: u64,
}

/// Whether an entry is one; a form that we can't read is an error.
pub fn of(entry: &mut Entry<'_, impl Read>) -> Result<Option<Sparse>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
    let (mut major, mut name, mut size, mut any) = (None, None, None, false);
    for extension in extensions {
        let extension = extension?;
        let value = extension.value_bytes();
        any |= extension.key_bytes().starts_with(b"GNU.sparse.");
        match extension.key_bytes() {
            b"GNU.sparse.major" => major = Some(value.to_vec()),
            b"GNU.sparse.name" => name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => size = Some(number(value)?),
            _ => {}
        }
    }
    match (any, major.as_deref(), name, size) {
        (false, ..) => Ok(None),
        (true, Some(b"1"), Some(name), Some(size)) => Ok(Some(Sparse { name, size })),
        _ => bail!("the daemon sent a sparse file in a form that ctl can't read"),
    }
}

fn number(digits: &[u8]) -> Result<u64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).context("a number in the tar is none")
}

/// Writes such a file; its holes stay holes.
pub fn write(entry: &mut impl Read, file: &File, size: u64) -> Result<()> {
    file.set_len(size)?;
    let mut lines = Lines { entry, taken: 0 };
    let count = usize::try_from(lines.next()?).unwrap_or(usize::MAX);
    if count > MAX_SEGMENTS {
        bail!("a sparse file of {count} pieces");
    }
    let mut segments = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let (offset, length) = (lines.next()?, lines.next()?);
        if offset < end || offset.checked_add(length).is_none_or(|end| end > size) {
            bail!("the map of a sparse file makes no sense");
        }
        end = offset + length;
        segments.push((offset, length));
    }
    lines.skip_padding()?;
    let mut buffer = vec![0; 128 * 1024];
    for (mut offset, mut left) in segments {
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            entry.read_exact(&mut buffer[..want]).context("the daemon's tar broke off")?;
            file.write_all_at(&buffer[..want], offset)?;
            offset += want as u64;
            left -= want as u64;
        }
    }
    Ok(())
}

/// The map: decimal numbers, a line each, padded to a block.
struct Lines<'a, R> {
    entry: &'a mut R,
    taken: usize,
}

impl<R: Read> Lines<'_, R> {
    fn next(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let mut byte = [0];
            self.entry.read_exact(&mut byte).context("the map of a sparse file broke off")?;
            self.taken += 1;
            match byte[0] {
                b'\n' => return number(&digits),
                digit if digits.len() < 20 => digits.push(digit),
                _ => bail!("the map of a sparse file makes no sense"),
            }
        }
    }

    fn skip_padding(&mut self) -> io::Result<()> {
        let mut padding = [0; BLOCK];
        let length = self.taken.next_multiple_of(BLOCK) - self.taken;
        self.entry.read_exact(&mut padding[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn stored(map: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = map.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn holes_stay_holes() {
        let file = tempfile::tempfile().unwrap();
        let size = 10 << 20;
        write(&mut stored("3\n0\n3\n5000000\n2\n10485760\n0\n", b"abcde").as_slice(), &file, size).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let mut two = [0; 2];
        file.read_exact_at(&mut two, 5_000_000).unwrap();
        assert_eq!(&two, b"de");
    }

    #[test]
    fn bad_maps_are_refused() {
        for map in ["1\n8\n4\n", "2\n4\n2\n0\n2\n", "x\n", "1\n", "99999999999999999999\n", "123456789012345678901234\n"] {
            let file = tempfile::tempfile().unwrap();
            assert!(write(&mut stored(map, b"").as_slice(), &file, 10).is_err(), "{map:?}");
        }
    }

    #[test]
    fn gnu_tars_own_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("s")).unwrap();
        file.set_len(5 << 20).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        let made = std::process::Command::new("tar")
            .args(["--format=pax", "--sparse", "--sparse-version=1.0", "-cf", "t.tar", "s"])
            .current_dir(dir.path())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: GNU tar: it is not installed");
            return;
        }
        let (tar, out) = (File::open(dir.path().join("t.tar")).unwrap(), dir.path().join("out"));
        std::fs::create_dir(&out).unwrap();
        let unpack = super::super::unpack::Unpack { dir: out.clone(), name: Some("s".into()), content: false, archive: false };
        unpack.run(tar).unwrap();
        assert_eq!(std::fs::read(out.join("s")).unwrap(), std::fs::read(dir.path().join("s")).unwrap());
        assert!(std::fs::metadata(out.join("s")).unwrap().blocks() * 512 < 1 << 20);
    }
}
