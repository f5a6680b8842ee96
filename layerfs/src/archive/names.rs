//! Paths as Docker's archive calls write them.

use fs_base::{Error, Result};

/// A path in a container or image as a person wrote it, cleaned as dockerd cleans it: absolute, `..` taken away by
/// the text alone, and a `/` or `/.` at its end kept, because both mean something.
///
/// A last symlink is the object itself, unless the path ends in `/` or `/.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPath {
    /// The cleaned path.
    pub path: Vec<u8>,
    /// What the top entry of an archive of it is called: the last name, `.` for a path that ends so, `/` for the root.
    pub base: Vec<u8>,
}

impl UserPath {
    pub fn new(path: &[u8]) -> Result<UserPath> {
        if path.contains(&0) {
            return Err(Error::invalid("a path with a NUL byte"));
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for name in path.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        let mut clean = b"/".to_vec();
        clean.extend(names.join(&b'/'));
        let is_contents = path.is_empty() || last_name(path) == b".";
        let base = match names.last() {
            _ if is_contents => b".".to_vec(),
            Some(name) => name.to_vec(),
            None => b"/".to_vec(),
        };
        if is_contents {
            clean.extend(if names.is_empty() { &b"."[..] } else { b"/." });
        }
        if path.ends_with(b"/") && !clean.ends_with(b"/") {
            clean.push(b'/');
        }
        Ok(UserPath { path: clean, base })
    }

    /// Whether a symlink at the end of it is to be followed.
    pub fn follows(&self) -> bool {
        self.path.ends_with(b"/") || self.path.ends_with(b"/.")
    }
}

/// The last name, slashes at the end passed over.
fn last_name(path: &[u8]) -> &[u8] {
    path.split(|&b| b == b'/').rfind(|name| !name.is_empty()).unwrap_or(b"")
}

/// The names of a path in a tar, in order; `None` if it leaves the place that it is unpacked to.
pub fn inside(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/'))
}

/// A path relative to the top as a whole and its last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Puts a name below a path; an empty path adds nothing.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() || name.is_empty() || path.ends_with(b"/") { [path, name].concat() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_paths_are_cleaned_and_named_as_dockerd_does() {
        for (path, clean, base) in [
            ("/etc", "/etc", "etc"),
            ("etc/", "/etc/", "etc"),
            ("/etc/.", "/etc/.", "."),
            ("/etc/./", "/etc/./", "."),
            ("/a/../b//c", "/b/c", "c"),
            ("../../x", "/x", "x"),
            ("/", "/", "/"),
            ("/.", "/.", "."),
            (".", "/.", "."),
            ("", "/.", "."),
        ] {
            let user = UserPath::new(path.as_bytes()).unwrap();
            assert_eq!((&*user.path, &*user.base), (clean.as_bytes(), base.as_bytes()), "{path}");
        }
        assert!(UserPath::new(b"a\0b").is_err());
    }

    #[test]
    fn names_in_a_tar_stay_inside() {
        assert_eq!(inside(b"/a/./b/../c/"), Some(b"a/c".to_vec()));
        assert_eq!(inside(b"./"), Some(Vec::new()));
        assert_eq!(inside(b"a/../../b"), None);
    }
}
