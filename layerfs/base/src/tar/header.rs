//! One 512-byte header block.

use crate::{Error, Result};

/// Tar's unit: headers are one block, data is padded to blocks.
pub const BLOCK: usize = 512;
/// Offsets and lengths.
pub type Pairs = Vec<(u64, u64)>;

/// A header block, its checksum verified.
pub struct Header<'a>(&'a [u8; BLOCK]);

/// Which dialect the magic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Before POSIX: no prefix, no names.
    V7,
    /// `ustar\0` `00`.
    Ustar,
    /// `ustar  \0`.
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the sum. `None` for the block of zeros that ends an archive.
    pub fn parse(block: &'a [u8; BLOCK], offset: u64) -> Result<Option<Header<'a>>> {
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let header = Header(block);
        let want = octal(&block[148..156]).unwrap_or(u64::MAX);
        let sum = |sign: fn(u8) -> i64| -> i64 {
            block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { sign(b) }).sum()
        };
        // Old Sun tars summed signed bytes.
        if sum(i64::from) != want as i64 && sum(|b| i64::from(b as i8)) != want as i64 {
            return Err(Error::corrupt(format!("not a tar header at offset {offset}: its checksum does not match")));
        }
        Ok(Some(header))
    }

    pub fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    pub fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// The name with its ustar prefix.
    pub fn path(&self) -> Vec<u8> {
        let name = until_zero(&self.0[0..100]);
        // Schilling's star has times behind a shorter prefix, and says so at the block's end.
        let is_star = &self.0[508..512] == b"tar\0";
        let prefix = until_zero(&self.0[345..if is_star { 476 } else { 500 }]);
        if self.dialect() == Dialect::Ustar && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    pub fn link_target(&self) -> Vec<u8> {
        until_zero(&self.0[157..257]).to_vec()
    }

    pub fn mode(&self) -> Result<u32> {
        self.number(100, 8, "mode").map(|n| n as u32 & 0o7777)
    }

    pub fn uid(&self) -> Result<u32> {
        self.id(108, "uid")
    }

    pub fn gid(&self) -> Result<u32> {
        self.id(116, "gid")
    }

    fn id(&self, at: usize, field: &str) -> Result<u32> {
        let number = self.number(at, 8, field)?;
        // Some systems write "nobody" as -2. The last number is no id: it means "leave as it is".
        let id = if number < 0 { i32::try_from(number).ok().map(i32::cast_unsigned) } else { u32::try_from(number).ok() };
        id.filter(|&id| id != u32::MAX).ok_or_else(|| Error::invalid(format!("{field} {number} is out of range")))
    }

    pub fn size(&self) -> Result<u64> {
        let size = self.number(124, 12, "size")?;
        u64::try_from(size).map_err(|_| Error::corrupt(format!("negative size {size}")))
    }

    pub fn mtime(&self) -> Result<i64> {
        self.number(136, 12, "mtime")
    }

    pub fn device(&self) -> Result<(u32, u32)> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let part = |at, field: &str| {
            let number = self.number(at, 8, field)?;
            u32::try_from(number).map_err(|_| Error::invalid(format!("{field} {number} is out of range")))
        };
        Ok((part(329, "device major number")?, part(337, "device minor number")?))
    }

    /// The four sparse entries, whether more blocks follow, and the real size (old GNU sparse).
    pub fn gnu_sparse(&self) -> Result<(Pairs, bool, u64)> {
        let real = self.number(483, 12, "real size")?;
        Ok((sparse_entries(&self.0[386..482])?, self.0[482] != 0, u64::try_from(real).unwrap_or(0)))
    }

    fn number(&self, at: usize, length: usize, field: &str) -> Result<i64> {
        number(&self.0[at..at + length]).ok_or_else(|| Error::corrupt(format!("unreadable {field} in a tar header")))
    }
}

/// 24-byte pairs of offset and length; a pair of zeros or blanks ends the list.
pub fn sparse_entries(bytes: &[u8]) -> Result<Pairs> {
    let mut entries = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let read = |field: &[u8]| number(field).and_then(|n| u64::try_from(n).ok());
        match (read(&pair[..12]), read(&pair[12..])) {
            (Some(offset), Some(length)) => entries.push((offset, length)),
            _ => return Err(Error::corrupt("unreadable sparse map in a tar header")),
        }
    }
    Ok(entries)
}

fn until_zero(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// An octal field, or GNU's base-256: the first bit set, the rest big-endian two's complement.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field).and_then(|n| i64::try_from(n).ok());
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (i, &byte) in field.iter().enumerate() {
        let byte = if i == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { byte };
        if !(i64::MIN >> 8..=i64::MAX >> 8).contains(&value) {
            return None;
        }
        value = value << 8 | i64::from(byte);
    }
    Some(value)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text: Vec<u8> = field.iter().copied().skip_while(|&b| b == b' ').take_while(|&b| b != 0 && b != b' ').collect();
    text.iter().try_fold(0u64, |n, &b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(8 << 30));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"9999999\0"), None);
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
