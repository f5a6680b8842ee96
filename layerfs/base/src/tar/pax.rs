//! PAX extended headers: records `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use crate::{Error, Result};

use super::acl;

/// What the key of an extended attribute begins with. Source: star(5), GNU tar's `xheader.c`.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// What the records of one header change. Later records win over earlier ones.
#[derive(Debug, Default, Clone)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    /// Full attribute names and values.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// POSIX ACLs as text, by the attribute that holds them.
    acls: BTreeMap<&'static [u8], Vec<u8>>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_size: Option<u64>,
    pub sparse_major: Option<u64>,
    /// Offsets and lengths of formats 0.0 and 0.1.
    pub sparse_map: Vec<u64>,
}

impl Pax {
    /// Reads all records of one extended header into `self`.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && bytes[0] != 0 {
            let bad = || Error::corrupt("malformed PAX record in a tar header");
            let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or_else(bad)?;
            let length: usize = text(&bytes[..space])?.parse().map_err(|_| bad())?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let set = (!value.is_empty()).then_some(value);
        match key {
            // An empty value takes the record back. Source: POSIX.1-2017 pax(1), "pax Extended Header Keyword Precedence".
            b"path" => self.path = set.map(<[u8]>::to_vec),
            b"linkpath" => self.link_path = set.map(<[u8]>::to_vec),
            b"size" => self.size = set.map(integer).transpose()?,
            b"uid" => self.uid = set.map(id).transpose()?,
            b"gid" => self.gid = set.map(id).transpose()?,
            b"mtime" => self.mtime = set.map(time).transpose()?,
            b"GNU.sparse.name" => self.sparse_name = set.map(<[u8]>::to_vec),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = set.map(integer).transpose()?,
            b"GNU.sparse.major" => self.sparse_major = set.map(integer).transpose()?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_map.push(integer(value)?),
            b"GNU.sparse.map" => {
                self.sparse_map = set.map_or(Ok(Vec::new()), |v| v.split(|&b| b == b',').map(integer).collect())?;
            }
            b"SCHILY.acl.access" => drop(self.acls.insert(acl::ACCESS, value.to_vec())),
            b"SCHILY.acl.default" => drop(self.acls.insert(acl::DEFAULT, value.to_vec())),
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                    self.xattrs.insert(attribute_name(name), value.to_vec());
                }
            }
        }
        Ok(())
    }

    /// The attributes, sorted by name. An ACL in text counts where the attribute itself is not given.
    pub fn attributes(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        for (name, text) in std::mem::take(&mut self.acls) {
            if !self.xattrs.contains_key(name)
                && let Some(value) = acl::encode(&text)
            {
                self.xattrs.insert(name.to_vec(), value);
            }
        }
        std::mem::take(&mut self.xattrs).into_iter().collect()
    }
}

/// Adds one record, `LENGTH KEY=VALUE\n`, to an extended header; the length counts itself. The key holds no `=`.
pub fn append_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").into_bytes());
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// Adds an extended attribute to an extended header, as GNU tar and star write it: `SCHILY.xattr.NAME`.
pub fn append_attribute(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let mut key = ATTRIBUTE.to_vec();
    for &byte in name {
        // As GNU tar does, so that the record can still be taken apart.
        match byte {
            b'=' => key.extend(b"%3D"),
            b'%' => key.extend(b"%25"),
            byte => key.push(byte),
        }
    }
    append_record(records, &key, value);
}

/// An equals sign ends a record's key, so GNU tar writes it as `%3D`, and a percent sign as `%25`.
fn attribute_name(key: &[u8]) -> Vec<u8> {
    let (mut name, mut rest) = (Vec::with_capacity(key.len()), key);
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match rest.get(..3) {
            Some(b"%3D") => (b'=', &rest[3..]),
            Some(b"%25") => (b'%', &rest[3..]),
            _ => (byte, tail),
        };
        name.push(byte);
        rest = tail;
    }
    name
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::corrupt("malformed PAX record in a tar header"))
}

/// A decimal number.
pub fn integer(bytes: &[u8]) -> Result<u64> {
    let digits = text(bytes)?;
    digits.parse().map_err(|_| Error::corrupt(format!("malformed number {digits:?} in a PAX header")))
}

fn id(bytes: &[u8]) -> Result<u32> {
    let number: i64 = text(bytes)?.parse().map_err(|_| Error::corrupt("malformed user or group id in a PAX header"))?;
    let id = if number < 0 { i32::try_from(number).ok().map(i32::cast_unsigned) } else { u32::try_from(number).ok() };
    id.filter(|&id| id != u32::MAX).ok_or_else(|| Error::invalid(format!("user or group id {number} is out of range")))
}

/// Seconds with a fraction, possibly negative: `-1.5` is half a second after -2.
fn time(bytes: &[u8]) -> Result<(i64, u32)> {
    let full = text(bytes)?;
    let bad = || Error::corrupt(format!("malformed time {full:?} in a PAX header"));
    let (whole, fraction) = full.split_once('.').unwrap_or((full, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| bad())?;
    if whole.starts_with('-') && nanos > 0 {
        return Ok((seconds.checked_sub(1).ok_or_else(bad)?, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_toward_the_past() {
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time(b"-1.5").unwrap(), (-2, 500_000_000));
        assert_eq!(time(b"1.0123456789").unwrap(), (1, 12_345_678));
        assert!(time(b"x").is_err());
    }

    #[test]
    fn records_count_their_own_length() {
        for length in [1, 80, 89, 90, 91, 92, 980, 990, 995] {
            let mut records = Vec::new();
            append_record(&mut records, b"k", &vec![b'v'; length]);
            let text = String::from_utf8(records).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), text.len(), "{length}");
        }
    }

    #[test]
    fn attributes_come_back_whatever_is_in_them() {
        let all: Vec<u8> = (0..=255).collect();
        let trap = b"1\n20 path=/etc/passwd\n".to_vec();
        let attributes: [(&[u8], &[u8]); 4] =
            [(b"user.a%3D=b%", b""), (b"user.all", &all), (b"user.\xff\xfe", b"\n"), (b"user.trap", &trap)];
        let mut records = Vec::new();
        for (name, value) in attributes {
            append_attribute(&mut records, name, value);
        }
        let mut pax = Pax::default();
        pax.read(&records).unwrap();
        assert_eq!(pax.path, None);
        let mut want = attributes.map(|(name, value)| (name.to_vec(), value.to_vec()));
        want.sort();
        assert_eq!(pax.attributes(), want);
    }

    #[test]
    fn attribute_names_are_unescaped() {
        let mut pax = Pax::default();
        pax.read(b"34 SCHILY.xattr.user.a%3Db%25%x=1\n").unwrap();
        assert_eq!(pax.attributes(), [(b"user.a=b%%x".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn values_may_hold_newlines_and_equal_signs() {
        let mut pax = Pax::default();
        pax.read(b"31 SCHILY.xattr.user.k=a=b\nc\0d\n").unwrap();
        assert_eq!(pax.attributes(), [(b"user.k".to_vec(), b"a=b\nc\0d".to_vec())]);
        assert!(Pax::default().read(b"999 path=a\n").is_err());
        for bad in [
            "3 a",
            "-5 a=b\n",
            "18446744073709551616 a=b\n",
            "6 a=bc\n",
            "0 a=b\n",
            " a=b\n",
            "8 nokey\n",
            "99999999999999999999999 ",
        ] {
            assert!(Pax::default().read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
