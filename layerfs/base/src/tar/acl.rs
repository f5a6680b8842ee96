//! POSIX ACLs: the text that GNU tar and star write into PAX headers, and the bytes that the kernel keeps.
//!
//! Source: star(5), "SCHILY.acl.access"; acl(5), "ACL Text Forms"; Linux `include/uapi/linux/posix_acl_xattr.h`.

use crate::Result;

/// The attribute of a file's own ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that what is made in a directory gets.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_USER_OBJ` and so on: the order of their numbers is the order in which the kernel wants them.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// `ACL_UNDEFINED_ID`.
const NO_ID: u32 = u32::MAX;

/// The attribute's value for an ACL in text. `None` for what has no value: text that is none, an ACL that says no more
/// than the mode does, and one that names users by names, which only the host that wrote it knows.
pub fn encode(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.split([',', '\n']).map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut entries = lines.filter(|line| !line.is_empty()).map(entry).collect::<Option<Vec<_>>>()?;
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    is_valid(&value).then_some(value)
}

/// `TAG:QUALIFIER:PERMISSIONS`, and star's number behind a name: `TAG:NAME:PERMISSIONS:ID`.
fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let line = line.strip_prefix("default:").or(line.strip_prefix("d:")).unwrap_or(line);
    let fields: Vec<&str> = line.split(':').map(str::trim).collect();
    let (tag, name, permissions, number) = match fields[..] {
        // A mask and the others may come without the empty field.
        [tag @ ("mask" | "m" | "other" | "o"), permissions] => (tag, "", permissions, None),
        [tag, name, permissions] => (tag, name, permissions, None),
        [tag, name, permissions, number] => (tag, name, permissions, Some(number)),
        _ => return None,
    };
    let tag = match (tag, name.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return None,
    };
    let id = match (number, name) {
        (_, "") => NO_ID,
        (Some(number), _) => number.parse().ok()?,
        (None, "root") => 0,
        (None, name) => name.parse().ok()?,
    };
    Some((tag, id, bits(permissions)?))
}

fn bits(text: &str) -> Option<u16> {
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })
}

/// Whether the kernel takes this value: sorted entries, one for owner, group and others each, and a mask if others are
/// named. Source: Linux `fs/posix_acl.c`, `posix_acl_valid`.
pub fn is_valid(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk::<4>() else { return false };
    if u32::from_le_bytes(*version) != VERSION || !entries.len().is_multiple_of(8) {
        return false;
    }
    let entries = entries.chunks_exact(8).map(|entry| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        (tag, permissions, id)
    });
    let (mut last, mut seen, mut is_named) = (0, 0, false);
    for (tag, permissions, id) in entries {
        let is_known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
        let may_repeat = matches!(tag, USER | GROUP);
        if !is_known || permissions > 7 || tag < last || tag == last && !may_repeat || may_repeat && id == NO_ID {
            return false;
        }
        is_named |= may_repeat;
        seen |= tag;
        last = tag;
    }
    let base = USER_OBJ | GROUP_OBJ | OTHER;
    seen & base == base && (!is_named || seen & MASK != 0)
}

/// The mode of a file that has this ACL: the kernel shows the owner's, the mask's (the group's if there is none) and the
/// others' permissions in it, whatever it was. Source: Linux `fs/posix_acl.c`, `posix_acl_equiv_mode`.
pub fn mode(value: &[u8], mode: u32) -> u32 {
    let permissions = |wanted| permissions(value, wanted);
    match (permissions(USER_OBJ), permissions(MASK).or(permissions(GROUP_OBJ)), permissions(OTHER)) {
        (Some(user), Some(group), Some(other)) if is_valid(value) => mode & !0o777 | user << 6 | group << 3 | other,
        _ => mode,
    }
}

fn permissions(value: &[u8], tag: u16) -> Option<u32> {
    let entry = value.get(4..)?.chunks_exact(8).find(|entry| u16::from_le_bytes([entry[0], entry[1]]) == tag)?;
    Some(u32::from(entry[2]))
}

/// The mode for a file that had this ACL and is to be without it: what the mode says of the group is the ACL's mask, the
/// most that anybody who is named may do, and not what the group may.
pub fn mode_without(value: &[u8], mode: u32) -> u32 {
    permissions(value, GROUP_OBJ).filter(|_| is_valid(value)).map_or(mode, |group| mode & (!0o070 | group << 3))
}

/// Whether users or groups are named, besides the file's own.
pub fn is_named(value: &[u8]) -> bool {
    permissions(value, USER).or(permissions(value, GROUP)).is_some()
}

/// Changes the users (`true`) and groups that an ACL names.
pub fn map_ids(value: &mut [u8], change: impl Fn(bool, u32) -> Result<u32>) -> Result<()> {
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if matches!(tag, USER | GROUP) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&change(tag == USER, id)?.to_le_bytes());
        }
    }
    Ok(())
}

/// Whether a valid ACL says no more than a mode does, so that the kernel keeps the mode alone.
pub fn is_mode(value: &[u8]) -> bool {
    value.len() == 4 + 3 * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<Vec<(u16, u16, u32)>> {
        let value = encode(text.as_bytes())?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        Some(value[4..].chunks(8).map(|e| (number(&e[..2]) as u16, number(&e[2..4]) as u16, number(&e[4..]))).collect())
    }

    #[test]
    fn text_becomes_what_the_kernel_keeps() {
        let want = vec![(1, 6, NO_ID), (2, 4, 0), (2, 5, 1000), (4, 4, NO_ID), (8, 7, 7), (16, 7, NO_ID), (32, 0, NO_ID)];
        let texts = [
            "user::rw-,user:1000:r-x,user:root:r--,group::r--,group:7:rwx,mask::rwx,other::---",
            "u::rw\nu:joe:rx:1000\nu:root:r:0\ng::r # of the group\ng:7:rwx\nm:rwx\no:-\n",
            "default:other::---,d:g::r,d:g:7:rwx,d:m::rwx,d:u::rw,d:u:0:r,d:u:1000:rx",
        ];
        for text in texts {
            assert_eq!(decoded(text).as_ref(), Some(&want), "{text}");
        }
    }

    #[test]
    fn what_is_no_acl_has_no_value() {
        for text in [
            "",
            "user::rwx",
            "user::rwx,group::r-x,other::r-x,user:joe:rwx,mask::rwx",
            "user::rwx,group::r-x,other::r-x,user:5:rwx",
            "user::rwx,user::rwx,group::r-x,other::r-x",
            "user::rwz,group::r-x,other::r-x",
            "what,is,this",
        ] {
            assert_eq!(encode(text.as_bytes()), None, "{text}");
        }
        assert_eq!(mode(&encode(b"user::rwx,group::---,user:5:rwx,mask::r-x,other::--x").unwrap(), 0o4777), 0o4751);
        assert_eq!(mode(b"none", 0o640), 0o640);
        let shared = encode(b"u::rw,g::-,g:7:rw,m::rw,o::r").unwrap();
        assert_eq!((mode_without(&shared, 0o2664), mode_without(&shared, 0o604)), (0o2604, 0o604));
        assert_eq!(mode_without(&encode(b"u::rw,g::rw,m::r,o::-").unwrap(), 0o640), 0o640, "what the mask takes stays taken");
        assert_eq!(mode_without(b"none", 0o664), 0o664);
        assert!(is_named(&shared) && !is_named(&encode(b"u::rw,g::rw,m::r,o::-").unwrap()));
        assert!(!is_valid(b"\x02\0\0") && !is_valid(&[2, 0, 0, 0, 1]) && !is_valid(&[3, 0, 0, 0]));
    }
}
