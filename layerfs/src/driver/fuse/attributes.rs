//! Extended attributes: overlayfs's own are hidden, those of an overlay inside are escaped as the kernel does it.
//!
//! Source: Linux `Documentation/filesystems/overlayfs.rst`, "Nesting overlayfs mounts".

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use fs_base::sys::xattr;
use rustix::io::Errno;

use super::attr::{Answer, errno};
use super::file::path_fd;
use super::fs::{Fs, UPPER};
use super::lower::Lower;
use super::node::{Name, Node};
use crate::erofs::Nid;

/// Name and value.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

const PRIVATE: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs."];

/// The name as it is seen, or `None` if it is a mark of the format.
pub(super) fn shown_name(stored: &[u8]) -> Option<Vec<u8>> {
    for prefix in PRIVATE {
        if let Some(rest) = stored.strip_prefix(prefix) {
            return rest.strip_prefix(b"overlay.").map(|own| [prefix, own].concat());
        }
    }
    Some(stored.to_vec())
}

/// The name under which one is stored.
pub(super) fn stored_name(shown: &[u8]) -> Vec<u8> {
    for prefix in PRIVATE {
        if let Some(rest) = shown.strip_prefix(prefix) {
            return [prefix, b"overlay.", rest].concat();
        }
    }
    shown.to_vec()
}

/// Where a file's attributes are.
enum Holder {
    File(Arc<OwnedFd>),
    Known(Vec<Attribute>),
}

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, node: u64, name: &[u8]) -> Answer<Vec<u8>> {
        let node = self.nodes.get(node)?;
        let _names = self.shared();
        let stored = stored_name(name);
        let value = match self.holder(&node)? {
            Holder::File(fd) => xattr::get(&fd, OsStr::from_bytes(&stored)).map_err(|e| errno(&e))?,
            Holder::Known(all) => all.into_iter().find(|(known, _)| *known == stored).map(|(_, value)| value),
        };
        let value = value.ok_or(Errno::NODATA)?;
        Ok(self.owners.shown_value(name, value))
    }

    /// The names of all attributes.
    pub fn listxattr(&self, node: u64) -> Answer<Vec<Vec<u8>>> {
        let node = self.nodes.get(node)?;
        let _names = self.shared();
        Ok(self.attributes(&node)?.into_iter().filter_map(|(name, _)| shown_name(&name)).collect())
    }

    /// All attributes as they are stored, the format's marks too.
    pub(super) fn attributes(&self, node: &Arc<Node>) -> Answer<Vec<Attribute>> {
        match self.holder(node)? {
            Holder::Known(all) => Ok(all),
            Holder::File(fd) => {
                let all = xattr::list(&fd).map_err(|e| errno(&e))?;
                Ok(all.into_iter().map(|(name, value)| (name.into_vec(), value)).collect())
            }
        }
    }

    fn holder(&self, node: &Arc<Node>) -> Answer<Holder> {
        let (upper, place) = {
            let spot = node.spot();
            (spot.upper, spot.lowers.first().copied())
        };
        let Some(place) = place.filter(|_| !upper) else { return Ok(Holder::File(self.upper_fd(node)?)) };
        match &self.lowers[usize::from(place.layer)] {
            Lower::Indexed(layer) => Ok(Holder::Known(layer.index.xattrs(Nid(place.number)).map_err(|e| errno(&e))?)),
            Lower::Plain(_) if node.spot().held.is_some() => Ok(Holder::File(self.upper_fd(node)?)),
            Lower::Plain(_) if node.is_dir() => Ok(Holder::File(self.dir_fd(place.layer + 1, node)?)),
            Lower::Plain(_) => {
                let Name { parent, name } = node.a_name()?;
                let dir = self.dir_fd(place.layer + 1, &parent)?;
                Ok(Holder::File(Arc::new(path_fd(dir.as_fd(), &name)?)))
            }
        }
    }

    /// A path descriptor of the file in the upper directory.
    pub(super) fn upper_fd(&self, node: &Arc<Node>) -> Answer<Arc<OwnedFd>> {
        if let Some(held) = node.spot().held.clone() {
            return Ok(held);
        }
        if node.is_dir() {
            return self.dir_fd(UPPER, node);
        }
        let Name { parent, name } = node.a_name()?;
        Ok(Arc::new(path_fd(self.dir_fd(UPPER, &parent)?.as_fd(), &name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_hidden_and_those_of_an_inner_overlay_escaped() {
        assert_eq!(shown_name(b"trusted.overlay.opaque"), None);
        assert_eq!(stored_name(b"trusted.overlay.opaque"), b"trusted.overlay.overlay.opaque");
        assert_eq!(shown_name(b"trusted.overlay.overlay.opaque").unwrap(), b"trusted.overlay.opaque");
        assert_eq!((shown_name(b"user.x").unwrap(), stored_name(b"user.x")), (b"user.x".to_vec(), b"user.x".to_vec()));
    }
}
