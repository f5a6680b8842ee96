//! tmpfs options: the `size=64m,mode=1777,exec` after `--tmpfs /path:`.

use fs_base::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Kind, Request, target};

/// The options of one tmpfs, checked and merged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Bytes at most; the kernel's default (half of the memory) if `None` and `options` has no `size=N%`.
    pub size: Option<u64>,
    /// Mode of its root directory.
    pub mode: Option<u32>,
    /// What is left of tmpfs(5) and the mount flags, each at most once.
    pub options: Vec<String>,
    /// Nothing can be written.
    pub read_only: bool,
}

/// Docker's flags for a tmpfs in a container; what is asked for is laid over them.
pub const CONTAINER_DEFAULTS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Parses one entry of `HostConfig.Tmpfs`.
pub fn tmpfs(path: &str, options: &str) -> Result<Request> {
    let target = target(path)?;
    let options = Tmpfs::parse(CONTAINER_DEFAULTS, options)?;
    Ok(Request { target, read_only: options.read_only, kind: Kind::Tmpfs { options, hidden: true }, mode: String::new() })
}

impl Tmpfs {
    /// Parses a comma separated list, laid over `defaults`: where two contradict, the later wins.
    pub fn parse<'a>(defaults: impl IntoIterator<Item = &'a str>, options: &'a str) -> Result<Tmpfs> {
        let mut tmpfs = Tmpfs::default();
        for option in defaults.into_iter().chain(options.split(',').filter(|option| !option.is_empty())) {
            tmpfs.add(option)?;
        }
        Ok(tmpfs)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        match option {
            "defaults" | "private" | "rprivate" => return Ok(()),
            "ro" | "rw" => {
                self.read_only = option == "ro";
                return Ok(());
            }
            "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                return Err(Error::unsupported(format!("tmpfs option {option:?} is not supported: a tmpfs is private")));
            }
            _ => {}
        }
        if let Some(group) = FLAGS.iter().find(|group| group.contains(&option)) {
            self.options.retain(|old| !group.contains(&old.as_str()));
            self.options.push(option.to_owned());
            return Ok(());
        }
        let (key, value) = option.split_once('=').ok_or_else(|| refused(&[option]))?;
        let bad_value = || Error::invalid(format!("invalid tmpfs option {option:?}: {value:?} is not a {key}"));
        match key {
            "mode" => self.mode = Some(octal_mode(value).ok_or_else(bad_value)?),
            "size" => {
                self.drop_key("size");
                match value.strip_suffix('%') {
                    Some(percent) if percent.parse::<u32>().is_ok() => {
                        self.size = None;
                        self.options.push(option.to_owned());
                    }
                    _ => self.size = Some(memory_size(value).ok_or_else(bad_value)?),
                }
            }
            "uid" | "gid" if value.parse::<u32>().is_err() => return Err(bad_value()),
            "nr_inodes" | "nr_blocks" if memory_size(value).is_none() => return Err(bad_value()),
            "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol" => {
                self.drop_key(key);
                self.options.push(option.to_owned());
            }
            _ => return Err(refused(&[key, value])),
        }
        Ok(())
    }

    fn drop_key(&mut self, key: &str) {
        self.options.retain(|old| old.split_once('=').is_none_or(|(old, _)| old != key));
    }
}

/// Flags that exclude one another, by group.
const FLAGS: [&[&str]; 6] = [
    &["exec", "noexec"],
    &["suid", "nosuid"],
    &["dev", "nodev"],
    &["sync", "async"],
    &["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"],
    &["diratime", "nodiratime"],
];

/// Docker's words; it prints the option as Go prints a list of strings.
fn refused(parts: &[&str]) -> Error {
    let quoted: Vec<String> = parts.iter().map(|part| format!("{part:?}")).collect();
    Error::invalid(format!("invalid tmpfs option [{}]", quoted.join(" ")))
}

/// Permission bits in octal.
fn octal_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// A number with the kernel's suffixes k, m, g, t (memparse: powers of 1024, either case).
fn memory_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Tmpfs {
        Tmpfs::parse(CONTAINER_DEFAULTS, options).unwrap()
    }

    #[test]
    fn the_later_option_wins_over_the_defaults_and_the_earlier() {
        let tmpfs = parsed("size=1m,exec,size=64k,mode=700,ro,uid=5,uid=6,noatime");
        assert_eq!((tmpfs.size, tmpfs.mode, tmpfs.read_only), (Some(65536), Some(0o700), true));
        assert_eq!(tmpfs.options, ["nosuid", "nodev", "exec", "uid=6", "noatime"]);
    }

    #[test]
    fn sizes_take_the_kernels_suffixes_and_percents() {
        for (text, want) in [("size=5", 5), ("size=2K", 2048), ("size=3g", 3 << 30)] {
            assert_eq!(parsed(text).size, Some(want), "{text}");
        }
        let percent = parsed("size=1m,size=10%");
        assert_eq!((percent.size, percent.options.last().map(String::as_str)), (None, Some("size=10%")));
        assert_eq!(parsed("size=10%,size=1k").options, CONTAINER_DEFAULTS);
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        for (options, want) in [
            ("foo", r#"invalid tmpfs option ["foo"]"#),
            ("foo=1,size=2", r#"invalid tmpfs option ["foo" "1"]"#),
            ("bind", r#"invalid tmpfs option ["bind"]"#),
            ("size=5x", r#"invalid tmpfs option "size=5x": "5x" is not a size"#),
            ("mode=9", r#"invalid tmpfs option "mode=9": "9" is not a mode"#),
            ("uid=root", r#"invalid tmpfs option "uid=root": "root" is not a uid"#),
            ("rshared", r#"tmpfs option "rshared" is not supported: a tmpfs is private"#),
        ] {
            assert_eq!(tmpfs("/q", options).unwrap_err().to_string(), want);
        }
        assert_eq!(tmpfs("/", "").unwrap_err().to_string(), "invalid specification: destination can't be '/'");
        assert_eq!(tmpfs("q", "").unwrap_err().to_string(), "invalid mount path: 'q' mount path must be absolute");
    }
}
