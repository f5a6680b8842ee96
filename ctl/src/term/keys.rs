//! The keys that detach from a container.

use anyhow::{Result, bail};

/// Docker's own.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Reads `ctrl-p,ctrl-q` or `a,b`.
pub fn parse(text: &str) -> Result<Vec<u8>> {
    text.split(',')
        .map(|key| {
            let lower = key.to_lowercase();
            match (key.as_bytes(), lower.strip_prefix("ctrl-").map(str::as_bytes)) {
                ([one], _) => Ok(*one),
                (_, Some([letter @ b'a'..=b'z'])) => Ok(letter - b'a' + 1),
                (_, Some([b'@'])) => Ok(0),
                (_, Some([other @ (b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(other - b'[' + 27),
                _ => bail!("invalid detach keys ({text}): Unknown character: '{key}'"),
            }
        })
        .collect()
}

/// Finds the keys in what is typed, across reads; holds back a beginning until it is known what it becomes.
#[derive(Debug)]
pub struct Watch {
    keys: Vec<u8>,
    held: usize,
}

impl Watch {
    /// Watches for these keys; none: never.
    pub fn new(keys: Vec<u8>) -> Watch {
        Watch { keys, held: 0 }
    }

    /// What of the input is to be sent on, and whether the keys were typed.
    pub fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    self.held = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.held]);
            self.held = 0;
            if self.keys.first() == Some(&byte) && self.keys.len() > 1 {
                self.held = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        assert_eq!(parse(DEFAULT).unwrap(), [16, 17]);
        assert_eq!(parse("a,ctrl-[,ctrl-@").unwrap(), [b'a', 27, 0]);
        assert!(parse("shift-a").is_err());
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_a_false_start_passed_on() {
        let mut watch = Watch::new(vec![16, 17]);
        assert_eq!(watch.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(watch.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(watch.feed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.feed(b"\x11rest"), (Vec::new(), true));
    }
}
