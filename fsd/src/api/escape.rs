//! The keys by which a client leaves a terminal without ending what runs in it.
//!
//! docker's own CLI looks for them itself, so that they never come here; other clients of the API send them.

use fs_base::{Error, Result};

/// Docker's.
const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for a sequence of keys in what is typed. A sequence that is begun and not finished is handed on.
#[derive(Debug)]
pub struct Escape {
    keys: Vec<u8>,
    matched: usize,
}

impl Escape {
    /// From Docker's words, `ctrl-a,b`; Docker's default if there are none.
    pub fn parse(text: Option<&str>) -> Result<Escape> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
        let bad = || Error::invalid(format!("Invalid escape keys ({text}) provided"));
        let keys = text.split(',').map(|key| byte_of(key).ok_or_else(bad)).collect::<Result<_>>()?;
        Ok(Escape { keys, matched: 0 })
    }

    /// Moves what is not of the sequence to `out`; whether the sequence is complete.
    pub fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in typed {
            if *byte != self.keys[self.matched] {
                out.extend(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
            } else {
                out.push(*byte);
            }
        }
        false
    }
}

/// `a`, or `ctrl-` and what a control character is typed with. Source: moby/term, `ToBytes`.
fn byte_of(key: &str) -> Option<u8> {
    if let [byte] = key.as_bytes() {
        return Some(*byte);
    }
    match key.strip_prefix("ctrl-")?.as_bytes() {
        [byte @ b'a'..=b'z'] => Some(byte - b'a' + 1),
        [b'@'] => Some(0),
        [byte @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Some(byte - b'[' + 27),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Escape;

    fn typed(keys: Option<&str>, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut escape = Escape::parse(keys).unwrap();
        let mut out = Vec::new();
        let left = pieces.iter().any(|piece| escape.filter(piece, &mut out));
        (out, left)
    }

    #[test]
    fn a_sequence_is_found_and_half_of_one_is_handed_on() {
        assert_eq!(typed(None, &[b"ls\x10", b"\x11more"]), (b"ls".to_vec(), true));
        assert_eq!(typed(None, &[b"\x10x\x10\x10\x11"]), (b"\x10x\x10".to_vec(), true));
        assert_eq!(typed(Some("ctrl-],q"), &[b"\x1d", b"a", b"\x10\x11"]), (b"\x1da\x10\x11".to_vec(), false));
        let error = Escape::parse(Some("ctrl-A")).unwrap_err().to_string();
        assert_eq!(error, "Invalid escape keys (ctrl-A) provided");
    }
}
