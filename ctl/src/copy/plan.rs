//! Docker's rules of `cp`: what a source and a destination that exist or don't mean for names.

use anyhow::{Result, bail};

/// The destination as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As the person gave it, its links followed.
    pub path: String,
    /// Something is there.
    pub exists: bool,
    /// It is a directory.
    pub is_dir: bool,
}

/// Where the copy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The directory that takes it; it must exist.
    pub dir: String,
    /// The name under which it arrives; `None`: its own (and for the content of a directory: none, right into `dir`).
    pub name: Option<String>,
}

/// Decides by what is there.
pub fn decide(source_is_dir: bool, place: &Place) -> Result<Target> {
    match (place.exists, place.is_dir, source_is_dir) {
        (true, true, _) => Ok(Target { dir: place.path.clone(), name: None }),
        (true, false, true) => bail!("cannot copy directory"),
        (true, false, false) if asserts_directory(&place.path) => bail!("not a directory"),
        (false, _, false) if asserts_directory(&place.path) => bail!("no such directory"),
        _ => {
            let (dir, name) = split(&place.path);
            Ok(Target { dir, name: Some(name) })
        }
    }
}

/// Whether a path says of itself that it is a directory: `x/` or `x/.`.
pub fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || means_content(path)
}

/// Whether a path means what is in a directory, not the directory: `.` or `x/.`.
pub fn means_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// A path's directory and its last name, `/` and `.` at the end left aside.
pub fn split(path: &str) -> (String, String) {
    let bare = bare(path);
    match bare.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((dir, name)) => (dir.to_owned(), name.to_owned()),
        None => (".".to_owned(), bare.to_owned()),
    }
}

fn bare(mut path: &str) -> &str {
    loop {
        let shorter = path.trim_end_matches('/');
        let shorter = shorter.strip_suffix("/.").unwrap_or(shorter);
        if shorter == path {
            return path;
        }
        path = shorter;
    }
}

/// Who has the file: the machine, a container, or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A path here; `-` for standard input or output.
    Local(String),
    /// A path in a container.
    Container(String, String),
    /// A path in an image.
    Image(String, String),
}

/// Reads `CONTAINER:PATH`, `image:NAME:/PATH`, or a local path.
pub fn side(text: &str) -> Side {
    if let Some(rest) = text.strip_prefix("image:")
        && let Some((name, path)) = image_and_path(rest)
    {
        return Side::Image(name, path);
    }
    if text.starts_with('/') {
        return Side::Local(text.to_owned());
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() && !container.starts_with('.') => {
            Side::Container(container.to_owned(), path.to_owned())
        }
        _ => Side::Local(text.to_owned()),
    }
}

/// Reads `NAME[:TAG]:/PATH`.
pub fn image_and_path(text: &str) -> Option<(String, String)> {
    let (name, path) = text.split_once(":/")?;
    (!name.is_empty()).then(|| (name.to_owned(), format!("/{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, exists: bool, is_dir: bool) -> Place {
        Place { path: path.into(), exists, is_dir }
    }

    #[test]
    fn destinations_are_decided_as_dockers() {
        let target = |dir: &str, name: Option<&str>| Target { dir: dir.into(), name: name.map(str::to_owned) };
        assert_eq!(decide(false, &place("/d/", true, true)).unwrap(), target("/d/", None));
        assert_eq!(decide(true, &place("/d", true, true)).unwrap(), target("/d", None));
        assert_eq!(decide(false, &place("/d/f", true, false)).unwrap(), target("/d", Some("f")));
        assert_eq!(decide(false, &place("/d/f", false, false)).unwrap(), target("/d", Some("f")));
        assert_eq!(decide(true, &place("/d/new/", false, false)).unwrap(), target("/d", Some("new")));
        assert_eq!(decide(false, &place("new", false, false)).unwrap(), target(".", Some("new")));
        assert_eq!(decide(true, &place("/f", true, false)).unwrap_err().to_string(), "cannot copy directory");
        assert_eq!(decide(false, &place("/new/", false, false)).unwrap_err().to_string(), "no such directory");
    }

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("c:/etc/x"), Side::Container("c".into(), "/etc/x".into()));
        assert_eq!(side("c:x:y"), Side::Container("c".into(), "x:y".into()));
        assert_eq!(side("./c:x"), Side::Local("./c:x".into()));
        assert_eq!(side("/c:x"), Side::Local("/c:x".into()));
        assert_eq!(side("-"), Side::Local("-".into()));
        assert_eq!(side("image:debian:12:/etc"), Side::Image("debian:12".into(), "/etc".into()));
        assert_eq!(side("image:localhost:5000/a:/etc"), Side::Image("localhost:5000/a".into(), "/etc".into()));
        assert_eq!(side("image:/etc"), Side::Container("image".into(), "/etc".into()));
    }

    #[test]
    fn paths_come_apart() {
        assert_eq!(split("/a/b"), ("/a".into(), "b".into()));
        assert_eq!(split("/a/b/."), ("/a".into(), "b".into()));
        assert_eq!(split("b//"), (".".into(), "b".into()));
        assert_eq!(split("/b"), ("/".into(), "b".into()));
        assert!(means_content("x/.") && means_content(".") && !means_content("x/.."));
    }
}
