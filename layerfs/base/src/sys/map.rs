//! Files mapped for reading.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::{IoContext, Result};

/// A file's bytes, mapped.
///
/// Only for files of our own store: they are published whole and never written again, which is what makes the
/// bytes stable. If one is truncated behind our back, or its disk fails, then what is gone reads as zeros, and
/// [`Map::whole`] says from where on.
#[derive(Debug)]
pub struct Map {
    bytes: memmap2::Mmap,
    place: &'static Place,
}

/// Where a mapping lies, for the handler of SIGBUS. Places are never freed, only used again.
#[derive(Debug)]
struct Place {
    start: AtomicUsize,
    length: AtomicUsize,
    whole: AtomicUsize,
    next: AtomicPtr<Place>,
}

static PLACES: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());
/// What handled SIGBUS before: the standard library looks for stacks that overflow.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());
static PAGE: AtomicUsize = AtomicUsize::new(4096);

impl Map {
    /// Maps all of `file`; `path` is for the error.
    pub fn of(file: &File, path: &Path) -> Result<Map> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(handle_lost_pages);
        // SAFETY: by this type's contract the file is immutable once it is published.
        let bytes = unsafe { memmap2::Mmap::map(file) }.at("map", path)?;
        let place = Place::take(bytes.as_ptr() as usize, bytes.len());
        Ok(Map { bytes, place })
    }

    /// How many bytes from the start on are known to be as they were published. It gets less when a read of one behind
    /// them fails: who read and then finds it changed has read zeros, perhaps.
    pub fn whole(&self) -> usize {
        self.place.whole.load(Ordering::SeqCst)
    }

    /// How many of its pages are in memory now, and how many it has. The kernel tells who owns the file, or may write
    /// to it. Source: mincore(2).
    pub fn resident(&self) -> Result<(usize, usize)> {
        let mut pages = vec![0u8; self.len().div_ceil(page_size())];
        // SAFETY: the range is this mapping, and `pages` has a byte for each of its pages.
        if unsafe { libc::mincore(self.bytes.as_ptr().cast_mut().cast(), self.len(), pages.as_mut_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error()).at("look for pages of", "mapping");
        }
        Ok((pages.iter().filter(|&&page| page & 1 == 1).count(), pages.len()))
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Before the range can be mapped by others.
        self.place.length.store(0, Ordering::SeqCst);
        self.place.start.store(0, Ordering::SeqCst);
    }
}

impl Place {
    fn take(start: usize, length: usize) -> &'static Place {
        let mut next = PLACES.load(Ordering::SeqCst);
        // SAFETY: what is in the list is never freed.
        while let Some(place) = unsafe { next.as_ref() } {
            if place.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                place.whole.store(length, Ordering::SeqCst);
                place.length.store(length, Ordering::SeqCst);
                return place;
            }
            next = place.next.load(Ordering::SeqCst);
        }
        let place: &'static mut Place = Box::leak(Box::new(Place {
            start: start.into(),
            length: length.into(),
            whole: length.into(),
            next: AtomicPtr::default(),
        }));
        let at = std::ptr::from_mut(place);
        // SAFETY: it was leaked, and from here on it is only shared.
        let place: &'static Place = unsafe { &*at };
        loop {
            let head = PLACES.load(Ordering::SeqCst);
            place.next.store(head, Ordering::SeqCst);
            if PLACES.compare_exchange(head, at, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return place;
            }
        }
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf takes a number and returns one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn handle_lost_pages() {
    PAGE.store(page_size(), Ordering::SeqCst);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = lost;
    // SAFETY: all-zero is a valid sigaction; the calls read and write what is given to them.
    unsafe {
        let (mut new, mut old): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old);
        BEFORE.store(Box::into_raw(Box::new(old)), Ordering::SeqCst);
        new.sa_sigaction = handler as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut new.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut());
    }
}

/// A page of a mapping that can't be read any more is replaced by zeros, after it was noted that it is lost. Calls only
/// what a handler may call. Source: signal-safety(7).
extern "C" fn lost(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo; places are never freed; only pages of a mapping of ours, which nobody
    // can read, are replaced; errno is this thread's and is put back; the handler from before is called as the kernel would.
    unsafe {
        let address = (*info).si_addr() as usize;
        let mut next = PLACES.load(Ordering::SeqCst);
        while let Some(place) = next.as_ref() {
            let (start, length) = (place.start.load(Ordering::SeqCst), place.length.load(Ordering::SeqCst));
            if address.checked_sub(start).is_some_and(|at| at < length) {
                let page = PAGE.load(Ordering::SeqCst);
                let from = address / page * page;
                place.whole.fetch_min(from.saturating_sub(start), Ordering::SeqCst);
                let before = *libc::__errno_location();
                let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                let made = libc::mmap(std::ptr::with_exposed_provenance_mut(from), page, libc::PROT_READ, how, -1, 0);
                *libc::__errno_location() = before;
                if made != libc::MAP_FAILED {
                    return;
                }
            }
            next = place.next.load(Ordering::SeqCst);
        }
        let before = BEFORE.load(Ordering::SeqCst);
        let old = (*before).sa_sigaction;
        if (*before).sa_flags & libc::SA_SIGINFO != 0 && old != libc::SIG_DFL && old != libc::SIG_IGN {
            let old: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(old);
            return old(signal, info, context);
        }
        // The access is tried again, and then ends the process.
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_reads_as_zeros_and_is_known_to_be_gone() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 40_000], 0).unwrap();
        let page = page_size();
        let (map, other) = (Map::of(&file, Path::new("x")).unwrap(), Map::of(&file, Path::new("x")).unwrap());
        assert_eq!((map[39_999], map.whole(), map.len()), (7, 40_000, 40_000));
        file.set_len(page as u64).unwrap();
        assert_eq!((map[page - 1], map.whole()), (7, 40_000));
        assert_eq!((map[3 * page], map.whole()), (0, 3 * page));
        assert_eq!((map[page], map[39_999], map.whole()), (0, 0, page));
        assert_eq!((other.whole(), other[2 * page], other.whole()), (40_000, 0, 2 * page));
        drop(map);
        let again = Map::of(&file, Path::new("x")).unwrap();
        assert_eq!((again.len(), again.whole()), (page, page));
    }
}
