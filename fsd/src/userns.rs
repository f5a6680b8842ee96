//! Which ids on the host the users of containers get, where they are not to be the host's own.
//!
//! `--userns-remap USER[:GROUP]` takes them from /etc/subuid and /etc/subgid, as dockerd does. `default` takes those of
//! `dockremap`, and where nobody has set that user up, 65536 ids that neither file gives to anybody: as no file on the
//! disk ever bears one of them, it does no harm if they are others tomorrow. Source: subuid(5), subgid(5), passwd(5).

use std::path::Path;

use fs_base::sys::ids::{IdMap, IdRange};
use fs_base::{Error, IoContext, Result};

/// The user whose ids `default` takes.
const DEFAULT_USER: &str = "dockremap";
/// How many ids a container gets that nobody set aside for it.
const COUNT: u32 = 65_536;
/// Where such ids begin, as useradd(8) has it.
const FIRST: u32 = 100_000;

/// The host's files.
#[derive(Debug, Default)]
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Files {
    fn read() -> Result<Files> {
        let read = |path: &str| match std::fs::read(Path::new(path)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).at("read", path),
        };
        Ok(Files {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            subuid: read("/etc/subuid")?,
            subgid: read("/etc/subgid")?,
        })
    }
}

/// The ids that `--userns-remap` names; `None` for an empty setting.
pub fn remap(setting: &str) -> Result<Option<IdMap>> {
    match setting {
        "" => Ok(None),
        _ => of(setting, &Files::read()?).map(Some).map_err(|error| error.context(format!("userns-remap {setting}"))),
    }
}

/// Those of `default`.
pub fn default() -> Result<IdMap> {
    of("default", &Files::read()?)
}

fn of(setting: &str, files: &Files) -> Result<IdMap> {
    if setting == "default" {
        let (uids, gids) = (ranges(&files.subuid, &[DEFAULT_USER]), ranges(&files.subgid, &[DEFAULT_USER]));
        return if uids.is_empty() && gids.is_empty() { unused(files) } else { mapped(DEFAULT_USER, uids, DEFAULT_USER, gids) };
    }
    let (user, group) = setting.split_once(':').unwrap_or((setting, ""));
    let (user, uid) = find(&files.passwd, user).ok_or_else(|| Error::not_found(format!("there is no user {user}")))?;
    let (group, gid) = match group {
        "" => (user.clone(), uid.clone()),
        name => find(&files.group, name).ok_or_else(|| Error::not_found(format!("there is no group {name}")))?,
    };
    let (uids, gids) = (ranges(&files.subuid, &[&user, &uid]), ranges(&files.subgid, &[&group, &gid]));
    mapped(&user, uids, &group, gids)
}

fn mapped(user: &str, uids: Vec<IdRange>, group: &str, gids: Vec<IdRange>) -> Result<IdMap> {
    for (ranges, file, name) in [(&uids, "/etc/subuid", user), (&gids, "/etc/subgid", group)] {
        if ranges.is_empty() {
            return Err(Error::not_found(format!("{file} has no ids for {name}"))
                .with_hint(format!("add a line such as {name}:{FIRST}:{COUNT} to it, with ids that no other line has")));
        }
    }
    IdMap::new(uids, gids)
}

/// Name and number of an entry of passwd(5) or group(5), by either.
fn find(file: &str, wanted: &str) -> Option<(String, String)> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (name == wanted || number == wanted).then(|| (name.to_owned(), number.to_owned()))
    })
}

/// What a file gives to whoever has one of these names, one range after the other inside.
fn ranges(file: &str, names: &[&str]) -> Vec<IdRange> {
    let mut inside = 0;
    let own = entries(file).filter(|(name, ..)| names.contains(name));
    own.map(|(_, outside, count)| {
        let range = IdRange { inside, outside, count };
        inside += count;
        range
    })
    .collect()
}

fn entries(file: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// Ids that nobody has.
fn unused(files: &Files) -> Result<IdMap> {
    let taken: Vec<_> = entries(&files.subuid).chain(entries(&files.subgid)).collect();
    let is_free = |start: u32| {
        let overlaps = |&(_, first, count): &(&str, u32, u32)| first < start + COUNT && start < first.saturating_add(count);
        !taken.iter().any(overlaps)
    };
    let start = (0..32_000).map(|block| FIRST + block * COUNT).find(|start| is_free(*start));
    let outside = start.ok_or_else(|| Error::conflict("/etc/subuid and /etc/subgid leave no ids"))?;
    let ranges = vec![IdRange { inside: 0, outside, count: COUNT }];
    IdMap::new(ranges.clone(), ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(subuid: &str, subgid: &str) -> Files {
        Files {
            passwd: "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n".to_owned(),
            group: "root:x:0:\nann:x:1000:\nstaff:x:50:ann\n".to_owned(),
            subuid: subuid.to_owned(),
            subgid: subgid.to_owned(),
        }
    }

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    #[test]
    fn a_user_has_the_ids_of_the_files() {
        let files = files("ann:300000:1000\nbob:100000:65536\n1000:500000:10\n", "ann:300000:1000\nstaff:700000:65536\n");
        for setting in ["ann", "1000", "ann:ann", "1000:1000"] {
            let map = of(setting, &files).unwrap();
            assert_eq!(map.uids(), [range(0, 300_000, 1000), range(1000, 500_000, 10)], "{setting}");
            assert_eq!(map.gids(), [range(0, 300_000, 1000)], "{setting}");
        }
        assert_eq!(of("ann:staff", &files).unwrap().gids(), [range(0, 700_000, 65_536)]);
        for (bad, why) in [("eve", "no user eve"), ("ann:eve", "no group eve"), ("root", "no ids for root")] {
            let error = of(bad, &files).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn default_is_dockremap_or_what_nobody_has() {
        let none = of("default", &files("", "")).unwrap();
        assert_eq!(none.uids(), [range(0, 100_000, 65_536)]);
        let others = of("default", &files("ann:100000:65536\n", "ann:165536:65536\nbad line\n")).unwrap();
        assert_eq!((others.uids(), others.gids()), (&[range(0, 231_072, 65_536)][..], &[range(0, 231_072, 65_536)][..]));
        let set_up = of("default", &files("dockremap:900000:65536\n", "dockremap:900000:65536\n")).unwrap();
        assert_eq!(set_up.uids(), [range(0, 900_000, 65_536)]);
        assert!(of("default", &files("dockremap:900000:65536\n", "")).is_err(), "half set up is a mistake");
        assert!(remap("").unwrap().is_none());
    }
}
