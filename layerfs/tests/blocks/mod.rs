//! Tars made block by block, as no tool would.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test file uses a part of it; a failed step fails the test

/// A header block in the making.
pub struct Block(pub [u8; 512]);

impl Block {
    pub fn new(name: &[u8], flag: u8, size: u64) -> Block {
        let mut block = Block([0; 512]);
        block.0[..name.len()].copy_from_slice(name);
        block.0[156] = flag;
        block.0[257..265].copy_from_slice(b"ustar\x0000");
        block.number(100, 8, 0o644).number(108, 8, 0).number(116, 8, 0).number(124, 12, size).number(136, 12, 1)
    }

    pub fn number(self, at: usize, length: usize, value: u64) -> Block {
        let text = format!("{value:0width$o}\0", width = length - 1);
        self.set(at, text.as_bytes())
    }

    pub fn set(mut self, at: usize, bytes: &[u8]) -> Block {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// With the data behind it.
    pub fn with(self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.set(148, b"        ").0.to_vec();
        let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    pub fn alone(self) -> Vec<u8> {
        self.with(&[])
    }
}

/// A PAX header with these records.
pub fn pax(flag: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (1..6).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
        data.extend_from_slice(format!("{length} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    Block::new(b"PaxHeaders/x", flag, data.len() as u64).with(&data)
}

pub fn file(name: &str, data: &[u8]) -> Vec<u8> {
    Block::new(name.as_bytes(), b'0', data.len() as u64).with(data)
}
