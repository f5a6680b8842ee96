//! Which files of layers are the same by content, and how many bytes that is.
//!
//! Layers share nothing on the disk but whole layers, so a file that two layers have is there twice. Here it is found
//! out, exactly; nothing is changed. Nothing is kept either: digests beside each layer would be one more thing that can be
//! wrong, and would save little. Files are sorted by size first, and only those whose size another file has are read.
//! Measured on Debian twice with Python and npm layers (120,764 files, 1.24 GB): 0.27 s with the pages in memory.
//!
//! Two files have the same content if they read the same: whether zeros are stored or are a hole, in which format, under
//! which name and with which owner and mode makes no difference. Empty files are left out. A hard link is no copy.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_base::{Error, Result};
use sha2::{Digest as _, Sha256};

use crate::erofs::{FileKind, Index, Nid};
use crate::store::Layer;
use crate::tree::Content;

/// What is compared at a time: a piece of zeros is a hole, stored or not.
const PIECE: usize = 4096;
/// Bytes of one read.
const BUFFER: usize = 1 << 18;
/// Threads that read: one layer mostly waits for the disk, two keep both cores of a small host busy.
const READERS: usize = 2;

/// One content that more than one file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Same {
    /// The files' size, holes included.
    pub size: u64,
    /// Bytes that one copy takes in its layer: the smallest, where they differ in their holes. Pieces of a sparse file that
    /// the index has to hold, since the kernel can't address them in the tar, count as what the index holds.
    pub bytes: u64,
    /// Bytes that all the other copies take.
    pub again: u64,
    /// The files: which of the layers, and which inode of it. Sorted.
    pub copies: Vec<(usize, Nid)>,
}

/// What two or more layers have in common, or one layer with itself, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which of the layers. One alone: copies inside it.
    pub layers: Vec<usize>,
    /// Contents.
    pub contents: u64,
    /// Files that have them.
    pub files: u64,
    /// Bytes of one copy of each.
    pub bytes: u64,
    /// Bytes of all further copies: what is stored again.
    pub again: u64,
}

/// What [`find`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// The contents that there are more than one of, the most bytes stored again first.
    pub same: Vec<Same>,
    /// Regular files of all layers that are not empty, hard links once.
    pub files: u64,
    /// Bytes that they take in their tars.
    pub bytes: u64,
    /// Bytes that had to be read to know.
    pub read: u64,
}

/// A file that may be a copy of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    size: u64,
    layer: usize,
    nid: Nid,
}

/// A file that was read.
#[derive(Debug, Clone, Copy)]
struct Read {
    file: Candidate,
    digest: [u8; 32],
    bytes: u64,
}

/// Compares the files of different layers, and of each with itself. `may_go_on` is asked now and then; if it says no, the
/// work ends with an error.
pub fn find(layers: &[Arc<Layer>], may_go_on: &(dyn Fn() -> bool + Sync)) -> Result<Duplicates> {
    let mut found = Duplicates::default();
    let mut candidates = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        stop_unless(may_go_on)?;
        for nid in files(&layer.index)? {
            let metadata = layer.index.inode(nid)?;
            if metadata.kind == FileKind::File && metadata.size > 0 {
                candidates.push(Candidate { size: metadata.size, layer: number, nid });
                found.bytes += stored(&open(layers, candidates[candidates.len() - 1])?);
            }
        }
    }
    found.files = candidates.len() as u64;
    candidates.sort_unstable();
    let mut alike: Vec<Candidate> =
        candidates.chunk_by(|a, b| a.size == b.size).filter(|same| same.len() > 1).flatten().copied().collect();
    // In the order in which they lie on the disk.
    alike.sort_unstable_by_key(|file| (file.layer, file.nid));
    let mut contents: HashMap<(u64, [u8; 32]), Vec<Read>> = HashMap::new();
    for read in digests(layers, &alike, may_go_on)? {
        found.read += read.bytes;
        contents.entry((read.file.size, read.digest)).or_default().push(read);
    }
    found.same = contents.into_values().filter(|copies| copies.len() > 1).map(same).collect();
    found.same.sort_unstable_by(|a, b| b.again.cmp(&a.again).then_with(|| a.copies.cmp(&b.copies)));
    Ok(found)
}

fn same(copies: Vec<Read>) -> Same {
    let all: u64 = copies.iter().map(|copy| copy.bytes).sum();
    let bytes = copies.iter().map(|copy| copy.bytes).min().unwrap_or_default();
    let size = copies.first().map_or(0, |copy| copy.file.size);
    let mut copies: Vec<(usize, Nid)> = copies.into_iter().map(|copy| (copy.file.layer, copy.file.nid)).collect();
    copies.sort_unstable();
    Same { size, bytes, again: all - bytes, copies }
}

impl Duplicates {
    /// Bytes that are stored again: what sharing every content would give back.
    pub fn again(&self) -> u64 {
        self.same.iter().map(|same| same.again).sum()
    }

    /// The same by the layers that have it, the most bytes stored again first. Each content is in one group.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<Vec<usize>, Group> = BTreeMap::new();
        for same in &self.same {
            let mut layers: Vec<usize> = same.copies.iter().map(|(layer, _)| *layer).collect();
            layers.dedup();
            let group = groups.entry(layers).or_insert_with_key(|layers| Group {
                layers: layers.clone(),
                contents: 0,
                files: 0,
                bytes: 0,
                again: 0,
            });
            group.contents += 1;
            group.files += same.copies.len() as u64;
            group.bytes += same.bytes;
            group.again += same.again;
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by(|a, b| b.again.cmp(&a.again).then_with(|| a.layers.cmp(&b.layers)));
        groups
    }

    /// A name for each copy of the first `count` contents, in the order of [`Same::copies`]; of several names of one inode
    /// the first.
    pub fn paths(&self, layers: &[Arc<Layer>], count: usize) -> Result<Vec<Vec<Vec<u8>>>> {
        let first = &self.same[..count.min(self.same.len())];
        let mut names: HashMap<(usize, Nid), Vec<u8>> = HashMap::new();
        for (number, layer) in layers.iter().enumerate() {
            let copies = first.iter().flat_map(|same| &same.copies);
            let wanted: HashSet<Nid> = copies.filter(|(layer, _)| *layer == number).map(|(_, nid)| *nid).collect();
            if !wanted.is_empty() {
                walk(&layer.index, &mut |path, nid| {
                    if wanted.contains(&nid) {
                        names.entry((number, nid)).or_insert_with(|| path.to_vec());
                    }
                })?;
            }
        }
        let name = |copy: &(usize, Nid)| names.get(copy).cloned().unwrap_or_default();
        Ok(first.iter().map(|same| same.copies.iter().map(name).collect()).collect())
    }
}

fn stop_unless(may_go_on: &(dyn Fn() -> bool + Sync)) -> Result<()> {
    if may_go_on() { Ok(()) } else { Err(Error::unavailable("nobody waits for the answer any more")) }
}

/// All inodes that a name leads to, each once.
fn files(index: &Index) -> Result<Vec<Nid>> {
    let mut nids = Vec::new();
    walk(index, &mut |_, nid| nids.push(nid))?;
    nids.sort_unstable();
    nids.dedup();
    Ok(nids)
}

/// Calls `visit` for each name of an index but the root's, with its path.
fn walk(index: &Index, visit: &mut dyn FnMut(&[u8], Nid)) -> Result<()> {
    let mut todo = vec![(Vec::new(), index.root())];
    let mut directories = 0;
    while let Some((path, nid)) = todo.pop() {
        directories += 1;
        if directories > index.inodes() {
            return Err(Error::corrupt("a layer's index has a directory that is inside itself"));
        }
        let first = todo.len();
        for entry in index.read_dir(nid)? {
            let path = [&path[..], b"/", entry.name].concat();
            visit(&path, entry.nid);
            if index.inode(entry.nid)?.kind == FileKind::Dir {
                todo.push((path, entry.nid));
            }
        }
        todo[first..].reverse();
    }
    Ok(())
}

fn open(layers: &[Arc<Layer>], file: Candidate) -> Result<Content> {
    let layer = &layers[file.layer];
    Ok(Content::in_layer(Arc::clone(layer), layer.index.extents(file.nid)?, file.size))
}

/// Bytes of a file that are no hole.
fn stored(content: &Content) -> u64 {
    content.segments().iter().map(|(_, length)| length).sum()
}

/// The content of each file.
fn digests(layers: &[Arc<Layer>], files: &[Candidate], may_go_on: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Read>> {
    /// Files that a thread takes at a time: neighbours on the disk.
    const BATCH: usize = 64;
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Read>> {
        let (mut done, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed).min(files.len());
            let batch = &files[start..files.len().min(start + BATCH)];
            if batch.is_empty() {
                return Ok(done);
            }
            for &file in batch {
                stop_unless(may_go_on)?;
                let content = open(layers, file)?;
                let digest = digest_of(&content, &mut buffer, may_go_on);
                let digest = digest.map_err(|error| error.context(format!("layer {}", layers[file.layer].id)))?;
                done.push(Read { file, digest, bytes: stored(&content) });
            }
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for reader in readers {
            all.extend(reader.join().map_err(|_| Error::internal("a reader of files panicked"))??);
        }
        Ok(all)
    })
}

/// A digest that files have in common if and only if they read the same: over the pieces that are not all zeros, and over
/// where those lie. So holes cost nothing, however large they are.
fn digest_of(content: &Content, buffer: &mut [u8], may_go_on: &(dyn Fn() -> bool + Sync)) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    // Runs of pieces: where each begins, and its length.
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut end = 0;
    for (start, length) in content.segments() {
        let (mut at, until) = (end.max(start / PIECE as u64 * PIECE as u64), start + length);
        while at < until {
            stop_unless(may_go_on)?;
            let want = (until.next_multiple_of(PIECE as u64).min(content.size()) - at).min(buffer.len() as u64) as usize;
            fill(content, &mut buffer[..want], at)?;
            for piece in buffer[..want].chunks(PIECE) {
                if piece.iter().any(|byte| *byte != 0) {
                    match runs.last_mut() {
                        Some((from, so_far)) if *from + *so_far == at => *so_far += piece.len() as u64,
                        _ => runs.push((at, piece.len() as u64)),
                    }
                    hasher.update(piece);
                }
                at += piece.len() as u64;
            }
        }
        end = at.max(end);
    }
    for (from, length) in &runs {
        hasher.update(from.to_le_bytes());
        hasher.update(length.to_le_bytes());
    }
    hasher.update((runs.len() as u64).to_le_bytes());
    Ok(hasher.finalize().into())
}

fn fill(content: &Content, buffer: &mut [u8], at: u64) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => return Err(Error::corrupt("a file of it is shorter than its index says")),
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", "a file", error)),
        }
    }
    Ok(())
}
