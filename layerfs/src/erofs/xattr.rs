//! Extended attributes inside an inode: a 12-byte header, then entries of a one-byte name class, the rest of the
//! name, and the value, each aligned to four bytes.

use fs_base::{Error, Result};

use super::format::{NAME_MAX, XATTR_ENTRY, XATTR_HEADER};

/// `EROFS_XATTR_INDEX_*`. The ACL names stand whole for their class, so they come with an empty rest.
const CLASSES: [(u8, &[u8]); 5] =
    [(1, b"user."), (2, b"system.posix_acl_access"), (3, b"system.posix_acl_default"), (4, b"trusted."), (6, b"security.")];

/// A full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Whether the format has a place for this name; the kernel has none for other classes either.
pub fn is_supported(name: &[u8]) -> bool {
    split(name).is_some()
}

/// The class of a name and the rest of it.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (class, rest) = CLASSES.iter().find_map(|(class, prefix)| Some((*class, name.strip_prefix(*prefix)?)))?;
    let whole = matches!(class, 2 | 3);
    (rest.is_empty() == whole && rest.len() <= NAME_MAX && !rest.contains(&0)).then_some((class, rest))
}

fn prefix(class: u8) -> Option<&'static [u8]> {
    CLASSES.iter().find(|(known, _)| *known == class).map(|(_, prefix)| *prefix)
}

/// The bytes that follow an inode with these attributes: header and entries, sorted by name. Empty if there are none.
pub fn encode(mut xattrs: Vec<Xattr>) -> Result<Vec<u8>> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    xattrs.sort();
    let mut out = vec![0; XATTR_HEADER];
    for (name, value) in &xattrs {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let (class, rest) =
            split(name).ok_or_else(|| Error::invalid(format!("extended attribute {:?} has no place", shown())))?;
        let size = u16::try_from(value.len()).map_err(|_| {
            Error::invalid(format!("extended attribute {:?} has {} bytes: 65535 is the most", shown(), value.len()))
        })?;
        out.extend([rest.len() as u8, class]);
        out.extend(size.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    // i_xattr_icount is 16 bits wide and counts in fours from the header on.
    if out.len() > XATTR_HEADER + 4 * (usize::from(u16::MAX) - 1) {
        return Err(Error::invalid(format!("extended attributes take {} bytes: an inode has room for 262148", out.len())));
    }
    Ok(out)
}

/// `i_xattr_icount` for encoded bytes of this length.
pub fn count(encoded_length: usize) -> u16 {
    if encoded_length == 0 { 0 } else { (1 + (encoded_length - XATTR_HEADER) / 4) as u16 }
}

/// The number of bytes that `i_xattr_icount` stands for.
pub fn length(count: u16) -> usize {
    if count == 0 { 0 } else { XATTR_HEADER + 4 * (usize::from(count) - 1) }
}

/// One entry at the start of `bytes`, and how many bytes it takes. `None` if it does not fit.
pub fn decode_one(bytes: &[u8]) -> Option<(Option<Xattr>, usize)> {
    let head: &[u8; XATTR_ENTRY] = bytes.first_chunk()?;
    let (name_length, value_length) = (usize::from(head[0]), usize::from(u16::from_le_bytes([head[2], head[3]])));
    let name = bytes.get(XATTR_ENTRY..XATTR_ENTRY + name_length)?;
    let value = bytes.get(XATTR_ENTRY + name_length..XATTR_ENTRY + name_length + value_length)?;
    let length = (XATTR_ENTRY + name_length + value_length).next_multiple_of(4);
    // A class we don't know (Lustre's, long prefixes) is passed over: the kernel hides those from user space too.
    let xattr = prefix(head[1]).map(|prefix| ([prefix, name].concat(), value.to_vec()));
    Some((xattr, length))
}

/// The attributes in encoded bytes without shared ones.
pub fn decode(encoded: &[u8]) -> Option<Vec<Xattr>> {
    let mut rest = encoded.get(XATTR_HEADER..).unwrap_or_default();
    let mut xattrs = Vec::new();
    while !rest.is_empty() {
        let (xattr, length) = decode_one(rest)?;
        xattrs.extend(xattr);
        rest = rest.get(length..).unwrap_or_default();
    }
    Some(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_class_survive() {
        let xattrs: Vec<Xattr> =
            ["security.capability", "system.posix_acl_access", "trusted.overlay.opaque", "user.", "user.a\nb"]
                .iter()
                .filter(|name| is_supported(name.as_bytes()))
                .map(|name| (name.as_bytes().to_vec(), vec![0, 255, b'\n']))
                .collect();
        assert_eq!(xattrs.len(), 4, "`user.` alone is no name");
        let encoded = encode(xattrs.clone()).unwrap();
        assert_eq!(encoded.len() % 4, 0);
        assert_eq!(length(count(encoded.len())), encoded.len());
        assert_eq!(decode(&encoded).unwrap(), xattrs);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(!is_supported(b"com.apple.quarantine"));
        assert!(!is_supported(b"system.posix_acl_accessx"));
        assert!(encode(vec![(b"user.a".to_vec(), vec![0; 65536])]).is_err());
        let many = (0..5).map(|n| (format!("user.{n}").into_bytes(), vec![0; 65535])).collect();
        assert!(encode(many).is_err());
    }
}
