//! What follows `-o`, in fuse-overlayfs's words.

use std::path::{Path, PathBuf};

use fs_base::sys::fuse::FuseOptions;
use fs_base::sys::user::User;
use fs_base::{Error, Result};
use layerfs::driver::fuse::{Fs, FsOptions, IdRange, LowerSpec, Owners, SessionOptions};

/// Most threads that serve one mount; more only wait for each other.
const MOST_THREADS: usize = 8;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Options {
    lowers: Vec<LowerSpec>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    owners: Owners,
    read_only: bool,
    volatile: bool,
    static_links: bool,
    allow_other: bool,
    suid: Option<bool>,
    dev: bool,
    threads: Option<usize>,
    source: Option<String>,
    live: bool,
}

/// Options that tune what needs no tuning here, or ask for what is so anyway.
const WITHOUT_EFFECT: [&str; 17] = [
    "threaded",
    "writeback",
    "clone_fd",
    "max_write",
    "max_idle_threads",
    "timeout",
    "xino",
    "noacl",
    "default_permissions",
    "auto_unmount",
    "rw",
    "exec",
    "atime",
    "noatime",
    "relatime",
    "async",
    "subtype",
];

/// What is not done here may be asked not to be done.
const REFUSED_FEATURES_OFF: [(&str, &str); 4] =
    [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xattr_permissions", "0")];

impl Options {
    /// Reads all `-o`; a later option wins.
    pub fn read(texts: &[String]) -> Result<Options> {
        let mut options = Options::default();
        for text in texts {
            for word in split(text, ',').iter().filter(|word| !word.is_empty()) {
                let (key, value) = word.split_once('=').map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
                options.set(key, value)?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let needed = || value.ok_or_else(|| Error::invalid(format!("option {key} needs a value")));
        match key {
            "lowerdir" => self.lowers = split(needed()?, ':').iter().map(|text| lower(text)).collect(),
            "upperdir" => self.upper = Some(plain(needed()?).into()),
            "workdir" => self.work = Some(plain(needed()?).into()),
            "squash_to_root" => (self.owners.squash_uid, self.owners.squash_gid) = (Some(0), Some(0)),
            "squash_to_uid" => self.owners.squash_uid = Some(number(key, needed()?)?),
            "squash_to_gid" => self.owners.squash_gid = Some(number(key, needed()?)?),
            "uidmapping" => self.owners.uids = mapping(key, needed()?)?,
            "gidmapping" => self.owners.gids = mapping(key, needed()?)?,
            "ro" => self.read_only = true,
            "volatile" => self.volatile = true,
            "fsync" => self.volatile = needed()? == "0",
            "static_nlink" => self.static_links = true,
            "allow_other" | "allow_root" => self.allow_other = true,
            "suid" | "nosuid" => self.suid = Some(key == "suid"),
            "dev" | "nodev" => self.dev = key == "dev",
            "max_threads" => self.threads = Some(number(key, needed()?)?.clamp(1, 64) as usize),
            "live" => self.live = true,
            "fsname" => self.source = Some(plain(needed()?)),
            _ if WITHOUT_EFFECT.contains(&key) || REFUSED_FEATURES_OFF.contains(&(key, value.unwrap_or_default())) => {}
            _ => return Err(Error::unsupported(format!("option {:?} is not supported", join(key, value)))),
        }
        Ok(())
    }

    /// The tree that is meant, its layers opened.
    pub fn tree(&self, open_files: usize) -> Result<FsOptions> {
        let upper = match (&self.upper, &self.work) {
            _ if self.read_only && self.upper.is_none() => None,
            (Some(upper), Some(work)) => Some((upper.clone(), work.clone())),
            (Some(_), None) => return Err(Error::invalid("option upperdir needs workdir")),
            (None, _) => None,
        };
        Ok(FsOptions {
            lowers: self.lowers.iter().map(LowerSpec::open).collect::<Result<_>>()?,
            upper,
            owners: self.owners.clone(),
            open_dirs: open_files / 4,
            volatile: self.volatile,
            static_links: self.static_links,
            live: self.live,
        })
    }

    /// What an ordinary user mounts for himself belongs to him, unless an option says whose it is: he could store no
    /// other owner, and would be kept from reading what is root's.
    pub fn own_all(&self, tree: &mut FsOptions, user: &User) {
        if !user.is_root() && self.owners == Owners::default() {
            tree.owners.squash_uid = Some(user.uid);
            tree.owners.squash_gid = Some(user.gid);
        }
    }

    /// Whether a layer is a directory, which only who has the right can read.
    pub fn has_directories(&self) -> bool {
        self.lowers.iter().any(|lower| matches!(lower, LowerSpec::Plain(_)))
    }

    /// How it is mounted.
    pub fn session(&self, fs: &Fs, target: &Path, user: Option<&User>) -> Result<SessionOptions> {
        let root = rustix::process::geteuid().is_root() && user.is_none();
        if (self.dev || self.suid == Some(true)) && !root {
            return Err(Error::denied(format!("{}: options dev and suid are for root", target.display())));
        }
        Ok(SessionOptions {
            mount: FuseOptions {
                source: self.source.clone().unwrap_or_else(|| "fsd-fuse".to_owned()),
                subtype: "fsd-fuse".to_owned(),
                read_only: self.read_only || fs.is_read_only(),
                allow_other: self.allow_other || root,
                // Containers run on what can be written, and some of their programs need it.
                suid: root && self.suid.unwrap_or(!fs.is_read_only()),
                dev: root && self.dev,
                user: user.cloned(),
                label: None,
            },
            threads: self.threads(),
        })
    }

    /// How many requests are worked on at once.
    pub fn threads(&self) -> usize {
        // The kernel wakes them in turn. One more than can run costs a quarter more for each request, and fewer than two
        // would let a request that waits for the disk hold up all others.
        let default = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, MOST_THREADS);
        self.threads.unwrap_or(default)
    }
}

fn join(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"))
}

/// Cuts at a character that no backslash stands before; backslashes stay.
fn split(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == at && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// A text without its backslashes.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

fn lower(text: &str) -> LowerSpec {
    match text.strip_prefix('@') {
        Some(layer) => LowerSpec::Indexed(plain(layer).into()),
        None => LowerSpec::Plain(plain(text).into()),
    }
}

fn number(key: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|_| Error::invalid(format!("option {key}: {text:?} is not a number")))
}

/// Threes of numbers: as stored, as shown, how many.
fn mapping(key: &str, text: &str) -> Result<Vec<IdRange>> {
    let numbers: Vec<u32> = text.split(':').map(|part| number(key, part)).collect::<Result<_>>()?;
    if numbers.is_empty() || !numbers.len().is_multiple_of(3) {
        return Err(Error::invalid(format!("option {key}: {text:?} is not HOST:ID:COUNT, once or more often")));
    }
    Ok(numbers.chunks(3).map(|three| IdRange { stored: three[0], shown: three[1], count: three[2] }).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step fails the test
mod tests {
    use super::*;

    #[test]
    fn podmans_words_are_understood() {
        let text = r"lowerdir=l/AA:/b\:c:@/store/x,nodev,fsync=0,uidmapping=1000:0:1:100000:1:65536,upperdir=/u\,1,workdir=w";
        let options = Options::read(&[text.to_owned()]).unwrap();
        let lowers: Vec<String> = options.lowers.iter().map(|lower| format!("{lower:?}")).collect();
        assert_eq!(lowers, [r#"Plain("l/AA")"#, r#"Plain("/b:c")"#, r#"Indexed("/store/x")"#]);
        assert_eq!(options.upper.as_deref(), Some(Path::new("/u,1")));
        assert!(options.volatile && !options.read_only);
        assert_eq!(options.owners.uids[1], IdRange { stored: 100_000, shown: 1, count: 65536 });
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, said) in
            [("metacopy=on", "metacopy=on"), ("upper", "upper"), ("squash_to_uid=x", "\"x\""), ("lowerdir", "value")]
        {
            let error = Options::read(&[text.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
