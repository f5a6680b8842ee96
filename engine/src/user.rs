//! Who a container runs as: names and numbers looked up in its own `/etc/passwd` and `/etc/group`.
//!
//! Those files belong to whoever made the image, so they are opened inside its root only, read only if they are regular
//! files, and read a line at a time up to a limit. The rules are Docker's: a number is never taken for a name, the first
//! line that matches counts, a number without a line is fine, a name without one is not.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::Path;

use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, Result};
use rustix::fs::{FileType, Mode, OFlags};

/// Bytes of a file that are read at most, as Docker reads them (CVE-2024-9676 was the lack of such a limit).
const MAX_FILE: u64 = 10 << 20;
/// Groups that a process can be in. Source: `NGROUPS_MAX` of the kernel.
const MAX_GROUPS: usize = 65_536;
/// Docker's own limit for both kinds of ids; it is that of a signed 32-bit number.
const MAX_ID: i64 = i32::MAX as i64;

const RANGE: &str = "uids and gids must be in range 0-2147483647";
const NO_USER: &str = "no matching entries in passwd file";
const NO_GROUP: &str = "no matching entries in group file";
/// Docker tells the group of `--user` and those of `--group-add` apart by this letter.
const OWN: &str = "unable to find group";
const FURTHER: &str = "Unable to find group";

/// A file of accounts, and the longest line of it (bytes) that is looked at, which is what Docker holds in memory.
struct Table {
    path: &'static str,
    longest_line: usize,
}

const PASSWD: Table = Table { path: "/etc/passwd", longest_line: 64 << 10 };
const GROUP: Table = Table { path: "/etc/group", longest_line: 1 << 20 };

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// All supplementary groups, each once. The first is `gid`, as with Docker: a process outside its own group could
    /// pass file modes that grant the group less than others (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// The home directory of the first account with this uid; `/` if there is none.
    pub home: String,
}

/// Looks up `user` (`""`, `name`, `uid`, each also with `:group` or `:gid`) and `extra_groups` (names or numbers) in the
/// container's root. An empty `user` is root.
///
/// Errors are [`Class::Invalid`], with Docker's texts, whatever is wrong with the files.
pub fn resolve(root: &Root, user: &str, extra_groups: &[String]) -> Result<User> {
    // What comes behind a second colon is nobody's: Docker reads this as it reads a line of the files.
    let mut fields = user.split(':');
    let (name, group) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let (wanted_user, wanted_group) = (Wanted::parse(name)?, Wanted::parse(group)?);
    let extra = extra_groups
        .iter()
        .map(|group| Wanted::parse(group)?.ok_or_else(|| not_found(FURTHER, Wanted::Name(group), Error::invalid(NO_GROUP))));
    let extra = extra.collect::<Result<Vec<_>>>()?;

    let account = find_account(root, wanted_user.unwrap_or(Wanted::Id(0)))?;
    let mut found = User { uid: account.uid, gid: account.gid, groups: Vec::new(), home: account.home };
    let mut groups = Vec::new();
    match wanted_group {
        Some(group) => found.gid = find_groups(root, &[group], OWN)?[0],
        None if !account.name.is_empty() => groups = groups_of(root, &account.name)?,
        None => {}
    }
    if !extra.is_empty() {
        groups.append(&mut find_groups(root, &extra, FURTHER)?);
    }
    groups.insert(0, found.gid);
    let mut seen = HashSet::new();
    groups.retain(|group| seen.insert(*group));
    if groups.len() > MAX_GROUPS {
        return Err(Error::invalid(format!("user {user} is in more than {MAX_GROUPS} groups")));
    }
    found.groups = groups;
    Ok(found)
}

/// What is looked for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    /// `None` for an empty text.
    fn parse(text: &'a str) -> Result<Option<Wanted<'a>>> {
        if text.is_empty() {
            return Ok(None);
        }
        match Number::parse(text.as_bytes()) {
            Number::Id(id) => Ok(Some(Wanted::Id(id))),
            Number::OutOfRange => Err(Error::invalid(RANGE)),
            Number::Not => Ok(Some(Wanted::Name(text))),
        }
    }

    fn matches(self, name: &[u8], id: Number) -> bool {
        match self {
            Wanted::Id(wanted) => id == Number::Id(wanted),
            Wanted::Name(wanted) => name == wanted.as_bytes(),
        }
    }
}

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Id(id) => write!(f, "{id}"),
            Wanted::Name(name) => f.write_str(name),
        }
    }
}

/// A text read as an id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    Id(u32),
    OutOfRange,
    Not,
}

impl Number {
    /// A sign is allowed, as for Docker; what has one and makes a negative number is out of range, not a name.
    fn parse(text: &[u8]) -> Number {
        let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Number::Not;
        }
        let value = str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
        match value {
            Some(id @ 0..=MAX_ID) => Number::Id(id as u32),
            _ => Number::OutOfRange,
        }
    }

    /// The id, of an account that is about to be used.
    ///
    /// Docker takes what is no number for 0 and cuts off what is too long, so that a spoilt line means root. Here it
    /// means an error.
    fn of_account(self) -> Result<u32> {
        match self {
            Number::Id(id) => Ok(id),
            Number::OutOfRange | Number::Not => Err(Error::invalid(RANGE)),
        }
    }
}

/// What the first matching line of the passwd file says.
struct Account {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: String,
}

fn find_account(root: &Root, wanted: Wanted<'_>) -> Result<Account> {
    let failed = |error: Error| error.context(format!("unable to find user {wanted}"));
    let mut account = None;
    scan(root, &PASSWD, |line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().unwrap_or_default();
        let uid = Number::parse(fields.nth(1).unwrap_or_default());
        if !wanted.matches(name, uid) {
            return Ok(ControlFlow::Continue(()));
        }
        let gid = match fields.next().unwrap_or_default() {
            b"" => 0,
            text => Number::parse(text).of_account()?,
        };
        let home = home_of(fields.nth(1));
        account = Some(Account { name: name.to_vec(), uid: uid.of_account()?, gid, home });
        Ok(ControlFlow::Break(()))
    })
    .map_err(failed)?;
    match (account, wanted) {
        (Some(mut account), Wanted::Name(_)) => {
            // The home is looked up by number at the very end, so of several names of a user the first one's counts.
            account.home = find_account(root, Wanted::Id(account.uid))?.home;
            Ok(account)
        }
        (Some(account), Wanted::Id(_)) => Ok(account),
        (None, Wanted::Id(uid)) => Ok(Account { name: Vec::new(), uid, gid: 0, home: "/".to_owned() }),
        (None, Wanted::Name(_)) => Err(failed(Error::invalid(NO_USER))),
    }
}

/// A home fit to be part of an environment.
fn home_of(field: Option<&[u8]>) -> String {
    match field {
        Some(home) if !home.is_empty() && !home.contains(&0) => String::from_utf8_lossy(home).into_owned(),
        _ => "/".to_owned(),
    }
}

/// The ids of the groups that are wanted, in that order, in one pass.
fn find_groups(root: &Root, wanted: &[Wanted<'_>], unable: &str) -> Result<Vec<u32>> {
    let mut found: Vec<Option<u32>> = vec![None; wanted.len()];
    let scanned = scan(root, &GROUP, |line| {
        let (name, gid, _) = group_line(line);
        for (wanted, found) in wanted.iter().zip(&mut found) {
            if found.is_none() && wanted.matches(name, gid) {
                *found = Some(gid.of_account().map_err(|error| not_found(unable, *wanted, error))?);
            }
        }
        Ok(if found.iter().all(Option::is_some) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    scanned?;
    let ids = wanted.iter().zip(found).map(|(wanted, found)| match (found, *wanted) {
        (Some(gid), _) | (None, Wanted::Id(gid)) => Ok(gid),
        (None, Wanted::Name(_)) => Err(not_found(unable, *wanted, Error::invalid(NO_GROUP))),
    });
    ids.collect()
}

fn not_found(unable: &str, wanted: Wanted<'_>, error: Error) -> Error {
    error.context(format!("{unable} {wanted}"))
}

/// The groups that list `user` as a member. A line without a proper id grants nothing.
fn groups_of(root: &Root, user: &[u8]) -> Result<Vec<u32>> {
    let mut groups = Vec::new();
    scan(root, &GROUP, |line| {
        let (_, gid, members) = group_line(line);
        if let Number::Id(gid) = gid
            && members.split(|byte| *byte == b',').any(|member| member == user)
        {
            groups.push(gid);
        }
        Ok(if groups.len() > MAX_GROUPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .map_err(|error| error.context(format!("unable to find groups for spec {}", String::from_utf8_lossy(user))))?;
    Ok(groups)
}

/// Name, id and members of a line; a comment has none of them.
fn group_line(line: &[u8]) -> (&[u8], Number, &[u8]) {
    if line.starts_with(b"#") {
        return (b"", Number::Not, b"");
    }
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().unwrap_or_default();
    let gid = Number::parse(fields.nth(1).unwrap_or_default());
    (name, gid, fields.next().unwrap_or_default())
}

/// Hands the file's lines out, trimmed, until told to stop. Empty and over-long ones are left out; a file that isn't
/// there has none.
fn scan(root: &Root, table: &Table, mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
    let Some(file) = open(root, table)? else { return Ok(()) };
    let mut reader = BufReader::new(file.take(MAX_FILE + 1));
    let (mut line, mut read) = (Vec::new(), 0);
    loop {
        line.clear();
        let longest = table.longest_line as u64 + 1;
        let mut taken = reader.by_ref().take(longest).read_until(b'\n', &mut line).at("read", table.path)?;
        let whole = taken as u64 <= table.longest_line as u64;
        if !whole && line.last() != Some(&b'\n') {
            taken += reader.skip_until(b'\n').at("read", table.path)?;
        }
        read += taken as u64;
        if read > MAX_FILE {
            return Err(Error::invalid(format!("read {}: file exceeds {MAX_FILE} bytes", table.path)));
        }
        if taken == 0 {
            return Ok(());
        }
        let text = line.trim_ascii();
        if whole && !text.is_empty() && each(text)?.is_break() {
            return Ok(());
        }
    }
}

/// The file, or `None` if there is none to read: missing, or something else than a regular file.
fn open(root: &Root, table: &Table) -> Result<Option<File>> {
    let path = Path::new(table.path);
    let named = match root.resolve(path) {
        Ok(fd) => fd,
        // Missing, a loop of symlinks, or a parent that is no directory.
        Err(error) if matches!(error.class(), Class::NotFound | Class::Invalid) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&named).at("stat", path)?.st_mode);
    if kind != FileType::RegularFile {
        return Ok(None);
    }
    // Only now is it opened, by its descriptor: to open a device can already be an act. NONBLOCK is for a file lease.
    let again = format!("/proc/self/fd/{}", named.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(again, flags, Mode::empty()).at("open", path)?.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\n\
        toor:x:0:0::/toor:/bin/sh\n\
        \n  app:x:1000:1001:App:/home/app:/bin/sh  \n\
        bare:x:1002\n\
        42:x:1003:1003::/forty-two:\n\
        big:x:4294967296:0::/:\n\
        odd:x:none:0::/:\n\
        neg:x:-1:0::/:\n\
        badgid:x:1004:x::/:\n";
    const GROUP_TEXT: &str = "root:x:0:\n\
        # staff:x:50:app\n\
        app:x:1001:\n\
        wheel:x:10:root,app\n\
        video:x:44:app\n\
        broken:x:zero:app,root\n\
        wide:x:4294967296:app\n";

    fn tree(passwd: &str, group: &str) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_form_of_a_user() {
        let (_dir, root) = tree(PASSWD_TEXT, GROUP_TEXT);
        let cases: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0, 10], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("0", 0, 0, &[0, 10], "/root"),
            ("toor", 0, 0, &[0], "/root"),
            ("app", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("1000", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("+1000", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("app:", 1000, 1001, &[1001, 10, 44], "/home/app"),
            // A group that is asked for stands alone.
            ("app:video", 1000, 44, &[44], "/home/app"),
            ("app:7", 1000, 7, &[7], "/home/app"),
            ("1000:44", 1000, 44, &[44], "/home/app"),
            (":video", 0, 44, &[44], "/root"),
            ("app:video:nobody:", 1000, 44, &[44], "/home/app"),
            ("app::video", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("5000", 5000, 0, &[0], "/"),
            ("5000:5001", 5000, 5001, &[5001], "/"),
            ("5000:wheel", 5000, 10, &[10], "/"),
            ("2147483647:2147483647", 2_147_483_647, 2_147_483_647, &[2_147_483_647], "/"),
            ("bare", 1002, 0, &[0], "/"),
            // A number is never a name.
            ("42", 42, 0, &[0], "/"),
        ];
        for (user, uid, gid, groups, home) in cases {
            let expected = User { uid: *uid, gid: *gid, groups: groups.to_vec(), home: (*home).to_owned() };
            assert_eq!(resolve(&root, user, &[]).unwrap(), expected, "{user:?}");
        }
    }

    #[test]
    fn extra_groups_by_name_and_number() {
        let (_dir, root) = tree(PASSWD_TEXT, GROUP_TEXT);
        let groups = |extra: &[&str]| resolve(&root, "app", &strings(extra)).map(|user| user.groups);
        assert_eq!(groups(&["wheel", "777", "root", "777"]).unwrap(), [1001, 10, 44, 777, 0]);
        assert_eq!(resolve(&root, "5000", &strings(&["video"])).unwrap().groups, [0, 44]);
        let error = groups(&["nope"]).unwrap_err();
        assert_eq!(error.to_string(), "Unable to find group nope: no matching entries in group file");
        assert_eq!(groups(&["-1"]).unwrap_err().to_string(), RANGE);
        assert_eq!(groups(&[""]).unwrap_err().to_string(), "Unable to find group : no matching entries in group file");
    }

    #[test]
    fn what_is_refused_and_how() {
        let (_dir, root) = tree(PASSWD_TEXT, GROUP_TEXT);
        let cases = [
            ("nobody", "unable to find user nobody: no matching entries in passwd file"),
            ("nobody:root", "unable to find user nobody: no matching entries in passwd file"),
            ("app:nogroup", "unable to find group nogroup: no matching entries in group file"),
            ("0:nogroup", "unable to find group nogroup: no matching entries in group file"),
            ("app:x:y", "unable to find group x: no matching entries in group file"),
            ("2147483648", RANGE),
            ("-1", RANGE),
            ("99999999999999999999999", RANGE),
            ("app:2147483648", RANGE),
            ("nobody:-5", RANGE),
            // Docker makes root of these.
            ("big", "unable to find user big: uids and gids must be in range 0-2147483647"),
            ("odd", "unable to find user odd: uids and gids must be in range 0-2147483647"),
            ("neg", "unable to find user neg: uids and gids must be in range 0-2147483647"),
            ("badgid", "unable to find user badgid: uids and gids must be in range 0-2147483647"),
            ("app:broken", "unable to find group broken: uids and gids must be in range 0-2147483647"),
            ("app:wide", "unable to find group wide: uids and gids must be in range 0-2147483647"),
        ];
        for (user, text) in cases {
            let error = resolve(&root, user, &[]).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.class()), (text, Class::Invalid), "{user:?}");
        }
    }

    #[test]
    fn without_files_numbers_still_work() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let expected = User { uid: 0, gid: 0, groups: vec![0], home: "/".to_owned() };
        assert_eq!(resolve(&root, "", &[]).unwrap(), expected);
        assert_eq!(resolve(&root, "5:6", &strings(&["7"])).unwrap().groups, [6, 7]);
        let error = resolve(&root, "root", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user root: no matching entries in passwd file");
        let error = resolve(&root, "0:root", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find group root: no matching entries in group file");
    }

    #[test]
    fn a_symlink_stays_in_the_root_and_other_things_are_no_files() {
        let (dir, root) = tree("in:x:7:8::/in:\n", "");
        let etc = dir.path().join("etc");
        std::fs::rename(etc.join("passwd"), dir.path().join("accounts")).unwrap();
        symlink("/accounts", etc.join("passwd")).unwrap();
        assert_eq!(resolve(&root, "in", &[]).unwrap().uid, 7);

        for target in ["/etc/passwd", "/dev/null/passwd", "/../../etc/shadow"] {
            std::fs::remove_file(etc.join("passwd")).unwrap();
            symlink(target, etc.join("passwd")).unwrap();
            assert!(resolve(&root, "root", &[]).is_err(), "{target}");
        }
        std::fs::remove_file(etc.join("passwd")).unwrap();
        // Nobody writes to it: to open it for reading would wait for ever.
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("passwd"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(resolve(&root, "3", &[]).unwrap().uid, 3);
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::fs::create_dir(etc.join("passwd")).unwrap();
        assert_eq!(resolve(&root, "3", &[]).unwrap().uid, 3);
    }

    #[test]
    fn a_file_without_end_is_refused_and_a_long_line_is_left_out() {
        let long = "x".repeat(PASSWD.longest_line);
        let passwd = format!("root:x:0:0::/root:\n{long}:x:1:1::/:\nlast:x:9:9::/last:");
        let (dir, root) = tree(&passwd, "");
        assert_eq!(resolve(&root, "last", &[]).unwrap().home, "/last");
        assert_eq!(resolve(&root, "1", &[]).unwrap().gid, 0);

        let file = std::fs::OpenOptions::new().append(true).open(dir.path().join("etc/passwd")).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(resolve(&root, "root", &[]).unwrap().uid, 0);
        let error = resolve(&root, "nobody", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nobody: read /etc/passwd: file exceeds 10485760 bytes");
        assert_eq!(error.class(), Class::Invalid);
    }

    #[test]
    fn a_line_exactly_at_the_limit_counts() {
        for (extra, found) in [(0, true), (1, false)] {
            let home = format!("/{}", "h".repeat(PASSWD.longest_line - "u:x:5:6::/:\n".len() + extra));
            let (_dir, root) = tree(&format!("u:x:5:6::{home}:\n"), "");
            assert_eq!(resolve(&root, "u", &[]).is_ok(), found);
        }
    }

    #[test]
    fn more_groups_than_the_kernel_takes_are_refused() {
        let lines: Vec<String> = (0..=MAX_GROUPS).map(|gid| format!("g:x:{gid}:app")).collect();
        let (_dir, root) = tree(PASSWD_TEXT, &lines.join("\n"));
        let error = resolve(&root, "app", &[]).unwrap_err();
        assert_eq!(error.to_string(), "user app is in more than 65536 groups");
    }
}
