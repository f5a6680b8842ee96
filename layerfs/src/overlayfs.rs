//! overlayfs's own format: how a directory says what it hides.
//!
//! A whiteout is the character device 0:0; an opaque directory carries an attribute whose value is `y`. The
//! attributes live in the `trusted.` namespace, or in `user.` where the mount was made without privilege
//! (`userxattr`). What a container itself writes under the private prefix is stored with the prefix twice.
//! Source: Linux `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories", "User xattr",
//! "Nesting overlayfs mounts".

use std::os::fd::AsFd;

use fs_base::Result;
use fs_base::sys::xattr;

/// Where the private attributes of an upper directory live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Written by the kernel for a privileged mounter.
    Trusted,
    /// Written for an unprivileged one.
    User,
}

impl Namespace {
    /// The namespace that mounts of this process use: `trusted.` attributes exist only for who has
    /// CAP_SYS_ADMIN in the first user namespace. Source: xattr(7).
    pub(crate) fn of_process() -> Namespace {
        let capable = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        // The first user namespace maps all ids to themselves.
        let first =
            std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
        if capable && first { Namespace::Trusted } else { Namespace::User }
    }

    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Namespace::Trusted => "trusted.overlay.",
            Namespace::User => "user.overlay.",
        }
    }

    /// Whether a directory hides what layers below have in its place.
    pub(crate) fn is_opaque(self, directory: impl AsFd) -> Result<bool> {
        Ok(xattr::get(directory, format!("{}opaque", self.prefix()))?.is_some_and(|value| value == b"y"))
    }

    /// The attributes as they are seen through the mount: private ones gone, escaped ones plain.
    pub(crate) fn shown(self, attributes: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let prefix = self.prefix().as_bytes();
        let mut shown: Vec<_> = attributes
            .into_iter()
            .filter_map(|(name, value)| match name.strip_prefix(prefix) {
                None => Some((name, value)),
                Some(rest) => rest.strip_prefix(b"overlay.").map(|own| ([prefix, own].concat(), value)),
            })
            .collect();
        shown.sort();
        shown
    }
}

/// Whether an attribute is one that overlayfs could take for its own.
pub(crate) fn is_private(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_attributes_are_hidden_and_escaped_ones_unescaped() {
        let attributes = [("trusted.overlay.opaque", "y"), ("trusted.overlay.overlay.opaque", "y"), ("user.overlay.x", "1")]
            .map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()));
        let shown = Namespace::Trusted.shown(attributes.to_vec());
        assert_eq!(shown, [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec()), (b"user.overlay.x".to_vec(), b"1".to_vec())]);
        assert_eq!(Namespace::User.shown(attributes.to_vec()).len(), 2);
    }
}
