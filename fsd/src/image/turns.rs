//! Turns: of two that bring the same layer in at once, the second waits for the first and uses what it made.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layerfs::ingest::Built;

/// What is remembered at most of layers that were made; beyond that it is forgotten, and work may be done again.
const MOST: usize = 4096;

/// Who is at what, by a key that says what a layer will be before it is read.
#[derive(Debug, Default)]
pub struct Turns {
    slots: Mutex<Slots>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slots {
    /// How many bring images in. What was made is remembered until nobody does.
    active: usize,
    of: HashMap<Vec<u8>, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    taken: bool,
    waiting: usize,
    made: Option<Built>,
}

/// The right to bring a layer in. Dropping it lets the next one have it.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn<'a> {
    turns: &'a Turns,
    /// None for one that did not get it: it waited for as long as it wanted to.
    key: Option<Vec<u8>>,
    /// What others have made of it meanwhile.
    pub made: Option<Built>,
}

impl Turns {
    /// Somebody begins to bring an image in; [`Turns::leave`] is the end of that.
    pub fn enter(&self) {
        self.lock().active += 1;
    }

    /// See [`Turns::enter`].
    pub fn leave(&self) {
        let mut slots = self.lock();
        slots.active -= 1;
        if slots.active == 0 {
            slots.forget();
        }
    }

    /// Waits until nobody else is at this key, or until `patience` is over; then it goes on beside them. `wait` is
    /// called once if it comes to waiting.
    pub fn take(&self, key: Vec<u8>, patience: Duration, wait: impl FnOnce()) -> Turn<'_> {
        let mut slots = self.lock();
        let slot = slots.of.entry(key.clone()).or_default();
        if !slot.taken {
            slot.taken = true;
            let made = slot.made;
            return Turn { turns: self, key: Some(key), made };
        }
        slot.waiting += 1;
        drop(slots);
        wait();
        let end = Instant::now() + patience;
        slots = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let slot = slots.of.entry(key.clone()).or_default();
            if !slot.taken || left.is_zero() {
                slot.waiting -= 1;
                let (made, mine) = (slot.made, !slot.taken);
                slot.taken = true;
                return Turn { turns: self, key: mine.then_some(key), made };
            }
            slots = self.changed.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, key: &[u8], made: Option<Built>) {
        let mut slots = self.lock();
        if let Some(slot) = slots.of.get_mut(key) {
            slot.taken = false;
            slot.made = made.or(slot.made);
            if slot.waiting == 0 && slot.made.is_none() {
                slots.of.remove(key);
            }
        }
        if slots.active == 0 || slots.of.len() > MOST {
            slots.forget();
        }
        drop(slots);
        self.changed.notify_all();
    }
}

impl Slots {
    fn forget(&mut self) {
        self.of.retain(|_, slot| slot.taken || slot.waiting > 0);
    }
}

impl Turn<'_> {
    /// Ends the turn with what was made.
    pub fn done(mut self, built: &Built) {
        if let Some(key) = self.key.take() {
            self.turns.end(&key, Some(*built));
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.turns.end(&key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use fs_base::{Digest, LayerId};

    use super::*;

    fn built() -> Built {
        let id = Digest::from_bytes([1; 32]);
        Built { id: LayerId(id), blob: id, blob_size: 1, data_size: 1, index_size: 1, entries: 1, file_bytes: 1 }
    }

    #[test]
    fn eight_at_once_do_it_once() {
        let (turns, did) = (Turns::default(), AtomicUsize::new(0));
        turns.enter();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let turn = turns.take(b"k".to_vec(), Duration::from_secs(60), || ());
                    if turn.made.is_none() {
                        did.fetch_add(1, Ordering::SeqCst);
                        // Long enough for all to have come.
                        std::thread::sleep(Duration::from_millis(100));
                        turn.done(&built());
                    }
                });
            }
        });
        assert_eq!(did.into_inner(), 1);
        let late = turns.take(b"k".to_vec(), Duration::ZERO, || panic!("nobody to wait for"));
        assert_eq!(late.made, Some(built()), "what was made is remembered");
        drop(late);
        turns.leave();
        assert!(turns.lock().of.is_empty());
    }

    #[test]
    fn who_fails_leaves_it_to_the_next_and_who_is_slow_is_not_waited_for() {
        let turns = Turns::default();
        let first = turns.take(b"k".to_vec(), Duration::ZERO, || panic!("nobody to wait for"));
        let mut waited = false;
        let impatient = turns.take(b"k".to_vec(), Duration::from_millis(5), || waited = true);
        assert!(waited && impatient.key.is_none() && impatient.made.is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turns.take(b"k".to_vec(), Duration::from_secs(60), || ()).made);
            drop(impatient);
            drop(first);
            assert_eq!(second.join().unwrap(), None);
        });
        assert!(turns.lock().of.is_empty());
    }
}
