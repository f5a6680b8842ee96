//! A layer of an archive that others are bringing in too, or that is there already: its bytes are compared, not stored again.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fs_base::{Digest, Error, LayerId, Result};
use layerfs::ingest::{Built, IngestOptions, Media};
use sha2::{Digest as _, Sha256};

use super::Adding;
use super::load::Candidate;

/// How long a load waits for another at the same layer, whose client may be slow. Then it does the work itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes compared at a time.
const PIECE: usize = 1 << 17;

/// Brings the layer in, or finds that it is in already. Names and sizes only say what it may be: it is taken for that
/// when its bytes say so.
pub fn layer(adding: &Adding<'_>, member: Candidate<'_>, options: &IngestOptions<'_>) -> Result<Built> {
    let plain = Media::of_magic(&member.head) == Media::Plain;
    let named = blob_digest(member.name);
    if !plain && named.is_none() {
        // What it is can only be known when all of it has been read.
        return adding.ingest(&mut Cursor::new(member.head).chain(member.rest), options);
    }
    let key = [member.name.as_bytes(), &member.size.to_le_bytes(), &member.head].concat();
    let turn = adding.turn(key, PATIENCE, || ());
    let known = turn.made.or_else(|| named.filter(|_| plain).and_then(|digest| adding.stored(&LayerId(digest), member.size)));
    let built = match known.map(|known| Ok::<_, Error>((known, adding.data(&known.id)?))).transpose()? {
        None | Some((_, None)) => adding.ingest(&mut Cursor::new(member.head).chain(member.rest), options)?,
        Some((known, Some(data))) if plain => compared(adding, member, options, &known, &data)?,
        Some((known, Some(_))) => hashed(member, &known)?,
    };
    turn.done(&built);
    Ok(built)
}

/// Layouts of OCI's name their members by their digest.
fn blob_digest(name: &str) -> Option<Digest> {
    name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok())
}

/// Holds an uncompressed layer against the stored one; if it is another after all, what they have in common is read
/// from the stored one, since it was taken off the stream.
fn compared(
    adding: &Adding<'_>,
    member: Candidate<'_>,
    options: &IngestOptions<'_>,
    known: &Built,
    data: &File,
) -> Result<Built> {
    let broken = |error| Error::io("read", "image archive", error);
    let mut stream = Cursor::new(member.head).chain(member.rest);
    let (mut piece, mut stored, mut offset) = (vec![0; PIECE], vec![0; PIECE], 0);
    loop {
        let got = stream.read(&mut piece).map_err(broken)?;
        if got == 0 && offset == known.data_size {
            return Ok(*known);
        }
        // A stored layer that can't be read is one that differs.
        if got == 0 || data.read_exact_at(&mut stored[..got], offset).is_err() || piece[..got] != stored[..got] {
            piece.truncate(got);
            let common = At { file: data, offset: 0 }.take(offset);
            return adding.ingest(&mut common.chain(Cursor::new(piece)).chain(stream), options);
        }
        offset += got as u64;
    }
}

/// A compressed layer that is named by its digest must have it.
fn hashed(member: Candidate<'_>, known: &Built) -> Result<Built> {
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
    let mut stream = Cursor::new(member.head).chain(member.rest);
    loop {
        match stream.read(&mut piece).map_err(|error| Error::io("read", "image archive", error))? {
            0 => break,
            got => hasher.update(&piece[..got]),
        }
    }
    let found = Digest::from_bytes(hasher.finalize().into());
    if found != known.blob {
        return Err(Error::corrupt(format!("the archive's blob {} has another digest: {found}", member.name)));
    }
    Ok(*known)
}

/// Reads a file without moving its position, which others use.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.offset)?;
        self.offset += got as u64;
        Ok(got)
    }
}
