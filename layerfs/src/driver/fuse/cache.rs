//! What is kept of directories so that it need not be asked again: a bounded number of things, the ones used last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Names a directory of one source: the source's number, and the node's serial.
pub type Key = (u16, u64);

/// A bounded map; when it is full, the half that was used longest ago goes.
#[derive(Debug)]
pub struct Cache<V> {
    most: usize,
    inner: Mutex<Inner<V>>,
}

#[derive(Debug)]
struct Inner<V> {
    clock: u64,
    values: HashMap<Key, (V, u64), Numbers>,
}

impl<V: Clone> Cache<V> {
    /// For at most this many values.
    pub fn new(most: usize) -> Cache<V> {
        Cache { most, inner: Mutex::new(Inner { clock: 0, values: HashMap::default() }) }
    }

    /// The value, if it is still here.
    pub fn get(&self, key: Key) -> Option<V> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        let (value, used) = inner.values.get_mut(&key)?;
        *used = clock;
        Some(value.clone())
    }

    /// Keeps a value.
    pub fn put(&self, key: Key, value: V) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.values.len() >= self.most {
            let mut times: Vec<u64> = inner.values.values().map(|(_, used)| *used).collect();
            let middle = times.len() / 2;
            let (_, &mut bound, _) = times.select_nth_unstable(middle);
            inner.values.retain(|_, (_, used)| *used > bound);
        }
        inner.clock += 1;
        let clock = inner.clock;
        inner.values.insert(key, (value, clock));
    }

    /// Forgets a value.
    pub fn remove(&self, key: Key) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).values.remove(&key);
    }
}

/// A hash for numbers that nobody can choose freely: node ids, handles, inode numbers. They are looked up several times for
/// each request.
#[derive(Debug, Clone, Copy, Default)]
pub struct NumberHash(u64);

/// Makes [`NumberHash`]es.
pub type Numbers = std::hash::BuildHasherDefault<NumberHash>;

impl std::hash::Hasher for NumberHash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio spreads neighbours; the upper half of the product is where high bits went.
        let product = u128::from(self.0.rotate_left(26) ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_spread() {
        use std::hash::BuildHasher;
        let low: std::collections::HashSet<u64> = (0..1000u64).map(|n| Numbers::default().hash_one(n) & 1023).collect();
        let high: std::collections::HashSet<u64> =
            (0..1000u64).map(|n| Numbers::default().hash_one((1u16, n << 48)) & 1023).collect();
        assert!(low.len() > 500 && high.len() > 500, "{} {}", low.len(), high.len());
    }

    #[test]
    fn what_was_used_last_stays() {
        let cache = Cache::new(4);
        for n in 0..4 {
            cache.put((0, n), n);
        }
        assert_eq!(cache.get((0, 0)), Some(0));
        cache.put((0, 4), 4);
        assert_eq!((cache.get((0, 0)), cache.get((0, 1)), cache.get((0, 4))), (Some(0), None, Some(4)));
        cache.remove((0, 0));
        assert_eq!(cache.get((0, 0)), None);
    }
}
