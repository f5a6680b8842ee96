//! A label as text: `user:role:type[:level]`. Source: SELinux notebook, "Security Context".

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use fs_base::id::random_hex;
use fs_base::{Error, Result};

/// Categories that a policy has, `c0` to `c1023`. Source: refpolicy, `MCS_CATS`.
const CATEGORIES: u32 = 1024;
/// The level of files of containers that no label holds: no confined process has it. The same as Docker's.
pub const UNUSED: &str = "s0:c1022,c1023";
/// The level of files that all containers may use.
pub const SHARED: &str = "s0";

/// A label, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its user.
    pub user: String,
    /// Its role.
    pub role: String,
    /// Its type, by which most rules are.
    pub kind: String,
    /// Its level, in a policy that has levels.
    pub level: Option<String>,
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Label> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty());
        match (part(), part(), part(), part()) {
            (Some(user), Some(role), Some(kind), level) => Ok(Label { user, role, kind, level }),
            _ => Err(Error::invalid(format!("invalid SELinux label {text:?}"))),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(f, ":{level}"))
    }
}

/// The level of a label; `None` if it has none.
pub fn level_of(label: &str) -> Option<&str> {
    label.splitn(4, ':').nth(3)
}

/// The same label for files that all containers may use.
pub fn shared(label: &str) -> Result<String> {
    let label: Label = label.parse()?;
    let level = label.level.as_ref().map(|_| SHARED.to_owned());
    Ok(Label { level, ..label }.to_string())
}

/// A level of two categories that is none of these.
pub fn free_level(taken: &BTreeSet<String>) -> Result<String> {
    let random = random_hex::<8>()?;
    let random = u64::from_str_radix(&random, 16).map_err(|error| Error::internal(format!("{random}: {error}")))?;
    free_level_from(random, taken)
}

/// The first that is free from a random one on. So many random numbers make each as likely as any other.
pub(super) fn free_level_from(random: u64, taken: &BTreeSet<String>) -> Result<String> {
    let (mut low, mut left) = (0, random % u64::from(CATEGORIES * (CATEGORIES - 1) / 2));
    while left >= u64::from(CATEGORIES - 1 - low) {
        left -= u64::from(CATEGORIES - 1 - low);
        low += 1;
    }
    let pairs = |lows: Range<u32>| lows.flat_map(|low| (low + 1..CATEGORIES).map(move |high| (low, high)));
    let behind = pairs(low..CATEGORIES).skip(usize::try_from(left).unwrap_or_default());
    // Those before it in its own row once more: they come last, and the others have been tried.
    let mut levels = behind.chain(pairs(0..low + 1)).map(|(low, high)| format!("s0:c{low},c{high}"));
    levels
        .find(|level| level != UNUSED && !taken.contains(level))
        .ok_or_else(|| Error::unavailable("there is no SELinux level left that no container has"))
}
