//! The members of an archive by name, where links stand for other members.

use std::collections::HashMap;

use super::{Entry, EntryKind};

/// Links that lead to links, at most.
const STEPS: usize = 8;

/// Where an archive's links lead. `docker save` of old links `<id>/layer.tar` to `../<other>/layer.tar`.
#[derive(Debug, Default)]
pub struct Links(HashMap<String, String>);

impl Links {
    /// A member's name as [`Links::follow`] gives it. If the member is a link, where it leads is noted.
    pub fn note(&mut self, entry: &Entry) -> String {
        let name = clean(&String::from_utf8_lossy(&entry.path));
        let target = match &entry.kind {
            EntryKind::HardLink(target) => clean(&String::from_utf8_lossy(target)),
            EntryKind::Symlink(target) => clean(&format!("{name}/../{}", String::from_utf8_lossy(target))),
            _ => return name,
        };
        self.0.insert(name.clone(), target);
        name
    }

    /// What `get` has under a name, or under the name that it leads to.
    pub fn follow<T>(&self, name: &str, get: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut name = clean(name);
        for _ in 0..STEPS {
            if let Some(found) = get(&name) {
                return Some(found);
            }
            name.clone_from(self.0.get(&name)?);
        }
        None
    }
}

/// A member's path as its names joined, `.` and `..` resolved.
pub fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_on_and_not_for_ever() {
        let links = Links([("a", "b"), ("b", "c"), ("x", "y"), ("y", "x")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        let get = |name: &str| (name == "c").then_some(1);
        assert_eq!(links.follow("./d/../a", get), Some(1));
        assert_eq!(links.follow("x", get), None);
        assert_eq!(links.follow("none", get), None);
        assert_eq!(clean("/../a//./b/../c/"), "a/c");
    }
}
