//! What stands in for libFuzzer in `make test`: seeds, kept findings, and so many changes of them, the same in each run.

use std::path::Path;

/// A generator of numbers that look random. Source: Sebastiano Vigna, "splitmix64".
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Runs a target on all that is in `seeds` and `findings`, and on `count` changes of that.
pub fn run(target: fn(&[u8], &Path), seeds: &[&Path], count: u64) {
    // In memory, where a sync costs nothing.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
    let mut corpus: Vec<Vec<u8>> = vec![Vec::new()];
    for dir in seeds {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            corpus.push(std::fs::read(entry.expect("an entry").path()).expect("a seed"));
        }
    }
    corpus.sort();
    assert!(corpus.len() > 1, "no seeds in {seeds:?}");
    for input in &corpus {
        target(input, folder.path());
    }
    for number in 0..count {
        let input = changed(&mut Random(number), &corpus);
        let ran = std::panic::catch_unwind(|| target(&input, folder.path()));
        // Said by number: it is the same input in the next run.
        assert!(ran.is_ok(), "input number {number} breaks it");
    }
}

fn changed(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    if bytes.is_empty() {
        bytes = (0..random.below(600)).map(|_| random.next() as u8).collect();
    }
    for _ in 0..=random.below(6) {
        let length = bytes.len();
        let (from, to) = (random.below(length), random.below(length));
        // Tars go by blocks.
        let some = if random.below(2) == 0 { random.below(16) } else { 512 };
        match random.below(8) {
            0 if length > 0 => bytes[from] = random.next() as u8,
            1 if length > 0 => bytes[from] ^= 1 << random.below(8),
            2 if length > 0 => bytes[from] = [0, 1, b'0', b'7', b'9', 0x7f, 0x80, 0xff][random.below(8)],
            3 if length > some => drop(bytes.drain(from.min(length - some)..from.min(length - some) + some)),
            4 if length > some && length < 1 << 16 => {
                let piece = bytes[from.min(length - some)..][..some].to_vec();
                drop(bytes.splice(to..to, piece));
            }
            5 if length > some => {
                let piece = bytes[from.min(length - some)..][..some].to_vec();
                bytes[to.min(length - some)..][..some].copy_from_slice(&piece);
            }
            6 if length < 1 << 16 => {
                let other = &corpus[random.below(corpus.len())];
                let cut = random.below(other.len());
                bytes.truncate(to);
                bytes.extend_from_slice(&other[cut..]);
            }
            _ if length > 8 => {
                let text = format!("{:o}", random.next() >> random.below(64));
                let at = from.min(length - text.len().min(length));
                let text = &text.as_bytes()[..text.len().min(length)];
                bytes[at..at + text.len()].copy_from_slice(text);
            }
            _ => {}
        }
    }
    bytes
}
