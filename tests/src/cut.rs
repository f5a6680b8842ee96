//! Power cuts: a disk's writes as they came, and what may be left of them on a disk that loses its power.

use std::path::Path;

/// Sector, and first number, of the log's format. Source: QEMU's `blklogwrites`, Linux's Documentation/admin-guide/device-mapper/log-writes.rst.
const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request to a disk.
#[derive(Debug, Clone)]
pub enum Request {
    /// All that was written before is durable once it is done.
    Flush,
    /// Bytes at an offset; `through` says that they are durable once it is done.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
        /// Past the disk's cache.
        through: bool,
    },
}

/// What a disk was asked for, in order, as `blklogwrites` has logged it. The last entry may be torn: it is left out.
pub fn read_log(path: &Path) -> Vec<Request> {
    let log = std::fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    assert_eq!(number(0), MAGIC, "{} is no log of writes", path.display());
    let (mut at, mut requests) = (SECTOR, Vec::new());
    while at + SECTOR <= log.len() {
        let (sector, count, flags) = (number(at), number(at + 8) as usize, number(at + 16));
        at += SECTOR;
        if flags & DISCARD != 0 {
            continue;
        }
        let end = at + count * SECTOR;
        if end > log.len() {
            break;
        }
        if flags & FLUSH != 0 {
            requests.push(Request::Flush);
        }
        if count > 0 {
            let (offset, data) = (sector * SECTOR as u64, log[at..end].to_vec());
            requests.push(Request::Write { offset, data, through: flags & FUA != 0 });
        }
        at = end;
    }
    requests
}

/// How much of what was not flushed yet is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// All but the last request, which is torn.
    AllButTheLast,
    /// Some of it, by chance, and some of that torn: a few of its sectors.
    Some(u64),
}

/// A disk whose power is cut at one moment after the other of a log.
#[derive(Debug)]
pub struct Disk {
    durable: Vec<u8>,
    /// Since the last flush: where, and what.
    cached: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// As it was before the log began.
    pub fn new(image: Vec<u8>) -> Disk {
        Disk { durable: image, cached: Vec::new() }
    }

    /// The next request is done.
    pub fn take(&mut self, request: &Request) {
        match request {
            Request::Flush => {
                for (offset, data) in std::mem::take(&mut self.cached) {
                    write(&mut self.durable, offset, &data);
                }
            }
            Request::Write { offset, data, through: true } => write(&mut self.durable, *offset, data),
            Request::Write { offset, data, through: false } => self.cached.push((*offset, data.clone())),
        }
    }

    /// How many requests a cut could lose now.
    pub fn at_stake(&self) -> usize {
        self.cached.len()
    }

    /// What is on it after a cut now.
    pub fn cut(&self, left: Left) -> Vec<u8> {
        let mut image = self.durable.clone();
        let Left::Some(seed) = left else {
            let whole = if left == Left::Nothing { 0 } else { self.cached.len().saturating_sub(1) };
            for (offset, data) in &self.cached[..whole] {
                write(&mut image, *offset, data);
            }
            if let (Left::AllButTheLast, Some((offset, data))) = (left, self.cached.last()) {
                write(&mut image, *offset, &data[..data.len() / 2 / SECTOR * SECTOR]);
            }
            return image;
        };
        let mut chance = Chance(seed);
        for (offset, data) in &self.cached {
            match chance.below(4) {
                0 | 1 => write(&mut image, *offset, data),
                2 => {
                    for (number, sector) in data.chunks(SECTOR).enumerate().filter(|_| chance.below(2) == 0) {
                        write(&mut image, offset + (number * SECTOR) as u64, sector);
                    }
                }
                _ => {}
            }
        }
        image
    }
}

fn write(image: &mut [u8], offset: u64, data: &[u8]) {
    image[offset as usize..offset as usize + data.len()].copy_from_slice(data);
}

/// Numbers that look random and are the same each time.
#[derive(Debug)]
pub struct Chance(
    /// Where it begins.
    pub u64,
);

impl Chance {
    /// One of `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
