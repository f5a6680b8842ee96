//! Attributes that name users or groups, in a tree that belongs to a user namespace.
//!
//! What is inside of the namespace is written in archives; what this process reads and sets is outside. The kernel turns
//! the one into the other where an owner is concerned, and where a mount is mapped, but not the ids in a value that is
//! handed to it.
//! Source: Linux `include/uapi/linux/posix_acl_xattr.h`, `include/uapi/linux/capability.h`.

use fs_base::sys::ids::IdMap;
use fs_base::{Error, Result};

use crate::capability::{CAPABILITY, root_of, set_root};
use crate::metadata::NOBODY;
use crate::tar::acl;

/// A value as this process has to set it. An error is an id that the namespace does not have.
pub fn outside(ids: &IdMap, name: &[u8], mut value: Vec<u8>) -> Result<Vec<u8>> {
    match name {
        acl::ACCESS | acl::DEFAULT => acl::map_ids(&mut value, |is_user, id| {
            let (found, what) = if is_user { (ids.uid_outside(id), "user") } else { (ids.gid_outside(id), "group") };
            found.ok_or_else(|| Error::invalid(format!("the container's user namespace has no {what} {id}, which an ACL names")))
        })?,
        CAPABILITY => {
            if let Some(root) = root_of(&value) {
                let outside = ids.uid_outside(root);
                let outside = outside.ok_or_else(|| {
                    Error::invalid(format!("the container's user namespace has no user {root}, for whom a file has capabilities"))
                })?;
                set_root(&mut value, outside);
            }
        }
        _ => {}
    }
    Ok(value)
}

/// A value that this process has read, as it is known inside; `None` if it means nothing there. `on_overlay` says whether
/// the file is overlayfs's: before Linux 6.2 that shows the ids of an ACL as they are on the disk, which is inside.
pub fn inside(ids: &IdMap, name: &[u8], mut value: Vec<u8>, on_overlay: impl FnOnce() -> bool) -> Option<Vec<u8>> {
    match name {
        acl::ACCESS | acl::DEFAULT => {
            let may_be_inside = on_overlay();
            let change = |is_user, id| {
                let (inside, outside) =
                    if is_user { (ids.uid_inside(id), ids.uid_outside(id)) } else { (ids.gid_inside(id), ids.gid_outside(id)) };
                let found = inside.or(outside.filter(|_| may_be_inside).map(|_| id));
                Ok(found.unwrap_or(NOBODY))
            };
            // What has no place there is nobody's, so this can't fail.
            let _ = acl::map_ids(&mut value, change);
        }
        CAPABILITY => {
            if let Some(root) = root_of(&value) {
                // Capabilities for a root whom the namespace does not know, the host's too, are none in there.
                set_root(&mut value, ids.uid_inside(root)?);
            }
        }
        _ => {}
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_base::sys::ids::IdRange;
    use proptest::prelude::*;

    fn ids() -> IdMap {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        IdMap::new(vec![range(0, 100_000, 1000), range(1000, 300_000, 10)], vec![range(0, 200_000, 65_536)]).unwrap()
    }

    fn capability(root: Option<u32>) -> Vec<u8> {
        let mut value = vec![1, 0, 0, if root.is_some() { 3 } else { 2 }];
        value.extend([7; 16]);
        value.extend(root.into_iter().flat_map(u32::to_le_bytes));
        value
    }

    #[test]
    fn capabilities_belong_to_the_root_inside() {
        let set = |value| outside(&ids(), CAPABILITY, value);
        assert_eq!(set(capability(None)).unwrap(), capability(Some(100_000)));
        assert_eq!(set(capability(Some(0))).unwrap(), capability(Some(100_000)));
        assert_eq!(set(capability(Some(1005))).unwrap(), capability(Some(300_005)));
        assert!(set(capability(Some(5000))).unwrap_err().to_string().contains("no user 5000"));
        let read = |value| inside(&ids(), CAPABILITY, value, || false);
        assert_eq!(read(capability(Some(100_000))), Some(capability(None)));
        assert_eq!(read(capability(Some(300_001))), Some(capability(Some(1001))));
        assert_eq!((read(capability(None)), read(capability(Some(7)))), (None, None), "the host's are not the container's");
        for odd in [vec![], vec![1, 0, 0, 2], capability(None)[..19].to_vec(), [capability(None), vec![0; 4]].concat()] {
            assert_eq!(read(odd.clone()), Some(odd.clone()), "the kernel's to refuse");
            assert_eq!(set(odd.clone()).unwrap(), odd);
        }
    }

    #[test]
    fn an_acl_names_those_inside() {
        let there = acl::encode(b"u::rwx,u:5:r--,u:1003:rw-,g::r-x,g:70:---,m::rwx,o::---").unwrap();
        let set = outside(&ids(), acl::ACCESS, there.clone()).unwrap();
        let named = acl::encode(b"u::rwx,u:100005:r--,u:300003:rw-,g::r-x,g:200070:---,m::rwx,o::---").unwrap();
        assert_eq!(set, named);
        assert_eq!(inside(&ids(), acl::ACCESS, set.clone(), || false), Some(there.clone()));
        assert_eq!(inside(&ids(), acl::ACCESS, set, || true), Some(there.clone()));
        assert_eq!(inside(&ids(), acl::ACCESS, there.clone(), || true), Some(there), "as an older overlayfs shows it");
        let unknown = acl::encode(b"u::rwx,u:5000:r--,g::r-x,m::rwx,o::---").unwrap();
        let said = outside(&ids(), acl::DEFAULT, unknown.clone()).unwrap_err().to_string();
        assert!(said.contains("no user 5000"), "{said}");
        let nobody = acl::encode(b"u::rwx,u:65534:r--,g::r-x,m::rwx,o::---").unwrap();
        for on_overlay in [false, true] {
            assert_eq!(inside(&ids(), acl::DEFAULT, unknown.clone(), || on_overlay), Some(nobody.clone()));
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(users in proptest::collection::vec((0..1010u32, 0..8u16), 0..20),
                                  groups in proptest::collection::vec((0..65_536u32, 0..8u16), 0..20)) {
            let line = |kind: &str, (id, bits): &(u32, u16)| {
                let letters: String = ["r", "w", "x"].iter().zip([4, 2, 1]).filter(|(_, bit)| bits & bit != 0).map(|(l, _)| *l).collect();
                format!("{kind}:{id}:{letters}")
            };
            let mut lines = vec!["u::rwx".to_owned(), "g::r--".to_owned(), "m::rwx".to_owned(), "o::---".to_owned()];
            lines.extend(users.iter().map(|user| line("u", user)).chain(groups.iter().map(|group| line("g", group))));
            let value = acl::encode(lines.join(",").as_bytes()).unwrap();
            let set = outside(&ids(), acl::ACCESS, value.clone()).unwrap();
            prop_assert!(acl::is_valid(&set));
            prop_assert_eq!(inside(&ids(), acl::ACCESS, set, || false), Some(value));
        }

        #[test]
        fn nothing_that_a_file_holds_is_too_odd(name in 0..4usize, value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let name = [acl::ACCESS, acl::DEFAULT, CAPABILITY, b"user.x"][name];
            let _ = outside(&ids(), name, value.clone());
            let _ = inside(&ids(), name, value, || true);
        }
    }
}
