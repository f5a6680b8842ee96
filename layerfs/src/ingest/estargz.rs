//! What eStargz puts into a layer's tar for itself: a table of contents as the last entry, and landmarks that say how far
//! to fetch ahead. Nobody wrote them into the image, so its tree does not show them; the tar keeps them.
//!
//! Source: containerd/stargz-snapshotter, docs/estargz.md, "TOC" and "Prioritized Files and Landmark Files". zstd:chunked
//! keeps its table in skippable frames, which no tar shows; only the landmarks can be there.

use std::io::{BufRead, Read};

use fs_base::Result;

use crate::tar::{Entry, EntryKind, Reader, stream_error};

const TOC: &[u8] = b"stargz.index.json";
const LANDMARKS: [&[u8]; 2] = [b".prefetch.landmark", b".no.prefetch.landmark"];
/// All that a landmark holds.
const LANDMARK: &[u8] = &[0x0f];
/// How a table of contents begins, white space apart.
const TOC_BEGINS: &[u8] = b"{\"version\":1,\"entries\":[";
/// Bytes of a table that are looked at.
const HEAD: usize = 256;

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The image.
    Content,
    /// eStargz, wherever it stands.
    Landmark,
    /// eStargz if it is the layer's last entry; else somebody's file.
    Toc,
}

/// Looks at the name of the entry that was just read, and at its first bytes if it is one of eStargz's.
pub(super) fn role<R: Read + BufRead>(entry: &Entry, reader: &mut Reader<R>) -> Result<Role> {
    let mut names = entry.path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let (Some(name), None) = (names.next(), names.next()) else { return Ok(Role::Content) };
    let is_landmark = LANDMARKS.contains(&name) && entry.size == LANDMARK.len() as u64;
    let is_plain = matches!(&entry.kind, EntryKind::File(segments) if segments.len() == 1);
    if !is_plain || !is_landmark && name != TOC {
        return Ok(Role::Content);
    }
    let head = head(entry.size, reader)?;
    if is_landmark {
        return Ok(if head == LANDMARK { Role::Landmark } else { Role::Content });
    }
    let dense: Vec<u8> = head.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    Ok(if dense.starts_with(TOC_BEGINS) { Role::Toc } else { Role::Content })
}

fn head<R: Read + BufRead>(size: u64, reader: &mut Reader<R>) -> Result<Vec<u8>> {
    let mut head = vec![0; HEAD.min(size as usize)];
    let (mut left, mut filled) = (size, 0);
    while filled < head.len() {
        filled += reader.read_data(&mut head[filled..], &mut left).map_err(stream_error)?;
    }
    Ok(head)
}
