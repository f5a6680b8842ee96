//! The file `FORMAT` at the store's root: what a daemon must know, and its host be able to do, to open the store.
//!
//! ```text
//! fsd-store 1
//! feature upper-trusted
//! driver erofs
//! ```
//!
//! The first line is the layout's version. Each `feature` is something in the store that a daemon must understand and
//! honour, or leave the store alone. `driver` is the storage driver that served the store last: every driver of this
//! version reads what any of them wrote, so another may take its place, but one that this version does not know may
//! have written what it can't read. A line that says anything else is a newer version's, and refused.

use std::path::Path;

use fs_base::{Error, IoContext, Result, durable};
use layerfs::driver::{self, Upper};

/// The first line.
const VERSION: &str = "fsd-store 1";
/// Writable layers keep overlayfs's marks in `trusted.` attributes.
const UPPER_TRUSTED: &str = "upper-trusted";
/// They keep them in `user.` attributes.
const UPPER_USER: &str = "upper-user";

/// The feature of writable layers that this process would make.
fn own_feature() -> &'static str {
    match Upper::of_process() {
        Upper::Trusted => UPPER_TRUSTED,
        Upper::User => UPPER_USER,
    }
}

/// Refuses a store that this version does not understand, or this host can't honour. A store without the file is new.
pub fn check(path: &Path) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.at("read", path)?,
    };
    let refuse = |why: String, hint: &str| Err(Error::unsupported(format!("{}: {why}", path.display())).with_hint(hint));
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version != VERSION {
        let why = format!("the store's format is {version:?}, this version reads {VERSION:?}");
        return refuse(why, "use the version that wrote it, or another --root");
    }
    for line in lines {
        match line.split_once(' ') {
            Some(("feature", name)) if name == own_feature() => {}
            Some(("feature", UPPER_TRUSTED)) => {
                return refuse(
                    "its containers' writable layers have marks in trusted. attributes, which this process can't see".to_owned(),
                    "run the daemon as root, outside of user namespaces, or use another --root",
                );
            }
            Some(("feature", UPPER_USER)) => {
                return refuse(
                    "its containers' writable layers have marks in user. attributes: a daemon without privilege made them"
                        .to_owned(),
                    "run the daemon as the user who made the store, or use another --root",
                );
            }
            Some(("driver", name)) if driver::names().contains(&name) => {}
            Some(("driver", name)) => {
                let known = driver::names().join(", ");
                let why = format!("the store was made by the storage driver {name:?}; this version has {known}");
                return refuse(why, "use the version that wrote it, or another --root");
            }
            _ => {
                let why = format!("the store has {line:?}, which this version does not know");
                return refuse(why, "use the version that wrote it, or another --root");
            }
        }
    }
    Ok(())
}

/// Says in the file what the store is now, after [`check`] has let it pass. `driver` is the one in use.
pub fn record(path: &Path, driver: Option<&str>) -> Result<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    // A host without a driver changes nothing for the next.
    let last = old.lines().find_map(|line| line.strip_prefix("driver "));
    let driver = driver.or(last).map(|name| format!("driver {name}\n")).unwrap_or_default();
    let text = format!("{VERSION}\nfeature {}\n{driver}", own_feature());
    if text == old { Ok(()) } else { durable::write(path, text.as_bytes(), 0o644) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_opened_if_all_it_says_is_known_and_can_be_honoured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("FORMAT");
        assert!(check(&path).is_ok(), "new");
        let other = if own_feature() == UPPER_USER { UPPER_TRUSTED } else { UPPER_USER };
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = check(&path).unwrap_err();
            assert!(error.hint().is_some());
            error.to_string()
        };
        assert!(refused("fsd-store 99\n").contains("fsd-store 99"));
        assert!(refused("fsd-store 1\nfeature holograms\n").contains("feature holograms"));
        assert!(refused("fsd-store 1\ndriver zfs\n").contains("\"zfs\""));
        assert!(refused("fsd-store 1\nmagic\n").contains("magic"));
        assert!(refused(&format!("fsd-store 1\nfeature {other}\n")).contains("attributes"));
        std::fs::write(&path, "fsd-store 1\n").unwrap();
        assert!(check(&path).is_ok(), "as the first version wrote it");
        record(&path, Some("overlay")).unwrap();
        record(&path, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("fsd-store 1\nfeature {}\ndriver overlay\n", own_feature()));
        assert!(check(&path).is_ok());
    }
}
