//! Identifiers, checked once where they come in and trusted after that.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A sha256 digest as OCI writes it: `sha256:` and 64 lower-case hex digits.
///
/// Source: OCI image spec, descriptor.md, "Digests". sha512 is registered there too; no registry that we know
/// serves it, and it is refused by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the 32 bytes of a sha256 sum.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The sum's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The first twelve hex digits, as Docker shows ids to people.
    pub fn short(&self) -> String {
        to_hex(&self.0[..6])
    }

    /// From 64 hex digits without the algorithm.
    pub fn from_hex(hex: &str) -> Result<Digest> {
        let mut bytes = [0; 32];
        from_hex(hex, &mut bytes)
            .then_some(Digest(bytes))
            .ok_or_else(|| Error::invalid(format!("invalid digest {hex:?}: want 64 lower-case hex digits")))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Digest::from_hex(hex),
            Some((algorithm, _)) => Err(Error::unsupported(format!(
                "unsupported digest algorithm {algorithm:?} in {text:?}: only sha256 is supported"
            ))),
            None => Err(Error::invalid(format!("invalid digest {text:?}: want sha256:<64 hex digits>"))),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Digest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A layer, named by its diffID: the digest of its uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub Digest);

impl LayerId {
    /// The hex digits that name the layer's folder.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for LayerId {
    type Err = Error;
    fn from_str(text: &str) -> Result<LayerId> {
        text.parse().map(LayerId)
    }
}

/// A container's or exec's id: 64 hex digits, random.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id. Never all digits in its first twelve, so that a short id is never taken for a number
    /// (Docker does the same: it would break host names).
    pub fn random() -> Result<ContainerId> {
        loop {
            let id = random_hex::<32>()?;
            if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
                return Ok(ContainerId(id));
            }
        }
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = Error;
    fn from_str(text: &str) -> Result<ContainerId> {
        ContainerId::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ContainerId {
    type Error = Error;
    fn try_from(text: String) -> Result<ContainerId> {
        let mut bytes = [0; 32];
        if from_hex(&text, &mut bytes) {
            Ok(ContainerId(text))
        } else {
            Err(Error::invalid(format!("invalid id {text:?}: want 64 hex digits")))
        }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

/// A volume's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 255 bytes, so that it is one safe path component.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// The name of an anonymous volume: 64 random hex digits.
    pub fn anonymous() -> Result<VolumeName> {
        random_hex::<32>().map(VolumeName)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeName {
    type Err = Error;
    fn from_str(text: &str) -> Result<VolumeName> {
        VolumeName::try_from(text.to_owned())
    }
}

impl TryFrom<String> for VolumeName {
    type Error = Error;
    fn try_from(text: String) -> Result<VolumeName> {
        if is_object_name(&text) && text.len() <= 255 {
            return Ok(VolumeName(text));
        }
        // Docker's own words for this refusal.
        Err(Error::invalid(format!(
            "create {text}: {text:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
             If you intended to pass a host directory, use absolute path"
        )))
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}

/// Whether `text` is a name as Docker allows for containers and volumes: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_object_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `2 * N` random lower-case hex digits from the kernel.
pub fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    let mut urandom = std::fs::File::open("/dev/urandom").map_err(|e| Error::io("open", "/dev/urandom", e))?;
    urandom.read_exact(&mut bytes).map_err(|e| Error::io("read", "/dev/urandom", e))?;
    Ok(to_hex(&bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

fn from_hex(hex: &str, bytes: &mut [u8]) -> bool {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let hex = hex.as_bytes();
    hex.len() == bytes.len() * 2
        && bytes.iter_mut().zip(hex.chunks_exact(2)).all(|(byte, pair)| match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => {
                *byte = high << 4 | low;
                true
            }
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    #[test]
    fn a_digest_is_lower_case_sha256_and_nothing_else() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha256:AB", "../../etc", &text.to_uppercase(), &format!("{text}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!("sha512:00".parse::<Digest>().unwrap_err().class(), Class::Unsupported);
    }

    #[test]
    fn a_volume_name_is_one_safe_component() {
        for good in ["a1", "db.data", "x_y-z"] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\0"] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<ContainerId>().unwrap(), a);
    }
}
