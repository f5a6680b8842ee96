//! Capabilities of a file: whose root they are for.
//!
//! Source: Linux `include/uapi/linux/capability.h`, `vfs_ns_cap_data`; capabilities(7), "File capability versioning".

/// The attribute's name.
pub const CAPABILITY: &[u8] = b"security.capability";
/// `VFS_CAP_REVISION_MASK`, and the revisions without and with the root of a user namespace behind the sets.
const REVISION: u32 = 0xff00_0000;
const WITHOUT_ROOT: u32 = 0x0200_0000;
const WITH_ROOT: u32 = 0x0300_0000;
/// Bytes of a value without a root: the revision and two sets, in halves. The root's id comes behind them.
const LENGTH: usize = 20;

/// Whose root has the capabilities of this value; `None` for a value that the kernel would not take.
pub fn root_of(value: &[u8]) -> Option<u32> {
    let (revision, rest) = value.split_first_chunk::<4>()?;
    match (u32::from_le_bytes(*revision) & REVISION, rest.len() + 4) {
        (WITHOUT_ROOT, LENGTH) => Some(0),
        (WITH_ROOT, length) if length == LENGTH + 4 => rest.last_chunk::<4>().map(|root| u32::from_le_bytes(*root)),
        _ => None,
    }
}

/// Gives the capabilities of a value for which [`root_of`] has an answer to another root. Root's own is written without an
/// id, as the kernel shows it.
pub fn set_root(value: &mut Vec<u8>, root: u32) {
    value.truncate(LENGTH);
    if root != 0 {
        value.extend(root.to_le_bytes());
    }
    // The highest byte of a little-endian number.
    value[3] = ((if root == 0 { WITHOUT_ROOT } else { WITH_ROOT }) >> 24) as u8;
}
